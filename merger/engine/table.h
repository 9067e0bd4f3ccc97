// The state inside a buffer, as the merger changes it. Readers look at it through BufferView; docs/layout.md draws it.
//
// Extendible hashing (Fagin et al. 1979, as in Go 1.24's map) over segments of 67 groups; a group has 15 slots and 16
// tag bytes (Swiss tables; the overflow count that ends a search without tombstones is that of Folly's F14). A full
// segment splits in two, so that no mutation ever pays for the whole state.
//
// What only the merger needs (free memory, timers, who owns what) is private and rebuilt from the entries at start.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "engine/back_buffer.h"
#include "engine/feed.h"
#include "engine/page_allocator.h"
#include "engine/timing_wheel.h"
#include "layout/combine.h"
#include "layout/layout.h"
#include "layout/place.h"
#include "layout/record.h"
#include "layout/slot.h"
#include "protocol/buffer_view.h"

namespace shmstate::internal {

/// The value half of a mutation, with bytes as words that need not be padded.
struct NewValue {
  Type type = Type::kNone;
  std::uint64_t number = 0;  // the bits of an int64 or float64
  std::string_view bytes;
};

/// What a set says besides the value.
struct Attributes {
  std::uint16_t owner = 0;               // ephemeral: the ring's index + 1
  std::uint64_t expiry_ns = 0;           // zero: never
  std::optional<std::uint64_t> version;  // apply only if higher than the entry's
};

class Table {
 public:
  Table(PageAllocator& pages, Feed& feed, const Geometry& geometry);

  /// Makes the empty table in the back buffer. Returns false when there is no memory.
  [[nodiscard]] bool create(BackBuffer& back);
  /// Takes over the table of a buffer (identical to the back buffer later on); false when it is damaged.
  [[nodiscard]] bool resume(const std::byte* buffer);
  /// Timers begin now.
  void start_timers(std::uint64_t now_ns) noexcept { timers_.start_from(now_ns); }
  void set_entries_max(std::uint64_t entries_max) noexcept { entries_max_ = entries_max; }

  // Mutations of the back buffer. Nothing means it was applied, or superseded by a higher version; otherwise nothing
  // changed. A key's bytes are private to the merger.
  [[nodiscard]] std::optional<layout::Reject> set(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                                  const Attributes& attributes);
  /// add, max, min.
  [[nodiscard]] std::optional<layout::Reject> combine(BackBuffer& back, Operation operation, const HashedKey& key,
                                                      const NewValue& operand);
  /// With a version, a tombstone remembers it until `tombstone_expiry_ns`.
  [[nodiscard]] std::optional<layout::Reject> erase(BackBuffer& back, const HashedKey& key,
                                                    std::optional<std::uint64_t> version,
                                                    std::uint64_t tombstone_expiry_ns);

  /// A set, add, max or min of a number, without attributes, done in this slot; false, and nothing changed, when the
  /// key is not there or there is more to it.
  [[nodiscard]] bool update(BackBuffer& back, layout::Slot& here, Operation operation, Type type, std::string_view key,
                            std::uint64_t number);

  /// Erases entries whose time has come and forgets tombstones; looks at no more than `budget` of them.
  /// Returns whether anything changed.
  bool expire(BackBuffer& back, std::uint64_t now_ns, std::size_t budget);
  [[nodiscard]] std::uint64_t next_expiry_ns() const noexcept { return timers_.next_due_ns(); }
  /// Erases at most `budget` of the entries that belong to a ring. Returns true when none is left.
  [[nodiscard]] bool erase_owned(BackBuffer& back, std::uint32_t ring_index, std::size_t budget);

  /// The group where the search for a key begins.
  struct Home {
    layout::Segment* segment;
    std::uint32_t group;
  };
  /// Asks the caches for the first line that a mutation of this key will touch; then for the second line, which returns
  /// the slot where the key probably is, or null. It is only good for `update`.
  [[nodiscard]] Home prefetch_tags(BackBuffer& back, std::uint64_t hash) const noexcept {
    const Home home{.segment = &segment(back, page_of(back, hash)), .group = home_group(hash)};
    __builtin_prefetch(&home.segment->groups[home.group]);
    return home;
  }
  [[nodiscard]] layout::Slot* prefetch_slot(const Home& home, std::uint64_t hash) const noexcept {
    const std::uint32_t match = TagWords(home.segment->groups[home.group]).match(tag_of(hash));
    if (match == 0) return nullptr;
    layout::Slot* const slot = &home.segment->slots[BufferView::first_slot(home.group, match)];
    __builtin_prefetch(slot, 1);
    return slot;
  }
  /// The slot that a writer's hint names, or null.
  [[nodiscard]] layout::Slot* prefetch_hint(BackBuffer& back, std::uint64_t hint) const noexcept {
    const Place at = Place::unpack(hint);
    if (at.page >= pages_.committed() || entries_of_page_[at.page] == 0 || at.slot >= layout::kSegmentSlots) {
      return nullptr;
    }
    __builtin_prefetch(&slot(back, at), 1);
    return &slot(back, at);
  }

  [[nodiscard]] std::uint64_t entry_count() const noexcept { return entry_count_; }
  [[nodiscard]] std::uint64_t tombstone_count() const noexcept { return tombstone_count_; }
  /// Whether the counts agree with each other.
  [[nodiscard]] bool is_counted() const noexcept { return entry_count_ + tombstone_count_ == occupied_count_; }
  [[nodiscard]] std::uint64_t segment_count() const noexcept { return segment_count_; }
  [[nodiscard]] std::uint64_t split_count() const noexcept { return split_count_; }
  [[nodiscard]] std::uint64_t superseded_count() const noexcept { return superseded_count_; }
  [[nodiscard]] std::uint64_t expired_count() const noexcept { return expired_count_; }
  [[nodiscard]] const Heap& heap() const noexcept { return heap_; }

 private:
  // A segment splits when it is so full: searches stay short.
  static constexpr std::uint32_t kSegmentEntriesMax = layout::kSegmentSlots * 19 / 20;

  struct Blocks {
    std::uint64_t value = 0;
    std::uint64_t key = 0;
  };
  /// The entries of one ring: every place where one was, and how many still are.
  struct Owned {
    std::vector<Place> places;
    std::size_t live_count = 0;
  };

  [[nodiscard]] BufferView view(BackBuffer& back) const noexcept { return {back.base(), pages_max_}; }
  [[nodiscard]] layout::Segment& segment(BackBuffer& back, std::uint64_t page) const noexcept {
    return *back.at<layout::Segment>(page * layout::kPageBytes);
  }
  [[nodiscard]] layout::Slot& slot(BackBuffer& back, const Place& place) const noexcept {
    return segment(back, place.page).slots[place.slot];
  }
  [[nodiscard]] bool is_occupied(BackBuffer& back, const Place& place) const noexcept {
    return slot(back, place).head != 0;
  }
  [[nodiscard]] std::uint64_t hash_of(const layout::Slot& slot, const SlotHead& head) const noexcept;
  [[nodiscard]] Place place_of(BackBuffer& back, const layout::Slot& slot) const noexcept {
    const auto offset = static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(&slot) - back.base());
    return {.page = offset / layout::kPageBytes,
            .slot = static_cast<std::uint32_t>((offset % layout::kPageBytes - offsetof(layout::Segment, slots)) /
                                               sizeof(layout::Slot))};
  }

  // Entries
  [[nodiscard]] std::optional<layout::Reject> insert(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                                     const Attributes& attributes);
  [[nodiscard]] std::optional<layout::Reject> replace(BackBuffer& back, const Place& place, const SlotHead& old,
                                                      const HashedKey& key, const NewValue& value,
                                                      const Attributes& attributes);
  void remove(BackBuffer& back, const Place& place, const SlotHead& head, std::uint64_t hash);
  void erase_at(BackBuffer& back, const Place& place, const SlotHead& head, EraseReason reason);
  void changed(BackBuffer& back, const Place& place);
  void track(BackBuffer& back, const Place& place, const SlotHead& old, const SlotHead& now, std::uint64_t expiry_ns);
  void count(const SlotHead& old, const SlotHead& now);
  [[nodiscard]] std::uint64_t& count_of(Type type) noexcept {
    return type == kTombstone ? tombstone_count_ : entry_count_;
  }
  void own(BackBuffer& back, std::uint16_t owner, const Place& place);
  void disown(std::uint16_t owner);

  [[nodiscard]] bool allocate_blocks(BackBuffer& back, const layout::Slot* slot, const SlotHead& old,
                                     const SlotHead& wanted, Blocks& blocks);
  void release_blocks(const layout::Slot& slot, const SlotHead& head, const Blocks& keep);
  void write_key(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const HashedKey& key,
                 const Blocks& blocks);
  void write_value(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const NewValue& value,
                   const Blocks& blocks);
  void write_attributes(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const Attributes& attributes);

  // Slots, segments, directory
  void set_tag(BackBuffer& back, std::uint64_t page, std::uint32_t group, std::size_t index, std::uint8_t tag);
  [[nodiscard]] std::uint32_t claim_slot(BackBuffer& back, std::uint64_t page, std::uint64_t hash);
  void free_slot(BackBuffer& back, const Place& place, std::uint64_t hash);
  [[nodiscard]] DirectoryWord directory_word(BackBuffer& back) const noexcept {
    return DirectoryWord::unpack(back.header().directory);
  }
  [[nodiscard]] std::uint64_t page_of(BackBuffer& back, std::uint64_t hash) const noexcept {
    const DirectoryWord directory = directory_word(back);
    const std::uint32_t index = directory_index(hash, directory.depth);
    const auto* const words = back.at<std::uint64_t>(directory.page * layout::kPageBytes);
    return DirectoryEntry::page_in(words[DirectoryEntry::word_of(index)], index);
  }
  void clear_segment(BackBuffer& back, std::uint64_t page, unsigned depth);
  void set_directory_entry(BackBuffer& back, std::uint32_t index, std::uint64_t page);
  [[nodiscard]] bool split(BackBuffer& back, std::uint64_t page, std::uint64_t hash);
  template <typename Visit>
  void for_each_hash(BackBuffer& back, std::uint64_t page, Visit&& visit);
  void move_half(BackBuffer& back, std::uint64_t from, std::uint64_t to, unsigned bit);
  void move(BackBuffer& back, const Place& old, std::uint64_t hash, std::uint64_t to);
  [[nodiscard]] bool double_directory(BackBuffer& back);
  [[nodiscard]] bool adopt_segment(const BufferView& buffer, std::uint64_t page, std::uint32_t index, unsigned depth);

  PageAllocator& pages_;
  Heap heap_;
  Feed& feed_;
  TimingWheel timers_;
  std::vector<Owned> owned_;  // by ring index
  std::uint64_t hash_seed_;
  std::uint64_t pages_max_;
  std::uint64_t entries_max_ = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t entry_count_ = 0;
  std::uint64_t tombstone_count_ = 0;
  std::uint64_t segment_count_ = 0;
  std::uint64_t split_count_ = 0;
  std::uint64_t superseded_count_ = 0;
  std::uint64_t expired_count_ = 0;
  std::uint64_t occupied_count_ = 0;            // slots in use, counted where slots are claimed and freed
  std::vector<std::uint16_t> entries_of_page_;  // entries of the segment in a page
};

inline bool Table::update(BackBuffer& back, layout::Slot& here, Operation operation, Type type, std::string_view key,
                          std::uint64_t number) {
  if (here.head != SlotHead(key.size(), kWord, type).pack() || key.size() > PlainNumber::kKeyBytesMax) return false;
  if (!BufferView::equal_words(here.words + 1, key)) return false;
  if (operation != Operation::kSet) {
    const std::optional<std::uint64_t> result = combine_bits(operation, type, here.words[0], number);
    if (!result) return false;
    if (*result == here.words[0]) return true;
    number = *result;
  }
  if (here.changed_epoch != back.epoch()) {
    back.store(here.changed_epoch, back.epoch());
    feed_.changed(back, place_of(back, here));
  }
  back.store_again(here.words[0], number);  // in the line of changed_epoch
  return true;
}

}  // namespace shmstate::internal
