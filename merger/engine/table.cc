#include "engine/table.h"

#include <algorithm>

#include "layout/hash.h"
#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

using layout::Reject;

SlotHead new_head(const HashedKey& key, const NewValue& value, const Attributes& attributes) {
  const unsigned flags = (attributes.expiry_ns != 0 ? unsigned{SlotHead::kHasExpiry} : 0) |
                         (attributes.version ? unsigned{SlotHead::kHasVersion} : 0) |
                         (attributes.owner != 0 ? unsigned{SlotHead::kOwned} : 0);
  const std::size_t value_bytes = is_number(value.type) ? kWord : value.bytes.size();
  return {key.bytes.size(), value_bytes, value.type, flags, attributes.owner};
}

std::uint64_t version_of(const layout::Slot& slot, const SlotHead& head) {
  return head.has(SlotHead::kHasVersion) ? slot.words[head.word_of(SlotHead::kHasVersion)] : 0;
}

}  // namespace

Table::Table(PageAllocator& pages, Feed& feed, const Geometry& geometry)
    : blocks_(pages),
      feed_(feed),
      segments_(pages, geometry),
      slabs_(pages, geometry.pages_max()),
      owners_(geometry.ring_count_max),
      pages_max_(geometry.pages_max()) {}

// ---- mutations

// Bytes that lie in the slot, and are as long as those that are there.
bool Table::update_bytes(BackBuffer& back, layout::Slot& here, MutationHead mutation, const std::uint64_t* key) {
  const SlotHead head(mutation.key_bytes(), mutation.value_bytes(), Type::kBytes);
  if (here.head != head.pack() || head.is_key_in_block() || head.is_value_in_block()) return false;
  const std::size_t key_words = words_of(mutation.key_bytes());
  if (!holds_key(here.words + head.key_word(), key, key_words)) return false;
  back.store_bytes(here.words, {reinterpret_cast<const char*>(key + key_words), mutation.value_bytes()});
  changed(back, Segments::place_of(back, here));
  return true;
}

bool Table::update_bytes(BackBuffer& back, const KnownPlace& known, MutationHead mutation, const std::uint64_t* value) {
  if (!slabs_.is_good(known)) return false;
  layout::Slot& here = slot(back, known.place);
  const SlotHead head(PlainNumber::key_bytes_of(here.head), mutation.value_bytes(), Type::kBytes);
  if (head.is_value_in_block() || here.head != head.pack()) return false;
  back.store_bytes(here.words, {reinterpret_cast<const char*>(value), mutation.value_bytes()});
  changed(back, Segments::place_of(back, here));
  return true;
}

KnownPlace Table::find(const BackBuffer& back, const HashedKey& key) const {
  Place at;
  SlotHead head;
  const bool is_found = segments_.view(back).find(key, at, head) == BufferView::Found::kYes;
  return is_found ? slabs_.remember(at) : KnownPlace{};
}

std::optional<Reject> Table::set(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                 const Attributes& attributes) {
  Place at;
  SlotHead head;
  if (segments_.view(back).find(key, at, head) != BufferView::Found::kYes) return insert(back, key, value, attributes);
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
  if (segments_.view(back).find(key, at, head) != BufferView::Found::kYes) return insert(back, key, operand, {});
  if (head.type == kTombstone) return replace(back, at, head, key, operand, {});
  if (head.type != operand.type) return Reject::kWrongType;
  layout::Slot& here = slot(back, at);
  const std::optional<std::uint64_t> result = combine_bits(operation, operand.type, here.words[0], operand.number);
  if (!result) return Reject::kOutOfRange;
  if (*result == here.words[0]) return std::nullopt;
  if (back.store_value(here, *result)) feed_.changed(back, at);
  return std::nullopt;
}

std::optional<Reject> Table::erase(BackBuffer& back, const HashedKey& key, std::optional<std::uint64_t> version,
                                   std::uint64_t tombstone_expiry_ns) {
  Place at;
  SlotHead head;
  const bool found = segments_.view(back).find(key, at, head) == BufferView::Found::kYes;
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
    const std::optional<Place> at = slabs_.in_use_at(TimingWheel::place_of(id));
    if (!at) return;
    const SlotHead head = SlotHead::unpack(slot(back, *at).head);
    if (!head.has(SlotHead::kHasExpiry)) return;
    const std::uint64_t expiry_ns = slot(back, *at).words[head.word_of(SlotHead::kHasExpiry)];
    if (expiry_ns > now_ns) return timers_.ensure(id, expiry_ns);  // refreshed meanwhile
    if (head.type == kTombstone) return remove(back, *at, head, segments_.hash_of(back, *at));
    crash_point(CrashPoint::kEntryExpired);
    ++expired_count_;
    erase_at(back, *at, head, EraseReason::kExpiry);
  });
  return entry_count_ + tombstone_count_ != before;
}

bool Table::erase_owned(BackBuffer& back, std::uint32_t ring_index, std::size_t budget) {
  for (; budget > 0; --budget) {
    const std::optional<Place> at = owners_.take(ring_index);
    if (!at) return true;
    if (Owners::owner_at(back, slabs_, *at) != ring_index + 1) continue;
    erase_at(back, *at, SlotHead::unpack(slot(back, *at).head), EraseReason::kOwnerGone);
  }
  return !owners_.has_places(ring_index);
}

// ---- entries

std::optional<Reject> Table::insert(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                    const Attributes& attributes) {
  if (entry_count_ + tombstone_count_ >= entries_max_) return Reject::kLimit;
  const SlotHead head = new_head(key, value, attributes);
  const Segments::Room room = segments_.make_room(back, key.hash);
  if (room != Segments::Room::kYes) return room == Segments::Room::kCrowded ? Reject::kCrowded : Reject::kNoMemory;
  Offsets offsets;
  if (!allocate_blocks(back, nullptr, {}, head, offsets)) return Reject::kNoMemory;
  const std::optional<Place> at = slabs_.allocate(back, head.slot_bytes());
  if (!at) {
    release_blocks(offsets, head, {});
    return Reject::kNoMemory;
  }
  crash_point(CrashPoint::kSlotClaimed);
  layout::Slot& here = slot(back, *at);
  back.store(here.head, head.pack());
  write_key(back, here, head, key, offsets);
  crash_point(CrashPoint::kKeyWritten);
  write_value(back, here, head, value, offsets);
  crash_point(CrashPoint::kValueWritten);
  write_attributes(back, here, head, attributes);
  back.store(here.changed_epoch, std::uint64_t{0});  // of whatever was here before
  segments_.insert(back, key.hash, *at);
  track(back, *at, {}, *at, head, attributes.expiry_ns);
  if (head.type != kTombstone) changed(back, *at);
  return std::nullopt;
}

// An entry that needs another slot is written there as a whole before the index names it.
std::optional<Reject> Table::replace(BackBuffer& back, Place place, const SlotHead& old, const HashedKey& key,
                                     const NewValue& value, const Attributes& attributes) {
  const layout::Slot& before = slot(back, place);
  const SlotHead head = new_head(key, value, attributes);
  if (PlainNumber::is(before.head) && head.pack() == before.head) {
    if (back.store_value(slot(back, place), value.number)) feed_.changed(back, place);
    return std::nullopt;
  }
  Offsets offsets;
  if (!allocate_blocks(back, &before, old, head, offsets)) return Reject::kNoMemory;
  const Offsets old_offsets = offsets_in(before, old);
  const bool stays = slot_units(head.slot_bytes()) == slabs_.units_at(place);
  const std::optional<Place> at = stays ? place : slabs_.allocate(back, head.slot_bytes());
  if (!at) {
    release_blocks(offsets, head, old_offsets);
    return Reject::kNoMemory;
  }
  release_blocks(old_offsets, old, offsets);
  layout::Slot& here = slot(back, *at);
  if (!stays) back.store(here.changed_epoch, std::uint64_t{0});
  const bool key_stays = stays && head.key_word() == old.key_word();
  if (head.pack() != here.head) back.store(here.head, head.pack());
  if (!key_stays) write_key(back, here, head, key, offsets);
  write_value(back, here, head, value, offsets);
  write_attributes(back, here, head, attributes);
  if (!stays) segments_.move(back, key.hash, place, *at);
  track(back, place, old, *at, head, attributes.expiry_ns);
  if (!stays) slabs_.release(back, place);
  if (head.type != kTombstone) changed(back, *at);
  return std::nullopt;
}

void Table::remove(BackBuffer& back, Place place, const SlotHead& head, std::uint64_t hash) {
  release_blocks(offsets_in(slot(back, place), head), head, {});
  track(back, place, head, place, {}, 0);
  segments_.erase(back, hash, place);
  slabs_.release(back, place);
}

void Table::erase_at(BackBuffer& back, Place place, const SlotHead& head, EraseReason reason) {
  const layout::Slot& here = slot(back, place);
  const auto* const key = reinterpret_cast<const char*>(segments_.view(back).key_words(here, head));
  feed_.erased(back, reason, {key, head.key_bytes()});
  crash_point(CrashPoint::kEntryErased);
  remove(back, place, head, segments_.hash_of(back, place));
}

void Table::changed(BackBuffer& back, Place place) {
  layout::Slot& here = slot(back, place);
  if (here.changed_epoch == back.epoch()) return;  // the feed has it
  back.store(here.changed_epoch, back.epoch());
  feed_.changed(back, place);
}

// Keeps counts, timers and owners true when the head of an entry, or its slot, changes; without a type there is no
// entry.
void Table::track(const BackBuffer& back, Place old_place, const SlotHead& old, Place place, const SlotHead& now,
                  std::uint64_t expiry_ns) {
  count(old, now);
  if (old.owner() != now.owner() || old_place != place) {
    if (old.owner() != 0) owners_.remove(old.owner());
    if (now.owner() != 0) {
      owners_.add(now.owner(), place);
      owners_.tidy(back, slabs_, now.owner());
    }
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

// ---- blocks

Table::Offsets Table::offsets_in(const layout::Slot& slot, const SlotHead& head) noexcept {
  return {.value = head.is_value_in_block() ? slot.words[0] : 0,
          .key = head.is_key_in_block() ? slot.words[head.key_word()] : 0};
}

// Those of the entry itself serve again where they are as long; the key is the same.
bool Table::allocate_blocks(BackBuffer& back, const layout::Slot* slot, const SlotHead& old, const SlotHead& wanted,
                            Offsets& offsets) {
  const Offsets before = slot != nullptr ? offsets_in(*slot, old) : Offsets{};
  if (wanted.is_value_in_block()) {
    if (before.value != 0 && block_pages(old.value_bytes) == block_pages(wanted.value_bytes)) {
      offsets.value = before.value;
    } else {
      const std::optional<std::uint64_t> block = blocks_.allocate(back, wanted.value_bytes);
      if (!block) return false;
      offsets.value = *block;
    }
  }
  if (wanted.is_key_in_block()) {
    offsets.key = before.key;
    if (offsets.key != 0) return true;
    const std::optional<std::uint64_t> block = blocks_.allocate(back, wanted.key_bytes());
    if (!block) {
      release_blocks(offsets, wanted, before);
      return false;
    }
    offsets.key = *block;
  }
  return true;
}

void Table::release_blocks(const Offsets& offsets, const SlotHead& head, const Offsets& keep) {
  if (offsets.value != 0 && offsets.value != keep.value) blocks_.release(offsets.value, head.value_bytes);
  if (offsets.key != 0 && offsets.key != keep.key) blocks_.release(offsets.key, head.key_bytes());
}

void Table::write_key(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const HashedKey& key,
                      const Offsets& offsets) {
  std::uint64_t* const words = slot.words + head.key_word();
  if (!head.is_key_in_block()) return back.store_bytes(words, key.bytes);
  back.store_bytes(back.at<std::uint64_t>(offsets.key), key.bytes);
  back.store(words[0], offsets.key);
  back.store(words[1], key.hash);
}

void Table::write_value(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const NewValue& value,
                        const Offsets& offsets) {
  if (is_number(value.type)) {
    back.store(slot.words[0], value.number);
  } else if (head.is_value_in_block()) {
    back.store_bytes(back.at<std::uint64_t>(offsets.value), value.bytes);
    back.store(slot.words[0], offsets.value);
  } else {
    back.store_bytes(slot.words, value.bytes);
  }
}

void Table::write_attributes(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const Attributes& attributes) {
  if (head.has(SlotHead::kHasExpiry)) back.store(slot.words[head.word_of(SlotHead::kHasExpiry)], attributes.expiry_ns);
  if (head.has(SlotHead::kHasVersion)) back.store(slot.words[head.word_of(SlotHead::kHasVersion)], *attributes.version);
}

// ---- taking over

bool Table::resume(const std::byte* buffer) {
  const BufferView old(buffer, pages_max_);
  return slabs_.resume(old) && segments_.resume(old, [&](Place place) { return adopt_entry(buffer, place); }) &&
         slabs_.finish_resume(old) && entry_count_ == old.entry_count();
}

bool Table::adopt_entry(const std::byte* buffer, Place place) {
  if (place.offset() >= pages_max_ * layout::kPageBytes) return false;
  const auto& here = *reinterpret_cast<const layout::Slot*>(buffer + place.offset());
  if (place.page() >= BufferView(buffer, pages_max_).page_count()) return false;
  const SlotHead head = BufferView::head_of(here);
  if (head.type == Type::kNone || is_opaque(head.type) || !slabs_.adopt(place, head.slot_bytes())) return false;
  const Offsets offsets = offsets_in(here, head);
  if (head.is_value_in_block() && !blocks_.adopt(offsets.value, head.value_bytes)) return false;
  if (head.is_key_in_block() && !blocks_.adopt(offsets.key, head.key_bytes())) return false;
  if (!owners_.is_possible(head.owner())) return false;
  count({}, head);
  if (head.owner() != 0) owners_.add(head.owner(), place);
  if (head.has(SlotHead::kHasExpiry)) {
    timers_.ensure(TimingWheel::id_of(place), here.words[head.word_of(SlotHead::kHasExpiry)]);
  }
  return true;
}

}  // namespace shmstate::internal
