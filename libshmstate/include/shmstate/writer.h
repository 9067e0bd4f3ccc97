// The writer: pushes mutations into a ring of its own, from which the merger takes them.
//
//   shmstate::Writer writer{"plant"};
//   writer.set("pump/7/rpm", 1480);
//   if (writer.flush(100ms) == shmstate::Status::kOk) ...   // readers can see it
//
// From C, this is writer_c.h.
#pragma once

#ifndef __cplusplus
#include "shmstate/writer_c.h"
#else

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "shmstate/api.h"
#include "shmstate/detail/ring_push.h"
#include "shmstate/key.h"
#include "shmstate/status.h"
#include "shmstate/value.h"

namespace shmstate {

/// A place in one writer's stream of mutations: everything up to it, and nothing after it.
using Ticket = std::uint64_t;

/// What a push does when the merger has not made room yet. A shared ring also counts as full while another process is
/// in the middle of a push and does not go on.
enum class WhenFull : std::uint8_t {
  kFail,   ///< return `Status::kRingFull` at once
  kBlock,  ///< wait for room, for at most `WriterOptions::full_timeout`, then `Status::kTimeout`
  /// Keep the latest of every key in private memory until there is room; never blocks, and never loses the final state.
  /// Sums add up, maxima and minima fold, batches stay whole. Beyond `WriterOptions::conflate_bytes_max`: kRingFull.
  /// Retained mutations are pushed by later calls and by `flush`. Destroying the writer, or assigning to it, waits for
  /// room for at most `full_timeout`; what is still retained then is lost.
  kConflate,
};

struct WriterOptions {
  std::string name{};                             ///< shown in the status; the program's name when empty
  std::size_t ring_bytes = std::size_t{4} << 20;  ///< 64 KiB to 1 GiB, rounded up to a power of two; committed as used
  /// Memory for the names of bound keys that have an id, committed as used: each takes its length, rounded up to 8, and
  /// 8 bytes more. Keys for which there is no room are pushed as text (`WriterCounters::unnamed`). 0 to 1 GiB; a
  /// quarter of the ring when it is not given. A shared ring has none.
  std::optional<std::size_t> names_bytes{};
  WhenFull when_full = WhenFull::kBlock;
  std::chrono::nanoseconds full_timeout = std::chrono::seconds(1);  ///< for kBlock; for kConflate at the end
  std::size_t conflate_bytes_max = std::size_t{64} << 20;           ///< for `WhenFull::kConflate`
  /// Push through the one ring that all writers of this user share, behind a lock that the kernel frees when its holder
  /// dies: for short-lived processes, and for very many. It costs two more system calls for each push or batch.
  /// `ring_bytes` matters only to the writer that creates the ring; counters of the merger are those of the whole ring.
  bool shared = false;
  std::chrono::nanoseconds attach_timeout = std::chrono::seconds(2);  ///< how long an instance may take to appear
  /// Keep running if the ring, or the instance's `control`, is truncated while mapped: `flush`, and pushes that find
  /// the ring full, return kRingQuarantined or kDamaged. Otherwise touching a truncated page raises SIGBUS. Installs a
  /// handler for SIGBUS in the whole process, which passes on signals that do not concern it.
  bool survive_truncation = false;
  /// When the instance was removed and re-created, reattach to the new one within about a second, with a new ring.
  /// Mutations that were pushed and not merged are then lost: counted (`WriterCounters::lost`), and reported as
  /// kNoInstance by the next `flush`. Conflated mutations are retained. The new instance is empty: a program that wants
  /// its keys there watches `Writer::status`. Without this, pushes return kNoInstance.
  bool reopen = false;
};

/// Options of a set.
struct SetOptions {
  /// The key is erased when this has passed since the merger applied the set; 1 ms to years. Zero means no expiry, and
  /// clears one set earlier.
  std::chrono::nanoseconds ttl{0};
  /// The key is erased when this writer is gone, however its process ended, unless another writer has set the key
  /// since. Not through a shared ring (kInvalidArgument).
  bool ephemeral = false;
  /// Apply only if this is higher than the version of the entry (an entry without one has 0): the highest version wins,
  /// in whatever order writers are merged. A set without a version clears it.
  std::optional<std::uint64_t> version{};
};

/// Counters of one writer, all since it was opened.
struct WriterCounters {
  std::uint64_t pushed = 0;     ///< mutations accepted by the ring
  std::uint64_t failed = 0;     ///< mutations that a push refused, whatever the reason
  std::uint64_t applied = 0;    ///< mutations that readers can see (merger's count)
  std::uint64_t rejected = 0;   ///< mutations that the merger refused, see `Writer::rejected`
  std::uint64_t conflated = 0;  ///< mutations that went through `WhenFull::kConflate`
  /// Mutations that were accepted and then lost with an instance that was removed (`WriterOptions::reopen`). Those of a
  /// shared ring are not counted: nobody knows whose they were.
  std::uint64_t lost = 0;
  std::uint64_t unnamed = 0;  ///< bound keys that are pushed as text, since there was no room for their names
};

/// Where a writer stands.
struct WriterStatus {
  bool merger_running = false;     ///< asks the kernel
  std::uint64_t reopen_count = 0;  ///< how often this writer reattached to a re-created instance
  bool instance_gone = false;      ///< the directory no longer leads to what is being written to
  Status ring = Status::kOk;       ///< otherwise, why pushes are not merged: as from `flush`, and kForked
};

inline namespace layout_2 {

class Batch;
class Writer;

/// What a `Writer` and a `Batch` do to keys. To a batch it happens when that is committed.
template <typename Self>
class SHMSTATE_API Verbs {
 public:
  /// Sets a key, whatever its type was.
  /// Errors: kKeyEmpty, kKeyTooLong, kValueTooBig, kOutOfRange, kInvalidArgument, kMutationTooBig, kRingFull or
  /// kTimeout, kNoMemory, kRingRefused, kRingQuarantined, kNoInstance, kDamaged, kForked, kSystem. On error nothing was
  /// pushed. That the instance was removed (kNoInstance) is noticed within about a second, but not before 16 KiB were
  /// pushed, unless the ring is full, or the merger sleeps or noticed it itself.
  Status set(std::string_view key, ValueView value) noexcept { return push(internal::Operation::kSet, key, value); }
  Status set(std::string_view key, ValueView value, const SetOptions& options) noexcept;
  /// Erases a key, and what is remembered of its version; erasing a missing one has no effect. Errors: as `set`.
  /// With a version, only an entry of a lower one, and the merger remembers the version for a configured time, so that
  /// older sets that arrive later have no effect.
  Status erase(std::string_view key) noexcept { return push(internal::Operation::kErase, key, {}); }
  Status erase(std::string_view key, std::uint64_t version) noexcept;
  /// Adds to an int64 or float64, creating it as `delta`. The merger rejects another type (kWrongType), an integer sum
  /// that overflows, and a float sum that is or was no number (kOutOfRange). Errors: as `set`; kWrongType when `delta`
  /// is bytes, kOutOfRange when it is a NaN.
  Status add(std::string_view key, ValueView delta) noexcept { return push(internal::Operation::kAdd, key, delta); }
  /// Raises or lowers an int64 or float64 to `value` if that is higher, or lower, creating it as `value`. Errors, and
  /// what the merger rejects: as `add`.
  Status max(std::string_view key, ValueView value) noexcept { return push(internal::Operation::kMax, key, value); }
  Status min(std::string_view key, ValueView value) noexcept { return push(internal::Operation::kMin, key, value); }

  /// The same with a key that has an id from its second use on: the merger then neither hashes nor searches.
  Status set(Key& key, ValueView value) noexcept { return push(internal::Operation::kSet, key, value); }
  Status set(Key& key, ValueView value, const SetOptions& options) noexcept;
  Status erase(Key& key) noexcept { return push(internal::Operation::kErase, key, {}); }
  Status erase(Key& key, std::uint64_t version) noexcept;
  Status add(Key& key, ValueView delta) noexcept { return push(internal::Operation::kAdd, key, delta); }
  Status max(Key& key, ValueView value) noexcept { return push(internal::Operation::kMax, key, value); }
  Status min(Key& key, ValueView value) noexcept { return push(internal::Operation::kMin, key, value); }

 private:
  friend Self;
  Verbs() = default;
  [[nodiscard]] Self& self() noexcept { return static_cast<Self&>(*this); }
  [[gnu::always_inline]] Status push(internal::Operation operation, std::string_view key,
                                     const ValueView& value) noexcept {
    const internal::TextMutation mutation(operation, key, value);
    if (mutation.is_plain() && self().try_push(mutation)) [[likely]]
      return self().after_push();
    return self().push_asking(mutation.kind(), key, mutation.bits(), internal::bytes_of(value));
  }
  [[gnu::always_inline]] Status push(internal::Operation operation, Key& key, const ValueView& value) noexcept {
    const internal::NamedMutation mutation(operation, key.id_, value);
    const std::uint64_t ring_id = self().ring_here();
    if (key.named_in_ == ring_id) [[likely]] {
      if (mutation.is_plain() && self().try_push(mutation)) [[likely]]
        return self().after_push();
    } else if (key.unnamed_in_ == ring_id) {
      return push(operation, key.bytes_, value);
    }
    return self().push_asking(mutation.kind(), key, mutation.bits(), internal::bytes_of(value));
  }
};

/// One producer's handle. Use a writer from one thread at a time; a thread that wants its own speed opens its own
/// writer. One that was moved from may only be destroyed or assigned to.
///
/// After `fork` the writer still belongs to the parent. In the child it does nothing and returns kForked, and so do its
/// batches; destroying it there, or assigning to it, does not disturb the parent. Open another one in the child.
///
/// A mutation costs a copy into shared memory and one release store: no lock, and no system call unless the merger
/// sleeps. One of a number is inline, without a call; time to live, `ephemeral` and version cost one. The status that
/// it returns may be ignored: failures are counted, and `flush` reports them.
class SHMSTATE_API Writer : public Verbs<Writer> {
 public:
  /// Attaches to an instance, by name or by the path of its directory, and creates a ring in it. Works while the
  /// merger is down: what is pushed is merged when it comes back. Throws `Error`.
  explicit Writer(std::string_view instance, WriterOptions options = {});
  Writer(Writer&&) noexcept;
  Writer& operator=(Writer&&) noexcept;
  /// Leaves what was pushed to the merger, which removes the ring once it is drained.
  ~Writer();

  /// Starts a batch: mutations that become visible together or not at all, at most `batch_max`. It is pushed by
  /// `Batch::commit`; other mutations may be pushed meanwhile. Throws `Error` (kInvalidArgument) while another batch of
  /// this writer is open: one that was neither committed nor destroyed.
  [[nodiscard]] Batch batch();

  /// The ticket of the last mutation pushed; conflated mutations are not covered. Cost: a load.
  [[nodiscard]] Ticket ticket() const noexcept;
  /// Waits until readers can see everything pushed so far, or up to `ticket`.
  /// Returns kOk; kTimeout; kRejected when the merger refused a mutation since the last flush; the first error of a
  /// push since the last flush; kRingRefused, kRingQuarantined, kNoInstance, kDamaged or kForked when this ring is not
  /// merged.
  [[nodiscard]] Status flush(std::chrono::nanoseconds timeout) noexcept;
  [[nodiscard]] Status flush(Ticket ticket, std::chrono::nanoseconds timeout) noexcept;

  /// Whether pushes are merged now. Costs a few system calls; may reattach to a re-created instance
  /// (`WriterOptions::reopen`).
  [[nodiscard]] WriterStatus status() noexcept;

  [[nodiscard]] WriterCounters counters() const noexcept;
  /// How many mutations the merger refused for one reason: kWrongType, kOutOfRange, kNoMemory, kLimit, kCrowded,
  /// kMutationTooBig for those of batches that are larger than it allows, and kUnknown for what it does not know.
  [[nodiscard]] std::uint64_t rejected(Status reason) const noexcept;
  /// How many mutations a batch may hold, as the merger is configured now (`shmstate-merger --batch-max`); the largest
  /// number when it sets no limit. A batch may hold `kBatchBytesPerMutation` for each of them, keys and values
  /// together, and must fit the ring. A larger one is kMutationTooBig. Cost: a load.
  [[nodiscard]] std::uint64_t batch_max() const noexcept;
  /// The directory of the instance, and the identity of this writer's ring (its file is `rings/<16 hex digits>`).
  [[nodiscard]] const std::string& path() const noexcept;
  [[nodiscard]] std::uint64_t ring_id() const noexcept;

 private:
  friend class Batch;
  friend class Verbs<Writer>;
  struct Impl;
  template <typename Bare>
  [[nodiscard, gnu::always_inline]] bool try_push(const Bare& mutation) noexcept {
    return pusher_->try_push(mutation);
  }
  [[nodiscard, gnu::always_inline]] Status after_push() noexcept {
    return pusher_->is_merger_awake() ? Status::kOk : wake_merger();
  }
  [[nodiscard]] std::uint64_t ring_here() const noexcept { return pusher_->ring_id; }
  /// Pushes whatever it is: operation and type, and the value as a number's bits or as bytes.
  Status push_asking(std::uint8_t kind, std::string_view key, std::uint64_t bits, std::string_view bytes) noexcept;
  Status push_asking(std::uint8_t kind, Key& key, std::uint64_t bits, std::string_view bytes) noexcept;
  [[nodiscard]] SHMSTATE_LOCAL Status push(internal::Mutation mutation, Key* bound = nullptr) noexcept;
  Status wake_merger() noexcept;

  std::unique_ptr<Impl> impl_;
  internal::RingPusher* pusher_;  // is part of it
};

/// Mutations that become visible together or not at all. Dropping a batch without `commit` discards it. The first
/// error sticks and is what `commit` returns: then nothing was pushed. After that it is empty, and may be used again
/// unless another one is open (kInvalidArgument). Its writer may be moved; once that was destroyed or assigned to, the
/// batch may only be destroyed.
class SHMSTATE_API Batch : public Verbs<Batch> {
 public:
  Batch(Batch&&) noexcept;
  Batch& operator=(Batch&&) = delete;
  ~Batch();

  /// Pushes the batch with one release store, and empties it. Errors: as `Writer::set`.
  Status commit() noexcept;

 private:
  friend class Writer;
  friend class Verbs<Batch>;
  Batch(std::shared_ptr<internal::OpenBatch> open, std::uint64_t number) noexcept
      : open_(std::move(open)), number_(number) {}
  template <typename Bare>
  [[nodiscard, gnu::always_inline]] bool try_push(const Bare& mutation) noexcept {
    return open_->try_add(number_, mutation);
  }
  [[nodiscard]] static Status after_push() noexcept { return Status::kOk; }
  [[nodiscard]] std::uint64_t ring_here() const noexcept { return open_->pusher->ring_id; }
  Status push_asking(std::uint8_t kind, std::string_view key, std::uint64_t bits, std::string_view bytes) noexcept;
  Status push_asking(std::uint8_t kind, Key& key, std::uint64_t bits, std::string_view bytes) noexcept;
  [[nodiscard]] SHMSTATE_LOCAL Status push(internal::Mutation mutation, Key* bound = nullptr) noexcept;

  std::shared_ptr<internal::OpenBatch> open_;  // none once it was moved from
  std::uint64_t number_;
};

extern template class Verbs<Writer>;
extern template class Verbs<Batch>;

}  // namespace layout_2
}  // namespace shmstate

#endif  // __cplusplus
