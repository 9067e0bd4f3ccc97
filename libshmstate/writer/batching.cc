#include "writer/batching.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace shmstate::internal {

Batching::Batching(std::string_view instance, WriterOptions wanted) : Conflating(instance, std::move(wanted)) {
  open_batch->unasked_bytes = &wiped().batch_bytes;
  open_batch->pusher = &pusher;
  open_batch->writer = this;
}

void Batching::allow_more() noexcept {
  open_batch->unasked_count = batch_max();
  const std::uint64_t bytes_max = std::min(batch_max(), ring.data_bytes()) * kBatchBytesPerMutation;
  wiped().batch_bytes = std::min({memory_.size(), ring.data_bytes(), bytes_max});
}

Status Batching::append(const Mutation& mutation) noexcept {
  const std::size_t end = open_batch->bytes + record_bytes(mutation);
  const bool fits = end <= ring.data_bytes() && is_batch_allowed(open_batch->count + 1, end, batch_max());
  if (!fits) return Status::kMutationTooBig;
  try {
    constexpr std::size_t kBytesAtFirst = 4096;
    if (end > memory_.size()) memory_.resize(std::max({end, 2 * memory_.size(), kBytesAtFirst}));
  } catch (const std::bad_alloc&) {
    return Status::kNoMemory;
  }
  open_batch->records = memory_.data();
  encode_record(open_batch->records + open_batch->bytes, mutation, kBatchContinues);
  open_batch->last = std::exchange(open_batch->bytes, end);
  ++open_batch->count;
  allow_more();
  return Status::kOk;
}

Status Batching::add_to_batch(std::uint64_t number, const Mutation& mutation) noexcept {
  if (!is_open(number)) return fail(Status::kInvalidArgument, 1);
  if (status_ == Status::kOk) status_ = maker.is_this_process() ? check_for_ring(mutation) : Status::kForked;
  if (status_ == Status::kOk) status_ = append(mutation);
  if (status_ == Status::kOk) return status_;
  wiped().batch_bytes = 0;  // so that this is what all that follow are told
  ++failures_;
  return status_;
}

Status Batching::commit_batch(std::uint64_t number) noexcept {
  if (!maker.is_this_process()) return Status::kForked;
  if (!is_open(number)) return fail(Status::kInvalidArgument, 0);
  Status status = status_;
  if (status == Status::kOk && open_batch->bytes != 0) {
    status = write_batch();
    while (has_reopened(status)) status = write_batch();
  }
  if (status != Status::kOk) fail(status, open_batch->count + failures_);
  clear_batch();
  return status;
}

/// Marks the last record as that.
void Batching::end_records() noexcept {
  layout::RecordHead last;
  std::memcpy(&last, open_batch->records + open_batch->last, sizeof last);
  last.flags &= static_cast<std::uint8_t>(~kBatchContinues);
  std::memcpy(open_batch->records + open_batch->last, &last, sizeof last);
}

Status Batching::write_batch() noexcept {
  if (status_ != Status::kOk) return status_;
  // Since it was begun, the merger may have been told to allow less, or ids have become text.
  if (!is_batch_allowed(open_batch->count, open_batch->bytes, batch_max())) return Status::kMutationTooBig;
  end_records();
  const auto copy = [&](std::byte* at) {
    std::memcpy(at, open_batch->records, open_batch->bytes);
    crash_point(CrashPoint::kBatchWritten);
  };
  const Status status = write_in_order(open_batch->bytes, open_batch->count, copy);
  return must_conflate(status) ? conflate_batch() : status;
}

Status Batching::conflate_batch() noexcept {
  try {
    return conflate(mutations());
  } catch (const std::bad_alloc&) {
    return Status::kNoMemory;
  }
}

// By text: ids mean nothing outside this ring. The names are where the ring's file has them.
std::vector<Mutation> Batching::mutations() const {
  std::vector<Mutation> all;
  for (std::size_t position = 0; position < open_batch->bytes;) {
    RecordView record;
    if (!parse_record(open_batch->records + position, open_batch->bytes - position, record)) break;  // never
    Mutation& mutation = all.emplace_back(record.mutation());
    if ((mutation.flags & kById) != 0) mutation.key = ring.names().name_of(mutation.id);
    mutation.flags &= static_cast<std::uint8_t>(~kById);
    position += record.bytes;
  }
  return all;
}

void Batching::leave_ring() noexcept {
  try {
    std::size_t bytes = 0;
    const std::vector<Mutation> all = mutations();
    for (const Mutation& mutation : all) bytes += record_bytes(mutation);
    std::vector<std::byte> memory(bytes);
    std::byte* at = memory.data();
    for (const Mutation& mutation : all) {
      encode_record(at, mutation, kBatchContinues);
      open_batch->last = static_cast<std::size_t>(at - memory.data());
      at += record_bytes(mutation);
    }
    memory_.swap(memory);
    open_batch->records = memory_.data();
    open_batch->bytes = bytes;
  } catch (const std::bad_alloc&) {
    status_ = Status::kNoMemory;
  }
}

void Batching::clear_batch() noexcept {
  open_batch->number = 0;
  open_batch->bytes = 0;
  open_batch->count = 0;
  failures_ = 0;
  status_ = Status::kOk;
}

}  // namespace shmstate::internal
