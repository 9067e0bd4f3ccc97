// The reader: looks keys up in the current snapshot, without a lock and without writing anything.
//
//   shmstate::Reader reader{"plant"};
//   std::optional<std::int64_t> rpm = reader.get<std::int64_t>("pump/7/rpm");
//   for (const auto& [key, value] : reader.snapshot()) ...
#pragma once

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
#include <vector>

#include "shmstate/status.h"
#include "shmstate/value.h"

namespace shmstate {

/// The number of a publish. It only grows, also across restarts of the merger.
using Epoch = std::uint64_t;

struct ReaderOptions {
  std::chrono::nanoseconds attach_timeout = std::chrono::seconds(2);  ///< how long an instance may take to appear
  bool prefault = false;  ///< map the pages of the present snapshot at once, so that first reads do not fault
};

/// An entry of a snapshot. The views point into shared memory and live as long as the snapshot is held.
/// `const auto& [key, value] = entry` works.
struct EntryView {
  std::string_view key;
  ValueView value;
  Epoch changed_epoch = 0;  ///< the epoch that published the last change of this key

  template <std::size_t I>
  [[nodiscard]] friend constexpr const auto& get(const EntryView& entry) noexcept {
    if constexpr (I == 0) {
      return entry.key;
    } else {
      return entry.value;
    }
  }
};

class Snapshot;

/// One consumer's handle: everything mapped read-only. Use a reader, and the snapshots taken from it, from one thread
/// at a time; open one per thread. Readers never wait for the merger or for each other.
class Reader {
 public:
  /// Attaches to an instance, by name or by the path of its directory. Works while the merger is down: the last
  /// snapshot stays readable. Throws `Error`.
  explicit Reader(std::string_view instance, ReaderOptions options = {});
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;
  ~Reader();

  /// A point read of one type: std::int64_t, double, std::string, or Value for whatever it is. Nothing when the key is
  /// missing or has another type. No system call, no store to shared memory.
  template <typename T>
  [[nodiscard]] std::optional<T> get(std::string_view key) const {
    T value{};
    return read(key, value) == Status::kOk ? std::optional<T>(std::move(value)) : std::nullopt;
  }

  /// Point reads that tell why: kOk, kNotFound, kWrongType, kKeyEmpty, kKeyTooLong, kDamaged.
  [[nodiscard]] Status read(std::string_view key, std::int64_t& value) const noexcept;
  [[nodiscard]] Status read(std::string_view key, double& value) const noexcept;
  [[nodiscard]] Status read(std::string_view key, std::string& value) const;
  [[nodiscard]] Status read(std::string_view key, Value& value) const;

  /// Reads bytes into the caller's buffer and sets `value_bytes` to their size; kBufferTooSmall, with `value_bytes`
  /// set, when they do not fit.
  [[nodiscard]] Status read(std::string_view key, std::span<char> buffer, std::size_t& value_bytes) const noexcept;

  /// Several keys as of one epoch; `values[i]` belongs to `keys[i]` and is empty when that key is missing.
  /// Returns the epoch.
  Epoch get_many(std::span<const std::string_view> keys, std::vector<std::optional<Value>>& values) const;

  /// Pins the current snapshot. It costs a system call, and one more when it is dropped; while it is held, the merger
  /// cannot reuse that buffer, so hold it briefly. Throws `Error` when the instance is damaged.
  [[nodiscard]] Snapshot snapshot() const;

  /// The epoch of the current snapshot.
  [[nodiscard]] Epoch epoch() const noexcept;
  /// Sleeps until the epoch is newer than `epoch`, for at most `timeout`; returns the epoch then current.
  Epoch wait(Epoch epoch, std::chrono::nanoseconds timeout) const noexcept;

  /// How old the current snapshot is: the time since the merger last knew that it held everything pushed. Grows while
  /// the merger is down, stopped or behind; an idle merger renews it ten times a second.
  [[nodiscard]] std::chrono::nanoseconds age() const noexcept;
  /// Whether a merger serves the instance now. Asks the kernel, one system call.
  [[nodiscard]] bool merger_running() const noexcept;
  /// The directory of the instance.
  [[nodiscard]] const std::string& path() const noexcept;

 private:
  friend class Snapshot;
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

/// One consistent state, for as long as it is held. When the merger is configured to take buffers back after a
/// maximum pin time, accesses after that throw `Error` with kExpired, and views obtained before are void: check
/// `expired()` after using them where that can happen.
class Snapshot {
 public:
  Snapshot(Snapshot&&) noexcept;
  Snapshot& operator=(Snapshot&&) noexcept;
  ~Snapshot();

  [[nodiscard]] Epoch epoch() const noexcept;
  /// The number of entries.
  [[nodiscard]] std::size_t size() const;
  [[nodiscard]] bool expired() const noexcept;

  /// The entry of a key, without copying. Throws `Error` (kExpired, kDamaged).
  [[nodiscard]] std::optional<EntryView> find(std::string_view key) const;
  template <typename T>
  [[nodiscard]] std::optional<T> get(std::string_view key) const;

  /// Goes over all entries in no particular order. Incrementing throws `Error` (kExpired, kDamaged).
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = EntryView;
    using difference_type = std::ptrdiff_t;
    using pointer = const EntryView*;
    using reference = const EntryView&;

    Iterator() = default;
    [[nodiscard]] reference operator*() const noexcept { return entry_; }
    [[nodiscard]] pointer operator->() const noexcept { return &entry_; }
    Iterator& operator++();
    void operator++(int) { ++*this; }
    [[nodiscard]] friend bool operator==(const Iterator& a, std::default_sentinel_t) noexcept {
      return a.snapshot_ == nullptr;
    }

   private:
    friend class Snapshot;
    const Snapshot* snapshot_ = nullptr;
    std::uint32_t directory_index_ = 0;  // the next place to look at
    std::uint32_t slot_ = 0;
    std::uint64_t page_ = 0;
    EntryView entry_;
  };
  [[nodiscard]] Iterator begin() const;
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

 private:
  friend class Reader;
  struct Impl;
  explicit Snapshot(std::unique_ptr<Impl> impl) noexcept;
  std::unique_ptr<Impl> impl_;
};

template <typename T>
std::optional<T> Snapshot::get(std::string_view key) const {
  const std::optional<EntryView> entry = find(key);
  if (!entry) return std::nullopt;
  if constexpr (std::is_same_v<T, Value>) return entry->value.to_value();
  if constexpr (std::is_same_v<T, std::int64_t>) {
    if (entry->value.type() == Type::kInt64) return entry->value.int64();
  } else if constexpr (std::is_same_v<T, double>) {
    if (entry->value.type() == Type::kFloat64) return entry->value.float64();
  } else if constexpr (std::is_same_v<T, std::string_view> || std::is_same_v<T, std::string>) {
    if (entry->value.type() == Type::kBytes) return T(entry->value.bytes());
  }
  return std::nullopt;
}

}  // namespace shmstate

template <>
struct std::tuple_size<shmstate::EntryView> : std::integral_constant<std::size_t, 2> {};
template <std::size_t I>
struct std::tuple_element<I, shmstate::EntryView> {
  using type = std::conditional_t<I == 0, const std::string_view, const shmstate::ValueView>;
};
