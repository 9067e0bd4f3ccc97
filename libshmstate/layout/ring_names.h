// The names in a ring's file, to which records refer by ids. In front the index, one word for each id, growing upwards;
// from behind the names, growing downwards. Both are only ever appended to.
//
// The writer stores a name, then its entry in the index, then pushes a record with the id, with a release of the tail.
// So whoever took the record from the ring finds the name, and nothing here needs an order of its own; and what a
// writer that dies leaves behind is a name that no record refers to.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "shmstate/detail/crash_point.h"
#include "shmstate/detail/ring_layout.h"
#include "shmstate/detail/words.h"
#include "shmstate/value.h"

namespace shmstate::internal {

class RingNames {
 public:
  RingNames() = default;
  RingNames(std::byte* area, std::uint64_t bytes) noexcept
      : words_(reinterpret_cast<std::uint64_t*>(area)), bytes_(bytes) {}

  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  /// How many there can be.
  [[nodiscard]] std::uint64_t count_max() const noexcept { return bytes_ / (sizeof(layout::NameEntry) + kWord); }

  /// Copies the name to `words`, which have room for any key; nothing when nobody has this id. Trusts nothing: others
  /// may write here, at any time.
  [[nodiscard]] std::optional<std::string_view> copy(std::uint32_t id, std::uint64_t* words) const noexcept {
    const std::optional<layout::NameEntry> entry = entry_of(id);
    if (!entry) return std::nullopt;
    const std::uint64_t* const name = words_ + entry->offset / kWord;
    for (std::size_t i = 0; i < words_of(entry->key_bytes); ++i) {
      words[i] = load_word(name + i, std::memory_order_relaxed);
    }
    return std::string_view(reinterpret_cast<const char*>(words), entry->key_bytes);
  }
  /// The name where it lies: for its writer.
  [[nodiscard]] std::string_view name_of(std::uint32_t id) const noexcept {
    const std::optional<layout::NameEntry> entry = entry_of(id);
    if (!entry) return {};
    return {reinterpret_cast<const char*>(words_ + entry->offset / kWord), entry->key_bytes};
  }

  void store(std::uint32_t id, std::uint32_t offset, std::string_view name) noexcept {
    for_each_word(name, [&](std::size_t i, std::uint64_t word) {
      store_word(words_ + offset / kWord + i, word, std::memory_order_relaxed);
    });
    crash_point(CrashPoint::kNameWritten);
    const layout::NameEntry entry{
        .offset = offset, .key_bytes = static_cast<std::uint16_t>(name.size()), .reserved = 0};
    store_word(words_ + id, std::bit_cast<std::uint64_t>(entry), std::memory_order_relaxed);
    crash_point(CrashPoint::kNameIndexed);
  }

 private:
  [[nodiscard]] std::optional<layout::NameEntry> entry_of(std::uint32_t id) const noexcept {
    if (id >= count_max()) return std::nullopt;
    const auto entry = std::bit_cast<layout::NameEntry>(load_word(words_ + id, std::memory_order_relaxed));
    const bool is_sane = entry.key_bytes >= 1 && entry.key_bytes <= kKeyBytesMax && entry.offset % kWord == 0 &&
                         entry.offset + padded(entry.key_bytes) <= bytes_;
    return is_sane ? std::optional(entry) : std::nullopt;
  }

  std::uint64_t* words_ = nullptr;
  std::uint64_t bytes_ = 0;
};

}  // namespace shmstate::internal
