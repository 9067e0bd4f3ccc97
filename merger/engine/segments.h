// Where entries lie: a directory of segments, and slots in them. This knows which slot belongs to which key, not what
// an entry says.
//
// Extendible hashing (Fagin et al. 1979, as in Go 1.24's map) over segments of 67 groups; a group has 15 slots and 16
// tag bytes (Swiss tables; the overflow count that ends a search without tombstones is that of Folly's F14). A full
// segment splits in two, so that no mutation ever pays for the whole state.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "engine/back_buffer.h"
#include "engine/page_allocator.h"
#include "files/geometry.h"
#include "layout/hash.h"
#include "layout/layout.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/buffer_slot.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate::internal {

/// Where an entry was found. It is still there if since then no entry of that page was erased or moved. The default is
/// nowhere.
struct KnownPlace {
  std::uint32_t line = 0;        // of the buffer
  std::uint32_t generation = 0;  // of the page, at that time
};

class Segments {
 public:
  /// Called after a split has moved an entry, before its old slot is freed.
  using Moved = std::function<void(BackBuffer& back, const Place& place)>;
  /// Called for each entry at start; false when it cannot be one.
  using Adopt = std::function<bool(const Place& place, const layout::Slot& slot, const SlotHead& head)>;

  Segments(PageAllocator& pages, const Geometry& geometry, Moved moved)
      : pages_(pages),
        moved_(std::move(moved)),
        hash_seed_(geometry.hash_seed),
        pages_max_(geometry.pages_max()),
        entries_of_page_(geometry.pages_max(), 0),
        generations_(geometry.pages_max(), 1) {}

  /// Makes a directory with one empty segment. Returns false when there is no memory.
  [[nodiscard]] bool create(BackBuffer& back);
  /// Takes over the segments of a buffer and their entries; false when something is damaged.
  [[nodiscard]] bool resume(const BufferView& buffer, const Adopt& adopt);

  // ---- what is there

  [[nodiscard]] BufferView view(const BackBuffer& back) const noexcept { return {back.base(), pages_max_}; }
  [[nodiscard]] static layout::Segment& segment(const BackBuffer& back, std::uint64_t page) noexcept {
    return *back.at<layout::Segment>(page * layout::kPageBytes);
  }
  [[nodiscard]] static layout::Slot& slot(const BackBuffer& back, const Place& place) noexcept {
    return segment(back, place.page).slots[place.slot];
  }
  [[nodiscard]] static bool is_occupied(const BackBuffer& back, const Place& place) noexcept {
    return slot(back, place).head != 0;
  }
  [[nodiscard]] static Place place_of(const BackBuffer& back, const layout::Slot& slot) noexcept {
    const auto offset = static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(&slot) - back.base());
    return {.page = offset / layout::kPageBytes,
            .slot = static_cast<std::uint32_t>((offset % layout::kPageBytes - offsetof(layout::Segment, slots)) /
                                               sizeof(layout::Slot))};
  }
  [[nodiscard]] std::uint64_t hash_of(const layout::Slot& slot, const SlotHead& head) const noexcept;

  /// Guesses where keys are, by their hashes, as long as the buffer is not changed: a copy of what that takes.
  class Guesses {
   public:
    /// The group where the search for a key begins, and the key's tag: page << 16 | group << 8 | tag.
    enum class Home : std::uint64_t {};

    explicit Guesses(const BackBuffer& back) noexcept : base_(back.base()) {
      const DirectoryWord directory = directory_word(back);
      pages_ = base_ + directory.page * layout::kPageBytes;
      mask_ = directory_index(~std::uint64_t{0}, directory.depth);
    }
    /// Prefetches the first line that a mutation of this key will touch.
    [[nodiscard]] Home prefetch_home(std::uint64_t hash) const noexcept {
      std::uint32_t page = 0;
      std::memcpy(&page, pages_ + (hash & mask_) * sizeof page, sizeof page);
      const std::uint64_t group = home_group(hash);
      __builtin_prefetch(base_ + page * layout::kPageBytes + offset_of(group));
      return Home{std::uint64_t{page} << 16 | group << 8 | tag_of(hash)};
    }
    /// Where no key is: what leads there are the tags of free slots.
    [[nodiscard]] Home nowhere() const noexcept {
      return Home{static_cast<std::uint64_t>(prefetch_home(0)) & ~std::uint64_t{0xff}};
    }
    /// Prefetches the second one: the slot where the key probably is, or null.
    [[nodiscard]] layout::Slot* prefetch_slot(Home home) const noexcept {
      const auto word = static_cast<std::uint64_t>(home);
      const std::uint64_t group = word >> 8 & 0xff;
      std::byte* const segment = base_ + (word & ~std::uint64_t{0xffff});
      const TagWords tags(*reinterpret_cast<const layout::TagGroup*>(segment + offset_of(group)));
      const std::uint32_t match = tags.match(static_cast<std::uint8_t>(word));
      if (match == 0) return nullptr;
      const auto index = static_cast<std::uint64_t>(std::countr_zero(match));
      layout::Slot* const slot =
          &reinterpret_cast<layout::Segment*>(segment)->slots[group * layout::kGroupSlots] + index;
      __builtin_prefetch(slot, 1);
      return slot;
    }

   private:
    static_assert(layout::kPageBytes == 1 << 16 && layout::kSegmentGroups <= 1 << 8);
    [[nodiscard]] static constexpr std::uint64_t offset_of(std::uint64_t group) noexcept {
      return offsetof(layout::Segment, groups) + group * sizeof(layout::TagGroup);
    }

    std::byte* base_;
    const std::byte* pages_;  // of the directory's entries: 32 bits each
    std::uint64_t mask_;
  };

  // ---- places that are remembered

  [[nodiscard]] KnownPlace remember(const BackBuffer& back, const Place& place) const noexcept {
    const std::uint32_t generation = generations_[place.page];
    if (generation == kLastGeneration) return {};
    const auto offset = reinterpret_cast<const std::byte*>(&slot(back, place)) - back.base();
    return {.line = static_cast<std::uint32_t>(static_cast<std::uint64_t>(offset) / layout::kLine),
            .generation = generation};
  }
  /// Whether the entry is still there; otherwise it may have left.
  [[nodiscard]] bool is_good(const KnownPlace& known) const noexcept {
    return generations_[known.line / kPageLines] == known.generation;
  }
  [[nodiscard]] static layout::Slot& slot(const BackBuffer& back, const KnownPlace& known) noexcept {
    return *back.at<layout::Slot>(std::uint64_t{known.line} * layout::kLine);
  }
  static void prefetch(const BackBuffer& back, const KnownPlace& known) noexcept {
    __builtin_prefetch(&slot(back, known), 1);
  }

  // ---- changes

  /// The page of a hash's segment, with room for an entry: splits it if it is full. Nothing when there is no memory.
  [[nodiscard]] std::optional<std::uint64_t> make_room(BackBuffer& back, std::uint64_t hash);
  /// Takes a slot in a segment that has room.
  [[nodiscard]] Place claim_slot(BackBuffer& back, std::uint64_t page, std::uint64_t hash);
  void free_slot(BackBuffer& back, const Place& place, std::uint64_t hash);

  [[nodiscard]] std::uint64_t segment_count() const noexcept { return segment_count_; }
  [[nodiscard]] std::uint64_t split_count() const noexcept { return split_count_; }
  /// Slots in use.
  [[nodiscard]] std::uint64_t occupied_count() const noexcept { return occupied_count_; }

 private:
  static constexpr std::size_t kPageLines = layout::kPageBytes / layout::kLine;
  static constexpr std::uint32_t kLastGeneration = ~std::uint32_t{0};  // never ends, and nothing is remembered of it

  // A segment splits when it is so full: searches stay short.
  static constexpr std::uint32_t kSegmentEntriesMax = layout::kSegmentSlots * 19 / 20;

  [[nodiscard]] static DirectoryWord directory_word(const BackBuffer& back) noexcept {
    return DirectoryWord::unpack(back.header().directory);
  }
  [[nodiscard]] static std::uint64_t page_of(const BackBuffer& back, std::uint64_t hash) noexcept {
    const DirectoryWord directory = directory_word(back);
    const std::uint32_t index = directory_index(hash, directory.depth);
    const auto* const words = back.at<std::uint64_t>(directory.page * layout::kPageBytes);
    return DirectoryEntry::page_in(words[DirectoryEntry::word_of(index)], index);
  }
  void set_tag(BackBuffer& back, std::uint64_t page, std::uint32_t group, std::size_t index, std::uint8_t tag);
  void clear_segment(BackBuffer& back, std::uint64_t page, unsigned depth);
  void set_directory_entry(BackBuffer& back, std::uint32_t index, std::uint64_t page);
  [[nodiscard]] bool split(BackBuffer& back, std::uint64_t page, std::uint64_t hash);
  template <typename Visit>
  void for_each_hash(BackBuffer& back, std::uint64_t page, Visit&& visit);
  void move_half(BackBuffer& back, std::uint64_t from, std::uint64_t to, unsigned bit);
  void move(BackBuffer& back, const Place& old, std::uint64_t hash, std::uint64_t to);
  [[nodiscard]] bool double_directory(BackBuffer& back);
  [[nodiscard]] bool adopt_segment(const BufferView& buffer, std::uint64_t page, std::uint32_t index, unsigned depth,
                                   const Adopt& adopt);

  PageAllocator& pages_;
  Moved moved_;
  std::uint64_t hash_seed_;
  std::uint64_t pages_max_;
  std::uint64_t segment_count_ = 0;
  std::uint64_t split_count_ = 0;
  std::uint64_t occupied_count_ = 0;            // counted where slots are claimed and freed
  std::vector<std::uint16_t> entries_of_page_;  // entries of the segment in a page
  std::vector<std::uint32_t> generations_;      // +1 for each entry that leaves its slot, by page
};

}  // namespace shmstate::internal
