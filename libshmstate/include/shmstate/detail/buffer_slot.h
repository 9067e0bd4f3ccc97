// How an entry lies in its slot: the head word, and which of the words behind it hold what.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "shmstate/detail/buffer_layout.h"
#include "shmstate/detail/words.h"
#include "shmstate/value.h"

namespace shmstate::internal {

/// Types beyond `Type`. A versioned erase that is remembered for a while: readers see no entry.
inline constexpr Type kTombstone = static_cast<Type>(15);
/// Types from here up to the tombstone are of later minor versions: such an entry has a value that we cannot read.
inline constexpr Type kFirstOpaque = static_cast<Type>(4);
[[nodiscard]] constexpr bool is_opaque(Type type) noexcept { return type >= kFirstOpaque && type < kTombstone; }
/// Whether readers see an entry of that type.
[[nodiscard]] constexpr bool is_readable(Type type) noexcept { return type != Type::kNone && type < kFirstOpaque; }
[[nodiscard]] constexpr bool is_number(Type type) noexcept { return type == Type::kInt64 || type == Type::kFloat64; }

/// The first word of a slot, unpacked.
struct SlotHead {
  /// Of optional words, in the order in which they lie behind the key; and without a word, kOwned: it is ephemeral.
  enum Flag : std::uint8_t { kHasExpiry = 1, kHasVersion = 2, kHasSourceTime = 4, kHasStaleAfter = 8, kOwned = 16 };
  static constexpr unsigned kOptionalFlags = 0xf;
  static constexpr std::size_t kWordsMax = layout::kSlotUnitsMax * layout::kSlotUnitBytes / kWord - 2;
  /// Longer keys lie in a block. Beside the longest one that does not, there is room for all that needs no block.
  static constexpr std::size_t kInlineKeyBytesMax = 1008;

  // In the order of the ABI, from the lowest bit, so that packing and unpacking cost nothing.
  std::uint64_t last_key_byte : 12;  // the key's length - 1
  std::uint64_t value_bytes : 21;
  Type type : 4;
  std::uint64_t flags : 5;
  std::uint64_t quality : 2;  // zero: good
  std::uint64_t reserved : 4;
  std::uint64_t writer : 16;  // zero: unknown; of an ephemeral entry: index of its ring + 1

  constexpr SlotHead() noexcept : SlotHead(1, 0, Type::kNone) {}
  constexpr SlotHead(std::size_t key, std::size_t value, Type value_type, unsigned flag_bits = 0,
                     unsigned writer_number = 0) noexcept
      : last_key_byte((key - 1) & 0xfff),
        value_bytes(value & 0x1f'ffff),
        type(value_type),
        flags(flag_bits & 0x1f),
        quality(0),
        reserved(0),
        writer(writer_number & 0xffff) {}
  [[nodiscard]] static SlotHead unpack(std::uint64_t word) noexcept { return std::bit_cast<SlotHead>(word); }
  [[nodiscard]] std::uint64_t pack() const noexcept { return std::bit_cast<std::uint64_t>(*this); }

  [[nodiscard]] constexpr bool has(Flag flag) const noexcept { return (flags & flag) != 0; }
  [[nodiscard]] constexpr std::size_t key_bytes() const noexcept { return last_key_byte + std::size_t{1}; }
  /// The ring of an ephemeral entry: its index + 1; zero when it is not.
  [[nodiscard]] constexpr std::uint64_t owner() const noexcept { return has(kOwned) ? writer : 0; }

  // Which words hold what follows from the lengths: a long key lies in a block, and so does a value for which there is
  // no room beside the key.
  [[nodiscard]] constexpr bool is_key_in_block() const noexcept { return key_bytes() > kInlineKeyBytesMax; }
  [[nodiscard]] constexpr bool is_value_in_block() const noexcept {
    return words_of(value_bytes) + key_words() + optional_words() > kWordsMax;
  }
  [[nodiscard]] constexpr std::size_t value_words() const noexcept {
    return is_value_in_block() ? 1 : words_of(value_bytes);
  }
  [[nodiscard]] constexpr std::size_t key_word() const noexcept { return value_words(); }
  [[nodiscard]] constexpr std::size_t key_words() const noexcept {
    return is_key_in_block() ? 2 : words_of(key_bytes());
  }
  [[nodiscard]] constexpr std::size_t optional_words() const noexcept {
    return static_cast<std::size_t>(std::popcount(static_cast<unsigned>(flags) & kOptionalFlags));
  }
  /// The word of an optional one that is there.
  [[nodiscard]] constexpr std::size_t word_of(Flag flag) const noexcept {
    const unsigned before = static_cast<unsigned>(flags) & (unsigned{flag} - 1);
    return value_words() + key_words() + static_cast<std::size_t>(std::popcount(before));
  }
  /// Of the whole slot, as far as it is used.
  [[nodiscard]] constexpr std::size_t slot_bytes() const noexcept {
    return offsetof(layout::Slot, words) + (value_words() + key_words() + optional_words()) * kWord;
  }

  /// False for a head that no merger of this layout makes; whatever is true then lies within `slot_bytes`.
  [[nodiscard]] constexpr bool is_sane() const noexcept {
    return type != Type::kNone && value_bytes <= kValueBytesMax && (!is_number(type) || value_bytes == kWord);
  }
};

/// A slot that holds a number, then a key, and nothing else. Most slots are like that, and for them this replaces
/// unpacking and all other checks. `head` is as it is stored.
struct PlainNumber {
  static constexpr std::size_t kKeyBytesMax = 40;
  /// From the beginning of a slot, all that it may take.
  static constexpr std::size_t kSlotBytesMax = offsetof(layout::Slot, words) + kWord + kKeyBytesMax;

  [[nodiscard]] static constexpr std::size_t key_bytes_of(std::uint64_t head) noexcept { return (head & 0xfff) + 1; }
  [[nodiscard]] static constexpr std::size_t slot_bytes(std::uint64_t head) noexcept {
    return offsetof(layout::Slot, words) + kWord + padded(key_bytes_of(head));
  }
  [[nodiscard]] static constexpr bool is(std::uint64_t head) noexcept {
    constexpr std::uint64_t kSizeAndOptional = std::uint64_t{0x1f'ffff} << 12 | std::uint64_t{0xf} << 37;
    return (head & kSizeAndOptional) == std::uint64_t{kWord} << 12 && (head & 0xfff) < kKeyBytesMax &&
           (head >> 33 & 0xf) - 1 < static_cast<std::uint64_t>(Type::kFloat64);
  }
  /// The same question when type and length of the key must be these. Whoever wrote it, and however good it is.
  [[nodiscard]] static constexpr bool is(std::uint64_t head, Type type, std::size_t key_bytes) noexcept {
    constexpr std::uint64_t kUpToOptional = (std::uint64_t{1} << 41) - 1;
    return (head & kUpToOptional) ==
               (static_cast<std::uint64_t>(type) << 33 | std::uint64_t{kWord} << 12 | (key_bytes - 1)) &&
           key_bytes <= kKeyBytesMax;
  }
  [[nodiscard]] static constexpr const std::uint64_t* value_word(const layout::Slot& slot) noexcept {
    return slot.words;
  }
  [[nodiscard]] static constexpr const std::uint64_t* key_words(const layout::Slot& slot) noexcept {
    return slot.words + 1;
  }
};

static_assert(sizeof(SlotHead) == sizeof(std::uint64_t));
static_assert(kValueBytesMax < 1U << 21 && kKeyBytesMax <= 1U << 12);

/// The pages of a block.
[[nodiscard]] constexpr std::uint64_t block_pages(std::size_t bytes) noexcept {
  return (bytes + layout::kPageBytes - 1) / layout::kPageBytes;
}

}  // namespace shmstate::internal
