// The state inside a buffer, as the merger changes it. Readers look at it through BufferView; docs/layout.md draws it.
//
// An entry lies in a slot (slabs.h), where the index finds it (segments.h), and what does not fit there in blocks. What
// only the merger needs (free memory, timers, who owns what) is private and rebuilt from the entries at start.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "engine/back_buffer.h"
#include "engine/feed.h"
#include "engine/owners.h"
#include "engine/page_allocator.h"
#include "engine/segments.h"
#include "engine/slabs.h"
#include "engine/timing_wheel.h"
#include "layout/combine.h"
#include "layout/layout.h"
#include "layout/record.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/buffer_slot.h"
#include "shmstate/detail/buffer_view.h"

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
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  /// Makes the empty table in the back buffer. Returns false when there is no memory.
  [[nodiscard]] bool create(BackBuffer& back) { return segments_.create(back); }
  /// Takes over the table of a buffer (identical to the back buffer later on); false when it is damaged.
  [[nodiscard]] bool resume(const std::byte* buffer);
  /// Timers begin now.
  void start_timers(std::uint64_t now_ns) noexcept { timers_.start_from(now_ns); }
  void set_entries_max(std::uint64_t entries_max) noexcept { entries_max_ = entries_max; }

  // Mutations of the back buffer. `nullopt`: applied, or superseded by a higher version; otherwise nothing changed. A
  // key's bytes must be private to the merger.
  [[nodiscard]] std::optional<layout::Reject> set(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                                  const Attributes& attributes);
  /// add, max, min.
  [[nodiscard]] std::optional<layout::Reject> combine(BackBuffer& back, Operation operation, const HashedKey& key,
                                                      const NewValue& operand);
  /// With a version, a tombstone remembers it until `tombstone_expiry_ns`.
  [[nodiscard]] std::optional<layout::Reject> erase(BackBuffer& back, const HashedKey& key,
                                                    std::optional<std::uint64_t> version,
                                                    std::uint64_t tombstone_expiry_ns);

  /// A plain mutation, done in this slot; false, and nothing changed, when the key is not there or there is more to it.
  /// Key and value, in the words behind each other, may still lie in the ring.
  [[nodiscard]] bool update(BackBuffer& back, layout::Slot& here, MutationHead mutation, const std::uint64_t* key);
  /// The same by id, where the id's entry was found before: `is_word_by_id` of what is known, or a plain set of bytes.
  /// False also when the entry may have left that place.
  [[nodiscard]] bool update(BackBuffer& back, const KnownPlace& known, MutationHead mutation,
                            const std::uint64_t* value);
  [[nodiscard]] bool update_bytes(BackBuffer& back, const KnownPlace& known, MutationHead mutation,
                                  const std::uint64_t* value);
  /// Where the entry of a key is; nowhere when there is none.
  [[nodiscard]] KnownPlace find(const BackBuffer& back, const HashedKey& key) const;

  /// Erases entries whose time has come and forgets tombstones; examines no more than `budget` of them.
  /// Returns whether anything changed.
  bool expire(BackBuffer& back, std::uint64_t now_ns, std::size_t budget);
  [[nodiscard]] std::uint64_t next_expiry_ns() const noexcept { return timers_.next_due_ns(); }
  /// Erases at most `budget` of the entries that belong to a ring. Returns true when none is left.
  [[nodiscard]] bool erase_owned(BackBuffer& back, std::uint32_t ring_index, std::size_t budget);

  /// Where entries lie; a slot that it guesses from tags is only good for `update`.
  [[nodiscard]] const Segments& segments() const noexcept { return segments_; }
  /// For `update` by id.
  static void prefetch(const BackBuffer& back, const KnownPlace& known) noexcept {
    __builtin_prefetch(&slot(back, known.place), 1);
  }

  /// Slabs that became something else so far: what was guessed before may be no slot any more.
  [[nodiscard]] std::uint64_t closed_slab_count() const noexcept { return slabs_.closed_count(); }

  [[nodiscard]] std::uint64_t entry_count() const noexcept { return entry_count_; }
  [[nodiscard]] std::uint64_t tombstone_count() const noexcept { return tombstone_count_; }
  /// Whether the counts agree with each other.
  [[nodiscard]] bool is_counted() const noexcept {
    return entry_count_ + tombstone_count_ == segments_.occupied_count();
  }
  [[nodiscard]] std::uint64_t superseded_count() const noexcept { return superseded_count_; }
  [[nodiscard]] std::uint64_t expired_count() const noexcept { return expired_count_; }
  [[nodiscard]] const Blocks& blocks() const noexcept { return blocks_; }

 private:
  /// Where what does not lie in the slot does.
  struct Offsets {
    std::uint64_t value = 0;
    std::uint64_t key = 0;
  };
  [[nodiscard]] static layout::Slot& slot(const BackBuffer& back, Place place) noexcept {
    return Segments::slot(back, place);
  }

  [[nodiscard]] std::optional<layout::Reject> insert(BackBuffer& back, const HashedKey& key, const NewValue& value,
                                                     const Attributes& attributes);
  [[nodiscard]] std::optional<layout::Reject> replace(BackBuffer& back, Place place, const SlotHead& old,
                                                      const HashedKey& key, const NewValue& value,
                                                      const Attributes& attributes);
  void remove(BackBuffer& back, Place place, const SlotHead& head, std::uint64_t hash);
  void erase_at(BackBuffer& back, Place place, const SlotHead& head, EraseReason reason);
  [[nodiscard]] static bool holds_key(const std::uint64_t* stored, const std::uint64_t* key, std::size_t key_words);
  [[nodiscard, gnu::always_inline]] bool update_number(BackBuffer& back, layout::Slot& here, MutationHead mutation,
                                                       std::uint64_t value);
  [[nodiscard]] bool update_bytes(BackBuffer& back, layout::Slot& here, MutationHead mutation,
                                  const std::uint64_t* key);
  void changed(BackBuffer& back, Place place);
  void track(const BackBuffer& back, Place old_place, const SlotHead& old, Place place, const SlotHead& now,
             std::uint64_t expiry_ns);
  void count(const SlotHead& old, const SlotHead& now);
  [[nodiscard]] std::uint64_t& count_of(Type type) noexcept {
    return type == kTombstone ? tombstone_count_ : entry_count_;
  }
  [[nodiscard]] bool adopt_entry(const std::byte* buffer, Place place);

  [[nodiscard]] bool allocate_blocks(BackBuffer& back, const layout::Slot* slot, const SlotHead& old,
                                     const SlotHead& wanted, Offsets& offsets);
  void release_blocks(const Offsets& offsets, const SlotHead& head, const Offsets& keep);
  [[nodiscard]] static Offsets offsets_in(const layout::Slot& slot, const SlotHead& head) noexcept;
  static void write_key(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const HashedKey& key,
                        const Offsets& offsets);
  static void write_value(BackBuffer& back, layout::Slot& slot, const SlotHead& head, const NewValue& value,
                          const Offsets& offsets);
  static void write_attributes(BackBuffer& back, layout::Slot& slot, const SlotHead& head,
                               const Attributes& attributes);

  Blocks blocks_;
  Feed& feed_;
  Segments segments_;
  Slabs slabs_;
  Owners owners_;
  TimingWheel timers_;
  std::uint64_t pages_max_;
  std::uint64_t entries_max_ = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t entry_count_ = 0;
  std::uint64_t tombstone_count_ = 0;
  std::uint64_t superseded_count_ = 0;
  std::uint64_t expired_count_ = 0;
};

// A hostile writer may change the key in the ring at any time, also between the hash that led here and this comparison.
// It then has named another key, whose slot this is: each word is loaded once, and the mutation is one of the key that
// these words make. How long the key is says the head, which is a private copy. So the key needs none. Stored keys are
// padded with zeros; one in the ring that is not is found later, by its bytes.
inline bool Table::holds_key(const std::uint64_t* stored, const std::uint64_t* key, std::size_t key_words) {
  for (const std::uint64_t* const end = key + key_words; key != end; ++key, ++stored) {
    if (load_word(key, std::memory_order_relaxed) != *stored) return false;
  }
  return true;
}

inline bool Table::update(BackBuffer& back, layout::Slot& here, MutationHead mutation, const std::uint64_t* key) {
  if (!mutation.is_plain() || mutation.key_bytes() > PlainNumber::kKeyBytesMax) {
    return mutation.is_plain_bytes() && update_bytes(back, here, mutation, key);
  }
  if (here.head != SlotHead(mutation.key_bytes(), kWord, mutation.type()).pack()) return false;
  const std::size_t key_words = words_of(mutation.key_bytes());
  if (!holds_key(PlainNumber::key_words(here), key, key_words)) return false;
  return update_number(back, here, mutation, load_word(key + key_words, std::memory_order_relaxed));
}

// The key was compared when the place was remembered. So all that is left to compare is what the entry holds: a word of
// this type, and nothing else beside a key of any length.
inline bool Table::update(BackBuffer& back, const KnownPlace& known, MutationHead mutation,
                          const std::uint64_t* value) {
  if (!slabs_.is_good(known)) return false;
  layout::Slot& here = slot(back, known.place);
  constexpr std::uint64_t kAnyKey = kKeyBytesMax - 1;
  if ((here.head | kAnyKey) != SlotHead(kKeyBytesMax, kWord, mutation.type()).pack()) return false;
  return update_number(back, here, mutation, load_word(value, std::memory_order_relaxed));
}

inline bool Table::update_number(BackBuffer& back, layout::Slot& here, MutationHead mutation, std::uint64_t value) {
  if (mutation.operation() != Operation::kSet) {
    const std::optional<std::uint64_t> result =
        combine_bits(mutation.operation(), mutation.type(), here.words[0], value);
    if (!result) return false;
    if (*result == here.words[0]) return true;
    value = *result;
  }
  if (back.store_value(here, value)) feed_.changed(back, Segments::place_of(back, here));
  return true;
}

}  // namespace shmstate::internal
