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

Table::Table(Replicas& replicas, PageAllocator& pages, Feed& feed, const Geometry& geometry)
    : replicas_(replicas),
      pages_(pages),
      heap_(pages),
      feed_(feed),
      timers_(geometry.pages_max()),
      owned_(geometry.ring_count_max),
      hash_seed_(geometry.hash_seed),
      pages_max_(geometry.pages_max()),
      entries_of_page_(geometry.pages_max(), 0) {}

// ---- mutations

std::optional<Reject> Table::set(const HashedKey& key, const NewValue& value, const Attributes& attributes,
                                 std::uint64_t epoch) {
  Place at;
  SlotHead head;
  if (view().find(key, at, head) != BufferView::Found::kYes) return insert(key, value, attributes, epoch);
  if (attributes.version && *attributes.version <= version_of(slot(at), head)) {
    ++superseded_count_;
    return std::nullopt;
  }
  return replace(at, head, key, value, attributes, epoch);
}

std::optional<Reject> Table::combine(Operation operation, const HashedKey& key, const NewValue& operand,
                                     std::uint64_t epoch) {
  if (!is_operand(operand.type, operand.number)) return Reject::kOutOfRange;  // writers never push one
  Place at;
  SlotHead head;
  if (view().find(key, at, head) != BufferView::Found::kYes) return insert(key, operand, {}, epoch);
  if (head.type == kTombstone) return replace(at, head, key, operand, {}, epoch);
  if (head.type != operand.type) return Reject::kWrongType;
  std::uint64_t& word = slot(at).words[0];
  const std::optional<std::uint64_t> result = combine_bits(operation, operand.type, word, operand.number);
  if (!result) return Reject::kOutOfRange;
  if (*result == word) return std::nullopt;
  replicas_.store(word, *result);
  changed(at, epoch);
  return std::nullopt;
}

std::optional<Reject> Table::erase(const HashedKey& key, std::optional<std::uint64_t> version,
                                   std::uint64_t tombstone_expiry_ns, std::uint64_t epoch) {
  Place at;
  SlotHead head;
  const bool found = view().find(key, at, head) == BufferView::Found::kYes;
  if (!version) {
    if (found && head.type == kTombstone) remove(at, head, key.hash);
    if (found && head.type != kTombstone) erase_at(at, head, EraseReason::kErase, epoch);
    return std::nullopt;
  }
  const NewValue nothing{.type = kTombstone, .number = 0, .bytes = {}};
  const Attributes remembered{.owner = 0, .expiry_ns = tombstone_expiry_ns, .version = version};
  if (!found) return insert(key, nothing, remembered, epoch);
  if (*version <= version_of(slot(at), head)) {
    ++superseded_count_;
    return std::nullopt;
  }
  const std::optional<Reject> reject = replace(at, head, key, nothing, remembered, epoch);
  if (!reject && head.type != kTombstone) feed_.erased(epoch, EraseReason::kErase, key.bytes);
  return reject;
}

bool Table::expire(std::uint64_t now_ns, std::size_t budget, std::uint64_t epoch) {
  const std::uint64_t before = entry_count_ + tombstone_count_;
  timers_.advance(now_ns, budget, [&](TimingWheel::Id id) {
    const Place at = TimingWheel::place_of(id);
    if (!is_occupied(at)) return;
    const SlotHead head = SlotHead::unpack(slot(at).head);
    if (!head.has(SlotHead::kHasExpiry)) return;
    const std::uint64_t expiry_ns = slot(at).words[head.expiry_word()];
    if (expiry_ns > now_ns) return timers_.ensure(id, expiry_ns);  // refreshed meanwhile
    if (head.type == kTombstone) return remove(at, head, hash_of(slot(at), head));
    crash_point(CrashPoint::kEntryExpired);
    ++expired_count_;
    erase_at(at, head, EraseReason::kExpiry, epoch);
  });
  return entry_count_ + tombstone_count_ != before;
}

bool Table::erase_owned(std::uint32_t ring_index, std::size_t budget, std::uint64_t epoch) {
  std::vector<Place>& places = owned_[ring_index].places;
  for (; budget > 0 && !places.empty(); --budget) {
    const Place at = places.back();
    places.pop_back();
    if (!is_occupied(at)) continue;
    const SlotHead head = SlotHead::unpack(slot(at).head);
    if (head.owner == ring_index + 1) erase_at(at, head, EraseReason::kOwnerGone, epoch);
  }
  return places.empty();
}

// ---- entries

std::optional<Reject> Table::insert(const HashedKey& key, const NewValue& value, const Attributes& attributes,
                                    std::uint64_t epoch) {
  if (entry_count_ + tombstone_count_ >= entries_max_) return Reject::kLimit;
  const SlotHead head = new_head(key, value, attributes);
  std::uint64_t page = page_of(key.hash);
  while (entries_of_page_[page] >= kSegmentEntriesMax) {
    if (!split(page, key.hash)) return Reject::kNoMemory;
    page = page_of(key.hash);
  }
  Blocks blocks;
  if (!allocate_blocks(nullptr, {}, head, blocks)) return Reject::kNoMemory;
  const Place at{.page = page, .slot = claim_slot(page, key.hash)};
  crash_point(CrashPoint::kSlotClaimed);
  layout::Slot& here = slot(at);
  replicas_.store(here.head, head.pack());
  write_key(here, head, key, blocks);
  crash_point(CrashPoint::kKeyWritten);
  write_value(here, head, value, blocks);
  crash_point(CrashPoint::kValueWritten);
  write_attributes(here, head, attributes);
  track(at, {}, head, attributes.expiry_ns);
  replicas_.store(here.changed_epoch, std::uint64_t{0});  // whatever was here before
  if (head.type != kTombstone) changed(at, epoch);
  return std::nullopt;
}

std::optional<Reject> Table::replace(const Place& place, const SlotHead& old, const HashedKey& key,
                                     const NewValue& value, const Attributes& attributes, std::uint64_t epoch) {
  layout::Slot& here = slot(place);
  const SlotHead head = new_head(key, value, attributes);
  Blocks blocks;
  if (!allocate_blocks(&here, old, head, blocks)) return Reject::kNoMemory;
  release_blocks(here, old, blocks);
  if (head.pack() != here.head) {
    replicas_.store(here.head, head.pack());
    const bool key_stays =
        head.key_word() == old.key_word() && head.has(SlotHead::kKeyInHeap) == old.has(SlotHead::kKeyInHeap);
    if (!key_stays) write_key(here, head, key, blocks);
  }
  write_value(here, head, value, blocks);
  write_attributes(here, head, attributes);
  track(place, old, head, attributes.expiry_ns);
  if (head.type != kTombstone) changed(place, epoch);
  return std::nullopt;
}

void Table::remove(const Place& place, const SlotHead& head, std::uint64_t hash) {
  release_blocks(slot(place), head, {});
  track(place, head, {}, 0);
  free_slot(place, hash);
}

void Table::erase_at(const Place& place, const SlotHead& head, EraseReason reason, std::uint64_t epoch) {
  const layout::Slot& here = slot(place);
  const auto* const key = reinterpret_cast<const char*>(view().key_words(here, head));
  feed_.erased(epoch, reason, {key, head.key_bytes});
  crash_point(CrashPoint::kEntryErased);
  remove(place, head, hash_of(here, head));
}

void Table::changed(const Place& place, std::uint64_t epoch) {
  layout::Slot& here = slot(place);
  if (here.changed_epoch == epoch) return;  // the feed has it
  replicas_.store(here.changed_epoch, epoch);
  feed_.changed(epoch, place);
}

// Keeps counts, timers and owners true when a slot's entry changes from one head to another; no type: no entry.
void Table::track(const Place& place, const SlotHead& old, const SlotHead& now, std::uint64_t expiry_ns) {
  if (old.type != Type::kNone) {
    std::uint64_t& count = count_of(old.type);
    SHMSTATE_INVARIANT(count > 0);
    --count;
  }
  if (now.type != Type::kNone) ++count_of(now.type);
  if (old.owner != now.owner) {
    if (old.owner != 0) disown(old.owner);
    if (now.owner != 0) own(now.owner, place);
  }
  if (now.has(SlotHead::kHasExpiry)) timers_.ensure(TimingWheel::id_of(place), expiry_ns);
}

// Places that an entry left stay listed until they outnumber those that count.
void Table::own(std::uint16_t owner, const Place& place) {
  Owned& owned = owned_[owner - 1U];
  owned.places.push_back(place);
  if (owned.places.size() <= 2 * ++owned.live_count + 64) return;
  std::sort(owned.places.begin(), owned.places.end());
  owned.places.erase(std::unique(owned.places.begin(), owned.places.end()), owned.places.end());
  std::erase_if(owned.places, [&](const Place& place) {
    return !is_occupied(place) || SlotHead::unpack(slot(place).head).owner != owner;
  });
}

void Table::disown(std::uint16_t owner) {
  Owned& owned = owned_[owner - 1U];
  SHMSTATE_INVARIANT(owned.live_count > 0);
  --owned.live_count;
}

bool Table::allocate_blocks(const layout::Slot* slot, const SlotHead& old, const SlotHead& wanted, Blocks& blocks) {
  if (wanted.has(SlotHead::kValueInHeap)) {
    if (old.has(SlotHead::kValueInHeap) && heap_block_bytes(old.value_bytes) == heap_block_bytes(wanted.value_bytes)) {
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

void Table::write_key(layout::Slot& slot, const SlotHead& head, const HashedKey& key, const Blocks& blocks) {
  std::uint64_t* const words = slot.words + head.key_word();
  if (!head.has(SlotHead::kKeyInHeap)) return replicas_.store_bytes(words, key.bytes);
  replicas_.store_bytes(replicas_.at<std::uint64_t>(blocks.key), key.bytes);
  replicas_.store(words[0], blocks.key);
  replicas_.store(words[1], key.hash);
}

void Table::write_value(layout::Slot& slot, const SlotHead& head, const NewValue& value, const Blocks& blocks) {
  if (value.type == Type::kInt64 || value.type == Type::kFloat64) {
    replicas_.store(slot.words[0], value.number);
  } else if (head.has(SlotHead::kValueInHeap)) {
    replicas_.store_bytes(replicas_.at<std::uint64_t>(blocks.value), value.bytes);
    replicas_.store(slot.words[0], blocks.value);
  } else {
    replicas_.store_bytes(slot.words, value.bytes);
  }
}

void Table::write_attributes(layout::Slot& slot, const SlotHead& head, const Attributes& attributes) {
  if (head.has(SlotHead::kHasExpiry)) replicas_.store(slot.words[head.expiry_word()], attributes.expiry_ns);
  if (head.has(SlotHead::kHasVersion)) replicas_.store(slot.words[head.version_word()], *attributes.version);
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
  const auto shift = static_cast<unsigned>(index % kWord * 8);
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
      ++occupied_count_;
      return static_cast<std::uint32_t>(group * kGroupSlots) + static_cast<std::uint32_t>(index);
    }
    if (tags.overflow_count() != kOverflowSticks) {
      set_tag(page, group, kOverflowIndex, static_cast<std::uint8_t>(tags.overflow_count() + 1));
    }
  }
}

void Table::free_slot(const Place& place, std::uint64_t hash) {
  const auto last = static_cast<std::uint32_t>(place.slot / kGroupSlots);
  for (std::uint32_t group = home_group(hash); group != last; group = next_group(group)) {
    const std::uint8_t count = segment(place.page).groups[group].overflow_count;
    if (count != kOverflowSticks) set_tag(place.page, group, kOverflowIndex, static_cast<std::uint8_t>(count - 1));
  }
  set_tag(place.page, last, place.slot % kGroupSlots, 0);
  layout::Slot& freed = slot(place);
  replicas_.store(freed.head, std::uint64_t{0});
  SHMSTATE_INVARIANT(entries_of_page_[place.page] > 0 && occupied_count_ > 0);
  --entries_of_page_[place.page];
  --occupied_count_;
}

// ---- directory and segments

bool Table::create() {
  const std::optional<std::uint64_t> directory = pages_.allocate(directory_pages(0));
  const std::optional<std::uint64_t> first = directory ? pages_.allocate(1) : std::nullopt;
  if (!first) return false;
  clear_segment(*first, 0);
  replicas_.store(replicas_.header().directory, DirectoryWord{.page = *directory, .depth = 0}.pack());
  set_directory_entry(0, *first);
  segment_count_ = 1;
  return true;
}

void Table::clear_segment(std::uint64_t page, unsigned depth) {
  layout::Segment& fresh = segment(page);
  replicas_.store(fresh.depth, std::uint64_t{depth});
  auto* const tags = reinterpret_cast<std::uint64_t*>(fresh.groups);
  for (std::size_t i = 0; i < sizeof fresh.groups / kWord; ++i) replicas_.store(tags[i], std::uint64_t{0});
  for (layout::Slot& free : fresh.slots) {  // the page may have been something else
    if (free.head != 0) replicas_.store(free.head, std::uint64_t{0});
  }
  entries_of_page_[page] = 0;
}

void Table::set_directory_entry(std::uint32_t index, std::uint64_t page) {
  auto* const words = replicas_.at<std::uint64_t>(directory_word().page * kPageBytes);
  std::uint64_t& word = words[DirectoryEntry::word_of(index)];
  replicas_.store(word, DirectoryEntry::with_page(word, index, page));
}

bool Table::split(std::uint64_t page, std::uint64_t hash) {
  const auto depth = static_cast<unsigned>(segment(page).depth);
  if (depth == directory_word().depth && !double_directory()) return false;
  const std::optional<std::uint64_t> added = pages_.allocate(1);
  if (!added) return false;
  clear_segment(*added, depth + 1);
  crash_point(CrashPoint::kSegmentCleared);
  replicas_.store(segment(page).depth, std::uint64_t{depth} + 1);
  const unsigned before = entries_of_page_[page];
  move_half(page, *added, depth);
  SHMSTATE_INVARIANT(entries_of_page_[page] + entries_of_page_[*added] == before);
  const std::uint32_t step = 1U << (depth + 1);
  const std::uint32_t first = directory_index(hash, depth) | 1U << depth;
  const std::uint32_t length = 1U << directory_word().depth;
  for (std::uint32_t i = first; i < length; i += step) set_directory_entry(i, *added);
  crash_point(CrashPoint::kSegmentSplit);
  ++segment_count_;
  ++split_count_;
  return true;
}

template <typename Visit>
void Table::for_each_hash(std::uint64_t page, Visit&& visit) {
  for (std::uint32_t group = 0; group < kSegmentGroups; ++group) {
    std::uint32_t occupied = TagWords(segment(page).groups[group]).occupied();
    for (; occupied != 0; occupied &= occupied - 1) {
      const Place at{.page = page, .slot = BufferView::first_slot(group, occupied)};
      visit(at, hash_of(slot(at), SlotHead::unpack(slot(at).head)));
    }
  }
}

// What stays had to make way for what goes: it comes closer to where its search begins.
void Table::move_half(std::uint64_t from, std::uint64_t to, unsigned bit) {
  for_each_hash(from, [&](const Place& at, std::uint64_t hash) {
    if ((hash >> bit & 1) != 0) move(at, hash, to);
  });
  for_each_hash(from, [&](const Place& at, std::uint64_t hash) {
    const std::uint32_t home = home_group(hash);
    if (at.slot / kGroupSlots != home && TagWords(segment(from).groups[home]).match(0) != 0) move(at, hash, from);
  });
}

void Table::move(const Place& old, std::uint64_t hash, std::uint64_t to) {
  const layout::Slot& source = slot(old);
  const Place moved{.page = to, .slot = claim_slot(to, hash)};
  layout::Slot& target = slot(moved);
  replicas_.store(target.head, source.head);
  replicas_.store(target.changed_epoch, source.changed_epoch);
  for (std::size_t i = 0; i < kSlotWords; ++i) replicas_.store(target.words[i], source.words[i]);
  feed_.moved(replicas_.header().epoch, moved);
  const SlotHead head = SlotHead::unpack(target.head);
  if (head.owner != 0) {
    disown(head.owner);
    own(head.owner, moved);
  }
  if (head.has(SlotHead::kHasExpiry)) timers_.ensure(TimingWheel::id_of(moved), target.words[head.expiry_word()]);
  crash_point(CrashPoint::kEntryMoved);
  free_slot(old, hash);
}

// Entries are indexed by low bits of the hash, so the second half of the doubled directory repeats the first.
bool Table::double_directory() {
  const auto [old_page, depth] = directory_word();
  if (depth == layout::kDirectoryLog2Max) return false;
  std::uint64_t page = old_page;
  if (directory_pages(depth + 1) != directory_pages(depth)) {
    const std::optional<std::uint64_t> larger = pages_.allocate(directory_pages(depth + 1));
    if (!larger) return false;
    page = *larger;
  }
  const auto* const from = replicas_.at<std::uint64_t>(old_page * kPageBytes);
  auto* const to = replicas_.at<std::uint64_t>(page * kPageBytes);
  if (depth == 0) {
    replicas_.store(to[0], DirectoryEntry::both(DirectoryEntry::page_in(from[0], 0)));
  } else {
    const std::size_t words = std::size_t{1} << (depth - 1);
    for (std::size_t i = 0; i < words; ++i) {
      if (page != old_page) replicas_.store(to[i], from[i]);
      replicas_.store(to[words + i], from[i]);
    }
  }
  crash_point(CrashPoint::kDirectoryCopied);
  replicas_.store(replicas_.header().directory, DirectoryWord{.page = page, .depth = depth + 1}.pack());
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
    const std::uint64_t expiry_ns = head.has(SlotHead::kHasExpiry) ? entry.words[head.expiry_word()] : 0;
    track({.page = page, .slot = s}, {}, head, expiry_ns);
  }
  return true;
}

}  // namespace shmstate::internal
