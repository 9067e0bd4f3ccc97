#include "shmstate/writer.h"

#include <fcntl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "core/instance.h"
#include "core/record.h"
#include "core/ring.h"
#include "core/ring_file.h"

namespace shmstate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kCommitStep = std::uint64_t{256} << 10;
constexpr auto kSpinTime = std::chrono::microseconds(20);
constexpr auto kSleepMax = std::chrono::milliseconds(100);  // a merger that restarts does not know who sleeps

os::Fd open_doorbell(const Control& control) {
  os::Fd fd = os::open_file(control.path() / "doorbell", O_RDWR);
  if (!fd.is_open()) {
    const int error_number = errno;
    if (error_number == EACCES || error_number == EPERM) {
      throw Error(Status::kNoPermission, "shmstate: " + quoted(control.path()) + ": permission denied for " +
                                             (control.path() / "doorbell").string() +
                                             "; writers must belong to the group that owns it");
    }
    os::throw_errno("cannot open " + (control.path() / "doorbell").string(), error_number);
  }
  const std::optional<os::FileInfo> info = os::file_info(fd.get());
  if (!info || info->bytes < sizeof(layout::Doorbell)) {
    throw Error(Status::kDamaged, "shmstate: " + quoted(control.path()) + ": doorbell is truncated; restart its merger");
  }
  return fd;
}

RingFile create_ring(const Control& control, const WriterOptions& options) {
  if (options.ring_bytes < kRingBytesMin || options.ring_bytes > kRingBytesMax) {
    throw Error(Status::kInvalidArgument,
                "shmstate: ring_bytes must be 64 KiB to 1 GiB, not " + std::to_string(options.ring_bytes));
  }
  return RingFile::create(control.path() / "rings",
                          {.data_bytes = std::bit_ceil(options.ring_bytes),
                           .flags = 0,
                           .name = options.name.empty() ? os::program_name() : options.name,
                           .instance_id = control.geometry().instance_id});
}

}  // namespace

struct Writer::Impl {
  Impl(std::string_view instance, WriterOptions wanted)
      : options(std::move(wanted)),
        control(instance_path(instance), options.attach_timeout),
        doorbell_mapping(open_doorbell(control), Access::kReadWrite, 0, sizeof(layout::Doorbell), "doorbell"),
        ring(create_ring(control, options)),
        producer(ring.header(), ring.data_bytes()),
        path(control.path().string()) {
    os::register_fence();
    doorbell().registrations.fetch_add(1, std::memory_order_release);
    wake_merger();
  }

  [[nodiscard]] layout::Doorbell& doorbell() const noexcept {
    return *reinterpret_cast<layout::Doorbell*>(doorbell_mapping.data());
  }

  // The merger sets `asleep`, then makes all processes pass a barrier, then looks at the rings again: so either it sees
  // our tail, or we see its flag. No fence is needed here, only the compiler must keep the order.
  void wake_merger() const noexcept {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    Shared<std::uint32_t>& asleep = doorbell().asleep;
    if (asleep.load(std::memory_order_relaxed) == 0) return;
    if (asleep.exchange(0, std::memory_order_acq_rel) != 0) os::futex_wake_all(asleep.address());
  }

  [[nodiscard]] Status push(const Mutation& mutation) noexcept {
    Status status = check(mutation);
    const std::size_t bytes = record_bytes(mutation);
    if (status == Status::kOk && !has_room(bytes)) status = make_room(bytes);
    if (status != Status::kOk) return fail(status, 1);
    encode_record(ring.at(producer.tail()), mutation, 0);
    producer.push(bytes);
    ++counters.pushed;
    wake_merger();
    return Status::kOk;
  }

  Status fail(Status status, std::uint64_t mutations) noexcept {
    counters.failed += mutations;
    if (first_failure == Status::kOk) first_failure = status;
    return status;
  }

  [[nodiscard]] bool has_room(std::uint64_t bytes) const noexcept {
    return producer.has_room(bytes) && producer.tail() + bytes <= committed_end;
  }
  [[nodiscard]] Status make_room(std::uint64_t bytes) noexcept;
  [[nodiscard]] Status commit_memory(std::uint64_t bytes) noexcept;
  [[nodiscard]] Status verdict() const noexcept;

  /// Waits until `done(head)`: spins a moment, then sleeps on the ring's head.
  template <typename Done>
  [[nodiscard]] Status wait_for_head(std::chrono::nanoseconds timeout, Done done) noexcept;

  // Of the open batch.
  [[nodiscard]] Status add_to_batch(const Mutation& mutation) noexcept;
  [[nodiscard]] Status commit_batch() noexcept;
  void clear_batch() noexcept {
    batch.clear();
    batch_count = 0;
    batch_failures = 0;
    batch_status = Status::kOk;
  }

  WriterOptions options;
  Control control;
  Mapping doorbell_mapping;
  RingFile ring;
  RingProducer<layout::RingHeader> producer;
  std::string path;
  std::uint64_t committed_end = 0;  // stream position up to which memory is committed; unbounded after the first lap

  std::vector<std::byte> batch;  // records, all marked as followed by another
  std::size_t batch_last = 0;    // where the last one begins
  std::uint64_t batch_count = 0;
  std::uint64_t batch_failures = 0;
  Status batch_status = Status::kOk;

  WriterCounters counters;
  Status first_failure = Status::kOk;   // since the last flush
  std::uint64_t rejected_reported = 0;  // by the last flush
};

Status Writer::Impl::make_room(std::uint64_t bytes) noexcept {
  if (bytes > ring.data_bytes()) return Status::kMutationTooBig;
  producer.refresh();
  if (!producer.has_room(bytes)) {
    if (options.when_full == WhenFull::kFail) {
      const Status served = verdict();
      return served == Status::kOk ? Status::kRingFull : served;
    }
    const Status waited = wait_for_head(options.full_timeout, [&](std::uint64_t) {
      producer.refresh();
      return producer.has_room(bytes);
    });
    if (waited != Status::kOk) return waited;
  }
  return commit_memory(bytes);
}

// Memory is committed before it is touched, and only as far as the ring has ever been used.
Status Writer::Impl::commit_memory(std::uint64_t bytes) noexcept {
  while (producer.tail() + bytes > committed_end) {
    const std::uint64_t missing = producer.tail() + bytes - committed_end;
    const std::uint64_t step =
        std::min(std::max(kCommitStep, missing), ring.data_bytes() - committed_end);
    const int error_number = os::commit(ring.fd(), layout::kRingHeaderBytes + committed_end, step);
    if (error_number != 0) return error_number == ENOSPC ? Status::kNoMemory : Status::kSystem;
    committed_end += step;
    if (committed_end == ring.data_bytes()) committed_end = std::numeric_limits<std::uint64_t>::max();
  }
  return Status::kOk;
}

Status Writer::Impl::verdict() const noexcept {
  switch (static_cast<layout::RingVerdict>(ring.header().verdict.load(std::memory_order_acquire))) {
    case layout::RingVerdict::kRefused: return Status::kRingRefused;
    case layout::RingVerdict::kQuarantined: return Status::kRingQuarantined;
    default: return Status::kOk;
  }
}

template <typename Done>
Status Writer::Impl::wait_for_head(std::chrono::nanoseconds timeout, Done done) noexcept {
  const auto began = Clock::now();
  const auto* const futex = reinterpret_cast<const std::uint32_t*>(ring.header().head.address());
  for (;;) {
    if (done(producer.head_before_sleep())) return Status::kOk;
    const auto waited = Clock::now() - began;
    if (waited < std::min<std::chrono::nanoseconds>(kSpinTime, timeout)) {
      os::relax();
      continue;
    }
    if (const Status served = verdict(); served != Status::kOk) return served;
    if (waited >= timeout) return Status::kTimeout;
    wake_merger();
    producer.announce_wait();
    const std::uint64_t head = producer.head_before_sleep();
    if (!done(head)) {
      os::futex_wait(futex, static_cast<std::uint32_t>(head),
                     std::min<std::chrono::nanoseconds>(kSleepMax, timeout - waited));
    }
    producer.end_wait();
  }
}

Status Writer::Impl::add_to_batch(const Mutation& mutation) noexcept {
  Status status = batch_status == Status::kOk ? check(mutation) : batch_status;
  if (status == Status::kOk && batch.size() + record_bytes(mutation) > ring.data_bytes()) {
    status = Status::kMutationTooBig;
  }
  if (status == Status::kOk) {
    const std::size_t begin = batch.size();
    try {
      batch.resize(begin + record_bytes(mutation));
    } catch (const std::bad_alloc&) {
      status = Status::kNoMemory;
    }
    if (status == Status::kOk) {
      encode_record(batch.data() + begin, mutation, kBatchContinues);
      batch_last = begin;
      ++batch_count;
      return Status::kOk;
    }
  }
  batch_status = status;
  ++batch_failures;
  return status;
}

Status Writer::Impl::commit_batch() noexcept {
  const std::uint64_t bytes = batch.size();
  Status status = batch_status;
  if (status == Status::kOk && bytes > 0) {
    if (!has_room(bytes)) status = make_room(bytes);
    if (status == Status::kOk) {
      layout::RecordHead last;
      std::memcpy(&last, batch.data() + batch_last, sizeof last);
      last.flags &= static_cast<std::uint8_t>(~kBatchContinues);
      std::memcpy(batch.data() + batch_last, &last, sizeof last);
      std::memcpy(ring.at(producer.tail()), batch.data(), bytes);
      producer.push(bytes);
      counters.pushed += batch_count;
      wake_merger();
    }
  }
  if (status != Status::kOk) fail(status, batch_count + batch_failures);
  clear_batch();
  return status;
}

// ---- Writer

Writer::Writer(std::string_view instance, WriterOptions options)
    : impl_(std::make_unique<Impl>(instance, std::move(options))) {}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&&) noexcept = default;
Writer::~Writer() = default;

Status Writer::set(std::string_view key, ValueView value) noexcept {
  return impl_->push({.operation = Operation::kSet, .key = key, .value = value});
}
Status Writer::erase(std::string_view key) noexcept {
  return impl_->push({.operation = Operation::kErase, .key = key, .value = {}});
}
Status Writer::add(std::string_view key, ValueView delta) noexcept {
  return impl_->push({.operation = Operation::kAdd, .key = key, .value = delta});
}

Batch Writer::batch() noexcept {
  impl_->clear_batch();
  return Batch(impl_.get());
}

Ticket Writer::ticket() const noexcept { return impl_->producer.tail(); }

Status Writer::flush(std::chrono::nanoseconds timeout) noexcept { return flush(ticket(), timeout); }

Status Writer::flush(Ticket ticket, std::chrono::nanoseconds timeout) noexcept {
  const Status waited = impl_->wait_for_head(timeout, [ticket](std::uint64_t head) { return head >= ticket; });
  if (waited != Status::kOk) return waited;
  const std::uint64_t rejected_now = counters().rejected;
  const bool has_new_rejections = std::exchange(impl_->rejected_reported, rejected_now) != rejected_now;
  const Status failure = std::exchange(impl_->first_failure, Status::kOk);
  if (failure != Status::kOk) return failure;
  return has_new_rejections ? Status::kRejected : Status::kOk;
}

WriterCounters Writer::counters() const noexcept {
  WriterCounters counters = impl_->counters;
  counters.applied = impl_->ring.header().applied_count.load(std::memory_order_relaxed);
  for (const auto& rejected : impl_->ring.header().rejected) {
    counters.rejected += rejected.load(std::memory_order_relaxed);
  }
  return counters;
}

std::uint64_t Writer::rejected(Status reason) const noexcept {
  const auto count = [this](layout::Reject index) {
    return impl_->ring.header().rejected[static_cast<std::size_t>(index)].load(std::memory_order_relaxed);
  };
  switch (reason) {
    case Status::kWrongType: return count(layout::Reject::kWrongType);
    case Status::kOutOfRange: return count(layout::Reject::kOutOfRange);
    case Status::kNoMemory: return count(layout::Reject::kNoMemory);
    default: return 0;
  }
}

const std::string& Writer::path() const noexcept { return impl_->path; }
std::uint64_t Writer::ring_id() const noexcept { return impl_->ring.id(); }

// ---- Batch

Batch::Batch(Batch&& other) noexcept : writer_(std::exchange(other.writer_, nullptr)) {}
Batch::~Batch() {
  if (writer_ != nullptr) writer_->clear_batch();
}

Status Batch::set(std::string_view key, ValueView value) noexcept {
  return writer_->add_to_batch({.operation = Operation::kSet, .key = key, .value = value});
}
Status Batch::erase(std::string_view key) noexcept {
  return writer_->add_to_batch({.operation = Operation::kErase, .key = key, .value = {}});
}
Status Batch::add(std::string_view key, ValueView delta) noexcept {
  return writer_->add_to_batch({.operation = Operation::kAdd, .key = key, .value = delta});
}
Status Batch::commit() noexcept { return writer_->commit_batch(); }

}  // namespace shmstate
