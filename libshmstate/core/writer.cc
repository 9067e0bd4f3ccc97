#include "shmstate/writer.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <new>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "core/conflation.h"
#include "core/crash_point.h"
#include "core/doorbell.h"
#include "core/instance.h"
#include "core/key_hints.h"
#include "core/record.h"
#include "core/ring.h"
#include "core/ring_file.h"
#include "core/snapshot_file.h"

namespace shmstate {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr std::uint64_t kCommitStep = std::uint64_t{256} << 10;
constexpr std::uint64_t kAllCommitted = std::numeric_limits<std::uint64_t>::max();
constexpr auto kSpinTime = std::chrono::microseconds(20);
constexpr auto kSleepMax = std::chrono::milliseconds(100);  // a merger that restarts does not know who sleeps
constexpr auto kLockPollMax = std::chrono::microseconds(500);

os::Fd open_doorbell(const Control& control) {
  const std::filesystem::path path = doorbell_path(control.path());
  os::Fd fd = os::open_file(path, O_RDWR);
  if (!fd.is_open()) {
    const int error_number = errno;
    if (error_number == EACCES || error_number == EPERM) {
      throw Error(Status::kNoPermission, "shmstate: " + quoted(control.path()) + ": permission denied for " +
                                             path.string() + "; writers must belong to the group that owns it");
    }
    os::throw_errno("cannot open " + path.string(), error_number);
  }
  return fd;
}

RingFile open_ring(const Control& control, const WriterOptions& options) {
  if (options.ring_bytes < kRingBytesMin || options.ring_bytes > kRingBytesMax) {
    throw Error(Status::kInvalidArgument,
                "shmstate: ring_bytes must be 64 KiB to 1 GiB, not " + std::to_string(options.ring_bytes));
  }
  const RingFile::Description description{.data_bytes = std::bit_ceil(options.ring_bytes),
                                          .flags = options.shared ? layout::kRingShared : 0,
                                          .name = options.name.empty() ? os::program_name() : options.name,
                                          .instance_id = control.geometry().instance_id};
  const std::filesystem::path rings = rings_path(control.path());
  RingFile ring = options.shared ? RingFile::open_shared(rings, description) : RingFile::create(rings, description);
  if (options.survive_truncation) ring.survive_truncation();
  return ring;
}

/// What is left of a timeout of any size; adding it to a point in time could overflow.
nanoseconds left_of(nanoseconds timeout, Clock::time_point began) noexcept {
  const auto elapsed = Clock::now() - began;
  return timeout > elapsed ? timeout - elapsed : nanoseconds::zero();
}

Mutation make(Operation operation, std::string_view key, ValueView value) noexcept {
  Mutation mutation;
  mutation.operation = operation;
  mutation.key = key;
  mutation.value = value;
  return mutation;
}

Mutation make_set(std::string_view key, ValueView value, const SetOptions& options) noexcept {
  Mutation mutation = make(Operation::kSet, key, value);
  if (options.ttl != nanoseconds::zero()) {
    mutation.flags |= kWithTtl;
    mutation.ttl_ns = static_cast<std::uint64_t>(options.ttl.count());
  }
  if (options.ephemeral) mutation.flags |= kEphemeral;
  if (options.version) {
    mutation.flags |= kWithVersion;
    mutation.version = *options.version;
  }
  return mutation;
}

Mutation make_erase(std::string_view key, std::uint64_t version) noexcept {
  Mutation mutation = make(Operation::kErase, key, {});
  mutation.flags |= kWithVersion;
  mutation.version = version;
  return mutation;
}

}  // namespace

struct SHMSTATE_LOCAL Writer::Impl {
  Impl(std::string_view instance, WriterOptions wanted)
      : options(std::move(wanted)),
        control(instance_path(instance), options.attach_timeout,
                options.survive_truncation ? WhenTruncated::kReadZeros : WhenTruncated::kDie),
        doorbell_mapping(open_doorbell(control), Access::kReadWrite, 0, sizeof(layout::Doorbell), "doorbell"),
        ring(open_ring(control, options)),
        producer(ring.header(), ring.data_bytes()),
        conflation(options.conflate_bytes_max, static_cast<std::size_t>(ring.data_bytes())),
        path(control.path().string()),
        ring_path((rings_path(control.path()) / ring_name(ring.id())).string()) {
    for (const auto& rejected : ring.header().rejected) {
      rejected_reported += rejected.load(std::memory_order_relaxed);
    }
    os::register_fence();
    tell_merger();
  }

  /// That there is a ring to look at.
  void tell_merger() noexcept {
    os::futex_add_and_wake(doorbell().registrations.address());
    crash_point(CrashPoint::kRingRegistered);
    wake_merger();
  }
  /// A ring that is not served may have gone unnoticed in a flood of others, or there may be a place for it now. Who
  /// waits for that touches it, soon and then more and more rarely, so that the merger looks at it again.
  void tell_merger_again() noexcept {
    const auto verdict = static_cast<layout::RingVerdict>(ring.header().verdict.load(std::memory_order_relaxed));
    if (verdict != layout::RingVerdict::kPending && verdict != layout::RingVerdict::kRefused) return;
    if (Clock::now() < next_telling) return;
    next_telling = Clock::now() + telling_pause;
    telling_pause = std::min<nanoseconds>(2 * telling_pause, kSleepMax);
    static_cast<void>(::utimensat(AT_FDCWD, ring_path.c_str(), nullptr, AT_SYMLINK_NOFOLLOW));
    tell_merger();
  }
  [[nodiscard]] nanoseconds sleep_max() const noexcept {
    const std::uint32_t verdict = ring.header().verdict.load(std::memory_order_relaxed);
    return verdict == static_cast<std::uint32_t>(layout::RingVerdict::kPending) ? telling_pause : kSleepMax;
  }

  /// For the kernel only: others may have truncated the file.
  [[nodiscard]] const layout::Doorbell& doorbell() const noexcept {
    return *reinterpret_cast<const layout::Doorbell*>(doorbell_mapping.data());
  }

  /// How many mutations a batch may hold: what the merger says now.
  [[nodiscard]] std::uint64_t batch_max() const noexcept {
    const std::uint64_t said = control.sleep().batch_max.load(std::memory_order_relaxed);
    return said == 0 ? std::numeric_limits<std::uint64_t>::max() : said;
  }

  void wake_merger() noexcept {
    waker.wake(control.sleep(), [this] { os::futex_add_and_wake(doorbell().wakes.address()); });
  }

  // ---- pushing

  [[nodiscard]] Status push(const Mutation& mutation) noexcept {
    Status status = check_here(mutation);
    if (status == Status::kOk) {
      status = conflation.empty()
                   ? write(record_bytes(mutation), 1, [&](std::byte* at) { encode_record(at, mutation, 0); })
                   : Status::kRingFull;
      if (status == Status::kRingFull && options.when_full == WhenFull::kConflate) status = conflate({&mutation, 1});
    }
    return status == Status::kOk ? status : fail(status, 1);
  }
  [[nodiscard]] Status push(Operation operation, Key& key, ValueView value) noexcept;

  [[nodiscard]] Status check_here(const Mutation& mutation) const noexcept {
    const bool is_impossible = (mutation.flags & kEphemeral) != 0 && options.shared;
    const bool is_negative = static_cast<std::int64_t>(mutation.ttl_ns) < 0;
    return is_impossible || is_negative ? Status::kInvalidArgument : check(mutation);
  }

  Status fail(Status status, std::uint64_t mutations) noexcept {
    counters.failed += mutations;
    if (first_failure == Status::kOk) first_failure = status;
    return status;
  }

  /// Pushes `bytes` that `fill` writes, when there is room, with the wait that the options ask for.
  template <typename Fill>
  [[nodiscard]] Status write(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept {
    if (options.shared) return write_shared(bytes, count, fill);
    if (!has_room(bytes)) {
      if (const Status status = make_room(bytes); status != Status::kOk) return status;
    }
    return write_here(bytes, count, fill);
  }
  template <typename Fill>
  [[nodiscard]] Status write_here(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept {
    fill(ring.at(producer.tail()));
    crash_point(CrashPoint::kRecordWritten);
    producer.push(bytes);
    crash_point(CrashPoint::kTailMoved);
    counters.pushed += count;
    wake_merger();
    return Status::kOk;
  }
  template <typename Fill>
  [[nodiscard]] Status write_shared(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept;

  [[nodiscard]] bool has_room(std::uint64_t bytes) const noexcept {
    return producer.has_room(bytes) && producer.tail() + bytes <= committed_end;
  }
  [[nodiscard]] Status make_room(std::uint64_t bytes) noexcept;
  [[nodiscard]] Status commit_memory(std::uint64_t bytes) noexcept;
  [[nodiscard]] Status lock_shared(Clock::time_point began) noexcept;
  [[nodiscard]] Status verdict() const noexcept;
  [[nodiscard]] Status full_status() noexcept;

  /// Waits until `done(head)`: spins a moment, then sleeps on the ring's head.
  template <typename Done>
  [[nodiscard]] Status wait_for_head(nanoseconds timeout, Done done) noexcept;

  // ---- conflation

  [[nodiscard]] Status conflate(std::span<const Mutation> mutations) noexcept;
  void push_conflated() noexcept;
  [[nodiscard]] Status flush_conflated(nanoseconds timeout) noexcept;

  // ---- the open batch

  [[nodiscard]] Status add_to_batch(const Mutation& mutation) noexcept;
  [[nodiscard]] Status commit_batch() noexcept;
  [[nodiscard]] Status conflate_batch() noexcept;
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
  Conflation conflation;
  std::optional<SnapshotFile> snapshot;  // only for bound keys
  std::string path;
  std::string ring_path;
  MergerWaker waker;
  Clock::time_point next_telling;  // that the ring is not served
  nanoseconds telling_pause = std::chrono::milliseconds(1);
  std::uint64_t committed_end = 0;  // stream position up to which memory is committed

  std::vector<std::byte> batch;  // records, all marked as followed by another
  std::size_t batch_last = 0;    // where the last one begins
  std::uint64_t batch_count = 0;
  std::uint64_t batch_failures = 0;
  Status batch_status = Status::kOk;

  WriterCounters counters;
  Status first_failure = Status::kOk;   // since the last flush
  std::uint64_t rejected_reported = 0;  // by the last flush
};

// A bound key's place is looked up at first and then now and then; the merger looks before it believes.
Status Writer::Impl::push(Operation operation, Key& key, ValueView value) noexcept {
  Mutation mutation = make(operation, key.bytes(), value);
  const HashedKey hashed = KeyHints::hashed(key, control.geometry().instance_id, control.geometry().hash_seed);
  if (KeyHints::must_look(key)) {
    try {
      if (!snapshot) snapshot.emplace(control);
      const Version version = current_version(control.publication());
      Location at;
      SlotHead head;
      if (snapshot->is_possible(version) &&
          snapshot->buffer(version.buffer).find(hashed, at, head) == BufferView::Found::kYes) {
        KeyHints::set_place(key, at);
      }
    } catch (const std::exception&) {  // without permission to read there is no hint
    }
  }
  mutation.hint = KeyHints::place(key);
  if (mutation.hint != 0) mutation.flags |= kWithHint;
  return push(mutation);
}

// OFD locks have no timeout, and a stopped holder must not stop us for longer than the caller allows: so we poll. Who
// does not want to wait lets others finish their push, but does not sleep.
Status Writer::Impl::lock_shared(Clock::time_point began) noexcept {
  constexpr int kTriesAtOnce = 10;
  nanoseconds pause = std::chrono::microseconds(1);
  for (int tries = 1; !os::try_lock(ring.fd(), kPusherByte, true); ++tries) {
    if (errno != EAGAIN) return Status::kSystem;
    if (tries < kTriesAtOnce) {
      std::this_thread::yield();
      continue;
    }
    if (options.when_full != WhenFull::kBlock) return full_status();
    if (left_of(options.full_timeout, began) == nanoseconds::zero()) return Status::kTimeout;
    std::this_thread::sleep_for(pause);
    pause = std::min<nanoseconds>(pause * 2, kLockPollMax);
  }
  return Status::kOk;
}

template <typename Fill>
Status Writer::Impl::write_shared(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept {
  if (bytes > ring.data_bytes()) return Status::kMutationTooBig;
  const auto began = Clock::now();
  for (;;) {
    if (const Status status = lock_shared(began); status != Status::kOk) return status;
    crash_point(CrashPoint::kSharedRingLocked);
    producer.take_over();
    committed_end = producer.tail() >= ring.data_bytes() ? kAllCommitted : std::max(committed_end, producer.tail());
    Status status = producer.has_room(bytes) ? commit_memory(bytes) : Status::kRingFull;
    if (status == Status::kOk) status = write_here(bytes, count, fill);
    crash_point(CrashPoint::kSharedRingPushed);
    os::unlock(ring.fd(), kPusherByte);
    if (status != Status::kRingFull) return status;
    if (options.when_full != WhenFull::kBlock) return full_status();
    status = wait_for_head(left_of(options.full_timeout, began), [&](std::uint64_t) {  // the lock decides who is next
      producer.take_over();
      return producer.has_room(bytes);
    });
    if (status != Status::kOk) return status;
  }
}

Status Writer::Impl::make_room(std::uint64_t bytes) noexcept {
  if (bytes > ring.data_bytes()) return Status::kMutationTooBig;
  producer.refresh();
  if (!producer.has_room(bytes)) {
    if (options.when_full != WhenFull::kBlock) return full_status();
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
    if (committed_end >= ring.data_bytes()) {
      committed_end = kAllCommitted;
      break;
    }
    const std::uint64_t missing = producer.tail() + bytes - committed_end;
    const std::uint64_t step = std::min(std::max(kCommitStep, missing), ring.data_bytes() - committed_end);
    const int error_number = os::commit(ring.fd(), layout::kRingHeaderBytes + committed_end, step);
    if (error_number != 0) return os::status_of(error_number);
    committed_end += step;
    crash_point(CrashPoint::kRingMemoryCommitted);
  }
  return Status::kOk;
}

Status Writer::Impl::verdict() const noexcept {
  if (ring.has_faulted()) return Status::kRingQuarantined;
  if (control.is_lost()) return Status::kDamaged;
  if (control.heartbeat().retired.load(std::memory_order_acquire) != 0) return Status::kNoInstance;
  switch (static_cast<layout::RingVerdict>(ring.header().verdict.load(std::memory_order_acquire))) {
    case layout::RingVerdict::kRefused: return Status::kRingRefused;
    case layout::RingVerdict::kQuarantined: return Status::kRingQuarantined;
    default: return Status::kOk;
  }
}

Status Writer::Impl::full_status() noexcept {
  tell_merger_again();
  const Status served = verdict();
  return served == Status::kOk ? Status::kRingFull : served;
}

template <typename Done>
Status Writer::Impl::wait_for_head(nanoseconds timeout, Done done) noexcept {
  const auto began = Clock::now();
  const auto* const futex = reinterpret_cast<const std::uint32_t*>(ring.header().head.address());
  for (;;) {
    if (done(producer.head_before_sleep())) return Status::kOk;
    const auto waited = Clock::now() - began;
    if (waited < std::min<nanoseconds>(kSpinTime, timeout)) {
      os::relax();
      continue;
    }
    tell_merger_again();
    if (const Status served = verdict(); served != Status::kOk) return served;
    if (waited >= timeout) return Status::kTimeout;
    wake_merger();
    producer.announce_wait();
    const std::uint64_t head = producer.head_before_sleep();
    if (!done(head)) {
      os::futex_wait(futex, static_cast<std::uint32_t>(head), std::min<nanoseconds>(sleep_max(), timeout - waited));
      if (waited >= kSleepMax && !control.is_current()) return Status::kNoInstance;  // removed while no merger ran
    }
    if (!options.shared) producer.end_wait();  // of a shared ring, others may still wait
  }
}

// ---- conflation

Status Writer::Impl::conflate(std::span<const Mutation> mutations) noexcept {
  try {
    push_conflated();
    for (const Mutation& mutation : mutations) {
      if (record_bytes(mutation) > ring.data_bytes()) return Status::kMutationTooBig;
    }
    if (!conflation.add(mutations, batch_max())) return full_status();
    counters.conflated += mutations.size();
    push_conflated();
    return Status::kOk;
  } catch (const std::bad_alloc&) {
    return Status::kNoMemory;
  }
}

// As much as there is room for, oldest first.
void Writer::Impl::push_conflated() noexcept {
  while (!conflation.empty()) {
    const Status status =
        write(conflation.front_bytes(), conflation.front_count(), [&](std::byte* at) { conflation.encode_front(at); });
    if (status != Status::kOk) return;
    conflation.pop_front();
  }
}

Status Writer::Impl::flush_conflated(nanoseconds timeout) noexcept {
  return wait_for_head(timeout, [&](std::uint64_t) {
    push_conflated();
    return conflation.empty();
  });
}

// ---- the open batch

Status Writer::Impl::add_to_batch(const Mutation& mutation) noexcept {
  Status status = batch_status == Status::kOk ? check_here(mutation) : batch_status;
  const std::size_t begin = batch.size();
  if (status == Status::kOk) {
    const std::size_t bytes = begin + record_bytes(mutation);
    const bool fits = bytes <= ring.data_bytes() && is_batch_allowed(batch_count + 1, bytes, batch_max());
    if (!fits) status = Status::kMutationTooBig;
  }
  if (status == Status::kOk) {
    try {
      batch.resize(begin + record_bytes(mutation));
    } catch (const std::bad_alloc&) {
      status = Status::kNoMemory;
    }
  }
  if (status != Status::kOk) {
    batch_status = status;
    ++batch_failures;
    return status;
  }
  encode_record(batch.data() + begin, mutation, kBatchContinues);
  batch_last = begin;
  ++batch_count;
  return Status::kOk;
}

Status Writer::Impl::commit_batch() noexcept {
  Status status = batch_status;
  if (status == Status::kOk && !is_batch_allowed(batch_count, batch.size(), batch_max())) {
    status = Status::kMutationTooBig;  // since it was begun, the merger was told to allow less
  }
  if (status == Status::kOk && !batch.empty()) {
    layout::RecordHead last;
    std::memcpy(&last, batch.data() + batch_last, sizeof last);
    last.flags &= static_cast<std::uint8_t>(~kBatchContinues);
    std::memcpy(batch.data() + batch_last, &last, sizeof last);
    const auto copy = [&](std::byte* at) {
      std::memcpy(at, batch.data(), batch.size());
      crash_point(CrashPoint::kBatchWritten);
    };
    status = conflation.empty() ? write(batch.size(), batch_count, copy) : Status::kRingFull;
    if (status == Status::kRingFull && options.when_full == WhenFull::kConflate) status = conflate_batch();
  }
  if (status != Status::kOk) fail(status, batch_count + batch_failures);
  clear_batch();
  return status;
}

Status Writer::Impl::conflate_batch() noexcept {
  try {
    std::vector<Mutation> mutations;
    for (std::size_t position = 0; position < batch.size();) {
      RecordView record;
      if (!parse_record(batch.data() + position, batch.size() - position, record)) return Status::kInvalidArgument;
      mutations.push_back(record.mutation());
      position += record.bytes;
    }
    return conflate(mutations);
  } catch (const std::bad_alloc&) {
    return Status::kNoMemory;
  }
}

// ---- Writer

Writer::Writer(std::string_view instance, WriterOptions options)
    : impl_(std::make_unique<Impl>(instance, std::move(options))) {}
Writer::Writer(Writer&&) noexcept = default;
Writer& Writer::operator=(Writer&& other) noexcept {
  Writer taken(std::move(other));
  impl_.swap(taken.impl_);  // what was here goes with `taken`, as any writer goes
  return *this;
}
Writer::~Writer() {
  if (impl_ && !impl_->conflation.empty()) static_cast<void>(impl_->flush_conflated(impl_->options.full_timeout));
}

Status Writer::set(std::string_view key, ValueView value) noexcept {
  return impl_->push(make(Operation::kSet, key, value));
}
Status Writer::set(std::string_view key, ValueView value, const SetOptions& options) noexcept {
  return impl_->push(make_set(key, value, options));
}
Status Writer::erase(std::string_view key) noexcept { return impl_->push(make(Operation::kErase, key, {})); }
Status Writer::erase(std::string_view key, std::uint64_t version) noexcept {
  return impl_->push(make_erase(key, version));
}
Status Writer::add(std::string_view key, ValueView delta) noexcept {
  return impl_->push(make(Operation::kAdd, key, delta));
}
Status Writer::max(std::string_view key, ValueView value) noexcept {
  return impl_->push(make(Operation::kMax, key, value));
}
Status Writer::min(std::string_view key, ValueView value) noexcept {
  return impl_->push(make(Operation::kMin, key, value));
}

Status Writer::set(Key& key, ValueView value) noexcept { return impl_->push(Operation::kSet, key, value); }
Status Writer::add(Key& key, ValueView delta) noexcept { return impl_->push(Operation::kAdd, key, delta); }
Status Writer::max(Key& key, ValueView value) noexcept { return impl_->push(Operation::kMax, key, value); }
Status Writer::min(Key& key, ValueView value) noexcept { return impl_->push(Operation::kMin, key, value); }

Batch Writer::batch() noexcept {
  impl_->clear_batch();
  return Batch(impl_.get());
}

Ticket Writer::ticket() const noexcept { return impl_->producer.tail(); }

Status Writer::flush(nanoseconds timeout) noexcept {
  const auto began = Clock::now();
  if (!impl_->conflation.empty()) {
    if (const Status pushed = impl_->flush_conflated(timeout); pushed != Status::kOk) return pushed;
  }
  return flush(ticket(), left_of(timeout, began));
}

Status Writer::flush(Ticket ticket, nanoseconds timeout) noexcept {
  const Status waited = impl_->wait_for_head(timeout, [ticket](std::uint64_t head) { return head >= ticket; });
  if (waited != Status::kOk) return waited;
  const Status failure = std::exchange(impl_->first_failure, Status::kOk);
  if (failure != Status::kOk) return failure;  // a rejection is left for the next flush
  const std::uint64_t rejected_now = counters().rejected;
  return std::exchange(impl_->rejected_reported, rejected_now) == rejected_now ? Status::kOk : Status::kRejected;
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
    case Status::kLimit: return count(layout::Reject::kLimit);
    case Status::kMutationTooBig: return count(layout::Reject::kBatchTooBig);
    default: return 0;
  }
}

std::uint64_t Writer::batch_max() const noexcept { return impl_->batch_max(); }
const std::string& Writer::path() const noexcept { return impl_->path; }
std::uint64_t Writer::ring_id() const noexcept { return impl_->ring.id(); }

// ---- Batch

Batch::Batch(Batch&& other) noexcept : writer_(std::exchange(other.writer_, nullptr)) {}

Status Batch::set(std::string_view key, ValueView value) noexcept {
  return writer_->add_to_batch(make(Operation::kSet, key, value));
}
Status Batch::set(std::string_view key, ValueView value, const SetOptions& options) noexcept {
  return writer_->add_to_batch(make_set(key, value, options));
}
Status Batch::erase(std::string_view key) noexcept { return writer_->add_to_batch(make(Operation::kErase, key, {})); }
Status Batch::erase(std::string_view key, std::uint64_t version) noexcept {
  return writer_->add_to_batch(make_erase(key, version));
}
Status Batch::add(std::string_view key, ValueView delta) noexcept {
  return writer_->add_to_batch(make(Operation::kAdd, key, delta));
}
Status Batch::max(std::string_view key, ValueView value) noexcept {
  return writer_->add_to_batch(make(Operation::kMax, key, value));
}
Status Batch::min(std::string_view key, ValueView value) noexcept {
  return writer_->add_to_batch(make(Operation::kMin, key, value));
}
Status Batch::commit() noexcept { return writer_->commit_batch(); }

}  // namespace shmstate
