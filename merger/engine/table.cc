#include "engine/table.h"

#include <algorithm>

#include "layout/hash.h"
#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

using layout::Reject;

SlotHead new_head(const HashedKey& key, const NewValue& value, const Attributes& attributes) {
  const bool is_number = value.type == Type::kInt64 || value.type == Type::kFloat64;
  const unsigned flags = (attributes.expiry_ns != 0 ? unsigned{SlotHead::kHasExpiry} : 0) |
                         (attributes.version ? unsigned{SlotHead::kHasVersion} : 0);
  SlotHead head(key.bytes.size(), is_number ? kWord : value.bytes.size(), value.type, flags, attributes.owner);
  head.place();
  return head;
}

std::uint64_t version_of(const layout::Slot& slot, const SlotHead& head) {
  return head.has(SlotHead::kHasVersion) ? slot.words[head.version_word()] : 0;
}

}  // namespace

Table::Table(PageAllocator& pages, Feed& feed, const Geometry& geometry)
    : heap_(pages),
      feed_(feed),
      segments_(pages, geometry, [this](BackBuffer& back, const Place& place) { moved(back, place); }),
      owners_(geometry.ring_count_max),
      timers_(geometry.pages_max()),
      pages_max_(geometry.pages_max()) {}

// ---- mutations

// Bytes that lie in the slot, and are as long as those that are there.
bool Table::update_bytes(BackBuffer& back, layout::Slot& here, MutationHead mutation, const std::uint64_t* key) {
  SlotHead head(mutation.key_bytes(), mutation.value_bytes(), Type::kBytes);
  head.place();
  if (head.flags != 0 || here.head != head.pack()) return false;
  const std::size_t key_words = words_of(mutation.key_bytes());
  if (!holds_key(here.words + head.key_word(), key, key_words)) return false;
  back.store_bytes(here.words, {reinterpret_cast<const char*>(key + key_words), mutation.value_bytes()});
  changed(back, Segments::place_of(back, here));
  return true;
}

bool Table::update_bytes(BackBuffer& back, const KnownPlace& known, MutationHead mutation, const std::uint64_t* value) {
  if (!segments_.is_good(known)) return false;
  layout::Slot& here = Segments::slot(back, known);
  SlotHead head(SlotHead::key_bytes_of(here.head), mutation.value_bytes(), Type::kBytes);
  head.place();
  if (head.has(SlotHead::kValueInHeap) || here.head != head.pack()) return false;
  back.store_bytes(here.words, {reinterpret_cast<const char*>(value), mutation.value_bytes()});
  changed(back, Segments::place_of(back, here));
  return true;
}

KnownPlace Table::find(const BackBuffer& back, const HashedKey& key) const {
  Place at;
  SlotHead head;
  const bool is_found = segments_.view(back).find(key, at, head) == BufferView::Found::kYes;
  return is_found ? segments_.remember(back, at) : KnownPlace{};
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
    const Place at = TimingWheel::place_of(id);
    if (!Segments::is_occupied(back, at)) return;
    const SlotHead head = SlotHead::unpack(slot(back, at).head);
    if (!head.has(SlotHead::kHasExpiry)) return;
    const std::uint64_t expiry_ns = slot(back, at).words[head.expiry_word()];
    if (expiry_ns > now_ns) return timers_.ensure(id, expiry_ns);  // refreshed meanwhile
    if (head.type == kTombstone) return remove(back, at, head, segments_.hash_of(slot(back, at), head));
    crash_point(CrashPoint::kEntryExpired);
    ++expired_count_;
    erase_at(back, at, head, EraseReason::kExpiry);
  });
  return entry_count_ + tombstone_count_ != before;
}

bool Table::erase_owned(BackBuffer& back, std::uint32_t ring_index, std::size_t budget) {
  for (; budget > 0; --budget) {
    const std::optional<Place> at = owners_.take(ring_index);
    if (!at) return true;
    if (Owners::owner_at(back, *at) != ring_index + 1) continue;
    erase_at(back, *at, SlotHead::unpack(slot(back, *at).head), EraseReason::kOwnerGone);
  }
  return !owners_.has_places(ring_index);
}

// ---- entries

std::optional<Reject> Table::insert(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                    const Attributes& attributes) {
  if (entry_count_ + tombstone_count_ >= entries_max_) return Reject::kLimit;
  const SlotHead head = new_head(key, value, attributes);
  const std::optional<std::uint64_t> page = segments_.make_room(back, key.hash);
  if (!page) return Reject::kNoMemory;
  Blocks blocks;
  if (!allocate_blocks(back, nullptr, {}, head, blocks)) return Reject::kNoMemory;
  const Place at = segments_.claim_slot(back, *page, key.hash);
  crash_point(CrashPoint::kSlotClaimed);
  layout::Slot& here = slot(back, at);
  back.store(here.head, head.pack());
  write_key(back, here, head, key, blocks);
  crash_point(CrashPoint::kKeyWritten);
  write_value(back, here, head, value, blocks);
  crash_point(CrashPoint::kValueWritten);
  write_attributes(back, here, head, attributes);
  track(back, at, {}, head, attributes.expiry_ns);
  back.store(here.changed_epoch, std::uint64_t{0});  // of whatever was here before
  if (head.type != kTombstone) changed(back, at);
  return std::nullopt;
}

std::optional<Reject> Table::replace(BackBuffer& back, const Place& place, const SlotHead& old, const HashedKey& key,
                                     const NewValue& value, const Attributes& attributes) {
  layout::Slot& here = slot(back, place);
  const SlotHead head = new_head(key, value, attributes);
  if (PlainNumber::is(here.head) && head.pack() == here.head) {
    if (back.store_value(here, value.number)) feed_.changed(back, place);
    return std::nullopt;
  }
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
  segments_.free_slot(back, place, hash);
}

void Table::erase_at(BackBuffer& back, const Place& place, const SlotHead& head, EraseReason reason) {
  const layout::Slot& here = slot(back, place);
  const auto* const key = reinterpret_cast<const char*>(segments_.view(back).key_words(here, head));
  feed_.erased(back, reason, {key, head.key_bytes});
  crash_point(CrashPoint::kEntryErased);
  remove(back, place, head, segments_.hash_of(here, head));
}

void Table::changed(BackBuffer& back, const Place& place) {
  layout::Slot& here = slot(back, place);
  if (here.changed_epoch == back.epoch()) return;  // the feed has it
  back.store(here.changed_epoch, back.epoch());
  feed_.changed(back, place);
}

// Keeps counts, timers and owners true when the head of a slot changes; without a type there is no entry.
void Table::track(BackBuffer& back, const Place& place, const SlotHead& old, const SlotHead& now,
                  std::uint64_t expiry_ns) {
  count(old, now);
  if (old.owner != now.owner) {
    if (old.owner != 0) owners_.remove(old.owner);
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

// A split has moved an entry.
void Table::moved(BackBuffer& back, const Place& place) {
  feed_.moved(back, place);
  const layout::Slot& here = slot(back, place);
  const SlotHead head = SlotHead::unpack(here.head);
  if (head.owner != 0) {
    owners_.remove(head.owner);
    own(back, head.owner, place);
  }
  if (head.has(SlotHead::kHasExpiry)) timers_.ensure(TimingWheel::id_of(place), here.words[head.expiry_word()]);
}

void Table::own(const BackBuffer& back, std::uint64_t owner, const Place& place) {
  owners_.add(owner, place);
  owners_.tidy(back, owner);
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

// ---- taking over

bool Table::resume(const std::byte* buffer) {
  const BufferView old(buffer, pages_max_);
  const auto adopt = [this](const Place& place, const layout::Slot& slot, const SlotHead& head) {
    return adopt_entry(place, slot, head);
  };
  return segments_.resume(old, adopt) && entry_count_ == old.entry_count();
}

bool Table::adopt_entry(const Place& place, const layout::Slot& slot, const SlotHead& head) {
  if (head.has(SlotHead::kValueInHeap) && !heap_.adopt(slot.words[0], head.value_bytes)) return false;
  if (head.has(SlotHead::kKeyInHeap) && !heap_.adopt(slot.words[head.key_word()], head.key_bytes)) return false;
  if (!owners_.is_possible(head.owner)) return false;
  count({}, head);
  if (head.owner != 0) owners_.add(head.owner, place);
  if (head.has(SlotHead::kHasExpiry)) timers_.ensure(TimingWheel::id_of(place), slot.words[head.expiry_word()]);
  return true;
}

}  // namespace shmstate::internal
