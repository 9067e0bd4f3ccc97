#include "engine/table.h"

#include <algorithm>
#include <bit>

#include "layout/hash.h"
#include "protocol/crash_point.h"
#include "protocol/invariant.h"

namespace shmstate::internal {
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

SlotHead new_head(const HashedKey& key, const NewValue& value, const Attributes& attributes) {
  const bool is_number = value.type == Type::kInt64 || value.type == Type::kFloat64;
  const unsigned flags = (attributes.expiry_ns != 0 ? unsigned{SlotHead::kHasExpiry} : 0) |
                         (attributes.version ? unsigned{SlotHead::kHasVersion} : 0);
  SlotHead head(key.bytes.size(), is_number ? kWord : value.bytes.size(), value.type, flags, attributes.owner);
  head.place();
  return head;
}

std::uint32_t next_group(std::uint32_t group) { return group + 1 == kSegmentGroups ? 0 : group + 1; }

std::uint64_t version_of(const layout::Slot& slot, const SlotHead& head) {
  return head.has(SlotHead::kHasVersion) ? slot.words[head.version_word()] : 0;
}

}  // namespace

Table::Table(PageAllocator& pages, Feed& feed, const Geometry& geometry)
    : pages_(pages),
      heap_(pages),
      feed_(feed),
      timers_(geometry.pages_max()),
      owned_(geometry.ring_count_max),
      hash_seed_(geometry.hash_seed),
      pages_max_(geometry.pages_max()),
      entries_of_page_(geometry.pages_max(), 0) {}

// ---- mutations

std::optional<Reject> Table::set(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                 const Attributes& attributes) {
  Place at;
  SlotHead head;
  if (view(back).find(key, at, head) != BufferView::Found::kYes) return insert(back, key, value, attributes);
  if (attributes.version && *attributes.version <= version_of(slot(back, at), head)) {
    ++superseded_count_;
    return std::nullopt;
  }
  return replace(back, at, head, key, value, attributes);
}

std::optional<Reject> Table::combine(BackBuffer& back, Operation operation, const HashedKey& key,
                                     const NewValue& operand) {
  if (!is_operand(operand.type, operand.number)) return Reject::kOutOfRange;  // writers never push one
  Place at;
  SlotHead head;
  if (view(back).find(key, at, head) != BufferView::Found::kYes) return insert(back, key, operand, {});
  if (head.type == kTombstone) return replace(back, at, head, key, operand, {});
  if (head.type != operand.type) return Reject::kWrongType;
  std::uint64_t& word = slot(back, at).words[0];
  const std::optional<std::uint64_t> result = combine_bits(operation, operand.type, word, operand.number);
  if (!result) return Reject::kOutOfRange;
  if (*result == word) return std::nullopt;
  back.store(word, *result);
  changed(back, at);
  return std::nullopt;
}

std::optional<Reject> Table::erase(BackBuffer& back, const HashedKey& key, std::optional<std::uint64_t> version,
                                   std::uint64_t tombstone_expiry_ns) {
  Place at;
  SlotHead head;
  const bool found = view(back).find(key, at, head) == BufferView::Found::kYes;
  if (!version) {
    if (found && head.type == kTombstone) remove(back, at, head, key.hash);
    if (found && head.type != kTombstone) erase_at(back, at, head, EraseReason::kErase);
    return std::nullopt;
  }
  const NewValue nothing{.type = kTombstone, .number = 0, .bytes = {}};
  const Attributes remembered{.owner = 0, .expiry_ns = tombstone_expiry_ns, .version = version};
  if (!found) return insert(back, key, nothing, remembered);
  if (*version <= version_of(slot(back, at), head)) {
    ++superseded_count_;
    return std::nullopt;
  }
  const std::optional<Reject> reject = replace(back, at, head, key, nothing, remembered);
  if (!reject && head.type != kTombstone) feed_.erased(back, EraseReason::kErase, key.bytes);
  return reject;
}

bool Table::expire(BackBuffer& back, std::uint64_t now_ns, std::size_t budget) {
  const std::uint64_t before = entry_count_ + tombstone_count_;
  timers_.advance(now_ns, budget, [&](TimingWheel::Id id) {
    const Place at = TimingWheel::place_of(id);
    if (!is_occupied(back, at)) return;
    const SlotHead head = SlotHead::unpack(slot(back, at).head);
    if (!head.has(SlotHead::kHasExpiry)) return;
    const std::uint64_t expiry_ns = slot(back, at).words[head.expiry_word()];
    if (expiry_ns > now_ns) return timers_.ensure(id, expiry_ns);  // refreshed meanwhile
    if (head.type == kTombstone) return remove(back, at, head, hash_of(slot(back, at), head));
    crash_point(CrashPoint::kEntryExpired);
    ++expired_count_;
    erase_at(back, at, head, EraseReason::kExpiry);
  });
  return entry_count_ + tombstone_count_ != before;
}

bool Table::erase_owned(BackBuffer& back, std::uint32_t ring_index, std::size_t budget) {
  std::vector<Place>& places = owned_[ring_index].places;
  for (; budget > 0 && !places.empty(); --budget) {
    const Place at = places.back();
    places.pop_back();
    if (!is_occupied(back, at)) continue;
    const SlotHead head = SlotHead::unpack(slot(back, at).head);
    if (head.owner == ring_index + 1) erase_at(back, at, head, EraseReason::kOwnerGone);
  }
  return places.empty();
}

// ---- entries

std::optional<Reject> Table::insert(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                    const Attributes& attributes) {
  if (entry_count_ + tombstone_count_ >= entries_max_) return Reject::kLimit;
  const SlotHead head = new_head(key, value, attributes);
  std::uint64_t page = page_of(back, key.hash);
  while (entries_of_page_[page] >= kSegmentEntriesMax) {
    if (!split(back, page, key.hash)) return Reject::kNoMemory;
    page = page_of(back, key.hash);
  }
  Blocks blocks;
  if (!allocate_blocks(back, nullptr, {}, head, blocks)) return Reject::kNoMemory;
  const Place at{.page = page, .slot = claim_slot(back, page, key.hash)};
  crash_point(CrashPoint::kSlotClaimed);
  layout::Slot& here = slot(back, at);
  back.store(here.head, head.pack());
  write_key(back, here, head, key, blocks);
  crash_point(CrashPoint::kKeyWritten);
  write_value(back, here, head, value, blocks);
  crash_point(CrashPoint::kValueWritten);
  write_attributes(back, here, head, attributes);
  track(back, at, {}, head, attributes.expiry_ns);
  back.store(here.changed_epoch, std::uint64_t{0});  // whatever was here before
  if (head.type != kTombstone) changed(back, at);
  return std::nullopt;
}

std::optional<Reject> Table::replace(BackBuffer& back, const Place& place, const SlotHead& old, const HashedKey& key,
                                     const NewValue& value, const Attributes& attributes) {
  layout::Slot& here = slot(back, place);
  const SlotHead head = new_head(key, value, attributes);
  Blocks blocks;
  if (!allocate_blocks(back, &here, old, head, blocks)) return Reject::kNoMemory;
  release_blocks(here, old, blocks);
  if (head.pack() != here.head) {
    back.store(here.head, head.pack());
    const bool key_stays =
        head.key_word() == old.key_word() && head.has(SlotHead::kKeyInHeap) == old.has(SlotHead::kKeyInHeap);
    if (!key_stays) write_key(back, here, head, key, blocks);
  }
  write_value(back, here, head, value, blocks);
  write_attributes(back, here, head, attributes);
  track(back, place, old, head, attributes.expiry_ns);
  if (head.type != kTombstone) changed(back, place);
  return std::nullopt;
}

void Table::remove(BackBuffer& back, const Place& place, const SlotHead& head, std::uint64_t hash) {
  release_blocks(slot(back, place), head, {});
  track(back, place, head, {}, 0);
  free_slot(back, place, hash);
}

void Table::erase_at(BackBuffer& back, const Place& place, const SlotHead& head, EraseReason reason) {
  const layout::Slot& here = slot(back, place);
  const auto* const key = reinterpret_cast<const char*>(view(back).key_words(here, head));
  feed_.erased(back, reason, {key, head.key_bytes});
  crash_point(CrashPoint::kEntryErased);
  remove(back, place, head, hash_of(here, head));
}

void Table::changed(BackBuffer& back, const Place& place) {
  layout::Slot& here = slot(back, place);
  if (here.changed_epoch == back.epoch()) return;  // the feed has it
  back.store(here.changed_epoch, back.epoch());
  feed_.changed(back, place);
}

// Keeps counts, timers and owners true when a slot's entry changes from one head to another; no type: no entry.
void Table::track(BackBuffer& back, const Place& place, const SlotHead& old, const SlotHead& now,
                  std::uint64_t expiry_ns) {
  count(old, now);
  if (old.owner != now.owner) {
    if (old.owner != 0) disown(old.owner);
    if (now.owner != 0) own(back, now.owner, place);
  }
  if (now.has(SlotHead::kHasExpiry)) timers_.ensure(TimingWheel::id_of(place), expiry_ns);
}

void Table::count(const SlotHead& old, const SlotHead& now) {
  if (old.type != Type::kNone) {
    std::uint64_t& count = count_of(old.type);
    SHMSTATE_INVARIANT(count > 0);
    --count;
  }
  if (now.type != Type::kNone) ++count_of(now.type);
}

// Places that an entry left stay listed until they outnumber those that count.
void Table::own(BackBuffer& back, std::uint16_t owner, const Place& place) {
  Owned& owned = owned_[owner - 1U];
  owned.places.push_back(place);
  if (owned.places.size() <= 2 * ++owned.live_count + 64) return;
  std::sort(owned.places.begin(), owned.places.end());
  owned.places.erase(std::unique(owned.places.begin(), owned.places.end()), owned.places.end());
  std::erase_if(owned.places, [&](const Place& listed) {
    return !is_occupied(back, listed) || SlotHead::unpack(slot(back, listed).head).owner != owner;
  });
}

void Table::disown(std::uint16_t owner) {
  Owned& owned = owned_[owner - 1U];
  SHMSTATE_INVARIANT(owned.live_count > 0);
  --owned.live_count;
}

bool Table::allocate_blocks(BackBuffer& back, const layout::Slot* slot, const SlotHead& old, const SlotHead& wanted,
                            Blocks& blocks) {
  if (wanted.has(SlotHead::kValueInHeap)) {
    if (old.has(SlotHead::kValueInHeap) && heap_block_bytes(old.value_bytes) == heap_block_bytes(wanted.value_bytes)) {
      blocks.value = slot->words[0];
    } else {
      const std::optional<std::uint64_t> block = heap_.allocate(back, wanted.value_bytes);
      if (!block) return false;
      blocks.value = *block;
    }
  }
  if (wanted.has(SlotHead::kKeyInHeap)) {
    if (old.has(SlotHead::kKeyInHeap)) {
      blocks.key = slot->words[old.key_word()];
    } else {
      const std::optional<std::uint64_t> block = heap_.allocate(back, wanted.key_bytes);
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

void Table::write_key(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const HashedKey& key,
                      const Blocks& blocks) {
  std::uint64_t* const words = slot.words + head.key_word();
  if (!head.has(SlotHead::kKeyInHeap)) return back.store_bytes(words, key.bytes);
  back.store_bytes(back.at<std::uint64_t>(blocks.key), key.bytes);
  back.store(words[0], blocks.key);
  back.store(words[1], key.hash);
}

void Table::write_value(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const NewValue& value,
                        const Blocks& blocks) {
  if (value.type == Type::kInt64 || value.type == Type::kFloat64) {
    back.store(slot.words[0], value.number);
  } else if (head.has(SlotHead::kValueInHeap)) {
    back.store_bytes(back.at<std::uint64_t>(blocks.value), value.bytes);
    back.store(slot.words[0], blocks.value);
  } else {
    back.store_bytes(slot.words, value.bytes);
  }
}

void Table::write_attributes(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const Attributes& attributes) {
  if (head.has(SlotHead::kHasExpiry)) back.store(slot.words[head.expiry_word()], attributes.expiry_ns);
  if (head.has(SlotHead::kHasVersion)) back.store(slot.words[head.version_word()], *attributes.version);
}

std::uint64_t Table::hash_of(const layout::Slot& slot, const SlotHead& head) const noexcept {
  const std::uint64_t* const words = slot.words + head.key_word();
  if (head.has(SlotHead::kKeyInHeap)) return words[1];
  return hash_key({reinterpret_cast<const char*>(words), head.key_bytes}, hash_seed_);
}

// ---- slots

void Table::set_tag(BackBuffer& back, std::uint64_t page, std::uint32_t group, std::size_t index, std::uint8_t tag) {
  auto* const words = reinterpret_cast<std::uint64_t*>(&segment(back, page).groups[group]);
  std::uint64_t& word = words[index / kWord];
  const auto shift = static_cast<unsigned>(index % kWord * 8);
  back.store(word, (word & ~(std::uint64_t{0xff} << shift)) | std::uint64_t{tag} << shift);
}

// Precondition: the segment has a free slot.
std::uint32_t Table::claim_slot(BackBuffer& back, std::uint64_t page, std::uint64_t hash) {
  std::uint32_t group = home_group(hash);
  for (;; group = next_group(group)) {
    const TagWords tags(segment(back, page).groups[group]);
    const std::uint32_t free = tags.match(0);
    if (free != 0) {
      const int index = std::countr_zero(free);
      set_tag(back, page, group, static_cast<std::size_t>(index), tag_of(hash));
      ++entries_of_page_[page];
      ++occupied_count_;
      return static_cast<std::uint32_t>(group * kGroupSlots) + static_cast<std::uint32_t>(index);
    }
    if (tags.overflow_count() != kOverflowSticks) {
      set_tag(back, page, group, kOverflowIndex, static_cast<std::uint8_t>(tags.overflow_count() + 1));
    }
  }
}

void Table::free_slot(BackBuffer& back, const Place& place, std::uint64_t hash) {
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
}

// ---- directory and segments

bool Table::create(BackBuffer& back) {
  const std::optional<std::uint64_t> directory = pages_.allocate(back, directory_pages(0));
  const std::optional<std::uint64_t> first = directory ? pages_.allocate(back, 1) : std::nullopt;
  if (!first) return false;
  clear_segment(back, *first, 0);
  back.store(back.header().directory, DirectoryWord{.page = *directory, .depth = 0}.pack());
  set_directory_entry(back, 0, *first);
  segment_count_ = 1;
  return true;
}

void Table::clear_segment(BackBuffer& back, std::uint64_t page, unsigned depth) {
  layout::Segment& fresh = segment(back, page);
  back.store(fresh.depth, std::uint64_t{depth});
  auto* const tags = reinterpret_cast<std::uint64_t*>(fresh.groups);
  for (std::size_t i = 0; i < sizeof fresh.groups / kWord; ++i) back.store(tags[i], std::uint64_t{0});
  for (layout::Slot& free : fresh.slots) {  // the page may have been something else
    if (free.head != 0) back.store(free.head, std::uint64_t{0});
  }
  entries_of_page_[page] = 0;
}

void Table::set_directory_entry(BackBuffer& back, std::uint32_t index, std::uint64_t page) {
  auto* const words = back.at<std::uint64_t>(directory_word(back).page * kPageBytes);
  std::uint64_t& word = words[DirectoryEntry::word_of(index)];
  back.store(word, DirectoryEntry::with_page(word, index, page));
}

bool Table::split(BackBuffer& back, std::uint64_t page, std::uint64_t hash) {
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
void Table::for_each_hash(BackBuffer& back, std::uint64_t page, Visit&& visit) {
  for (std::uint32_t group = 0; group < kSegmentGroups; ++group) {
    std::uint32_t occupied = TagWords(segment(back, page).groups[group]).occupied();
    for (; occupied != 0; occupied &= occupied - 1) {
      const Place at{.page = page, .slot = BufferView::first_slot(group, occupied)};
      visit(at, hash_of(slot(back, at), SlotHead::unpack(slot(back, at).head)));
    }
  }
}

// What stays had to make way for what goes: it comes closer to where its search begins.
void Table::move_half(BackBuffer& back, std::uint64_t from, std::uint64_t to, unsigned bit) {
  for_each_hash(back, from, [&](const Place& at, std::uint64_t hash) {
    if ((hash >> bit & 1) != 0) move(back, at, hash, to);
  });
  for_each_hash(back, from, [&](const Place& at, std::uint64_t hash) {
    const std::uint32_t home = home_group(hash);
    if (at.slot / kGroupSlots != home && TagWords(segment(back, from).groups[home]).match(0) != 0)
      move(back, at, hash, from);
  });
}

void Table::move(BackBuffer& back, const Place& old, std::uint64_t hash, std::uint64_t to) {
  const layout::Slot& source = slot(back, old);
  const Place moved{.page = to, .slot = claim_slot(back, to, hash)};
  layout::Slot& target = slot(back, moved);
  back.store(target.head, source.head);
  back.store(target.changed_epoch, source.changed_epoch);
  for (std::size_t i = 0; i < kSlotWords; ++i) back.store(target.words[i], source.words[i]);
  feed_.moved(back, moved);
  const SlotHead head = SlotHead::unpack(target.head);
  if (head.owner != 0) {
    disown(head.owner);
    own(back, head.owner, moved);
  }
  if (head.has(SlotHead::kHasExpiry)) timers_.ensure(TimingWheel::id_of(moved), target.words[head.expiry_word()]);
  crash_point(CrashPoint::kEntryMoved);
  free_slot(back, old, hash);
}

// Entries are indexed by low bits of the hash, so the second half of the doubled directory repeats the first.
bool Table::double_directory(BackBuffer& back) {
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

bool Table::resume(const std::byte* buffer) {
  const BufferView old(buffer, pages_max_);
  const BufferView::Directory directory = old.directory(pages_.committed());
  if (directory.words == nullptr) return false;
  const unsigned depth = directory.depth();
  if (!pages_.adopt(old.directory_word().page, directory_pages(depth))) return false;
  for (std::uint32_t i = 0; i <= directory.mask; ++i) {
    const std::uint64_t page = directory.page_of(i);
    if (!BufferView::is_segment_page(page, pages_.committed())) return false;
    const std::uint64_t segment_depth = old.segment(page).depth;
    if (segment_depth > depth) return false;
    const std::uint32_t canonical = directory_index(i, static_cast<unsigned>(segment_depth));
    if (canonical == i ? !adopt_segment(old, page, i, static_cast<unsigned>(segment_depth))
                       : directory.page_of(canonical) != page) {
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
    if (head.owner > owned_.size()) return false;
    ++entries_of_page_[page];
    ++occupied_count_;
    count({}, head);
    const Place place{.page = page, .slot = s};
    if (head.owner != 0) {
      owned_[head.owner - 1U].places.push_back(place);
      ++owned_[head.owner - 1U].live_count;
    }
    if (head.has(SlotHead::kHasExpiry)) timers_.ensure(TimingWheel::id_of(place), entry.words[head.expiry_word()]);
  }
  return true;
}

}  // namespace shmstate::internal
