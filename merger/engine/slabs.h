// Pages of slots of one size each, in which entries lie. An entry stays where it is until it is erased, or needs a slot
// of another size. This knows which slots are in use, not what is in them.
//
// What it keeps is private to the merger and rebuilt at start. In the buffer, the map says which pages are slabs, and a
// free slot begins with a zero: so readers find all entries without the index.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/back_buffer.h"
#include "engine/page_allocator.h"
#include "engine/zeroed_array.h"
#include "layout/layout.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate::internal {

/// Where an entry was found. It is still there if since then no slot of that page was freed. The default is nowhere.
struct KnownPlace {
  Place place;
  std::uint32_t generation = 0;  // of the page, at that time
};

class Slabs {
 public:
  Slabs(PageAllocator& pages, std::uint64_t pages_max);
  Slabs(const Slabs&) = delete;
  Slabs& operator=(const Slabs&) = delete;

  /// A free slot for `bytes`, whose head is zero; nothing when there is no memory.
  [[nodiscard]] std::optional<Place> allocate(BackBuffer& back, std::size_t bytes);
  /// Frees a slot in use.
  void release(BackBuffer& back, Place place);
  /// Whether that is a slot in use.
  [[nodiscard]] bool holds(Place place) const noexcept {
    if (place.page() >= pages_.committed()) return false;
    const Slab& slab = slabs_[place.page()];
    return place.is_in_slab_of(slab.units) && slab.is_used(place.unit_in_page() / slab.units);
  }
  /// The slot in use that begins at this or the next unit, if there is one; no slot has a single unit.
  [[nodiscard]] std::optional<Place> in_use_at(Place even) const noexcept;
  // ---- places that are remembered

  [[nodiscard]] KnownPlace remember(Place place) const noexcept {
    const std::uint32_t freed_count = freed_count_[place.page()];
    return freed_count == kManyFreed ? KnownPlace{} : KnownPlace{.place = place, .generation = freed_count + 1};
  }
  /// Whether the entry is still there; otherwise it may have left.
  [[nodiscard]] bool is_good(const KnownPlace& known) const noexcept {
    return freed_count_[known.place.page()] + 1 == known.generation;
  }

  /// How many pages were slabs and are free again, so far.
  [[nodiscard]] std::uint64_t closed_count() const noexcept { return closed_count_; }
  /// The size of a slot in use.
  [[nodiscard]] unsigned units_at(Place place) const noexcept { return slabs_[place.page()].units; }

  /// At start: takes all pages that the map says are slabs, with free slots only; false when it is damaged.
  [[nodiscard]] bool resume(const BufferView& buffer);
  /// At start: an entry lies there; false when there is no such slot, or it is taken.
  [[nodiscard]] bool adopt(Place place, std::size_t bytes);
  /// At the end of that; false when something is in a free slot.
  [[nodiscard]] bool finish_resume(const BufferView& buffer) noexcept;

 private:
  static constexpr std::uint32_t kManyFreed = ~std::uint32_t{0} - 1;  // is not exceeded, and nothing is remembered then

  struct Slab {
    std::array<std::uint64_t, 2> used;  // a bit for each slot
    std::uint32_t previous;             // of the slabs of that size that have a free slot; zero: none
    std::uint32_t next;
    std::uint8_t units;  // of its slots; zero: no slab
    std::uint8_t used_count;

    [[nodiscard]] unsigned capacity() const noexcept { return layout::kPageUnits / units; }
    [[nodiscard]] bool is_full() const noexcept { return used_count == capacity(); }
    [[nodiscard]] bool is_used(unsigned slot) const noexcept { return (used[slot / 64] >> slot % 64 & 1) != 0; }
    [[nodiscard]] unsigned first_free() const noexcept;
  };

  [[nodiscard]] bool open_slab(BackBuffer& back, unsigned units);
  void keep(std::uint32_t page) noexcept;
  void close_spares(BackBuffer& back);
  static void set_map(BackBuffer& back, std::uint64_t page, unsigned units);
  void list(std::uint32_t page) noexcept;
  void unlist(std::uint32_t page) noexcept;
  void take(std::uint32_t page, unsigned slot) noexcept;

  PageAllocator& pages_;
  ZeroedArray<Slab> slabs_;                                           // by page
  ZeroedArray<std::uint32_t> freed_count_;                            // slots, by page; of all its times as a slab
  std::array<std::uint32_t, layout::kSlotUnitsMax + 1> open_list_{};  // by size: the first slab with a free slot
  // An empty slab is kept, so that a key which comes and goes does not make one each time. At start, several may be.
  std::uint32_t spare_ = 0;
  std::uint64_t closed_count_ = 0;
};

}  // namespace shmstate::internal
