// The reader: looks keys up in the current snapshot, without a lock and without writing anything.
//
//   shmstate::Reader reader{"plant"};
//   std::optional<std::int64_t> rpm = reader.get<std::int64_t>("pump/7/rpm");
//   for (const auto& [key, value] : reader.snapshot()) ...
//
// From C, this is reader_c.h.
#pragma once

#ifndef __cplusplus
#include "shmstate/reader_c.h"
#else

#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "shmstate/api.h"
#include "shmstate/detail/buffer_entry.h"
#include "shmstate/detail/buffer_plain_read.h"
#include "shmstate/key.h"
#include "shmstate/position.h"
#include "shmstate/status.h"
#include "shmstate/value.h"

namespace shmstate {

struct ReaderOptions {
  std::chrono::nanoseconds attach_timeout = std::chrono::seconds(2);  ///< how long an instance may take to appear
  bool prefault = false;  ///< map the pages of the present snapshot at once, so that first reads do not fault
  /// Keep running if the instance's files are truncated while mapped: reads return kDamaged. Otherwise touching a
  /// truncated page raises SIGBUS. Only the merger's user and root can truncate them. Installs a handler for SIGBUS in
  /// the whole process, which passes on signals that do not concern it.
  bool survive_truncation = false;
};

/// For `get` and `read`: a float64 that an int64 entry does not become.
struct Float64 {
  double value = 0;
};

/// An entry of a snapshot. The views point into shared memory and live as long as the snapshot is held.
/// `const auto& [key, value] = entry` works.
struct EntryView {
  std::string_view key;
  ValueView value;
  Epoch changed_epoch = 0;      ///< the epoch that published the last change of this key
  std::uint64_t version = 0;    ///< of the last versioned set; 0 without one
  std::uint64_t expiry_ns = 0;  ///< when it expires, on CLOCK_BOOTTIME; 0: never
  bool ephemeral = false;       ///< erased when its writer is gone

  /// Time left to live; nothing when it does not expire.
  [[nodiscard]] SHMSTATE_API std::optional<std::chrono::nanoseconds> time_to_live() const noexcept;

  template <std::size_t I>
  [[nodiscard]] friend constexpr const auto& get(const EntryView& entry) noexcept {
    if constexpr (I == 0) {
      return entry.key;
    } else {
      return entry.value;
    }
  }
};

/// What is known about a key besides its value.
struct EntryInfo {
  Type type = Type::kNone;
  std::size_t value_bytes = 0;
  Epoch changed_epoch = 0;
  std::uint64_t version = 0;
  std::optional<std::chrono::nanoseconds> time_to_live;
  bool ephemeral = false;
};

enum class ChangeKind : std::uint8_t {
  kSet,        ///< set, or changed by add, max or min
  kErased,     ///< erased by a writer
  kExpired,    ///< its time to live was over
  kOwnerGone,  ///< it was ephemeral and its writer is gone
};

/// A key's latest state, as of `Changes::position`.
struct Change {
  std::string key;
  ChangeKind kind = ChangeKind::kSet;
  Epoch epoch = 0;             ///< that published the change
  std::optional<Value> value;  ///< for kSet
};

/// Why it is not known what changed.
enum class GapReason : std::uint8_t {
  kNone,        ///< it is known
  kFellBehind,  ///< the feed did not reach back to the position asked for: ask more often, or make the feed larger
  kOvertaken,   ///< it did, but was overwritten, or the buffer reclaimed, while this reader read it
  kRecreated,   ///< the position is not one of this instance, which was re-created since
  kDamaged,     ///< there are bytes in the feed that are not records
};

struct Changes {
  std::vector<Change> changes;  ///< each key once, in the order of epochs
  Position position{};          ///< ask with this the next time
  /// What changed is not known: `changes` is empty. Read the state from a snapshot and continue from its position.
  bool gap = false;
  Position oldest{};                        ///< the oldest position that could have been asked for
  GapReason gap_reason = GapReason::kNone;  ///< why there is a gap
};

/// One key of `Reader::get_many`, and what was found.
struct Lookup {
  std::string_view key{};
  Key* bound = nullptr;      ///< in place of `key`: one that remembers where it was seen
  std::span<char> buffer{};  ///< where bytes go

  Status status = Status::kNotFound;  ///< kOk, kNotFound, kBufferTooSmall, kKeyEmpty or kKeyTooLong
  ValueView value{};                  ///< with kOk; bytes lie in `buffer`
  std::size_t value_bytes = 0;        ///< of bytes; also with kBufferTooSmall
};

/// Where a reader stands.
struct ReaderStatus {
  bool merger_running = false;       ///< asks the kernel
  std::chrono::nanoseconds age{};    ///< as `Reader::age`
  std::uint64_t reattach_count = 0;  ///< how often this reader reattached to a re-created instance
  bool instance_gone = false;        ///< the directory no longer leads to what is being read
};

namespace internal {
struct Attachment;
}  // namespace internal
class Watch;

// What follows is compiled into programs, so its names are those of the layout: see detail/buffer_plain_read.h.
inline namespace layout_2 {

class Snapshot;

/// One consumer's handle: everything mapped read-only. Use a reader, and the snapshots taken from it, from one thread
/// at a time; open one per thread. Readers never wait for the merger or for each other.
///
/// A reader outlives mergers: while none runs it reads the last snapshot, and it continues with a restarted one. When
/// the instance itself was removed and re-created, the reader reattaches to the new one by itself (see `status`);
/// snapshots taken before still show the old state, and nothing ever mixes the two. Epochs then begin at 1 again.
///
/// In a child of fork, a reader reattaches at its next call. Where it cannot, it says why: reads return that status,
/// what throws throws it, `epoch` is 0, `position` nowhere, `age` endless, and each call tries again. Snapshots remain
/// the parent's: in the child they throw kForked, what they gave out is void, and destroying them touches nothing of
/// the parent's.
///
/// A reader that was moved from may only be destroyed or assigned to; so may a snapshot.
class SHMSTATE_API Reader {
 public:
  /// Attaches to an instance, by name or by the path of its directory. Works while the merger is down: the last
  /// snapshot stays readable. Throws `Error`.
  explicit Reader(std::string_view instance, ReaderOptions options = {});
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  /// A point read of one type: std::int64_t, double, std::string, or Value for whatever it is. Nothing when the key is
  /// missing or has another type. A double is also what an int64 entry becomes: exactly up to 2^53, beyond that rounded
  /// to the nearest; ask for Float64 where that will not do. No system call, no store to shared memory.
  template <typename T>
  [[nodiscard]] std::optional<T> get(std::string_view key) {
    T value{};
    return read(key, value) == Status::kOk ? std::optional<T>(std::move(value)) : std::nullopt;
  }

  /// Point reads that report why: kOk, kNotFound, kWrongType, kKeyEmpty, kKeyTooLong, kDamaged. A read that is
  /// overtaken by eight publishes pins the buffer, and can then also fail with kSystem (no lock available) or kExpired;
  /// in a child of fork, with the reason why it could not attach. On an error `value` is unchanged, except that a
  /// std::string or Value is unspecified.
  [[nodiscard, gnu::always_inline]] Status read(std::string_view key, std::int64_t& value) noexcept {
    return read_number(key, value);
  }
  [[nodiscard, gnu::always_inline]] Status read(std::string_view key, double& value) noexcept {
    return read_number(key, value);
  }
  [[nodiscard, gnu::always_inline]] Status read(std::string_view key, Float64& value) noexcept {
    return read_number(key, value);
  }
  [[nodiscard]] Status read(std::string_view key, std::string& value);
  [[nodiscard]] Status read(std::string_view key, Value& value);

  /// Reads bytes into the caller's buffer and sets `value_bytes` to their size; kBufferTooSmall, with `value_bytes`
  /// set, when they do not fit.
  [[nodiscard]] Status read(std::string_view key, std::span<char> buffer, std::size_t& value_bytes) noexcept;

  /// Point reads with a key that remembers where it was seen: neither hashing nor searching while it stays there.
  template <typename T>
  [[nodiscard]] std::optional<T> get(Key& key) {
    T value{};
    return read(key, value) == Status::kOk ? std::optional<T>(std::move(value)) : std::nullopt;
  }
  [[nodiscard, gnu::always_inline]] Status read(Key& key, std::int64_t& value) noexcept {
    return read_number(key, value);
  }
  [[nodiscard, gnu::always_inline]] Status read(Key& key, double& value) noexcept { return read_number(key, value); }
  [[nodiscard, gnu::always_inline]] Status read(Key& key, Float64& value) noexcept { return read_number(key, value); }
  [[nodiscard]] Status read(Key& key, std::string& value);
  [[nodiscard]] Status read(Key& key, Value& value);

  /// A point read that refuses a snapshot older than `age_max` with kTooOld.
  template <typename T>
  [[nodiscard]] Status read_fresh(std::string_view key, T& value, std::chrono::nanoseconds age_max) {
    return age() > age_max ? Status::kTooOld : read(key, value);
  }

  /// What is known about a key besides its value.
  [[nodiscard]] std::optional<EntryInfo> info(std::string_view key) noexcept;
  /// The same, and reports why there is nothing.
  [[nodiscard]] Status read(std::string_view key, EntryInfo& info) noexcept;

  /// Several keys as of one epoch; `values[i]` belongs to `keys[i]` and is empty when that key is missing. Returns the
  /// position of that epoch. Throws `Error` (kDamaged, kSystem, kExpired); then `values` is unspecified.
  Position get_many(std::span<const std::string_view> keys, std::vector<std::optional<Value> >& values);
  Position get_many(std::span<Key> keys, std::vector<std::optional<Value> >& values);
  /// The same for numbers of one type, which allocates nothing; another type is as good as missing, with a double for
  /// an int64 entry as `get` has it. Also throws `Error` (kInvalidArgument) when there are fewer values than keys.
  Position get_many(std::span<const std::string_view> keys, std::span<std::optional<std::int64_t> > values);
  Position get_many(std::span<Key> keys, std::span<std::optional<std::int64_t> > values);
  Position get_many(std::span<const std::string_view> keys, std::span<std::optional<double> > values);
  Position get_many(std::span<Key> keys, std::span<std::optional<double> > values);
  /// The same for values of any type, which allocates nothing either: bytes go to buffers of the caller's.
  Position get_many(std::span<Lookup> lookups);
  /// As `get_many` of numbers, and reports why nothing was read: kInvalidArgument, kDamaged, kSystem, kExpired; in a
  /// child of fork, the reason why it could not attach. `position` is set with kOk, and may
  /// be null.
  [[nodiscard]] Status read_many(std::span<const std::string_view> keys, std::span<std::optional<std::int64_t> > values,
                                 Position* position = nullptr) noexcept;
  [[nodiscard]] Status read_many(std::span<Key> keys, std::span<std::optional<std::int64_t> > values,
                                 Position* position = nullptr) noexcept;
  [[nodiscard]] Status read_many(std::span<const std::string_view> keys, std::span<std::optional<double> > values,
                                 Position* position = nullptr) noexcept;
  [[nodiscard]] Status read_many(std::span<Key> keys, std::span<std::optional<double> > values,
                                 Position* position = nullptr) noexcept;

  /// Pins the current snapshot. It costs a system call, and one more when it is dropped; while it is held, the merger
  /// cannot reuse that buffer, so hold it briefly. Throws `Error` (kDamaged, kSystem).
  [[nodiscard]] Snapshot snapshot();

  /// The epoch of the current snapshot.
  [[nodiscard]] Epoch epoch() noexcept;
  /// The position of the current snapshot.
  [[nodiscard]] Position position() noexcept;
  /// Sleeps until the current snapshot is one after `position`, or of an instance re-created since, for at most
  /// `timeout`. Returns the position then current.
  Position wait(const Position& position, std::chrono::nanoseconds timeout) noexcept;

  /// Sleeps until a key changed or was erased after `position`, or the instance was re-created since; kOk or kTimeout.
  /// Throws as `changes` does.
  [[nodiscard]] Status wait_change(std::string_view key, const Position& position, std::chrono::nanoseconds timeout);
  /// Sleeps until `predicate(value)` holds for the key's value, which is empty while the key is missing; kOk or
  /// kTimeout.
  template <typename Predicate>
  [[nodiscard]] Status wait_until(std::string_view key, Predicate&& predicate, std::chrono::nanoseconds timeout) {
    const auto began = std::chrono::steady_clock::now();
    for (;;) {
      const Position before = position();
      const std::optional<Value> value = get<Value>(key);
      if (predicate(value)) return Status::kOk;
      const auto left = timeout - (std::chrono::steady_clock::now() - began);
      if (left <= std::chrono::nanoseconds::zero()) return Status::kTimeout;
      wait(before, left);
    }
  }

  /// The keys that changed after `since`, in their latest state. Costs what changed. From nowhere (`Position{}`), all
  /// that this instance has published, if the feed reaches back that far. Throws `Error` (kDamaged, kSystem, kExpired).
  [[nodiscard]] Changes changes(const Position& since);

  /// How old the current snapshot is: the time since the merger last knew that it held everything pushed. Grows while
  /// the merger is down, stopped or behind; an idle merger renews it ten times a second.
  [[nodiscard]] std::chrono::nanoseconds age() noexcept;
  /// Whether a merger serves the instance now. Asks the kernel, one system call.
  [[nodiscard]] bool merger_running() noexcept;
  [[nodiscard]] ReaderStatus status() noexcept;
  /// The directory of the instance.
  [[nodiscard]] const std::string& path() const noexcept;

 private:
  friend class Snapshot;
  struct Impl;

  template <typename Number>
  static constexpr Type kTypeOf = std::is_same_v<Number, std::int64_t> ? Type::kInt64 : Type::kFloat64;

  [[nodiscard, gnu::always_inline]] internal::PlainRead::Answer look_up(std::string_view key, Type type) noexcept {
    return plain_->look_up(key, type);
  }
  [[nodiscard, gnu::always_inline]] internal::PlainRead::Answer look_up(const Key& key, Type type) noexcept {
    return plain_->look_up({.bytes = key.bytes_, .hash = key.hash_}, internal::Place::unpack(key.place_),
                           key.instance_id_, type);
  }
  template <typename AnyKey, typename Number>
  [[gnu::always_inline]] Status read_number(AnyKey& key, Number& value) noexcept {
    const internal::PlainRead::Answer answer = look_up(key, kTypeOf<Number>);
    if (answer.seen == internal::PlainRead::Seen::kOther) [[unlikely]]
      return read_asking(key, value);
    if (answer.seen == internal::PlainRead::Seen::kAbsent) return Status::kNotFound;
    value = std::bit_cast<Number>(answer.bits);
    return Status::kOk;
  }
  // Whatever is not plain.
  Status read_asking(std::string_view key, std::int64_t& value) noexcept;
  Status read_asking(std::string_view key, double& value) noexcept;
  Status read_asking(std::string_view key, Float64& value) noexcept;
  Status read_asking(Key& key, std::int64_t& value) noexcept;
  Status read_asking(Key& key, double& value) noexcept;
  Status read_asking(Key& key, Float64& value) noexcept;

  std::unique_ptr<Impl> impl_;
  internal::PlainRead* plain_;  // is part of it
};

/// One consistent state, for as long as it is held. When the merger is configured to reclaim buffers after a maximum
/// pin time, accesses after that throw `Error` with kExpired, and views obtained before are void: check
/// `expired()` after using them where that can happen. In a child of fork it is expired, and accesses throw kForked.
class SHMSTATE_API Snapshot {
 public:
  Snapshot(Snapshot&&) noexcept;
  Snapshot& operator=(Snapshot&&) noexcept;
  ~Snapshot();

  [[nodiscard]] Epoch epoch() const noexcept;
  /// Where to continue from: what changed after this snapshot.
  [[nodiscard]] Position position() const noexcept;
  /// The number of entries. Throws `Error` (kExpired).
  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] bool expired() const noexcept;

  /// The entry of a key, without copying. Throws `Error` (kExpired, kDamaged).
  [[nodiscard]] std::optional<EntryView> find(std::string_view key) const;
  /// Its value as std::int64_t, double, Float64, std::string, std::string_view (into the snapshot), or Value for
  /// whatever it is; nothing when the key is missing or has another type, with a double for an int64 entry as
  /// `Reader::get` has it. Throws as `find` does.
  template <typename T>
  [[nodiscard]] std::optional<T> get(std::string_view key) const;

 private:
  struct Impl;

 public:
  /// Visits all entries in no particular order; a few are looked up at once. Incrementing throws `Error` (kExpired,
  /// kDamaged). Lives as long as the snapshot, also when that is moved.
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = EntryView;
    using difference_type = std::ptrdiff_t;
    using pointer = const EntryView*;
    using reference = const EntryView&;

    Iterator() = default;
    [[nodiscard]] reference operator*() const noexcept { return entries_[at_]; }
    [[nodiscard]] pointer operator->() const noexcept { return &entries_[at_]; }
    Iterator& operator++() {
      if (++at_ >= entry_count_) look_up_more();
      return *this;
    }
    void operator++(int) { ++*this; }
    [[nodiscard]] friend bool operator==(const Iterator& a, std::default_sentinel_t) noexcept {
      return a.impl_ == nullptr;
    }

   private:
    friend class Snapshot;
    friend class shmstate::Watch;
    /// The page that is being looked at: all entries of those before it have been.
    [[nodiscard]] std::uint64_t page() const noexcept { return page_; }
    SHMSTATE_API void look_up_more();
    /// Goes to the next slab; false behind the last one.
    [[nodiscard]] SHMSTATE_API bool next_slab();
    [[nodiscard]] const internal::layout::Slot& next_slot() noexcept {
      const internal::layout::Slot* const slot = slot_;
      // Often the page behind is a slab, too. Past the end, fetching does no harm.
      __builtin_prefetch(reinterpret_cast<const std::byte*>(slot) + internal::layout::kPageBytes);
      slot_ = reinterpret_cast<const internal::layout::Slot*>(reinterpret_cast<const std::byte*>(slot) + slot_bytes_);
      return *slot;
    }
    /// An entry of the slab; false when there is none that readers see. A short plain one lies in any slot of its size.
    [[nodiscard, gnu::always_inline]] bool take(const internal::layout::Slot& slot, EntryView& entry) {
      const std::uint64_t head = internal::load_word(&slot.head, std::memory_order_acquire);
      if (head == 0) return false;
      return (internal::PlainNumber::slot_bytes(head) <= slot_bytes_ &&
              internal::view_plain_number(slot, head, entry)) ||
             take_other(slot, entry);
    }
    [[nodiscard]] SHMSTATE_API bool take_other(const internal::layout::Slot& slot, EntryView& entry);
    [[nodiscard]] bool is_kept() const noexcept { return internal::is_kept(*publication_, version_); }
    [[noreturn]] SHMSTATE_API void fail_unkept() const;

    const Impl* impl_ = nullptr;
    const internal::layout::Publication* publication_ = nullptr;
    internal::Version version_;
    const internal::layout::Slot* slot_ = nullptr;  // the next one
    std::uint32_t slots_left_ = 0;                  // of the slab
    std::uint32_t slot_bytes_ = 0;
    std::uint32_t at_ = 0;  // in `entries_`
    std::uint32_t entry_count_ = 0;
    std::uint64_t page_ = 0;
    std::uint64_t next_page_ = 0;
    std::uint64_t bytes_left_ = 0;  // what a buffer can hold at most: a damaged one must not keep us for ever
    std::array<EntryView, 16> entries_;
  };
  [[nodiscard]] Iterator begin() const;  ///< throws as incrementing does
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

  /// Calls `visit(entry)` for each entry, in no particular order: faster than the iterators. Throws `Error` (kExpired,
  /// kDamaged).
  template <typename Visit>
  void for_each(Visit&& visit) const {
    Iterator slab = before_first(0);
    EntryView entry;
    while (slab.next_slab()) {
      for (; slab.slots_left_ > 0; --slab.slots_left_) {
        if (!slab.take(slab.next_slot(), entry)) continue;
        if (!slab.is_kept()) slab.fail_unkept();
        visit(std::as_const(entry));
      }
    }
  }

  /// Calls `visit(entry)` for each entry whose key begins with `prefix`, and for which `predicate(entry)` holds. Looks
  /// at every entry: a hash table has no order.
  template <typename Visit>
  void scan(std::string_view prefix, Visit&& visit) const {
    scan(
        prefix, [](const EntryView&) { return true; }, visit);
  }
  template <typename Predicate, typename Visit>
  void scan(std::string_view prefix, Predicate&& predicate, Visit&& visit) const {
    for_each([&](const EntryView& entry) {
      if (entry.key.starts_with(prefix) && predicate(entry)) visit(entry);
    });
  }

 private:
  friend class Reader;
  friend class shmstate::Watch;
  SHMSTATE_LOCAL explicit Snapshot(std::shared_ptr<internal::Attachment> files);
  [[nodiscard]] Iterator before_first(std::uint64_t page) const;
  [[nodiscard]] SHMSTATE_LOCAL Iterator begin_at(std::uint64_t page) const;
  std::unique_ptr<Impl> impl_;
};

template <typename T>
std::optional<T> Snapshot::get(std::string_view key) const {
  const std::optional<EntryView> entry = find(key);
  if (!entry) return std::nullopt;
  if constexpr (std::is_same_v<T, Value>) {
    return entry->value.to_value();
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    if (entry->value.type() == Type::kInt64) return entry->value.int64();
  } else if constexpr (std::is_same_v<T, double>) {
    if (entry->value.type() == Type::kFloat64) return entry->value.float64();
    if (entry->value.type() == Type::kInt64) return static_cast<double>(entry->value.int64());
  } else if constexpr (std::is_same_v<T, Float64>) {
    if (entry->value.type() == Type::kFloat64) return Float64{entry->value.float64()};
  } else {
    static_assert(std::is_same_v<T, std::string_view> || std::is_same_v<T, std::string>, "not a type of values");
    if (entry->value.type() == Type::kBytes) return T(entry->value.bytes());
  }
  return std::nullopt;
}

}  // namespace layout_2
}  // namespace shmstate

template <>
struct std::tuple_size<shmstate::EntryView> : std::integral_constant<std::size_t, 2> {};
template <std::size_t I>
struct std::tuple_element<I, shmstate::EntryView> {
  using type = std::conditional_t<I == 0, const std::string_view, const shmstate::ValueView>;
};

#endif  // __cplusplus
