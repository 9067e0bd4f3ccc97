// Looking keys up in a buffer, for readers and for the merger. Nothing that is loaded from the buffer is trusted: the
// merger may be writing it (the caller validates the stamp afterwards), and a damaged file must not crash a reader. So
// every offset is bounded by the committed size, every loop by a constant, and every load is an acquire.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "shmstate/detail/buffer_layout.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/buffer_slot.h"
#include "shmstate/detail/shared_word.h"
#include "shmstate/detail/words.h"

namespace shmstate::internal {

/// A key with its hash, as lookups want it.
struct HashedKey {
  std::string_view bytes;
  std::uint64_t hash = 0;
};

/// The tags of a group, loaded as two words.
class TagWords {
 public:
  explicit TagWords(const layout::TagGroup& group) noexcept {
    const auto* words = reinterpret_cast<const std::uint64_t*>(&group);
    low_ = load_word(words, std::memory_order_acquire);
    high_ = load_word(words + 1, std::memory_order_acquire);
  }

  /// A bit for each of the 15 slots whose tag is `tag`.
  [[nodiscard]] std::uint32_t match(std::uint8_t tag) const noexcept {
#if defined(__SSE2__)
    const __m128i tags = _mm_set_epi64x(static_cast<long long>(high_), static_cast<long long>(low_));
    const std::uint64_t wanted = kEachByte * tag;
    const __m128i equal = _mm_cmpeq_epi8(tags, _mm_set1_epi64x(static_cast<long long>(wanted)));
    return static_cast<std::uint32_t>(_mm_movemask_epi8(equal)) & kSlotBits;
#else
    return (match_word(low_, tag) | match_word(high_, tag) << 8) & kSlotBits;
#endif
  }
  [[nodiscard]] std::uint32_t occupied() const noexcept { return ~match(0) & kSlotBits; }
  [[nodiscard]] std::uint8_t overflow_count() const noexcept { return static_cast<std::uint8_t>(high_ >> 56); }

 private:
  static constexpr std::uint32_t kSlotBits = (1U << layout::kGroupSlots) - 1;
  static constexpr std::uint64_t kEachByte = 0x0101'0101'0101'0101;

  // Exact zero-byte search (Hacker's Delight 6-1), then one bit from each byte.
  [[nodiscard]] static std::uint32_t match_word(std::uint64_t word, std::uint8_t tag) noexcept {
    constexpr std::uint64_t kLow7 = 0x7f7f'7f7f'7f7f'7f7f;
    const std::uint64_t x = word ^ (kEachByte * tag);
    const std::uint64_t zero = ~(((x & kLow7) + kLow7) | x | kLow7);
    return static_cast<std::uint32_t>((zero >> 7) * 0x0102'0408'1020'4080 >> 56);
  }

  std::uint64_t low_;
  std::uint64_t high_;
};

class BufferView {
 public:
  /// A buffer of at most `pages_max` mapped pages.
  BufferView(const std::byte* base, std::uint64_t pages_max) noexcept : base_(base), pages_max_(pages_max) {}

  [[nodiscard]] std::uint64_t header_word(std::size_t offset) const noexcept {
    return load_word(reinterpret_cast<const std::uint64_t*>(base_ + offset), std::memory_order_acquire);
  }
  [[nodiscard]] std::uint64_t epoch() const noexcept { return header_word(offsetof(layout::BufferHeader, epoch)); }
  [[nodiscard]] std::uint64_t entry_count() const noexcept {
    return header_word(offsetof(layout::BufferHeader, entry_count));
  }
  [[nodiscard]] std::uint64_t feed_end() const noexcept {
    return header_word(offsetof(layout::BufferHeader, feed_end));
  }
  [[nodiscard]] std::uint64_t published_ns() const noexcept {
    return header_word(offsetof(layout::BufferHeader, published_ns));
  }
  /// Pages that are committed, and so may be touched.
  [[nodiscard]] std::uint64_t page_count() const noexcept {
    const std::uint64_t pages = header_word(offsetof(layout::BufferHeader, page_count));
    return pages < pages_max_ ? pages : pages_max_;
  }

  // ---- the directory

  /// Which segment has the entries of a hash.
  struct Directory {
    const std::uint64_t* words = nullptr;  // two entries each; null: out of bounds
    std::uint32_t mask = 0;                // as many low bits of the hash as the directory is deep

    [[nodiscard]] unsigned depth() const noexcept { return static_cast<unsigned>(std::bit_width(mask)); }

    /// The page of a segment; not bounded.
    [[nodiscard]] std::uint64_t page_of(std::uint64_t hash) const noexcept {
      const std::uint64_t index = hash & mask;
      const std::uint64_t word = load_word(words + DirectoryEntry::word_of(index), std::memory_order_acquire);
      return DirectoryEntry::page_in(word, index);
    }
  };

  [[nodiscard]] DirectoryWord directory_word() const noexcept {
    return DirectoryWord::unpack(header_word(offsetof(layout::BufferHeader, directory)));
  }
  /// The directory, if it lies within the first `pages`.
  [[nodiscard]] Directory directory(std::uint64_t pages) const noexcept {
    const auto [page, depth] = directory_word();
    if (depth > layout::kDirectoryLog2Max || page >= pages) return {};
    if (sizeof(std::uint32_t) << depth > (pages - page) * layout::kPageBytes) return {};
    return {.words = reinterpret_cast<const std::uint64_t*>(base_ + page * layout::kPageBytes),
            .mask = (std::uint32_t{1} << depth) - 1};
  }
  /// Whether a segment can be there: on none of the pages that are not committed, nor on that of the header.
  [[nodiscard]] static bool is_segment_page(std::uint64_t page, std::uint64_t pages) noexcept {
    return page != 0 && page < pages;
  }
  /// Precondition: page < page_count().
  [[nodiscard]] const layout::Segment& segment(std::uint64_t page) const noexcept {
    return *reinterpret_cast<const layout::Segment*>(base_ + page * layout::kPageBytes);
  }

  // ---- entries

  enum class Found : std::uint8_t { kYes, kNo, kDamaged };

  /// Finds a key's slot. kDamaged also when the merger is just writing this buffer. The first slot of the home group
  /// that has the key's tag is looked at here: nearly always, that is the one.
  [[nodiscard, gnu::always_inline]] Found find(const HashedKey& key, Place& place, SlotHead& head) const noexcept {
    const std::uint64_t pages = page_count();
    const Directory directory = this->directory(pages);
    if (directory.words == nullptr) return Found::kDamaged;
    place.page = directory.page_of(key.hash);
    if (!is_segment_page(place.page, pages)) return Found::kDamaged;
    const layout::Segment& here = segment(place.page);
    const std::uint32_t group = home_group(key.hash);
    const std::uint32_t match = TagWords(here.groups[group]).match(tag_of(key.hash));
    place.slot = first_slot(group, match);
    if (match != 0 && holds_key(here.slots[place.slot], key, pages, head)) [[likely]]
      return Found::kYes;
    const Hit hit = find_in_segment(*this, key, pages, place.page);
    place.slot = hit.slot;
    head = hit.head;
    return hit.slot < layout::kSegmentSlots ? Found::kYes : Found::kNo;
  }

  /// The place of the lowest of a group's slots in `match`.
  [[nodiscard]] static std::uint32_t first_slot(std::uint32_t group, std::uint32_t match) noexcept {
    return group * std::uint32_t{layout::kGroupSlots} + static_cast<std::uint32_t>(std::countr_zero(match));
  }

  /// Whether a key is where it was seen before. The place is not trusted; but a page that was a segment's stays one,
  /// and the head of a free slot is zero, so the tag is not asked.
  [[nodiscard]] bool is_at(const Place& place, const HashedKey& key, SlotHead& head) const noexcept {
    const std::uint64_t pages = page_count();
    if (!is_segment_page(place.page, pages) || place.slot >= layout::kSegmentSlots) return false;
    return holds_key(segment(place.page).slots[place.slot], key, pages, head);
  }
  /// The head of the entry at a place; its `type` is kNone when there is none.
  [[nodiscard]] SlotHead head_at(const Place& place) const noexcept {
    if (place.page >= page_count() || place.slot >= layout::kSegmentSlots) return {};
    const layout::Segment& here = segment(place.page);
    const TagWords tags(here.groups[place.slot / layout::kGroupSlots]);
    const bool is_occupied = (tags.occupied() >> place.slot % layout::kGroupSlots & 1) != 0;
    return is_occupied ? head_of(here.slots[place.slot]) : SlotHead{};
  }

  /// The slot's head; its `type` is kNone when the slot is free, or not sane.
  [[nodiscard]] static SlotHead head_of(const layout::Slot& slot) noexcept {
    const SlotHead head = SlotHead::unpack(load_word(&slot.head, std::memory_order_acquire));
    return head.is_sane() ? head : SlotHead{};
  }
  [[nodiscard]] static std::uint64_t changed_epoch(const layout::Slot& slot) noexcept {
    return load_word(&slot.changed_epoch, std::memory_order_acquire);
  }

  /// The words of an entry's value or key; null when they are out of bounds.
  [[nodiscard]] const std::uint64_t* value_words(const layout::Slot& slot, const SlotHead& head) const noexcept {
    return head.has(SlotHead::kValueInHeap) ? heap_words(slot.words[0], head.value_bytes) : slot.words;
  }
  [[nodiscard]] const std::uint64_t* key_words(const layout::Slot& slot, const SlotHead& head) const noexcept {
    const std::uint64_t* const words = slot.words + head.key_word();
    return head.has(SlotHead::kKeyInHeap) ? heap_words(*words, head.key_bytes) : words;
  }

  /// Whether stored words are these bytes, padded.
  [[nodiscard, gnu::always_inline]] static bool equal_words(const std::uint64_t* words,
                                                            std::string_view bytes) noexcept {
    const std::size_t whole = bytes.size() / kWord;
    for (std::size_t i = 0; i < whole; ++i) {
      if (load_word(words + i, std::memory_order_acquire) != unaligned_word(bytes.data() + i * kWord)) return false;
    }
    return bytes.size() % kWord == 0 || load_word(words + whole, std::memory_order_acquire) == tail_word(bytes);
  }

 private:
  /// An entry in a segment, or kSegmentSlots; and its head, which has been checked.
  struct Hit {
    std::uint32_t slot = layout::kSegmentSlots;
    SlotHead head;
  };

  // Static, with copies of view and key, so that the caller can keep its own in registers.
  [[nodiscard, gnu::noinline]] static Hit find_in_segment(BufferView view, HashedKey key, std::uint64_t pages,
                                                          std::uint64_t page) noexcept {
    const layout::Segment& here = view.segment(page);
    const std::uint8_t tag = tag_of(key.hash);
    std::uint32_t group = home_group(key.hash);
    for (std::size_t probes = 0; probes < layout::kSegmentGroups; ++probes) {
      const TagWords tags(here.groups[group]);
      for (std::uint32_t match = tags.match(tag); match != 0; match &= match - 1) {
        Hit hit{.slot = first_slot(group, match), .head = {}};
        if (view.holds_key(here.slots[hit.slot], key, pages, hit.head)) return hit;
      }
      if (tags.overflow_count() == 0) break;
      if (++group == layout::kSegmentGroups) group = 0;
    }
    return {};
  }

  [[nodiscard, gnu::always_inline]] bool holds_key(const layout::Slot& slot, const HashedKey& key, std::uint64_t pages,
                                                   SlotHead& head) const noexcept {
    const std::uint64_t word = load_word(&slot.head, std::memory_order_acquire);
    if (SlotHead::key_bytes_of(word) != key.bytes.size()) return false;
    head = SlotHead::unpack(word);
    return PlainNumber::is(word) ? equal_words(PlainNumber::key_words(slot), key.bytes)
                                 : holds_other_key(*this, slot, key, pages, head);
  }
  [[nodiscard, gnu::noinline]] static bool holds_other_key(BufferView view, const layout::Slot& slot, HashedKey key,
                                                           std::uint64_t pages, SlotHead head) noexcept {
    if (!head.is_sane()) return false;
    const std::uint64_t* words = slot.words + head.key_word();
    if (head.has(SlotHead::kKeyInHeap)) {
      if (load_word(words + 1, std::memory_order_acquire) != key.hash) return false;
      words = view.heap_words_below(pages, *words, head.key_bytes);
      if (words == nullptr) return false;
    }
    return equal_words(words, key.bytes);
  }

  [[nodiscard]] const std::uint64_t* heap_words(const std::uint64_t& reference, std::size_t bytes) const noexcept {
    return heap_words_below(page_count(), reference, bytes);
  }
  [[nodiscard]] const std::uint64_t* heap_words_below(std::uint64_t pages, const std::uint64_t& reference,
                                                      std::size_t bytes) const noexcept {
    const std::uint64_t offset = load_word(&reference, std::memory_order_acquire);
    const std::uint64_t end = pages * layout::kPageBytes;
    if (offset % kWord != 0 || offset >= end || padded(bytes) > end - offset) return nullptr;
    return reinterpret_cast<const std::uint64_t*>(base_ + offset);
  }

  const std::byte* base_;
  std::uint64_t pages_max_;
};

}  // namespace shmstate::internal
