// Where an entry's bytes go: inline in its slot, or in a heap block.
#include "shmstate/detail/buffer_slot.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <functional>
#include <set>
#include <vector>

#include "harness/test_instance.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate {
using namespace internal;
namespace {

constexpr std::array<std::uint8_t, 4> kOptionalFlags{0, SlotHead::kHasExpiry, SlotHead::kHasVersion,
                                                     SlotHead::kHasExpiry | SlotHead::kHasVersion};

SlotHead placed(std::size_t key_bytes, std::size_t value_bytes, std::uint8_t flags, Type type = Type::kBytes) {
  SlotHead head(key_bytes, value_bytes, type, flags);
  head.place();
  return head;
}

void for_each_size(const std::function<void(std::size_t, std::size_t, std::uint8_t)>& check) {
  for (std::size_t key_bytes = 1; key_bytes <= 60; ++key_bytes) {
    for (std::size_t value_bytes = 0; value_bytes <= 60; ++value_bytes) {
      for (const std::uint8_t flags : kOptionalFlags) check(key_bytes, value_bytes, flags);
    }
  }
}

// The words that each part takes, in one list.
std::vector<std::size_t> words_taken(const SlotHead& head) {
  std::vector<std::size_t> words;
  for (std::size_t i = 0; i < head.value_words(); ++i) words.push_back(i);
  for (std::size_t i = 0; i < head.key_words(); ++i) words.push_back(head.key_word() + i);
  if (head.has(SlotHead::kHasExpiry)) words.push_back(head.expiry_word());
  if (head.has(SlotHead::kHasVersion)) words.push_back(head.version_word());
  return words;
}

std::string trace(std::size_t key_bytes, std::size_t value_bytes, std::uint8_t flags) {
  return "key of " + std::to_string(key_bytes) + ", value of " + std::to_string(value_bytes) + " bytes, flags " +
         std::to_string(flags);
}

TEST(SlotTest, NoTwoPartsOfAnEntryShareAWordAndAllLieInTheSlot) {
  for_each_size([](std::size_t key_bytes, std::size_t value_bytes, std::uint8_t flags) {
    const SlotHead head = placed(key_bytes, value_bytes, flags);
    ASSERT_TRUE(head.is_sane()) << trace(key_bytes, value_bytes, flags);
    const std::vector<std::size_t> words = words_taken(head);
    ASSERT_EQ(std::set(words.begin(), words.end()).size(), words.size()) << trace(key_bytes, value_bytes, flags);
    for (const std::size_t word : words) ASSERT_LT(word, kSlotWords) << trace(key_bytes, value_bytes, flags);
  });
}

TEST(SlotTest, WhatFitsIsInlineAndWhatIsInlineFits) {
  for_each_size([](std::size_t key_bytes, std::size_t value_bytes, std::uint8_t flags) {
    const SlotHead head = placed(key_bytes, value_bytes, flags);
    const bool fits = words_of(key_bytes) + words_of(value_bytes) + head.optional_words() <= kSlotWords;
    const bool is_inline = !head.has(SlotHead::kKeyInHeap) && !head.has(SlotHead::kValueInHeap);
    ASSERT_EQ(is_inline, fits) << trace(key_bytes, value_bytes, flags);
    ASSERT_EQ(head.key_words(), head.has(SlotHead::kKeyInHeap) ? 2 : words_of(key_bytes));
    ASSERT_EQ(head.value_words(), head.has(SlotHead::kValueInHeap) ? 1 : words_of(value_bytes));
  });
}

TEST(SlotTest, TheHeapIsUsedForOnePartWhenOneIsEnough) {
  for_each_size([](std::size_t key_bytes, std::size_t value_bytes, std::uint8_t flags) {
    const SlotHead head = placed(key_bytes, value_bytes, flags);
    if (!head.has(SlotHead::kKeyInHeap) || !head.has(SlotHead::kValueInHeap)) return;
    const std::size_t room = kSlotWords - head.optional_words();
    ASSERT_GT(words_of(key_bytes) + 1, room) << trace(key_bytes, value_bytes, flags);
    ASSERT_GT(2 + words_of(value_bytes), room) << trace(key_bytes, value_bytes, flags);
  });
}

TEST(SlotTest, PlacingAgainChangesNothingAndForgetsTheOldPlace) {
  for_each_size([](std::size_t key_bytes, std::size_t value_bytes, std::uint8_t flags) {
    SlotHead head = placed(60, 60, flags);
    head.key_bytes = key_bytes & 0xffff;
    head.value_bytes = value_bytes & SlotHead::kValueBytesMask;
    head.place();
    const SlotHead fresh = placed(key_bytes, value_bytes, flags);
    ASSERT_EQ(head.pack(), fresh.pack()) << trace(key_bytes, value_bytes, flags);
    head.place();
    ASSERT_EQ(head.pack(), fresh.pack()) << trace(key_bytes, value_bytes, flags);
  });
}

TEST(SlotTest, ANumberIsInlineWhateverTheKey) {
  for (std::size_t key_bytes = 1; key_bytes <= kKeyBytesMax; ++key_bytes) {
    for (const std::uint8_t flags : kOptionalFlags) {
      for (const Type type : {Type::kInt64, Type::kFloat64}) {
        const SlotHead head = placed(key_bytes, kWord, flags, type);
        ASSERT_FALSE(head.has(SlotHead::kValueInHeap)) << trace(key_bytes, kWord, flags);
        ASSERT_TRUE(head.is_sane()) << trace(key_bytes, kWord, flags);
      }
    }
  }
}

TEST(SlotTest, TheLargestKeyAndValueHaveAPlace) {
  for (const std::uint8_t flags : kOptionalFlags) {
    for (const std::size_t value_bytes : {std::size_t{0}, std::size_t{8}, kValueBytesMax}) {
      EXPECT_TRUE(placed(kKeyBytesMax, value_bytes, flags).is_sane()) << trace(kKeyBytesMax, value_bytes, flags);
    }
  }
}

TEST(SlotTest, AHeadSurvivesPacking) {
  test::Random random(1);
  for (int i = 0; i < 10'000; ++i) {
    const SlotHead head(random.between(1, kKeyBytesMax), random.between(0, kValueBytesMax),
                        static_cast<Type>(random.below(16)), static_cast<unsigned>(random.below(64)),
                        static_cast<unsigned>(random.below(65536)));
    const SlotHead copy = SlotHead::unpack(head.pack());
    ASSERT_EQ(copy.key_bytes, head.key_bytes);
    ASSERT_EQ(copy.owner, head.owner);
    ASSERT_EQ(copy.value_bytes, head.value_bytes);
    ASSERT_EQ(copy.flags, head.flags);
    ASSERT_EQ(copy.type, head.type);
  }
}

TEST(SlotTest, AHeadOfAnyBitsIsRefusedOrStaysWithinTheSlot) {
  test::Random random(2);
  int sane_count = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    // Small sizes and known types, so that many heads are sane; the other bits are anything.
    const std::uint64_t word = random.word() & (random.chance(50) ? 0x3fc0'003f'ffff'003fU : ~std::uint64_t{0});
    const SlotHead head = SlotHead::unpack(word);
    if (!head.is_sane()) continue;
    ++sane_count;
    ASSERT_LE(head.key_word() + head.key_words(), kSlotWords - head.optional_words()) << std::hex << word;
    ASSERT_GE(head.key_bytes, 1U) << std::hex << word;
    ASSERT_LE(head.key_bytes, kKeyBytesMax) << std::hex << word;
    ASSERT_LE(head.value_bytes, kValueBytesMax) << std::hex << word;
  }
  EXPECT_GT(sane_count, 1000) << "the test looks at nothing";
}

// The short ways of readers stand on this: a head that is plain needs no other check.
TEST(SlotTest, AHeadIsPlainExactlyWhenItIsASaneNumberWithNothingElse) {
  test::Random random(3);
  int plain_count = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const SlotHead head(
        random.below(48), random.chance(80) ? kWord : random.below(20), static_cast<Type>(random.below(6)),
        static_cast<unsigned>(random.chance(80) ? 0 : random.below(64)), static_cast<unsigned>(random.below(3)));
    const bool is_number = head.type == Type::kInt64 || head.type == Type::kFloat64;
    const bool is_plain = is_number && head.is_sane() && head.flags == 0;
    ASSERT_EQ(PlainNumber::is(head.pack()), is_plain) << std::hex << head.pack();
    if (is_number && head.key_bytes != 0) {  // nobody asks for an empty key
      ASSERT_EQ(PlainNumber::is(head.pack(), head.type, head.key_bytes), is_plain) << std::hex << head.pack();
    }
    if (is_plain) ++plain_count;
  }
  EXPECT_GT(plain_count, 1000) << "the test looks at nothing";
}

// A buffer that says that it has no pages, as one does that was lost, has no place for an entry.
TEST(BufferViewTest, NoPageIsWithinNoPages) {
  for (const std::uint64_t page : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{17}, ~std::uint64_t{0}}) {
    EXPECT_FALSE(BufferView::is_segment_page(page, 0)) << page;
  }
  EXPECT_FALSE(BufferView::is_segment_page(0, 17)) << "the header's";
  EXPECT_TRUE(BufferView::is_segment_page(16, 17));
  EXPECT_FALSE(BufferView::is_segment_page(17, 17));
}

TEST(HeapBlockTest, ABlockHoldsItsBytesInWholeLines) {
  for (std::size_t bytes = 0; bytes <= kValueBytesMax; ++bytes) {
    ASSERT_GE(heap_block_bytes(bytes), bytes);
    ASSERT_EQ(heap_block_bytes(bytes) % layout::kLine, 0U) << bytes;
  }
}

TEST(HeapBlockTest, MoreBytesNeverGetASmallerBlock) {
  for (std::size_t bytes = 1; bytes <= kValueBytesMax; ++bytes) {
    ASSERT_GE(heap_block_bytes(bytes), heap_block_bytes(bytes - 1)) << bytes;
  }
}

TEST(HeapBlockTest, ABlockWastesAtMostAQuarterOrLessThanALine) {
  for (std::size_t bytes = 1; bytes <= kValueBytesMax; ++bytes) {
    const std::size_t block_bytes = heap_block_bytes(bytes);
    const std::size_t waste_bytes = block_bytes - bytes;
    ASSERT_TRUE(waste_bytes < layout::kLine || 4 * waste_bytes <= block_bytes) << bytes << " in " << block_bytes;
  }
}

TEST(HeapBlockTest, ABlockIsItsOwnSize) {
  for (std::size_t bytes = 0; bytes <= kValueBytesMax; bytes += 8) {
    ASSERT_EQ(heap_block_bytes(heap_block_bytes(bytes)), heap_block_bytes(bytes)) << bytes;
  }
}

TEST(HeapBlockTest, ThereAreFewSizesSoThatBlocksAreUsedAgain) {
  std::set<std::size_t> sizes;
  for (std::size_t bytes = 1; bytes <= kValueBytesMax; ++bytes) sizes.insert(heap_block_bytes(bytes));
  EXPECT_EQ(sizes.size(), 52U) << "8 of whole lines up to 512 bytes, then 4 for each doubling up to 1 MiB";
}

}  // namespace
}  // namespace shmstate
