// Where things lie in a buffer, how that is written as one word, and where the hash of a key says that it lies.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shmstate/detail/buffer_layout.h"

namespace shmstate::internal {

/// Where an entry lies: the offset of its slot, in units of slots. It stays there as long as its size needs no other
/// slot. Zero is nowhere: that is the header's page.
struct Place {
  std::uint32_t unit = 0;

  /// Of a word in the feed, in a record, or in a bound key.
  [[nodiscard]] static constexpr Place unpack(std::uint64_t word) noexcept {
    return {.unit = word >> 32 == 0 ? static_cast<std::uint32_t>(word) : 0};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept { return unit; }
  [[nodiscard]] static constexpr Place at_offset(std::uint64_t offset) noexcept {
    return {.unit = static_cast<std::uint32_t>(offset / layout::kSlotUnitBytes)};
  }

  [[nodiscard]] constexpr std::uint64_t offset() const noexcept {
    return std::uint64_t{unit} * layout::kSlotUnitBytes + layout::kFirstSlotOffset;
  }
  [[nodiscard]] constexpr std::uint64_t page() const noexcept { return unit / kUnits; }
  [[nodiscard]] constexpr unsigned unit_in_page() const noexcept { return unit % kUnits; }
  /// Where slots of that size begin, and end within the page.
  [[nodiscard]] constexpr bool is_in_slab_of(unsigned slot_units) const noexcept {
    return slot_units != 0 && unit_in_page() + slot_units <= layout::kPageUnits && unit_in_page() % slot_units == 0;
  }

  friend constexpr bool operator==(const Place&, const Place&) noexcept = default;
  friend constexpr bool operator<(const Place& a, const Place& b) noexcept { return a.unit < b.unit; }

  static constexpr unsigned kUnits = layout::kPageBytes / layout::kSlotUnitBytes;  // of a page
};

/// The size of the slots in which `bytes` lie, in units: of all sizes of which as many fit in a page, the largest.
[[nodiscard]] constexpr unsigned slot_units(std::size_t bytes) noexcept {
  const auto needed = static_cast<unsigned>((bytes + layout::kSlotUnitBytes - 1) / layout::kSlotUnitBytes);
  const unsigned count = layout::kPageUnits / (needed < layout::kSlotUnitsMin ? layout::kSlotUnitsMin : needed);
  return layout::kPageUnits / count;
}

/// Where the map says what a page is: the offset of a byte.
[[nodiscard]] constexpr std::uint64_t map_page_of(std::uint64_t page) noexcept {
  const std::uint64_t first = page / layout::kPageBytes * layout::kPageBytes;
  return first == 0 ? 1 : first;
}
[[nodiscard]] constexpr std::uint64_t map_offset_of(std::uint64_t page) noexcept {
  return map_page_of(page) * layout::kPageBytes + page % layout::kPageBytes;
}

/// BufferHeader::directory: the line where the directory begins, and as many low bits of the hash as it is deep.
struct DirectoryWord {
  std::uint64_t line = 0;
  unsigned depth = 0;

  [[nodiscard]] static constexpr DirectoryWord unpack(std::uint64_t word) noexcept {
    return {.line = word >> kDepthBits, .depth = static_cast<unsigned>(word & ((1U << kDepthBits) - 1))};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept { return line << kDepthBits | depth; }
  [[nodiscard]] constexpr std::uint64_t offset() const noexcept { return line * layout::kLine; }
  /// In the header.
  [[nodiscard]] static constexpr DirectoryWord small(unsigned depth) noexcept {
    return {.line = offsetof(layout::BufferHeader, small_directory) / layout::kLine, .depth = depth};
  }

 private:
  static constexpr unsigned kDepthBits = 8;
};

/// BufferHeader::more_cursors.
struct CursorPages {
  std::uint64_t page = 0;
  std::uint64_t count = 0;

  [[nodiscard]] static constexpr CursorPages unpack(std::uint64_t word) noexcept {
    return {.page = word >> kCountBits, .count = word & ((1U << kCountBits) - 1)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept { return page << kCountBits | count; }
  /// How many cursors there are, with the first ones.
  [[nodiscard]] constexpr std::uint64_t capacity() const noexcept {
    return layout::kFirstCursors + count * layout::kPageCursors;
  }

 private:
  static constexpr unsigned kCountBits = 16;
};

/// The entries of directory and nodes are 32 bits, two to a word: the page of a segment, or a node.
struct DirectoryEntry {
  std::uint64_t page = 0;
  unsigned level = 0;  // of a node: 1 for the one that the bits from 0 on choose from, 2 for those from 10 on, ...
  unsigned depth = 0;  // of a node: how many low bits of the hash lead to it

  [[nodiscard]] static constexpr DirectoryEntry unpack(std::uint64_t entry) noexcept {
    return {.page = entry & kPageMask,
            .level = static_cast<unsigned>(entry >> kPageBits & kLevelMask),
            .depth = static_cast<unsigned>(entry >> (kPageBits + kLevelBits))};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return page | std::uint64_t{level} << kPageBits | std::uint64_t{depth} << (kPageBits + kLevelBits);
  }

  [[nodiscard]] static constexpr std::uint64_t word_of(std::uint64_t index) noexcept { return index / 2; }
  [[nodiscard]] static constexpr std::uint64_t in(std::uint64_t word, std::uint64_t index) noexcept {
    return word >> shift_of(index) & kMask;
  }
  /// The word with another entry in one of its halves.
  [[nodiscard]] static constexpr std::uint64_t with(std::uint64_t word, std::uint64_t index,
                                                    std::uint64_t entry) noexcept {
    return (word & ~(kMask << shift_of(index))) | entry << shift_of(index);
  }

 private:
  static constexpr unsigned kPageBits = 24;
  static constexpr std::uint64_t kPageMask = layout::kPagesMax - 1;
  static constexpr unsigned kLevelBits = 2;
  static constexpr unsigned kLevelMask = (1U << kLevelBits) - 1;
  static constexpr unsigned kBits = 32;
  static constexpr std::uint64_t kMask = 0xffff'ffff;
  [[nodiscard]] static constexpr unsigned shift_of(std::uint64_t index) noexcept { return index % 2 * kBits; }
};

// ---- the hash of a key

/// The directory entry: as many low bits as the directory is deep.
[[nodiscard]] constexpr std::uint32_t directory_index(std::uint64_t hash, unsigned depth) noexcept {
  return static_cast<std::uint32_t>(hash & ((std::uint64_t{1} << depth) - 1));
}
/// The entry of a node at that level.
[[nodiscard]] constexpr std::uint32_t node_index(std::uint64_t hash, unsigned level) noexcept {
  return directory_index(hash >> (level - 1) * layout::kNodeBits, layout::kNodeBits);
}
/// The line where a key's search begins: bits 32 to 37.
[[nodiscard]] constexpr std::uint32_t home_line(std::uint64_t hash) noexcept {
  return static_cast<std::uint32_t>(hash >> 32 & (layout::kSegmentLines - 1));
}
/// Bits 56 to 63; zero means a free cell and is moved to 1.
[[nodiscard]] constexpr std::uint8_t tag_of(std::uint64_t hash) noexcept {
  const auto tag = static_cast<std::uint8_t>(hash >> 56);
  return tag == 0 ? 1 : tag;
}

/// How far a ring has been applied to a buffer; by the ring's index, which is below the capacity of the cursors.
[[nodiscard]] inline layout::RingCursor& ring_cursor(std::byte* buffer, std::uint32_t index) noexcept {
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
  const bool is_first = index < layout::kFirstCursors;
  std::byte* const at =
      is_first ? buffer + sizeof header : buffer + CursorPages::unpack(header.more_cursors).page * layout::kPageBytes;
  return reinterpret_cast<layout::RingCursor*>(at)[is_first ? index : index - layout::kFirstCursors];
}
[[nodiscard]] inline const layout::RingCursor& ring_cursor(const std::byte* buffer, std::uint32_t index) noexcept {
  return ring_cursor(const_cast<std::byte*>(buffer), index);
}

}  // namespace shmstate::internal
