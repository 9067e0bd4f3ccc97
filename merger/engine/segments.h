// The index: which place a key has, by its hash. This does not know what an entry says, except its key.
//
// Extendible hashing (Fagin et al. 1979, as in Go 1.24's map) over segments of one page: 64 lines of 12 tags and 12
// places (Swiss tables; the overflow count that ends a search without tombstones is that of Folly's F14). A full
// segment splits in two, so that no mutation ever pays for the whole state, and the halves of one that emptied are
// merged. No entry ever moves because of that.
//
// The directory grows with the number of entries. A segment whose keys were chosen to fall together would have to split
// beyond that; then a node of 1,024 directory entries takes its place in the directory, and only the keys whose hashes
// begin like these pay for that. Where that does not suffice either, no more of them can be set.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>

#include "engine/back_buffer.h"
#include "engine/page_allocator.h"
#include "engine/slabs.h"
#include "engine/zeroed_array.h"
#include "files/geometry.h"
#include "layout/hash.h"
#include "layout/layout.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/buffer_slot.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate::internal {

class Segments {
 public:
  /// Called for each entry at start; false when there cannot be one.
  using Adopt = std::function<bool(const Place& place)>;

  Segments(PageAllocator& pages, const Geometry& geometry)
      : pages_(pages),
        hash_seed_(geometry.hash_seed),
        pages_max_(geometry.pages_max()),
        entries_of_page_(pages_max_),
        depth_of_page_(pages_max_) {}

  /// Makes a directory with one empty segment. Returns false when there is no memory.
  [[nodiscard]] bool create(BackBuffer& back);
  /// Takes over the segments of a buffer and their entries; false when something is damaged.
  [[nodiscard]] bool resume(const BufferView& buffer, const Adopt& adopt);

  // ---- what is there

  [[nodiscard]] BufferView view(const BackBuffer& back) const noexcept { return {back.base(), pages_max_}; }
  [[nodiscard]] static layout::Segment& segment(const BackBuffer& back, std::uint64_t page) noexcept {
    return *back.at<layout::Segment>(page * layout::kPageBytes);
  }
  [[nodiscard]] static layout::Slot& slot(const BackBuffer& back, Place place) noexcept {
    return *back.at<layout::Slot>(place.offset());
  }
  [[nodiscard]] static Place place_of(const BackBuffer& back, const layout::Slot& slot) noexcept {
    return Place::at_offset(static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(&slot) - back.base()));
  }
  [[nodiscard]] std::uint64_t hash_of(const BackBuffer& back, Place place) const noexcept {
    return hash_of(slot(back, place));
  }

  /// Guesses where keys are, by their hashes, as long as the buffer is not changed: a copy of what that takes.
  class Guesses {
   public:
    /// The line where the search for a key begins, and the key's tag: number of the line in the buffer << 8 | tag.
    enum class Home : std::uint64_t {};

    explicit Guesses(const BackBuffer& back) noexcept : base_(back.base()) {
      const DirectoryWord directory = directory_word(back);
      entries_ = base_ + directory.offset();
      mask_ = directory_index(~std::uint64_t{0}, directory.depth);
    }
    /// Prefetches the first line that a mutation of this key will touch.
    [[nodiscard]] Home prefetch_home(std::uint64_t hash) const noexcept {
      std::uint32_t entry = 0;
      std::memcpy(&entry, entries_ + (hash & mask_) * sizeof entry, sizeof entry);
      if (entry >= layout::kPagesMax) [[unlikely]]
        entry = 0;  // a node: no guess
      const std::uint64_t line = std::uint64_t{entry} * layout::kSegmentLines + home_line(hash);
      __builtin_prefetch(base_ + line * layout::kLine);
      return Home{line << 8 | tag_of(hash)};
    }
    /// Where no key is.
    [[nodiscard]] static Home nowhere() noexcept { return Home{0}; }
    /// Prefetches the second one: the slot where the key probably is, or null.
    [[nodiscard]] layout::Slot* prefetch_slot(Home home) const noexcept {
      const auto word = static_cast<std::uint64_t>(home);
      const auto& line = *reinterpret_cast<const layout::IndexLine*>(base_ + (word >> 8) * layout::kLine);
      const std::uint32_t match = TagWords(line).match(static_cast<std::uint8_t>(word));
      if (match == 0 || word >> 8 < layout::kSegmentLines) return nullptr;
      std::byte* const at = base_ + Place{.unit = line.places[std::countr_zero(match)]}.offset();
      __builtin_prefetch(at, 1);
      __builtin_prefetch(at + kUsualSlotBytes - 1, 1);
      return reinterpret_cast<layout::Slot*>(at);
    }

   private:
    static constexpr std::size_t kUsualSlotBytes = 48;  // which may lie in two lines

    std::byte* base_;
    const std::byte* entries_;  // of the directory: 32 bits each
    std::uint64_t mask_;
  };

  // ---- changes

  enum class Room : std::uint8_t { kYes, kNoMemory, kCrowded };
  /// Makes room for one more key of that hash.
  [[nodiscard]] Room make_room(BackBuffer& back, std::uint64_t hash);
  /// The entry of a new key lies there. Precondition: there is room.
  void insert(BackBuffer& back, std::uint64_t hash, Place place);
  /// The entry of a key lies elsewhere now.
  void move(BackBuffer& back, std::uint64_t hash, Place from, Place to);
  void erase(BackBuffer& back, std::uint64_t hash, Place place);

  [[nodiscard]] std::uint64_t segment_count() const noexcept { return segment_count_; }
  [[nodiscard]] std::uint64_t split_count() const noexcept { return split_count_; }
  /// Keys in all segments.
  [[nodiscard]] std::uint64_t occupied_count() const noexcept { return occupied_count_; }

 private:
  // A segment splits when it is so full: searches stay short. Halves are merged when so few keys are left in both.
  static constexpr std::uint32_t kSegmentEntriesMax = layout::kSegmentCells * 7 / 8;
  static constexpr std::uint32_t kMergedEntriesMax = layout::kSegmentCells / 4;
  // The directory may have an entry for so many keys: several times what hashes at random need.
  static constexpr std::uint64_t kEntriesPerDirectoryEntry = 64;

  /// The directory or a node: entries that bits of the hash from `first_bit` on choose.
  struct Level {
    std::uint64_t offset = 0;  // of its words
    unsigned first_bit = 0;
    unsigned end_bit = 0;
    unsigned depth = 0;      // how many low bits of the hash lead to it
    std::uint64_t page = 0;  // of a node
    unsigned number = 0;     // of a node's level; zero: the directory

    [[nodiscard]] std::uint32_t index_of(std::uint64_t hash) const noexcept {
      return directory_index(hash >> first_bit, end_bit - first_bit);
    }
  };
  /// From the directory to a segment.
  struct Path {
    std::array<Level, layout::kNodeLevels + 1> levels{};
    std::size_t count = 0;
    std::uint64_t segment = 0;

    [[nodiscard]] const Level& last() const noexcept { return levels[count - 1]; }
  };
  struct Cell {
    std::uint64_t hash = 0;
    Place place;
  };
  struct Cells;

  [[nodiscard]] static DirectoryWord directory_word(const BackBuffer& back) noexcept {
    return DirectoryWord::unpack(back.header().directory);
  }
  [[nodiscard]] static Level directory_level(DirectoryWord directory) noexcept;
  [[nodiscard]] static Level node_level(DirectoryEntry node) noexcept;
  [[nodiscard]] static std::uint64_t entry_in(const std::byte* buffer, const Level& level,
                                              std::uint32_t index) noexcept;
  [[nodiscard]] static Path path_to(const BackBuffer& back, std::uint64_t hash) noexcept;
  [[nodiscard]] std::uint64_t hash_of(const layout::Slot& slot) const noexcept;

  static void set_byte(BackBuffer& back, std::uint8_t& byte, std::uint8_t value);
  static void set_place(BackBuffer& back, std::uint32_t& cell, Place place);
  [[nodiscard]] static std::uint32_t* find_cell(layout::Segment& segment, std::uint64_t hash, Place place) noexcept;
  static void set_entries(BackBuffer& back, const Level& level, std::uint64_t hash, unsigned depth,
                          std::uint64_t entry);
  void read_cells(const BackBuffer& back, std::uint64_t page, Cells& cells) const;
  void write_segment(BackBuffer& back, std::uint64_t page, unsigned depth, const Cells& cells, std::uint64_t bits,
                     std::uint64_t mask, bool is_new);

  [[nodiscard]] Room split(BackBuffer& back, const Path& path, std::uint64_t hash);
  [[nodiscard]] Room widen(BackBuffer& back, const Path& path, std::uint64_t hash);
  [[nodiscard]] bool may_double(unsigned depth) const noexcept;
  [[nodiscard]] bool double_directory(BackBuffer& back);
  void halve_directory(BackBuffer& back);
  [[nodiscard]] bool add_node(BackBuffer& back, const Path& path, std::uint64_t hash);
  [[nodiscard]] bool merge(BackBuffer& back, const Path& path, std::uint64_t hash);
  void count_depth(const Level& level, unsigned depth, std::int64_t change) noexcept;

  [[nodiscard]] bool adopt_level(const BufferView& buffer, const std::byte* base, const Level& level,
                                 std::uint64_t low_bits, const Adopt& adopt);
  [[nodiscard]] bool adopt_segment(const std::byte* base, std::uint64_t page, std::uint64_t low_bits, unsigned depth,
                                   const Adopt& adopt);

  PageAllocator& pages_;
  std::uint64_t hash_seed_;
  std::uint64_t pages_max_;
  std::uint64_t segment_count_ = 0;
  std::uint64_t split_count_ = 0;
  std::uint64_t occupied_count_ = 0;
  ZeroedArray<std::uint16_t> entries_of_page_;                                 // of a segment
  ZeroedArray<std::uint8_t> depth_of_page_;                                    // of a segment
  std::array<std::uint64_t, layout::kDirectoryLog2Max + 1> count_of_depth_{};  // of what the directory names
};

}  // namespace shmstate::internal
