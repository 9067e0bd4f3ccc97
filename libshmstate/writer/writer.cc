#include "shmstate/writer.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
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

#include "files/access.h"
#include "files/fork.h"
#include "files/instance.h"
#include "files/ring_file.h"
#include "files/snapshot_file.h"
#include "layout/record.h"
#include "protocol/crash_point.h"
#include "protocol/doorbell.h"
#include "protocol/key_hints.h"
#include "protocol/ring.h"
#include "writer/conflation.h"

namespace shmstate {

using namespace internal;
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr std::uint64_t kCommitStep = std::uint64_t{256} << 10;
constexpr std::uint64_t kAllCommitted = std::numeric_limits<std::uint64_t>::max();
constexpr auto kSpinTime = std::chrono::microseconds(20);
constexpr auto kSleepMax = std::chrono::milliseconds(100);  // a merger that restarts does not know who sleeps
constexpr auto kLockPollMax = std::chrono::microseconds(500);
constexpr std::uint64_t kLookBytes = std::uint64_t{16} << 10;  // that are pushed without looking around
constexpr std::uint32_t kUnheardPerLook = 64;
constexpr std::uint64_t kLookIntervalNs = 100'000'000;
constexpr std::uint64_t kSilenceNs = 1'000'000'000;  // of the merger, before its directory is looked at

os::Fd open_doorbell(const Control& control) {
  const std::filesystem::path path = doorbell_path(control.path());
  os::Fd fd = os::open_file(path, O_RDWR);
  if (!fd.is_open()) {
    const int error_number = errno;
    if (error_number == EACCES || error_number == EPERM) throw refusal(control.path(), path, Purpose::kWrite);
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

/// What a conflating writer keeps for later; anything else will not become better.
bool is_for_now(Status status) noexcept {
  return status == Status::kRingFull || status == Status::kTimeout || status == Status::kRingRefused ||
         status == Status::kNoMemory;
}

/// An instance's files as a writer has them mapped, and its place in them.
struct Attachment {
  Attachment(const std::filesystem::path& instance, const WriterOptions& options, nanoseconds timeout)
      : control(instance, timeout, options.survive_truncation ? WhenTruncated::kReadZeros : WhenTruncated::kDie),
        doorbell_mapping(open_more(control, [this] { return open_doorbell(control); }), Access::kReadWrite, 0,
                         sizeof(layout::Doorbell), "doorbell"),
        ring(open_more(control, [&] { return open_ring(control, options); })),
        producer(ring.header(), ring.data_bytes()),
        ring_path((rings_path(control.path()) / ring_name(ring.id())).string()) {}

  /// The same, and again while it fails because the instance is being removed or made anew.
  [[nodiscard]] static Attachment open(const std::filesystem::path& instance, const WriterOptions& options) {
    return attach_within(options.attach_timeout, [&](nanoseconds left) { return Attachment(instance, options, left); });
  }

  /// For the kernel only: others may have truncated the file.
  [[nodiscard]] const layout::Doorbell& doorbell() const noexcept {
    return *reinterpret_cast<const layout::Doorbell*>(doorbell_mapping.data());
  }
  /// That there is a ring to look at.
  void announce() const noexcept {
    os::futex_add_and_wake(doorbell().registrations.address());
    crash_point(CrashPoint::kRingRegistered);
  }
  [[nodiscard]] std::uint64_t applied() const noexcept {
    return ring.header().applied_count.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t rejected(std::size_t reason) const noexcept {
    return ring.header().rejected[reason].load(std::memory_order_relaxed);
  }

  Control control;
  Mapping doorbell_mapping;
  RingFile ring;
  RingProducer<layout::RingHeader> producer;
  std::optional<SnapshotFile> snapshot{};  // only for bound keys
  std::string ring_path;
  MergerWaker waker{};
  Clock::time_point next_telling{};  // that the ring is not served
  nanoseconds telling_pause = std::chrono::milliseconds(1);
  std::uint64_t committed_end = 0;  // stream position up to which memory is committed
};

/// In a child of fork they are zero: so there is no room, and it is time to look around.
struct WriterWords {
  std::uint64_t writable_end;     // stream position below which records may be written without looking around
  std::uint64_t batch_bytes_max;  // of an open batch
};

}  // namespace

struct SHMSTATE_LOCAL Writer::Impl : WithWipedWords<WriterWords>, Attachment {
  Impl(std::string_view instance, WriterOptions wanted)
      : Attachment(open(instance_path(instance), wanted)),
        options(std::move(wanted)),
        conflation(options.conflate_bytes_max, static_cast<std::size_t>(ring.data_bytes())),
        path(control.path().string()) {
    wiped().batch_bytes_max = ring.data_bytes();
    rejected_reported = rejected_in_all();
    os::register_fence();
    tell_merger();
  }

  void tell_merger() noexcept {
    announce();
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

  /// How many mutations a batch may hold: what the merger says now.
  [[nodiscard]] std::uint64_t batch_max() const noexcept {
    const std::uint64_t said = control.sleep().batch_max.load(std::memory_order_relaxed);
    return said == 0 ? std::numeric_limits<std::uint64_t>::max() : said;
  }

  void wake_merger() noexcept {
    const bool is_heard = waker.wake(control.sleep(), [this] {
      os::futex_add_and_wake(doorbell().wakes.address());
      look_while_pushing();
    });
    if (!is_heard && ++unheard % kUnheardPerLook == 0) look_while_pushing();
  }

  // ---- whether this is the place to push to

  /// What speaks against it. Asked rarely: when the ring seems full, at the latest after `kLookBytes`, and while the
  /// merger sleeps on. No system call unless the merger is silent or says that the instance was removed.
  [[nodiscard]] Status look_around() noexcept {
    if (!maker.is_this_process()) return Status::kForked;
    const std::uint64_t now = os::now_ns();
    if (now < next_look_ns) return place;
    next_look_ns = now + kLookIntervalNs;
    const layout::Heartbeat& heartbeat = control.heartbeat();
    const bool is_silent = now - heartbeat.beat_ns.load(std::memory_order_relaxed) > kSilenceNs;  // or nonsense
    const bool is_suspect = is_silent || heartbeat.retired.load(std::memory_order_acquire) != 0;
    return is_suspect ? look_at_path() : set_place(Status::kOk);
  }
  [[nodiscard]] Status look_at_path() noexcept {
    if (control.is_lost()) return set_place(Status::kDamaged);
    if (control.is_current()) return set_place(Status::kOk);
    return options.reopen ? reopen() : set_place(Status::kNoInstance);
  }
  Status set_place(Status status) noexcept {
    if (status != Status::kOk) wiped().writable_end = 0;  // so that the next push looks, too
    return place = status;
  }
  /// Behind a push, which was accepted: what is found counts for the next one.
  [[gnu::noinline, gnu::cold]] void look_while_pushing() noexcept { static_cast<void>(look_around()); }
  /// Before giving up waiting: as `look_around`, but now.
  [[nodiscard]] Status look_now() noexcept { return maker.is_this_process() ? look_at_path() : Status::kForked; }
  [[nodiscard]] Status reopen() noexcept;
  void account_for_what_is_lost();
  /// Whether another try makes sense: the instance of the first one was removed, and there is a new one.
  [[nodiscard]] bool has_reopened(Status status) noexcept {
    return status == Status::kNoInstance && options.reopen && look_now() == Status::kOk;
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
    return status == Status::kOk ? status : fail_or_retry(status, mutation);
  }
  [[nodiscard, gnu::noinline, gnu::cold]] Status fail_or_retry(Status status, const Mutation& mutation) noexcept {
    return has_reopened(status) ? push(mutation) : fail(status, 1);
  }
  [[nodiscard]] Status push(Mutation mutation, Key& key) noexcept;
  void give_hint(Mutation& mutation, Key& key) noexcept;
  [[gnu::noinline, gnu::cold]] void look_for_place(Key& key, const HashedKey& hashed) noexcept;

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
    return producer.tail() + bytes <= wiped().writable_end;
  }
  [[nodiscard]] Status make_room(std::uint64_t bytes) noexcept;
  [[nodiscard]] Status commit_memory(std::uint64_t bytes) noexcept;
  [[nodiscard]] Status lock_shared(Clock::time_point began) noexcept;
  [[nodiscard]] Status verdict() const noexcept;
  [[nodiscard]] Status full_status() noexcept;

  /// That, or the reason for it.
  [[nodiscard]] Status timed_out() const noexcept {
    return control.is_lost() || control.is_current() ? Status::kTimeout : Status::kNoInstance;
  }
  /// Waits until `done(head)`: spins a moment, then sleeps on the ring's head.
  template <typename Done>
  [[nodiscard]] Status wait_for_head(nanoseconds timeout, Done done) noexcept;

  // ---- conflation

  [[nodiscard]] Status conflate(std::span<const Mutation> mutations) noexcept;
  Status push_conflated() noexcept;
  [[nodiscard]] Status flush_conflated(nanoseconds timeout) noexcept;

  // ---- the open batch

  /// Whether the batch of this number is the open one, or becomes that because none is.
  [[nodiscard]] bool is_open(std::uint64_t number) noexcept {
    if (open_batch == 0) open_batch = number;
    return open_batch == number;
  }
  [[nodiscard]] Status add_to_batch(std::uint64_t number, const Mutation& mutation) noexcept;
  [[nodiscard]] Status add_to_batch(std::uint64_t number, Mutation mutation, Key& key) noexcept {
    give_hint(mutation, key);
    return add_to_batch(number, mutation);
  }
  [[nodiscard]] Status commit_batch(std::uint64_t number) noexcept;
  [[nodiscard]] Status write_batch() noexcept;
  [[nodiscard]] Status conflate_batch() noexcept;
  void clear_batch() noexcept {
    open_batch = 0;
    batch.clear();
    batch_count = 0;
    batch_failures = 0;
    batch_status = Status::kOk;
  }

  // ---- what came before, in rings of instances that were removed

  [[nodiscard]] Ticket ticket() const noexcept { return earlier.end + producer.tail(); }
  [[nodiscard]] std::uint64_t applied_in_all() const noexcept { return earlier.applied + applied(); }
  [[nodiscard]] std::uint64_t rejected_in_all(layout::Reject reason) const noexcept {
    const auto index = static_cast<std::size_t>(reason);
    return earlier.rejected.at(index) + rejected(index);
  }
  [[nodiscard]] std::uint64_t rejected_in_all() const noexcept {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < earlier.rejected.size(); ++i) sum += earlier.rejected[i] + rejected(i);
    return sum;
  }
  /// Waits for the place in this ring that a ticket means.
  [[nodiscard]] Status wait_for_ticket(Ticket ticket, nanoseconds timeout) noexcept;
  [[nodiscard]] Status report() noexcept;

  struct Lost {
    Ticket begin;  // merged up to here
    Ticket end;
  };
  struct Earlier {
    Ticket end = 0;
    std::uint64_t pushed = 0;
    std::uint64_t applied = 0;
    std::array<std::uint64_t, std::extent_v<decltype(layout::RingHeader::rejected)>> rejected{};
    std::vector<Lost> lost{};
  };

  WriterOptions options;
  Conflation conflation;
  std::string path;
  Maker maker;
  Status place = Status::kOk;  // or what spoke against it when we last looked
  std::uint32_t unheard = 0;
  std::uint64_t next_look_ns = 0;
  std::uint64_t next_look_when_full_ns = 0;
  std::uint64_t reopen_count = 0;
  Earlier earlier;

  std::uint64_t open_batch = 0;  // its number; 0: none is open
  std::uint64_t last_batch = 0;
  std::vector<std::byte> batch;  // records, all marked as followed by another
  std::size_t batch_last = 0;    // where the last one begins
  std::uint64_t batch_count = 0;
  std::uint64_t batch_failures = 0;
  Status batch_status = Status::kOk;

  WriterCounters counters;
  Status first_failure = Status::kOk;   // since the last flush
  std::uint64_t rejected_reported = 0;  // by the last flush
};

Status Writer::Impl::push(Mutation mutation, Key& key) noexcept {
  give_hint(mutation, key);
  return push(mutation);
}

// A bound key's place is looked up at first and then now and then; the merger looks before it believes.
void Writer::Impl::give_hint(Mutation& mutation, Key& key) noexcept {
  const HashedKey hashed = KeyHints::hashed(key, control.geometry().instance_id, control.geometry().hash_seed);
  if (KeyHints::must_look(key)) look_for_place(key, hashed);
  mutation.hint = KeyHints::place(key);
  if (mutation.hint != 0) mutation.flags |= kWithHint;
}

void Writer::Impl::look_for_place(Key& key, const HashedKey& hashed) noexcept {
  if (!maker.is_this_process()) return;
  const os::NoCancellation shield;
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

// What is conflated goes to the new instance; what is in the ring is lost, unless it was merged.
Status Writer::Impl::reopen() noexcept {
  const os::NoCancellation shield;
  try {
    Attachment found(control.path(), options, nanoseconds::zero());
    account_for_what_is_lost();
    static_cast<Attachment&>(*this) = std::move(found);
  } catch (const std::exception&) {  // not there yet
    return set_place(Status::kNoInstance);
  }
  wiped() = {.writable_end = 0, .batch_bytes_max = ring.data_bytes()};
  ++reopen_count;
  announce();
  return set_place(Status::kOk);
}

void Writer::Impl::account_for_what_is_lost() {
  const Ticket merged = earlier.end + ring.header().head.load(std::memory_order_acquire);
  if (merged < ticket()) {
    earlier.lost.push_back({.begin = merged, .end = ticket()});
    if (first_failure == Status::kOk) first_failure = Status::kNoInstance;
  }
  std::uint64_t seen = applied();
  for (std::size_t i = 0; i < earlier.rejected.size(); ++i) {
    seen += rejected(i);
    earlier.rejected[i] += rejected(i);
  }
  const std::uint64_t pushed_here = counters.pushed - earlier.pushed;
  if (!options.shared && seen < pushed_here) counters.lost += pushed_here - seen;
  earlier.pushed = counters.pushed;
  earlier.applied += applied();
  earlier.end = ticket();
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
    const os::NoCancellation shield;
    std::this_thread::sleep_for(pause);
    pause = std::min<nanoseconds>(pause * 2, kLockPollMax);
  }
  return Status::kOk;
}

template <typename Fill>
Status Writer::Impl::write_shared(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept {
  if (const Status status = look_around(); status != Status::kOk) return status;
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
  if (const Status status = look_around(); status != Status::kOk) return status;
  if (bytes > ring.data_bytes()) return Status::kMutationTooBig;
  if (!producer.has_room(bytes)) producer.refresh();
  if (!producer.has_room(bytes)) {
    if (options.when_full != WhenFull::kBlock) return full_status();
    const Status waited = wait_for_head(options.full_timeout, [&](std::uint64_t) {
      producer.refresh();
      return producer.has_room(bytes);
    });
    if (waited != Status::kOk) return waited;
  }
  const Status status = commit_memory(bytes);
  if (status == Status::kOk) {
    wiped().writable_end = std::min({producer.room_end(), committed_end, producer.tail() + bytes + kLookBytes});
  }
  return status;
}

// Memory is committed before it is touched, and only as far as the ring has ever been used.
Status Writer::Impl::commit_memory(std::uint64_t bytes) noexcept {
  while (producer.tail() + bytes > committed_end) {
    if (committed_end >= ring.data_bytes()) {
      committed_end = kAllCommitted;
      break;
    }
    const std::uint64_t missing = producer.tail() + bytes - committed_end;
    std::uint64_t step = std::min(std::max(kCommitStep, missing), ring.data_bytes() - committed_end);
    const auto commit = [&] { return os::commit(ring.fd(), layout::kRingHeaderBytes + committed_end, step); };
    int error_number = commit();
    // A ring that begins may erase a key, and so make room, with as little as that; and of a shared ring, others may
    // have committed more than this process knows.
    if (error_number == ENOSPC && (committed_end == 0 || options.shared)) {
      step = missing;
      error_number = commit();
    }
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

// A merger that was killed a moment ago is not silent yet, so the path is looked at all the same, now and then.
Status Writer::Impl::full_status() noexcept {
  tell_merger_again();
  Status served = verdict();
  const std::uint64_t now = os::now_ns();
  if (served == Status::kOk && now >= next_look_when_full_ns) {
    next_look_when_full_ns = now + kLookIntervalNs;
    served = look_at_path();
  }
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
    if (waited >= timeout) return timed_out();
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
    if (const Status status = push_conflated(); !is_for_now(status) && status != Status::kOk) return status;
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
Status Writer::Impl::push_conflated() noexcept {
  while (!conflation.empty()) {
    const Status status =
        write(conflation.front_bytes(), conflation.front_count(), [&](std::byte* at) { conflation.encode_front(at); });
    if (status != Status::kOk) return status;
    conflation.pop_front();
  }
  return Status::kOk;
}

Status Writer::Impl::flush_conflated(nanoseconds timeout) noexcept {
  return wait_for_head(timeout, [&](std::uint64_t) {
    static_cast<void>(push_conflated());
    return conflation.empty();
  });
}

// ---- the open batch

Status Writer::Impl::add_to_batch(std::uint64_t number, const Mutation& mutation) noexcept {
  if (open_batch != number && !is_open(number)) [[unlikely]]
    return fail(Status::kInvalidArgument, 1);
  Status status = batch_status == Status::kOk ? check_here(mutation) : batch_status;
  const std::size_t begin = batch.size();
  if (status == Status::kOk) {
    const std::size_t bytes = begin + record_bytes(mutation);
    const bool fits = bytes <= wiped().batch_bytes_max && is_batch_allowed(batch_count + 1, bytes, batch_max());
    if (!fits) status = maker.is_this_process() ? Status::kMutationTooBig : Status::kForked;
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

Status Writer::Impl::commit_batch(std::uint64_t number) noexcept {
  if (!maker.is_this_process()) return Status::kForked;
  if (!is_open(number)) return fail(Status::kInvalidArgument, 0);
  Status status = batch_status;
  if (status == Status::kOk && !is_batch_allowed(batch_count, batch.size(), batch_max())) {
    status = Status::kMutationTooBig;  // since it was begun, the merger was told to allow less
  }
  if (status == Status::kOk && !batch.empty()) {
    layout::RecordHead last;
    std::memcpy(&last, batch.data() + batch_last, sizeof last);
    last.flags &= static_cast<std::uint8_t>(~kBatchContinues);
    std::memcpy(batch.data() + batch_last, &last, sizeof last);
    status = write_batch();
    while (has_reopened(status)) status = write_batch();
  }
  if (status != Status::kOk) fail(status, batch_count + batch_failures);
  clear_batch();
  return status;
}

Status Writer::Impl::write_batch() noexcept {
  const auto copy = [&](std::byte* at) {
    std::memcpy(at, batch.data(), batch.size());
    crash_point(CrashPoint::kBatchWritten);
  };
  const Status status = conflation.empty() ? write(batch.size(), batch_count, copy) : Status::kRingFull;
  return status == Status::kRingFull && options.when_full == WhenFull::kConflate ? conflate_batch() : status;
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
  const bool must_push = impl_ && !impl_->conflation.empty() && impl_->maker.is_this_process();
  if (must_push) static_cast<void>(impl_->flush_conflated(impl_->options.full_timeout));
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

Status Writer::set(Key& key, ValueView value) noexcept {
  return impl_->push(make(Operation::kSet, key.bytes(), value), key);
}
Status Writer::set(Key& key, ValueView value, const SetOptions& options) noexcept {
  return impl_->push(make_set(key.bytes(), value, options), key);
}
Status Writer::erase(Key& key) noexcept { return impl_->push(make(Operation::kErase, key.bytes(), {}), key); }
Status Writer::erase(Key& key, std::uint64_t version) noexcept {
  return impl_->push(make_erase(key.bytes(), version), key);
}
Status Writer::add(Key& key, ValueView delta) noexcept {
  return impl_->push(make(Operation::kAdd, key.bytes(), delta), key);
}
Status Writer::max(Key& key, ValueView value) noexcept {
  return impl_->push(make(Operation::kMax, key.bytes(), value), key);
}
Status Writer::min(Key& key, ValueView value) noexcept {
  return impl_->push(make(Operation::kMin, key.bytes(), value), key);
}

Batch Writer::batch() {
  if (impl_->open_batch != 0) {
    throw Error(Status::kInvalidArgument,
                "shmstate: " + quoted(impl_->control.path()) +
                    ": a batch of this writer is open; commit it, or let it go, before the next one");
  }
  impl_->open_batch = ++impl_->last_batch;
  return {impl_.get(), impl_->open_batch};
}

Ticket Writer::ticket() const noexcept { return impl_->ticket(); }

Status Writer::flush(nanoseconds timeout) noexcept {
  const auto began = Clock::now();
  if (const Status status = impl_->look_around(); status != Status::kOk) return status;
  if (!impl_->conflation.empty()) {
    if (const Status pushed = impl_->flush_conflated(timeout); pushed != Status::kOk) return pushed;
  }
  return flush(ticket(), left_of(timeout, began));
}

Status Writer::flush(Ticket ticket, nanoseconds timeout) noexcept {
  if (const Status status = impl_->look_around(); status != Status::kOk) return status;
  const Status failure = impl_->first_failure;
  const Status waited = impl_->wait_for_ticket(ticket, timeout);
  if (impl_->has_reopened(waited)) impl_->first_failure = failure;  // that something is lost is what we say now
  return waited == Status::kOk ? impl_->report() : waited;
}

Status Writer::Impl::wait_for_ticket(Ticket ticket, nanoseconds timeout) noexcept {
  const bool is_lost = std::any_of(earlier.lost.begin(), earlier.lost.end(),
                                   [&](const Lost& lost) { return ticket > lost.begin && ticket <= lost.end; });
  if (is_lost) return Status::kNoInstance;
  if (ticket <= earlier.end) return Status::kOk;
  return wait_for_head(timeout, [&](std::uint64_t head) { return head >= ticket - earlier.end; });
}

Status Writer::Impl::report() noexcept {
  const Status failure = std::exchange(first_failure, Status::kOk);
  if (failure != Status::kOk) return failure;  // a rejection is left for the next flush
  const std::uint64_t rejected_now = rejected_in_all();
  return std::exchange(rejected_reported, rejected_now) == rejected_now ? Status::kOk : Status::kRejected;
}

WriterStatus Writer::status() noexcept {
  WriterStatus status{.reopen_count = impl_->reopen_count, .ring = impl_->look_now()};
  if (status.ring == Status::kForked) return status;
  if (status.ring == Status::kOk) status.ring = impl_->verdict();
  status.merger_running = impl_->control.merger_running();
  status.instance_gone = impl_->place == Status::kNoInstance;
  return status;
}

WriterCounters Writer::counters() const noexcept {
  WriterCounters counters = impl_->counters;
  counters.applied = impl_->applied_in_all();
  counters.rejected = impl_->rejected_in_all();
  return counters;
}

std::uint64_t Writer::rejected(Status reason) const noexcept {
  switch (reason) {
    case Status::kWrongType: return impl_->rejected_in_all(layout::Reject::kWrongType);
    case Status::kOutOfRange: return impl_->rejected_in_all(layout::Reject::kOutOfRange);
    case Status::kNoMemory: return impl_->rejected_in_all(layout::Reject::kNoMemory);
    case Status::kLimit: return impl_->rejected_in_all(layout::Reject::kLimit);
    case Status::kMutationTooBig: return impl_->rejected_in_all(layout::Reject::kBatchTooBig);
    default: return 0;
  }
}

std::uint64_t Writer::batch_max() const noexcept { return impl_->batch_max(); }
const std::string& Writer::path() const noexcept { return impl_->path; }
std::uint64_t Writer::ring_id() const noexcept { return impl_->ring.id(); }

// ---- Batch

Batch::Batch(Batch&& other) noexcept : writer_(std::exchange(other.writer_, nullptr)), number_(other.number_) {}
Batch::~Batch() {
  if (writer_ != nullptr && writer_->open_batch == number_) writer_->clear_batch();
}

Status Batch::set(std::string_view key, ValueView value) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kSet, key, value));
}
Status Batch::set(std::string_view key, ValueView value, const SetOptions& options) noexcept {
  return writer_->add_to_batch(number_, make_set(key, value, options));
}
Status Batch::erase(std::string_view key) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kErase, key, {}));
}
Status Batch::erase(std::string_view key, std::uint64_t version) noexcept {
  return writer_->add_to_batch(number_, make_erase(key, version));
}
Status Batch::add(std::string_view key, ValueView delta) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kAdd, key, delta));
}
Status Batch::max(std::string_view key, ValueView value) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kMax, key, value));
}
Status Batch::min(std::string_view key, ValueView value) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kMin, key, value));
}

Status Batch::set(Key& key, ValueView value) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kSet, key.bytes(), value), key);
}
Status Batch::set(Key& key, ValueView value, const SetOptions& options) noexcept {
  return writer_->add_to_batch(number_, make_set(key.bytes(), value, options), key);
}
Status Batch::erase(Key& key) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kErase, key.bytes(), {}), key);
}
Status Batch::erase(Key& key, std::uint64_t version) noexcept {
  return writer_->add_to_batch(number_, make_erase(key.bytes(), version), key);
}
Status Batch::add(Key& key, ValueView delta) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kAdd, key.bytes(), delta), key);
}
Status Batch::max(Key& key, ValueView value) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kMax, key.bytes(), value), key);
}
Status Batch::min(Key& key, ValueView value) noexcept {
  return writer_->add_to_batch(number_, make(Operation::kMin, key.bytes(), value), key);
}

Status Batch::commit() noexcept { return writer_->commit_batch(number_); }

}  // namespace shmstate
