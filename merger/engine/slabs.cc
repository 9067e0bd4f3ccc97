#include "engine/slabs.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {

Slabs::Slabs(PageAllocator& pages, std::uint64_t pages_max)
    : pages_(pages), slabs_(pages_max), freed_count_(pages_max) {
  pages_.set_reclaim([this](BackBuffer& back) {
    if (spare_ == 0) return false;
    close_spares(back);
    return true;
  });
}

unsigned Slabs::Slab::first_free() const noexcept {
  const auto low = static_cast<unsigned>(std::countr_one(used[0]));
  return low < 64 ? low : 64 + static_cast<unsigned>(std::countr_one(used[1]));
}

std::optional<Place> Slabs::allocate(BackBuffer& back, std::size_t bytes) {
  const unsigned units = slot_units(bytes);
  if (open_list_[units] == 0 && !open_slab(back, units)) return std::nullopt;
  const std::uint32_t page = open_list_[units];
  const unsigned slot = slabs_[page].first_free();
  take(page, slot);
  return Place{.unit = page * Place::kUnits + slot * units};
}

void Slabs::release(BackBuffer& back, Place place) {
  SHMSTATE_INVARIANT(holds(place));
  const auto page = static_cast<std::uint32_t>(place.page());
  Slab& slab = slabs_[page];
  back.store(back.at<layout::Slot>(place.offset())->head, 0);
  crash_point(CrashPoint::kSlotFreed);
  if (freed_count_[page] != kManyFreed) ++freed_count_[page];
  if (slab.is_full()) list(page);
  const unsigned slot = place.unit_in_page() / slab.units;
  slab.used[slot / 64] &= ~(std::uint64_t{1} << slot % 64);
  if (--slab.used_count > 0) return;
  unlist(page);
  close_spares(back);
  keep(page);
}

std::optional<Place> Slabs::in_use_at(Place even) const noexcept {
  for (const Place place : {even, Place{.unit = even.unit + 1}}) {
    if (holds(place)) return place;
  }
  return std::nullopt;
}

// The page may have had another use, and in buffers of a merger that died any. So every head is stored.
bool Slabs::open_slab(BackBuffer& back, unsigned units) {
  if (spare_ != 0 && slabs_[spare_].units == units) {
    const std::uint32_t page = spare_;
    spare_ = slabs_[page].next;
    list(page);
    return true;
  }
  const std::optional<std::uint64_t> page = pages_.allocate(back, 1);
  if (!page) return false;
  const auto number = static_cast<std::uint32_t>(*page);
  slabs_[number] = {.used = {}, .previous = 0, .next = 0, .units = static_cast<std::uint8_t>(units), .used_count = 0};
  for (unsigned slot = 0; slot < slabs_[number].capacity(); ++slot) {
    const Place place{.unit = number * Place::kUnits + slot * units};
    back.store(back.at<layout::Slot>(place.offset())->head, 0);
  }
  set_map(back, number, units);
  crash_point(CrashPoint::kSlabOpened);
  list(number);
  return true;
}

void Slabs::keep(std::uint32_t page) noexcept { slabs_[page].next = std::exchange(spare_, page); }

void Slabs::close_spares(BackBuffer& back) {
  while (spare_ != 0) {
    const std::uint32_t page = std::exchange(spare_, slabs_[spare_].next);
    set_map(back, page, 0);
    crash_point(CrashPoint::kSlabClosed);
    slabs_[page].units = 0;
    ++closed_count_;
    pages_.release(page, 1);
  }
}

void Slabs::set_map(BackBuffer& back, std::uint64_t page, unsigned units) {
  const std::uint64_t offset = map_offset_of(page);
  const auto shift = static_cast<unsigned>(offset % kWord * 8);
  std::uint64_t& word = *back.at<std::uint64_t>(offset / kWord * kWord);
  back.store(word, (word & ~(std::uint64_t{0xff} << shift)) | std::uint64_t{units} << shift);
}

void Slabs::list(std::uint32_t page) noexcept {
  Slab& slab = slabs_[page];
  std::uint32_t& first = open_list_[slab.units];
  slab.previous = 0;
  slab.next = first;
  if (first != 0) slabs_[first].previous = page;
  first = page;
}

void Slabs::unlist(std::uint32_t page) noexcept {
  const Slab& slab = slabs_[page];
  if (slab.next != 0) slabs_[slab.next].previous = slab.previous;
  if (slab.previous != 0) {
    slabs_[slab.previous].next = slab.next;
  } else {
    open_list_[slab.units] = slab.next;
  }
}

void Slabs::take(std::uint32_t page, unsigned slot) noexcept {
  Slab& slab = slabs_[page];
  slab.used[slot / 64] |= std::uint64_t{1} << slot % 64;
  ++slab.used_count;
  if (slab.is_full()) unlist(page);
}

// ---- taking over

bool Slabs::resume(const BufferView& buffer) {
  for (std::uint64_t first = 0; first < pages_.committed(); first += kWord) {
    for (std::uint64_t word = buffer.map_word(first); word != 0;) {
      const auto byte = static_cast<unsigned>(std::countr_zero(word)) / 8;
      const auto units = static_cast<unsigned>(word >> byte * 8 & 0xff);
      word &= ~(std::uint64_t{0xff} << byte * 8);
      const std::uint64_t page = first + byte;
      if (units < layout::kSlotUnitsMin || units > layout::kSlotUnitsMax || !pages_.adopt(page, 1)) return false;
      slabs_[page].units = static_cast<std::uint8_t>(units);
      list(static_cast<std::uint32_t>(page));
    }
  }
  return true;
}

bool Slabs::adopt(Place place, std::size_t bytes) {
  if (place.page() >= pages_.committed() || holds(place)) return false;
  const unsigned units = units_at(place);
  if (!place.is_in_slab_of(units) || bytes > units * layout::kSlotUnitBytes) return false;
  take(static_cast<std::uint32_t>(place.page()), place.unit_in_page() / units);
  return true;
}

bool Slabs::finish_resume(const BufferView& buffer) noexcept {
  for (const std::uint32_t first : open_list_) {
    for (std::uint32_t page = first; page != 0;) {
      const Slab& slab = slabs_[page];
      for (unsigned slot = 0; slot < slab.capacity(); ++slot) {
        const Place place{.unit = page * Place::kUnits + slot * slab.units};
        if (!slab.is_used(slot) && buffer.slot(place).head != 0) return false;
      }
      const std::uint32_t next = slab.next;
      if (slab.used_count == 0) {
        unlist(page);
        keep(page);
      }
      page = next;
    }
  }
  return true;
}

}  // namespace shmstate::internal
