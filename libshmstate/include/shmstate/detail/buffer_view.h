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

/// The tags of a line of the index, loaded as two words.
class TagWords {
 public:
  explicit TagWords(const layout::IndexLine& line) noexcept {
    const auto* words = reinterpret_cast<const std::uint64_t*>(&line);
    low_ = load_word(words, std::memory_order_acquire);
    high_ = load_word(words + 1, std::memory_order_acquire);
  }

  /// A bit for each of the 12 cells whose tag is `tag`.
  [[nodiscard]] std::uint32_t match(std::uint8_t tag) const noexcept {
#if defined(__SSE2__)
    const __m128i tags = _mm_set_epi64x(static_cast<long long>(high_), static_cast<long long>(low_));
    const std::uint64_t wanted = kEachByte * tag;
    const __m128i equal = _mm_cmpeq_epi8(tags, _mm_set1_epi64x(static_cast<long long>(wanted)));
    return static_cast<std::uint32_t>(_mm_movemask_epi8(equal)) & kCellBits;
#else
    return (match_word(low_, tag) | match_word(high_, tag) << 8) & kCellBits;
#endif
  }
  [[nodiscard]] std::uint32_t occupied() const noexcept { return ~match(0) & kCellBits; }
  [[nodiscard]] std::uint8_t overflow_count() const noexcept { return static_cast<std::uint8_t>(high_ >> 32); }

 private:
  static constexpr std::uint32_t kCellBits = (1U << layout::kLineCells) - 1;
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

  // ---- the index

  /// Which segment has the entries of a hash.
  struct Directory {
    const std::uint64_t* words = nullptr;  // two entries each; null: out of bounds
    std::uint32_t mask = 0;                // as many low bits of the hash as the directory is deep

    [[nodiscard]] unsigned depth() const noexcept { return static_cast<unsigned>(std::bit_width(mask)); }

    /// The page of a segment, or of a node; not bounded.
    [[nodiscard]] std::uint64_t entry_of(std::uint64_t hash) const noexcept {
      const std::uint64_t index = hash & mask;
      const std::uint64_t word = load_word(words + DirectoryEntry::word_of(index), std::memory_order_acquire);
      return DirectoryEntry::in(word, index);
    }
  };

  [[nodiscard]] DirectoryWord directory_word() const noexcept {
    return DirectoryWord::unpack(header_word(offsetof(layout::BufferHeader, directory)));
  }
  /// The directory, if it lies within the first `pages`.
  [[nodiscard]] Directory directory(std::uint64_t pages) const noexcept {
    const DirectoryWord word = directory_word();
    const std::uint64_t end = pages * layout::kPageBytes;
    if (word.depth > layout::kDirectoryLog2Max || word.line >= end / layout::kLine) return {};
    if (sizeof(std::uint32_t) << word.depth > end - word.offset()) return {};
    return {.words = reinterpret_cast<const std::uint64_t*>(base_ + word.offset()),
            .mask = (std::uint32_t{1} << word.depth) - 1};
  }
  /// Whether a segment can be there: on none of the pages that are not committed, nor on that of the header. What the
  /// directory says of a node is no page at all.
  [[nodiscard]] static bool is_segment_page(std::uint64_t page, std::uint64_t pages) noexcept {
    return page != 0 && page < pages;
  }
  /// The page of a hash's segment; zero when it is out of bounds.
  [[nodiscard, gnu::always_inline]] std::uint64_t segment_page(const Directory& directory, std::uint64_t hash,
                                                               std::uint64_t pages) const noexcept {
    const std::uint64_t entry = directory.entry_of(hash);
    return is_segment_page(entry, pages) ? entry : segment_page_in_node(*this, entry, hash, pages);
  }
  /// Precondition: page < page_count().
  [[nodiscard]] const layout::Segment& segment(std::uint64_t page) const noexcept {
    return *reinterpret_cast<const layout::Segment*>(base_ + page * layout::kPageBytes);
  }
  /// The place in the lowest of a line's cells in `match`; not bounded.
  [[nodiscard]] static Place first_place(const layout::IndexLine& line, std::uint32_t match) noexcept {
    const auto cell = static_cast<std::size_t>(std::countr_zero(match));
    const auto* const words = reinterpret_cast<const std::uint64_t*>(line.places);
    const std::uint64_t word = load_word(words + cell / 2, std::memory_order_acquire);
    return {.unit = static_cast<std::uint32_t>(word >> cell % 2 * 32)};
  }

  // ---- slots

  /// Precondition: the place `is_within` the committed pages.
  [[nodiscard]] const layout::Slot& slot(Place place) const noexcept {
    return *reinterpret_cast<const layout::Slot*>(base_ + place.offset());
  }
  [[nodiscard]] static bool is_within(Place place, std::size_t bytes, std::uint64_t pages) noexcept {
    return place.offset() + bytes <= pages * layout::kPageBytes;
  }
  /// How large the slots of a page are, in units; zero when it is no slab. Precondition: page < page_count().
  [[nodiscard]] unsigned slot_units_of(std::uint64_t page) const noexcept {
    const std::uint64_t word = map_word(page / kWord * kWord);
    return static_cast<unsigned>(word >> page % kWord * 8 & 0xff);
  }
  /// The map of eight pages from that one on, a byte each.
  [[nodiscard]] std::uint64_t map_word(std::uint64_t page) const noexcept { return header_word(map_offset_of(page)); }
  /// Whether a slot begins there.
  [[nodiscard]] bool is_slot(Place place, std::uint64_t pages) const noexcept {
    return is_segment_page(place.page(), pages) && place.is_in_slab_of(slot_units_of(place.page()));
  }

  // ---- entries

  enum class Found : std::uint8_t { kYes, kNo, kDamaged };

  /// Finds a key's slot. kDamaged also when the merger is just writing this buffer. The first cell of the home line
  /// that has the key's tag is looked at here: nearly always, that is the one.
  [[nodiscard, gnu::always_inline]] Found find(const HashedKey& key, Place& place, SlotHead& head) const noexcept {
    const std::uint64_t pages = page_count();
    const Directory directory = this->directory(pages);
    if (directory.words == nullptr) return Found::kDamaged;
    const std::uint64_t page = segment_page(directory, key.hash, pages);
    if (page == 0) return Found::kDamaged;
    const layout::IndexLine& line = segment(page).lines[home_line(key.hash)];
    const std::uint32_t match = TagWords(line).match(tag_of(key.hash));
    if (match != 0) [[likely]] {
      place = first_place(line, match);
      if (holds_key(place, key, pages, head)) [[likely]]
        return Found::kYes;
    }
    const Hit hit = find_in_segment(*this, key, pages, page);
    place = hit.place;
    head = hit.head;
    return place == Place{} ? Found::kNo : Found::kYes;
  }

  /// Whether a key is where it was seen before. The place is not trusted: what was a slot may have become another one,
  /// or a part of something else.
  [[nodiscard]] bool is_at(const Place& place, const HashedKey& key, SlotHead& head) const noexcept {
    const std::uint64_t pages = page_count();
    return is_slot(place, pages) && holds_key(place, key, pages, head);
  }
  /// The head of the entry at a place; its `type` is kNone when there is none.
  [[nodiscard]] SlotHead head_at(const Place& place) const noexcept {
    const std::uint64_t pages = page_count();
    if (!is_slot(place, pages)) return {};
    const SlotHead head = head_of(slot(place));
    return is_within(place, head.slot_bytes(), pages) ? head : SlotHead{};
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
    return head.is_value_in_block() ? block_words(slot.words[0], head.value_bytes) : slot.words;
  }
  [[nodiscard]] const std::uint64_t* key_words(const layout::Slot& slot, const SlotHead& head) const noexcept {
    const std::uint64_t* const words = slot.words + head.key_word();
    return head.is_key_in_block() ? block_words(*words, head.key_bytes()) : words;
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
  /// Where an entry lies, or nowhere; and its head, which has been checked.
  struct Hit {
    Place place;
    SlotHead head;
  };

  // Static, with copies of view and key, so that the caller can keep its own in registers.
  [[nodiscard, gnu::noinline]] static Hit find_in_segment(BufferView view, HashedKey key, std::uint64_t pages,
                                                          std::uint64_t page) noexcept {
    const layout::Segment& here = view.segment(page);
    const std::uint8_t tag = tag_of(key.hash);
    std::uint32_t line = home_line(key.hash);
    for (std::size_t probes = 0; probes < layout::kSegmentLines; ++probes) {
      const TagWords tags(here.lines[line]);
      for (std::uint32_t match = tags.match(tag); match != 0; match &= match - 1) {
        Hit hit{.place = first_place(here.lines[line], match), .head = {}};
        if (view.holds_key(hit.place, key, pages, hit.head)) return hit;
      }
      if (tags.overflow_count() == 0) break;
      line = (line + 1) % layout::kSegmentLines;
    }
    return {};
  }
  [[nodiscard, gnu::noinline]] static std::uint64_t segment_page_in_node(BufferView view, std::uint64_t entry,
                                                                         std::uint64_t hash,
                                                                         std::uint64_t pages) noexcept {
    for (unsigned i = 0; i < layout::kNodeLevels && !is_segment_page(entry, pages); ++i) {
      const DirectoryEntry node = DirectoryEntry::unpack(entry);
      if (node.level == 0 || node.level > layout::kNodeLevels || !is_segment_page(node.page, pages)) return 0;
      const std::uint32_t index = node_index(hash, node.level);
      entry = DirectoryEntry::in(
          view.header_word(node.page * layout::kPageBytes + DirectoryEntry::word_of(index) * kWord), index);
    }
    return is_segment_page(entry, pages) ? entry : 0;
  }

  [[nodiscard, gnu::always_inline]] bool holds_key(Place place, const HashedKey& key, std::uint64_t pages,
                                                   SlotHead& head) const noexcept {
    if (!is_within(place, PlainNumber::kSlotBytesMax, pages)) [[unlikely]]
      return holds_last_key(*this, place, key, pages, head);
    const std::uint64_t word = load_word(&slot(place).head, std::memory_order_acquire);
    if (PlainNumber::key_bytes_of(word) != key.bytes.size()) return false;
    head = SlotHead::unpack(word);
    return PlainNumber::is(word) ? equal_words(PlainNumber::key_words(slot(place)), key.bytes)
                                 : holds_other_key(*this, place, key, pages, head);
  }
  // In the last slots of the last page.
  [[nodiscard, gnu::noinline, gnu::cold]] static bool holds_last_key(BufferView view, Place place, HashedKey key,
                                                                     std::uint64_t pages, SlotHead& head) noexcept {
    if (!is_within(place, sizeof(layout::Slot), pages)) return false;
    head = SlotHead::unpack(load_word(&view.slot(place).head, std::memory_order_acquire));
    return head.key_bytes() == key.bytes.size() && holds_other_key(view, place, key, pages, head);
  }
  [[nodiscard, gnu::noinline]] static bool holds_other_key(BufferView view, Place place, HashedKey key,
                                                           std::uint64_t pages, SlotHead head) noexcept {
    if (!head.is_sane() || !is_within(place, head.slot_bytes(), pages)) return false;
    const std::uint64_t* words = view.slot(place).words + head.key_word();
    if (head.is_key_in_block()) {
      if (load_word(words + 1, std::memory_order_acquire) != key.hash) return false;
      words = view.block_words_below(pages, *words, head.key_bytes());
      if (words == nullptr) return false;
    }
    return equal_words(words, key.bytes);
  }

  [[nodiscard]] const std::uint64_t* block_words(const std::uint64_t& reference, std::size_t bytes) const noexcept {
    return block_words_below(page_count(), reference, bytes);
  }
  [[nodiscard]] const std::uint64_t* block_words_below(std::uint64_t pages, const std::uint64_t& reference,
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
