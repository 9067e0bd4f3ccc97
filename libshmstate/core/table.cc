#include "core/table.h"

#include <bit>
#include <cassert>

#include "core/hash.h"

namespace shmstate {
namespace {

using layout::kGroupSlots;
using layout::kPageBytes;
using layout::kSegmentGroups;
using layout::Reject;

constexpr std::size_t kOverflowIndex = kGroupSlots;  // the last byte of a group's 16
constexpr std::uint8_t kOverflowSticks = 255;

std::uint64_t directory_pages(unsigned depth) {
  return ((std::uint64_t{sizeof(std::uint32_t)} << depth) + kPageBytes - 1) / kPageBytes;
}

std::uint32_t value_bytes_of(const NewValue& value) {
  return static_cast<std::uint32_t>(value.type == Type::kBytes ? value.bytes.size() : kWord);
}

std::uint32_t next_group(std::uint32_t group) { return group + 1 == kSegmentGroups ? 0 : group + 1; }

}  // namespace

Table::Table(Replicas& replicas, PageAllocator& pages, Feed& feed, std::uint64_t hash_seed, std::uint64_t pages_max)
    : replicas_(replicas),
      pages_(pages),
      heap_(pages),
      feed_(feed),
      hash_seed_(hash_seed),
      pages_max_(pages_max),
      entries_of_page_(pages_max, 0) {}

layout::Segment& Table::segment(std::uint64_t page) const noexcept {
  return *replicas_.at<layout::Segment>(page * kPageBytes);
}
layout::Slot& Table::slot(const Location& location) const noexcept {
  return segment(location.page).slots[location.slot];
}

// ---- mutations

std::optional<Reject> Table::set(const Key& key, const NewValue& value, std::uint64_t epoch) {
  Location at;
  SlotHead head;
  if (view().find(key, at, head) != BufferView::Found::kYes) return insert(key, value, epoch);
  return replace(at, head, key, value, epoch);
}

std::optional<Reject> Table::add(const Key& key, const NewValue& delta, std::uint64_t epoch) {
  Location at;
  SlotHead head;
  if (view().find(key, at, head) != BufferView::Found::kYes) return insert(key, delta, epoch);
  if (head.type != delta.type) return Reject::kWrongType;
  std::uint64_t& word = slot(at).words[0];
  std::uint64_t sum = 0;
  if (delta.type == Type::kInt64) {
    std::int64_t total = 0;
    if (__builtin_add_overflow(static_cast<std::int64_t>(word), static_cast<std::int64_t>(delta.number), &total)) {
      return Reject::kOutOfRange;
    }
    sum = static_cast<std::uint64_t>(total);
  } else {
    sum = std::bit_cast<std::uint64_t>(std::bit_cast<double>(word) + std::bit_cast<double>(delta.number));
  }
  replicas_.store(word, sum);
  changed(at, epoch);
  return std::nullopt;
}

void Table::erase(const Key& key, std::uint64_t epoch, EraseReason reason) {
  Location at;
  SlotHead head;
  if (view().find(key, at, head) != BufferView::Found::kYes) return;
  feed_.erased(epoch, reason, key.bytes);
  release_blocks(slot(at), head, {});
  free_slot(at, key.hash);
  --entry_count_;
}

std::optional<Reject> Table::insert(const Key& key, const NewValue& value, std::uint64_t epoch) {
  SlotHead head{.key_bytes = static_cast<std::uint16_t>(key.bytes.size()),
                .value_bytes = value_bytes_of(value),
                .type = value.type};
  head.place();
  std::uint64_t page = page_of(key.hash);
  while (entries_of_page_[page] >= kSegmentEntriesMax) {
    if (!split(page, key.hash)) return Reject::kNoMemory;
    page = page_of(key.hash);
  }
  Blocks blocks;
  if (!allocate_blocks(nullptr, {}, head, blocks)) return Reject::kNoMemory;
  const Location at{.page = page, .slot = claim_slot(page, key.hash)};
  write_entry(slot(at), head, key, value, blocks);
  changed(at, epoch);
  ++entry_count_;
  return std::nullopt;
}

std::optional<Reject> Table::replace(const Location& location, const SlotHead& old, const Key& key,
                                     const NewValue& value, std::uint64_t epoch) {
  layout::Slot& here = slot(location);
  SlotHead wanted = old;
  wanted.type = value.type;
  wanted.value_bytes = value_bytes_of(value);
  wanted.place();
  Blocks blocks;
  if (!allocate_blocks(&here, old, wanted, blocks)) return Reject::kNoMemory;
  release_blocks(here, old, blocks);
  if (wanted.flags == old.flags && wanted.key_word() == old.key_word()) {  // the key stays where it is
    if (wanted.pack() != here.head) replicas_.store(here.head, wanted.pack());
    write_value(here, wanted, value, blocks);
  } else {
    write_entry(here, wanted, key, value, blocks);
  }
  changed(location, epoch);
  return std::nullopt;
}

void Table::changed(const Location& location, std::uint64_t epoch) {
  layout::Slot& here = slot(location);
  if (here.changed_epoch == epoch) return;  // the feed has it
  replicas_.store(here.changed_epoch, epoch);
  feed_.changed(epoch, location.page, location.slot);
}

// ---- entries

bool Table::allocate_blocks(const layout::Slot* slot, const SlotHead& old, const SlotHead& wanted, Blocks& blocks) {
  if (wanted.has(SlotHead::kValueInHeap)) {
    if (old.has(SlotHead::kValueInHeap) &&
        heap_block_bytes(old.value_bytes) == heap_block_bytes(wanted.value_bytes)) {
      blocks.value = slot->words[0];
    } else {
      const std::optional<std::uint64_t> block = heap_.allocate(wanted.value_bytes);
      if (!block) return false;
      blocks.value = *block;
    }
  }
  if (wanted.has(SlotHead::kKeyInHeap)) {
    if (old.has(SlotHead::kKeyInHeap)) {
      blocks.key = slot->words[old.key_word()];
    } else {
      const std::optional<std::uint64_t> block = heap_.allocate(wanted.key_bytes);
      if (!block) {
        const bool is_new = slot == nullptr || !old.has(SlotHead::kValueInHeap) || blocks.value != slot->words[0];
        if (blocks.value != 0 && is_new) heap_.release(blocks.value, wanted.value_bytes);
        return false;
      }
      blocks.key = *block;
    }
  }
  return true;
}

void Table::release_blocks(const layout::Slot& slot, const SlotHead& head, const Blocks& keep) {
  if (head.has(SlotHead::kValueInHeap) && slot.words[0] != keep.value) heap_.release(slot.words[0], head.value_bytes);
  if (head.has(SlotHead::kKeyInHeap) && slot.words[head.key_word()] != keep.key) {
    heap_.release(slot.words[head.key_word()], head.key_bytes);
  }
}

void Table::write_entry(layout::Slot& slot, const SlotHead& head, const Key& key, const NewValue& value,
                        const Blocks& blocks) {
  replicas_.store(slot.head, head.pack());
  std::uint64_t* const key_word = slot.words + head.key_word();
  if (head.has(SlotHead::kKeyInHeap)) {
    replicas_.store_bytes(replicas_.at<std::uint64_t>(blocks.key), key.bytes);
    replicas_.store(key_word[0], blocks.key);
    replicas_.store(key_word[1], key.hash);
  } else {
    replicas_.store_bytes(key_word, key.bytes);
  }
  write_value(slot, head, value, blocks);
}

void Table::write_value(layout::Slot& slot, const SlotHead& head, const NewValue& value, const Blocks& blocks) {
  if (value.type != Type::kBytes) {
    replicas_.store(slot.words[0], value.number);
  } else if (head.has(SlotHead::kValueInHeap)) {
    replicas_.store_bytes(replicas_.at<std::uint64_t>(blocks.value), value.bytes);
    replicas_.store(slot.words[0], blocks.value);
  } else {
    replicas_.store_bytes(slot.words, value.bytes);
  }
}

std::uint64_t Table::hash_of(const layout::Slot& slot, const SlotHead& head) const noexcept {
  const std::uint64_t* const words = slot.words + head.key_word();
  if (head.has(SlotHead::kKeyInHeap)) return words[1];
  return hash_key({reinterpret_cast<const char*>(words), head.key_bytes}, hash_seed_);
}

// ---- slots

void Table::set_tag(std::uint64_t page, std::uint32_t group, std::size_t index, std::uint8_t tag) {
  auto* const words = reinterpret_cast<std::uint64_t*>(&segment(page).groups[group]);
  std::uint64_t& word = words[index / kWord];
  const unsigned shift = static_cast<unsigned>(index % kWord * 8);
  replicas_.store(word, (word & ~(std::uint64_t{0xff} << shift)) | std::uint64_t{tag} << shift);
}

// Precondition: the segment has a free slot.
std::uint32_t Table::claim_slot(std::uint64_t page, std::uint64_t hash) {
  std::uint32_t group = home_group(hash);
  for (;; group = next_group(group)) {
    const TagWords tags(segment(page).groups[group]);
    const std::uint32_t free = tags.match(0);
    if (free != 0) {
      const int index = std::countr_zero(free);
      set_tag(page, group, static_cast<std::size_t>(index), tag_of(hash));
      ++entries_of_page_[page];
      return static_cast<std::uint32_t>(group * kGroupSlots) + static_cast<std::uint32_t>(index);
    }
    if (tags.overflow_count() != kOverflowSticks) {
      set_tag(page, group, kOverflowIndex, static_cast<std::uint8_t>(tags.overflow_count() + 1));
    }
  }
}

void Table::free_slot(const Location& location, std::uint64_t hash) {
  const auto last = static_cast<std::uint32_t>(location.slot / kGroupSlots);
  for (std::uint32_t group = home_group(hash); group != last; group = next_group(group)) {
    const std::uint8_t count = segment(location.page).groups[group].overflow_count;
    if (count != kOverflowSticks) set_tag(location.page, group, kOverflowIndex, static_cast<std::uint8_t>(count - 1));
  }
  set_tag(location.page, last, location.slot % kGroupSlots, 0);
  layout::Slot& freed = slot(location);
  replicas_.store(freed.head, std::uint64_t{0});
  replicas_.store(freed.changed_epoch, std::uint64_t{0});  // so that the next entry here enters the feed
  --entries_of_page_[location.page];
}

// ---- directory and segments

bool Table::create() {
  const std::optional<std::uint64_t> directory = pages_.allocate(directory_pages(0));
  const std::optional<std::uint64_t> first = directory ? pages_.allocate(1) : std::nullopt;
  if (!first) return false;
  clear_segment(*first, 0);
  replicas_.store(replicas_.header().directory, *directory << 8);
  set_directory_entry(0, *first);
  segment_count_ = 1;
  return true;
}

void Table::clear_segment(std::uint64_t page, unsigned depth) {
  layout::Segment& fresh = segment(page);
  replicas_.store(fresh.depth, std::uint64_t{depth});
  auto* const tags = reinterpret_cast<std::uint64_t*>(fresh.groups);
  for (std::size_t i = 0; i < sizeof fresh.groups / kWord; ++i) replicas_.store(tags[i], std::uint64_t{0});
  entries_of_page_[page] = 0;
}

void Table::set_directory_entry(std::uint32_t index, std::uint64_t page) {
  const std::uint64_t directory = replicas_.header().directory >> 8;
  auto& word = replicas_.at<std::uint64_t>(directory * kPageBytes)[index / 2];
  const unsigned shift = index % 2 * 32;
  replicas_.store(word, (word & ~(std::uint64_t{0xffff'ffff} << shift)) | page << shift);
}

std::uint64_t Table::page_of(std::uint64_t hash) const noexcept {
  const BufferView buffer = view();
  const auto page = buffer.segment_page(directory_index(hash, buffer.directory_depth()), pages_.committed());
  assert(page);
  return *page;
}

bool Table::split(std::uint64_t page, std::uint64_t hash) {
  const auto depth = static_cast<unsigned>(segment(page).depth);
  if (depth == view().directory_depth() && !double_directory()) return false;
  const std::optional<std::uint64_t> added = pages_.allocate(1);
  if (!added) return false;
  clear_segment(*added, depth + 1);
  replicas_.store(segment(page).depth, std::uint64_t{depth} + 1);
  move_half(page, *added, depth);
  const std::uint32_t step = 1U << (depth + 1);
  const std::uint32_t first = directory_index(hash, depth) | 1U << depth;
  const std::uint32_t length = 1U << view().directory_depth();
  for (std::uint32_t i = first; i < length; i += step) set_directory_entry(i, *added);
  ++segment_count_;
  ++split_count_;
  return true;
}

void Table::move_half(std::uint64_t from, std::uint64_t to, unsigned bit) {
  for (std::uint32_t group = 0; group < kSegmentGroups; ++group) {
    std::uint32_t occupied = TagWords(segment(from).groups[group]).occupied();
    for (; occupied != 0; occupied &= occupied - 1) {
      const Location old{.page = from,
                         .slot = static_cast<std::uint32_t>(group * kGroupSlots) +
                                 static_cast<std::uint32_t>(std::countr_zero(occupied))};
      layout::Slot& source = slot(old);
      const std::uint64_t hash = hash_of(source, SlotHead::unpack(source.head));
      if ((hash >> bit & 1) == 0) continue;
      const Location moved{.page = to, .slot = claim_slot(to, hash)};
      layout::Slot& target = slot(moved);
      replicas_.store(target.head, source.head);
      replicas_.store(target.changed_epoch, source.changed_epoch);
      for (std::size_t i = 0; i < kSlotWords; ++i) replicas_.store(target.words[i], source.words[i]);
      feed_.moved(replicas_.header().epoch, moved.page, moved.slot);
      free_slot(old, hash);
    }
  }
}

// Entries are indexed by low bits of the hash, so the second half of the doubled directory repeats the first.
bool Table::double_directory() {
  const unsigned depth = view().directory_depth();
  if (depth == layout::kDirectoryLog2Max) return false;
  const std::uint64_t old_page = replicas_.header().directory >> 8;
  std::uint64_t page = old_page;
  if (directory_pages(depth + 1) != directory_pages(depth)) {
    const std::optional<std::uint64_t> larger = pages_.allocate(directory_pages(depth + 1));
    if (!larger) return false;
    page = *larger;
  }
  const auto* const from = replicas_.at<std::uint64_t>(old_page * kPageBytes);
  auto* const to = replicas_.at<std::uint64_t>(page * kPageBytes);
  if (depth == 0) {
    replicas_.store(to[0], from[0] | from[0] << 32);
  } else {
    const std::size_t words = std::size_t{1} << (depth - 1);
    for (std::size_t i = 0; i < words; ++i) {
      if (page != old_page) replicas_.store(to[i], from[i]);
      replicas_.store(to[words + i], from[i]);
    }
  }
  replicas_.store(replicas_.header().directory, page << 8 | (depth + 1));
  if (page != old_page) pages_.release(old_page, directory_pages(depth));
  return true;
}

// ---- hints to the caches

void Table::prefetch_tags(std::uint64_t hash) const noexcept {
  __builtin_prefetch(&segment(page_of(hash)).groups[home_group(hash)]);
}

void Table::prefetch_slot(std::uint64_t hash) const noexcept {
  const layout::Segment& here = segment(page_of(hash));
  const std::uint32_t group = home_group(hash);
  for (std::uint32_t match = TagWords(here.groups[group]).match(tag_of(hash)); match != 0; match &= match - 1) {
    __builtin_prefetch(&here.slots[group * kGroupSlots + static_cast<std::size_t>(std::countr_zero(match))], 1);
  }
}

// ---- taking over

bool Table::resume(const std::byte* buffer) {
  const BufferView old(buffer, pages_max_);
  const unsigned depth = old.directory_depth();
  const std::uint64_t directory = old.header_word(offsetof(layout::BufferHeader, directory)) >> 8;
  if (depth > layout::kDirectoryLog2Max || !pages_.adopt(directory, directory_pages(depth))) return false;
  for (std::uint32_t i = 0; i < 1U << depth; ++i) {
    const std::optional<std::uint64_t> page = old.segment_page(i, pages_.committed());
    if (!page) return false;
    const std::uint64_t segment_depth = old.segment(*page).depth;
    if (segment_depth > depth) return false;
    const std::uint32_t canonical = directory_index(i, static_cast<unsigned>(segment_depth));
    if (canonical == i ? !adopt_segment(old, *page, i, static_cast<unsigned>(segment_depth))
                       : old.segment_page(canonical, pages_.committed()) != page) {
      return false;
    }
  }
  return entry_count_ == old.entry_count();
}

bool Table::adopt_segment(const BufferView& buffer, std::uint64_t page, std::uint32_t index, unsigned depth) {
  if (!pages_.adopt(page, 1)) return false;
  ++segment_count_;
  const layout::Segment& here = buffer.segment(page);
  for (std::uint32_t s = 0; s < layout::kSegmentSlots; ++s) {
    if (here.groups[s / kGroupSlots].tags[s % kGroupSlots] == 0) continue;
    const layout::Slot& entry = here.slots[s];
    const SlotHead head = BufferView::head_of(entry);
    if (head.type == Type::kNone || directory_index(hash_of(entry, head), depth) != index) return false;
    if (head.has(SlotHead::kValueInHeap) && !heap_.adopt(entry.words[0], head.value_bytes)) return false;
    if (head.has(SlotHead::kKeyInHeap) && !heap_.adopt(entry.words[head.key_word()], head.key_bytes)) return false;
    ++entries_of_page_[page];
    ++entry_count_;
  }
  return true;
}

}  // namespace shmstate
