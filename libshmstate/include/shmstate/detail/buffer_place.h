// Where things lie in a buffer, how that is written as one word, and where the hash of a key says that it lies.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shmstate/detail/buffer_layout.h"

namespace shmstate::internal {

/// Where an entry lies. Packed in the feed, in hints of writers and in bound keys: page << 16 | slot.
struct Place {
  std::uint64_t page = 0;  // of its segment
  std::uint32_t slot = 0;  // in the segment

  [[nodiscard]] static constexpr Place unpack(std::uint64_t word) noexcept {
    return {.page = word >> kSlotBits, .slot = static_cast<std::uint32_t>(word & ((1U << kSlotBits) - 1))};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept { return page << kSlotBits | slot; }

  friend constexpr bool operator==(const Place&, const Place&) noexcept = default;
  friend constexpr bool operator<(const Place& a, const Place& b) noexcept {
    return a.page != b.page ? a.page < b.page : a.slot < b.slot;
  }

 private:
  static constexpr unsigned kSlotBits = 16;
};

/// BufferHeader::directory: the page where the directory begins, and as many low bits of the hash as it is deep.
struct DirectoryWord {
  std::uint64_t page = 0;
  unsigned depth = 0;

  [[nodiscard]] static constexpr DirectoryWord unpack(std::uint64_t word) noexcept {
    return {.page = word >> kDepthBits, .depth = static_cast<unsigned>(word & ((1U << kDepthBits) - 1))};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept { return page << kDepthBits | depth; }

 private:
  static constexpr unsigned kDepthBits = 8;
};

/// The directory's entries are 32-bit pages of segments, two to a word.
struct DirectoryEntry {
  [[nodiscard]] static constexpr std::uint64_t word_of(std::uint64_t index) noexcept { return index / 2; }
  [[nodiscard]] static constexpr std::uint64_t page_in(std::uint64_t word, std::uint64_t index) noexcept {
    return word >> shift_of(index) & kMask;
  }
  /// The word with another page in one of its halves.
  [[nodiscard]] static constexpr std::uint64_t with_page(std::uint64_t word, std::uint64_t index,
                                                         std::uint64_t page) noexcept {
    return (word & ~(kMask << shift_of(index))) | page << shift_of(index);
  }
  /// Both halves of a word for the same page.
  [[nodiscard]] static constexpr std::uint64_t both(std::uint64_t page) noexcept { return page | page << kBits; }

 private:
  static constexpr unsigned kBits = 32;
  static constexpr std::uint64_t kMask = 0xffff'ffff;
  [[nodiscard]] static constexpr unsigned shift_of(std::uint64_t index) noexcept { return index % 2 * kBits; }
};

// ---- the hash of a key

/// The directory entry: as many low bits as the directory is deep.
[[nodiscard]] constexpr std::uint32_t directory_index(std::uint64_t hash, unsigned depth) noexcept {
  return static_cast<std::uint32_t>(hash & ((std::uint64_t{1} << depth) - 1));
}
/// The group where a key's search begins: bits 24 to 55, scaled.
[[nodiscard]] constexpr std::uint32_t home_group(std::uint64_t hash) noexcept {
  return static_cast<std::uint32_t>((((hash >> 24) & 0xffff'ffff) * layout::kSegmentGroups) >> 32);
}
/// Bits 56 to 63; zero means a free slot and is moved to 1.
[[nodiscard]] constexpr std::uint8_t tag_of(std::uint64_t hash) noexcept {
  const auto tag = static_cast<std::uint8_t>(hash >> 56);
  return tag == 0 ? 1 : tag;
}

/// How far each ring has been applied to a buffer; by the ring's index.
[[nodiscard]] inline layout::RingCursor* ring_cursors(std::byte* buffer) noexcept {
  return reinterpret_cast<layout::RingCursor*>(buffer + layout::kCursorOffset);
}
[[nodiscard]] inline const layout::RingCursor* ring_cursors(const std::byte* buffer) noexcept {
  return reinterpret_cast<const layout::RingCursor*>(buffer + layout::kCursorOffset);
}

}  // namespace shmstate::internal
