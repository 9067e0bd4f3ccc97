#include "engine/segments.h"

#include <bit>

#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

using layout::kGroupSlots;
using layout::kPageBytes;
using layout::kSegmentGroups;

constexpr std::size_t kOverflowIndex = kGroupSlots;  // the last byte of a group's 16
constexpr std::uint8_t kOverflowSticks = 255;

std::uint64_t directory_pages(unsigned depth) {
  return ((std::uint64_t{sizeof(std::uint32_t)} << depth) + kPageBytes - 1) / kPageBytes;
}

std::uint32_t next_group(std::uint32_t group) { return group + 1 == kSegmentGroups ? 0 : group + 1; }

}  // namespace

std::uint64_t Segments::hash_of(const layout::Slot& slot, const SlotHead& head) const noexcept {
  const std::uint64_t* const words = slot.words + head.key_word();
  if (head.has(SlotHead::kKeyInHeap)) return words[1];
  return hash_key({reinterpret_cast<const char*>(words), head.key_bytes}, hash_seed_);
}

// ---- slots

void Segments::set_tag(BackBuffer& back, std::uint64_t page, std::uint32_t group, std::size_t index, std::uint8_t tag) {
  auto* const words = reinterpret_cast<std::uint64_t*>(&segment(back, page).groups[group]);
  std::uint64_t& word = words[index / kWord];
  const auto shift = static_cast<unsigned>(index % kWord * 8);
  back.store(word, (word & ~(std::uint64_t{0xff} << shift)) | std::uint64_t{tag} << shift);
}

// Precondition: the segment has a free slot.
Place Segments::claim_slot(BackBuffer& back, std::uint64_t page, std::uint64_t hash) {
  std::uint32_t group = home_group(hash);
  for (;; group = next_group(group)) {
    const TagWords tags(segment(back, page).groups[group]);
    const std::uint32_t free = tags.match(0);
    if (free != 0) {
      const int index = std::countr_zero(free);
      set_tag(back, page, group, static_cast<std::size_t>(index), tag_of(hash));
      ++entries_of_page_[page];
      ++occupied_count_;
      return {.page = page,
              .slot = static_cast<std::uint32_t>(group * kGroupSlots) + static_cast<std::uint32_t>(index)};
    }
    if (tags.overflow_count() != kOverflowSticks) {
      set_tag(back, page, group, kOverflowIndex, static_cast<std::uint8_t>(tags.overflow_count() + 1));
    }
  }
}

void Segments::free_slot(BackBuffer& back, const Place& place, std::uint64_t hash) {
  const auto last = static_cast<std::uint32_t>(place.slot / kGroupSlots);
  for (std::uint32_t group = home_group(hash); group != last; group = next_group(group)) {
    const std::uint8_t count = segment(back, place.page).groups[group].overflow_count;
    if (count != kOverflowSticks)
      set_tag(back, place.page, group, kOverflowIndex, static_cast<std::uint8_t>(count - 1));
  }
  set_tag(back, place.page, last, place.slot % kGroupSlots, 0);
  layout::Slot& freed = slot(back, place);
  back.store(freed.head, std::uint64_t{0});
  SHMSTATE_INVARIANT(entries_of_page_[place.page] > 0 && occupied_count_ > 0);
  --entries_of_page_[place.page];
  --occupied_count_;
  std::uint32_t& generation = generations_[place.page];
  if (generation != kLastGeneration) ++generation;
}

// ---- directory and segments

bool Segments::create(BackBuffer& back) {
  const std::optional<std::uint64_t> directory = pages_.allocate(back, directory_pages(0));
  const std::optional<std::uint64_t> first = directory ? pages_.allocate(back, 1) : std::nullopt;
  if (!first) return false;
  clear_segment(back, *first, 0);
  back.store(back.header().directory, DirectoryWord{.page = *directory, .depth = 0}.pack());
  set_directory_entry(back, 0, *first);
  segment_count_ = 1;
  return true;
}

void Segments::clear_segment(BackBuffer& back, std::uint64_t page, unsigned depth) {
  layout::Segment& fresh = segment(back, page);
  back.store(fresh.depth, std::uint64_t{depth});
  auto* const tags = reinterpret_cast<std::uint64_t*>(fresh.groups);
  for (std::size_t i = 0; i < sizeof fresh.groups / kWord; ++i) back.store(tags[i], std::uint64_t{0});
  for (layout::Slot& free : fresh.slots) {  // the page may have had another use
    if (free.head != 0) back.store(free.head, std::uint64_t{0});
  }
  entries_of_page_[page] = 0;
}

void Segments::set_directory_entry(BackBuffer& back, std::uint32_t index, std::uint64_t page) {
  auto* const words = back.at<std::uint64_t>(directory_word(back).page * kPageBytes);
  std::uint64_t& word = words[DirectoryEntry::word_of(index)];
  back.store(word, DirectoryEntry::with_page(word, index, page));
}

std::optional<std::uint64_t> Segments::make_room(BackBuffer& back, std::uint64_t hash) {
  std::uint64_t page = page_of(back, hash);
  while (entries_of_page_[page] >= kSegmentEntriesMax) {
    if (!split(back, page, hash)) return std::nullopt;
    page = page_of(back, hash);
  }
  return page;
}

bool Segments::split(BackBuffer& back, std::uint64_t page, std::uint64_t hash) {
  const auto depth = static_cast<unsigned>(segment(back, page).depth);
  if (depth == directory_word(back).depth && !double_directory(back)) return false;
  const std::optional<std::uint64_t> added = pages_.allocate(back, 1);
  if (!added) return false;
  clear_segment(back, *added, depth + 1);
  crash_point(CrashPoint::kSegmentCleared);
  back.store(segment(back, page).depth, std::uint64_t{depth} + 1);
  const unsigned before = entries_of_page_[page];
  move_half(back, page, *added, depth);
  SHMSTATE_INVARIANT(entries_of_page_[page] + entries_of_page_[*added] == before);
  const std::uint32_t step = 1U << (depth + 1);
  const std::uint32_t first = directory_index(hash, depth) | 1U << depth;
  const std::uint32_t length = 1U << directory_word(back).depth;
  for (std::uint32_t i = first; i < length; i += step) set_directory_entry(back, i, *added);
  crash_point(CrashPoint::kSegmentSplit);
  ++segment_count_;
  ++split_count_;
  return true;
}

template <typename Visit>
void Segments::for_each_hash(BackBuffer& back, std::uint64_t page, Visit&& visit) {
  for (std::uint32_t group = 0; group < kSegmentGroups; ++group) {
    std::uint32_t occupied = TagWords(segment(back, page).groups[group]).occupied();
    for (; occupied != 0; occupied &= occupied - 1) {
      const Place at{.page = page, .slot = BufferView::first_slot(group, occupied)};
      visit(at, hash_of(slot(back, at), SlotHead::unpack(slot(back, at).head)));
    }
  }
}

// The second pass returns entries that had overflowed to their home group, where the first has made room.
void Segments::move_half(BackBuffer& back, std::uint64_t from, std::uint64_t to, unsigned bit) {
  for_each_hash(back, from, [&](const Place& at, std::uint64_t hash) {
    if ((hash >> bit & 1) != 0) move(back, at, hash, to);
  });
  for_each_hash(back, from, [&](const Place& at, std::uint64_t hash) {
    const std::uint32_t home = home_group(hash);
    if (at.slot / kGroupSlots != home && TagWords(segment(back, from).groups[home]).match(0) != 0)
      move(back, at, hash, from);
  });
}

void Segments::move(BackBuffer& back, const Place& old, std::uint64_t hash, std::uint64_t to) {
  const layout::Slot& source = slot(back, old);
  const Place moved = claim_slot(back, to, hash);
  layout::Slot& target = slot(back, moved);
  back.store(target.head, source.head);
  back.store(target.changed_epoch, source.changed_epoch);
  for (std::size_t i = 0; i < kSlotWords; ++i) back.store(target.words[i], source.words[i]);
  moved_(back, moved);
  crash_point(CrashPoint::kEntryMoved);
  free_slot(back, old, hash);
}

// Entries are indexed by low bits of the hash, so the second half of the doubled directory repeats the first.
bool Segments::double_directory(BackBuffer& back) {
  const auto [old_page, depth] = directory_word(back);
  if (depth == layout::kDirectoryLog2Max) return false;
  std::uint64_t page = old_page;
  if (directory_pages(depth + 1) != directory_pages(depth)) {
    const std::optional<std::uint64_t> larger = pages_.allocate(back, directory_pages(depth + 1));
    if (!larger) return false;
    page = *larger;
  }
  const auto* const from = back.at<std::uint64_t>(old_page * kPageBytes);
  auto* const to = back.at<std::uint64_t>(page * kPageBytes);
  if (depth == 0) {
    back.store(to[0], DirectoryEntry::both(DirectoryEntry::page_in(from[0], 0)));
  } else {
    const std::size_t words = std::size_t{1} << (depth - 1);
    for (std::size_t i = 0; i < words; ++i) {
      if (page != old_page) back.store(to[i], from[i]);
      back.store(to[words + i], from[i]);
    }
  }
  crash_point(CrashPoint::kDirectoryCopied);
  back.store(back.header().directory, DirectoryWord{.page = page, .depth = depth + 1}.pack());
  crash_point(CrashPoint::kDirectoryDoubled);
  if (page != old_page) pages_.release(old_page, directory_pages(depth));
  return true;
}

// ---- taking over

bool Segments::resume(const BufferView& buffer, const Adopt& adopt) {
  const BufferView::Directory directory = buffer.directory(pages_.committed());
  if (directory.words == nullptr) return false;
  const unsigned depth = directory.depth();
  if (!pages_.adopt(buffer.directory_word().page, directory_pages(depth))) return false;
  for (std::uint32_t i = 0; i <= directory.mask; ++i) {
    const std::uint64_t page = directory.page_of(i);
    if (!BufferView::is_segment_page(page, pages_.committed())) return false;
    const std::uint64_t segment_depth = buffer.segment(page).depth;
    if (segment_depth > depth) return false;
    const std::uint32_t canonical = directory_index(i, static_cast<unsigned>(segment_depth));
    if (canonical == i ? !adopt_segment(buffer, page, i, static_cast<unsigned>(segment_depth), adopt)
                       : directory.page_of(canonical) != page) {
      return false;
    }
  }
  return true;
}

bool Segments::adopt_segment(const BufferView& buffer, std::uint64_t page, std::uint32_t index, unsigned depth,
                             const Adopt& adopt) {
  if (!pages_.adopt(page, 1)) return false;
  ++segment_count_;
  const layout::Segment& here = buffer.segment(page);
  for (std::uint32_t s = 0; s < layout::kSegmentSlots; ++s) {
    if (here.groups[s / kGroupSlots].tags[s % kGroupSlots] == 0) continue;
    const layout::Slot& entry = here.slots[s];
    const SlotHead head = BufferView::head_of(entry);
    if (head.type == Type::kNone || directory_index(hash_of(entry, head), depth) != index) return false;
    if (!adopt({.page = page, .slot = s}, entry, head)) return false;
    ++entries_of_page_[page];
    ++occupied_count_;
  }
  return true;
}

}  // namespace shmstate::internal
