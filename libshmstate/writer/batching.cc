#include "writer/batching.h"

#include <cstring>
#include <new>

namespace shmstate::internal {

inline Status Batching::append(const Mutation& mutation) noexcept {
  const std::size_t begin = batch_.size();
  const std::size_t bytes = begin + record_bytes(mutation);
  const bool fits = bytes <= wiped().batch_bytes_max && is_batch_allowed(batch_count_ + 1, bytes, batch_max());
  if (!fits) return maker.is_this_process() ? Status::kMutationTooBig : Status::kForked;
  try {
    batch_.resize(bytes);
  } catch (const std::bad_alloc&) {
    return Status::kNoMemory;
  }
  encode_record(batch_.data() + begin, mutation, kBatchContinues);
  batch_last_ = begin;
  ++batch_count_;
  return Status::kOk;
}

Status Batching::add_to_batch(std::uint64_t number, const Mutation& mutation) noexcept {
  if (open_batch_ != number && !is_open(number)) [[unlikely]]
    return fail(Status::kInvalidArgument, 1);
  Status status = batch_status_ == Status::kOk ? check_for_ring(mutation) : batch_status_;
  if (status == Status::kOk) status = append(mutation);
  if (status == Status::kOk) return status;
  batch_status_ = status;
  ++batch_failures_;
  return status;
}

Status Batching::commit_batch(std::uint64_t number) noexcept {
  if (!maker.is_this_process()) return Status::kForked;
  if (!is_open(number)) return fail(Status::kInvalidArgument, 0);
  Status status = batch_status_;
  if (status == Status::kOk && !is_batch_allowed(batch_count_, batch_.size(), batch_max())) {
    status = Status::kMutationTooBig;  // since it was begun, the merger was told to allow less
  }
  if (status == Status::kOk && !batch_.empty()) {
    end_records();
    status = write_batch();
    while (has_reopened(status)) status = write_batch();
  }
  if (status != Status::kOk) fail(status, batch_count_ + batch_failures_);
  clear_batch();
  return status;
}

/// Marks the last record as that.
void Batching::end_records() noexcept {
  layout::RecordHead last;
  std::memcpy(&last, batch_.data() + batch_last_, sizeof last);
  last.flags &= static_cast<std::uint8_t>(~kBatchContinues);
  std::memcpy(batch_.data() + batch_last_, &last, sizeof last);
}

Status Batching::write_batch() noexcept {
  const auto copy = [&](std::byte* at) {
    std::memcpy(at, batch_.data(), batch_.size());
    crash_point(CrashPoint::kBatchWritten);
  };
  const Status status = write_in_order(batch_.size(), batch_count_, copy);
  return must_conflate(status) ? conflate_batch() : status;
}

Status Batching::conflate_batch() noexcept {
  try {
    std::vector<Mutation> mutations;
    for (std::size_t position = 0; position < batch_.size();) {
      RecordView record;
      if (!parse_record(batch_.data() + position, batch_.size() - position, record)) return Status::kInvalidArgument;
      mutations.push_back(record.mutation());
      position += record.bytes;
    }
    return conflate(mutations);
  } catch (const std::bad_alloc&) {
    return Status::kNoMemory;
  }
}

void Batching::clear_batch() noexcept {
  open_batch_ = 0;
  batch_.clear();
  batch_count_ = 0;
  batch_failures_ = 0;
  batch_status_ = Status::kOk;
}

}  // namespace shmstate::internal
