// How an entry lies in its slot: the head word, and which of the six words hold what.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "shmstate/detail/buffer_layout.h"
#include "shmstate/detail/words.h"
#include "shmstate/value.h"

namespace shmstate::internal {

inline constexpr std::size_t kSlotWords = 6;

/// A slot type beyond `Type`: a versioned erase that is remembered for a while; readers see no entry.
inline constexpr Type kTombstone = static_cast<Type>(4);

/// The first word of a slot, unpacked.
struct SlotHead {
  enum Flag : std::uint8_t { kKeyInHeap = 1, kValueInHeap = 2, kHasExpiry = 4, kHasVersion = 8 };
  static constexpr std::uint64_t kFlagMask = 0x3f;
  static constexpr std::uint64_t kValueBytesMask = (1U << 22) - 1;

  // In the order of the ABI, from the lowest bit, so that packing and unpacking cost nothing.
  std::uint64_t key_bytes : 16;
  std::uint64_t owner : 16;  // ephemeral: index of the owner's ring + 1
  std::uint64_t value_bytes : 22;
  std::uint64_t flags : 6;
  Type type : 4;

  constexpr SlotHead() noexcept : SlotHead(0, 0, Type::kNone) {}
  constexpr SlotHead(std::size_t key, std::size_t value, Type value_type, unsigned flag_bits = 0,
                     unsigned owner_place = 0) noexcept
      : key_bytes(key & 0xffff),
        owner(owner_place & 0xffff),
        value_bytes(value & kValueBytesMask),
        flags(flag_bits & kFlagMask),
        type(value_type) {}
  [[nodiscard]] static SlotHead unpack(std::uint64_t word) noexcept { return std::bit_cast<SlotHead>(word); }
  [[nodiscard]] std::uint64_t pack() const noexcept { return std::bit_cast<std::uint64_t>(*this); }

  [[nodiscard]] constexpr bool has(Flag flag) const noexcept { return (flags & flag) != 0; }

  // Which words hold what.
  [[nodiscard]] constexpr std::size_t value_words() const noexcept {
    return has(kValueInHeap) ? 1 : words_of(value_bytes);
  }
  [[nodiscard]] constexpr std::size_t key_word() const noexcept { return value_words(); }
  [[nodiscard]] constexpr std::size_t key_words() const noexcept { return has(kKeyInHeap) ? 2 : words_of(key_bytes); }
  [[nodiscard]] constexpr std::size_t optional_words() const noexcept {
    return (has(kHasExpiry) ? 1U : 0U) + (has(kHasVersion) ? 1U : 0U);
  }
  [[nodiscard]] constexpr std::size_t expiry_word() const noexcept { return kSlotWords - 1; }
  [[nodiscard]] constexpr std::size_t version_word() const noexcept { return kSlotWords - optional_words(); }

  /// False for a head that no writer of this layout makes; everything else stays within the slot.
  [[nodiscard]] constexpr bool is_sane() const noexcept {
    return key_bytes >= 1 && key_bytes <= kKeyBytesMax && value_bytes <= kValueBytesMax && type >= Type::kInt64 &&
           type <= kTombstone && value_words() + key_words() + optional_words() <= kSlotWords &&
           (type == Type::kBytes || type == kTombstone || (value_bytes == kWord && !has(kValueInHeap)));
  }

  [[nodiscard]] static constexpr std::size_t key_bytes_of(std::uint64_t word) noexcept { return word & 0xffff; }

  /// Decides what goes inline: the value first, then the key; what does not fit lies in the heap.
  constexpr void place() noexcept {
    const std::size_t room = kSlotWords - optional_words();
    const std::size_t key = words_of(key_bytes);
    const std::size_t value = words_of(value_bytes);
    flags = flags & ~std::uint64_t{kKeyInHeap | kValueInHeap} & kFlagMask;
    if (value + key <= room) return;
    if (value > 1 && 1 + key <= room) {
      flags |= kValueInHeap;
    } else {
      flags |= kKeyInHeap;
      if (value + 2 > room) flags |= kValueInHeap;
    }
  }
};

/// A slot that holds a number, then a key, and nothing else. Most slots are like that, and for them this replaces
/// unpacking and all other checks. `head` is as it is stored.
struct PlainNumber {
  static constexpr std::size_t kKeyBytesMax = (kSlotWords - 1) * kWord;

  [[nodiscard]] static constexpr bool is(std::uint64_t head) noexcept {
    constexpr std::uint64_t kSizeAndFlags = std::uint64_t{0x0fff'ffff} << 32;
    return (head & kSizeAndFlags) == std::uint64_t{kWord} << 32 && SlotHead::key_bytes_of(head) - 1 < kKeyBytesMax &&
           (head >> 60) - 1 < static_cast<std::uint64_t>(Type::kFloat64);
  }
  /// The same question when type and length of the key must be these.
  [[nodiscard]] static constexpr bool is(std::uint64_t head, Type type, std::size_t key_bytes) noexcept {
    constexpr std::uint64_t kOwner = std::uint64_t{0xffff} << 16;  // may be anybody
    return (head & ~kOwner) == (static_cast<std::uint64_t>(type) << 60 | std::uint64_t{kWord} << 32 | key_bytes) &&
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
static_assert(kValueBytesMax <= SlotHead::kValueBytesMask && kKeyBytesMax < (1U << 16));

/// The bytes that a heap block takes: whole lines, in steps of at most a quarter, so that every size belongs to one of
/// few classes and a block can be used again by another value of about its size.
[[nodiscard]] constexpr std::size_t heap_block_bytes(std::size_t bytes) noexcept {
  std::size_t step = layout::kLine;
  while (bytes > 8 * step) step *= 2;
  return round_up(bytes == 0 ? 1 : bytes, step);
}

}  // namespace shmstate::internal
