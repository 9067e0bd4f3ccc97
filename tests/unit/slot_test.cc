// Where an entry's bytes go: inline in its slot, or in a block; and which slots there are.
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

constexpr std::array kOptional{SlotHead::kHasExpiry, SlotHead::kHasVersion, SlotHead::kHasSourceTime,
                               SlotHead::kHasStaleAfter};
constexpr unsigned kFlagsEnd = 32;

// Lengths on each side of what decides where something lies.
void for_each_size(const std::function<void(const SlotHead&)>& check) {
  for (const std::size_t key_bytes : {1, 7, 8, 9, 40, 41, 1'007, 1'008, 1'009, 4'095, 4'096}) {
    for (std::size_t value_bytes = 0; value_bytes <= 2'100; value_bytes += value_bytes % 900 > 60 ? 97 : 1) {
      for (unsigned flags = 0; flags < kFlagsEnd; ++flags) check({key_bytes, value_bytes, Type::kBytes, flags});
    }
    for (unsigned flags = 0; flags < kFlagsEnd; ++flags) check({key_bytes, kValueBytesMax, Type::kBytes, flags});
  }
}

// The words that each part takes, in one list.
std::vector<std::size_t> words_taken(const SlotHead& head) {
  std::vector<std::size_t> words;
  for (std::size_t i = 0; i < head.value_words(); ++i) words.push_back(i);
  for (std::size_t i = 0; i < head.key_words(); ++i) words.push_back(head.key_word() + i);
  for (const SlotHead::Flag flag : kOptional) {
    if (head.has(flag)) words.push_back(head.word_of(flag));
  }
  return words;
}

std::string trace(const SlotHead& head) {
  return "key of " + std::to_string(head.key_bytes()) + ", value of " + std::to_string(head.value_bytes) +
         " bytes, flags " + std::to_string(head.flags);
}

TEST(SlotTest, ThePartsOfAnEntryLieBehindEachOtherAndFillItsSlot) {
  for_each_size([](const SlotHead& head) {
    ASSERT_TRUE(head.is_sane()) << trace(head);
    const std::vector<std::size_t> words = words_taken(head);
    for (std::size_t i = 0; i < words.size(); ++i) ASSERT_EQ(words[i], i) << trace(head);
    ASSERT_EQ(head.slot_bytes(), 16 + 8 * words.size()) << trace(head);
    ASSERT_LE(slot_units(head.slot_bytes()), layout::kSlotUnitsMax) << trace(head);
  });
}

TEST(SlotTest, WhatFitsIsInlineAndAShortKeyAlwaysIs) {
  for_each_size([](const SlotHead& head) {
    ASSERT_EQ(head.is_key_in_block(), head.key_bytes() > 1'008) << trace(head);
    const std::size_t key_words = head.is_key_in_block() ? 2 : words_of(head.key_bytes());
    const bool fits = words_of(head.value_bytes) + key_words + head.optional_words() <= SlotHead::kWordsMax;
    ASSERT_EQ(head.is_value_in_block(), !fits) << trace(head);
  });
}

TEST(SlotTest, ANumberIsInlineWhateverTheKey) {
  for (std::size_t key_bytes = 1; key_bytes <= kKeyBytesMax; ++key_bytes) {
    for (unsigned flags = 0; flags < kFlagsEnd; ++flags) {
      const SlotHead head(key_bytes, kWord, Type::kFloat64, flags);
      ASSERT_FALSE(head.is_value_in_block()) << trace(head);
      ASSERT_TRUE(head.is_sane()) << trace(head);
    }
  }
}

TEST(SlotTest, AHeadSurvivesPacking) {
  test::Random random(1);
  for (int i = 0; i < 10'000; ++i) {
    const SlotHead head(random.between(1, kKeyBytesMax), random.between(0, kValueBytesMax),
                        static_cast<Type>(random.below(16)), static_cast<unsigned>(random.below(32)),
                        static_cast<unsigned>(random.below(65536)));
    const SlotHead copy = SlotHead::unpack(head.pack());
    ASSERT_EQ(copy.key_bytes(), head.key_bytes());
    ASSERT_EQ(copy.writer, head.writer);
    ASSERT_EQ(copy.value_bytes, head.value_bytes);
    ASSERT_EQ(copy.flags, head.flags);
    ASSERT_EQ(copy.type, head.type);
  }
}

TEST(SlotTest, AHeadOfAnyBitsIsRefusedOrFitsIntoASlot) {
  test::Random random(2);
  int sane_count = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const SlotHead head = SlotHead::unpack(random.word());
    if (!head.is_sane()) continue;
    ++sane_count;
    ASSERT_LE(slot_units(head.slot_bytes()), layout::kSlotUnitsMax) << std::hex << head.pack();
    ASSERT_LE(head.value_bytes, kValueBytesMax) << std::hex << head.pack();
  }
  EXPECT_GT(sane_count, 1000) << "the test looks at nothing";
}

// The short ways of readers stand on this: a head that is plain needs no other check. Who wrote the entry, how good it
// is and bits that are free make no difference.
TEST(SlotTest, AHeadIsPlainExactlyWhenItIsASaneNumberUnderAShortKeyWithoutOptionalWords) {
  test::Random random(3);
  int plain_count = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    SlotHead head(random.between(1, 48), random.chance(80) ? kWord : random.below(20),
                  static_cast<Type>(random.below(16)), static_cast<unsigned>(random.chance(80) ? 0 : random.below(32)),
                  static_cast<unsigned>(random.below(65536)));
    head.quality = random.below(4) & 3;
    head.reserved = random.below(16) & 15;
    const bool is_plain =
        is_number(head.type) && head.is_sane() && head.optional_words() == 0 && head.key_bytes() <= 40;
    ASSERT_EQ(PlainNumber::is(head.pack()), is_plain) << std::hex << head.pack();
    if (is_number(head.type)) {
      ASSERT_EQ(PlainNumber::is(head.pack(), head.type, head.key_bytes()), is_plain) << std::hex << head.pack();
    }
    if (!is_plain) continue;
    ++plain_count;
    ASSERT_EQ(PlainNumber::slot_bytes(head.pack()), head.slot_bytes());
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

// ---- the sizes of slots

TEST(SlotSizeTest, ASlotHoldsItsBytesAndIsTheLargestOfWhichAsManyFitInAPage) {
  for (std::size_t bytes = 24; bytes <= layout::kSlotUnitsMax * layout::kSlotUnitBytes; ++bytes) {
    const unsigned units = slot_units(bytes);
    ASSERT_GE(units * layout::kSlotUnitBytes, bytes);
    ASSERT_GE(units, layout::kSlotUnitsMin);
    ASSERT_LE(units, layout::kSlotUnitsMax);
    ASSERT_LT(layout::kPageUnits / (units + 1), layout::kPageUnits / units) << bytes << ": a larger one costs nothing";
    ASSERT_EQ(slot_units(units * layout::kSlotUnitBytes), units) << "a slot is its own size";
  }
}

TEST(SlotSizeTest, SmallSizesDifferBySixteenBytesAndThereAreFewLargeOnes) {
  std::set<unsigned> sizes;
  for (std::size_t bytes = 1; bytes <= layout::kSlotUnitsMax * layout::kSlotUnitBytes; ++bytes) {
    sizes.insert(slot_units(bytes));
  }
  for (unsigned units = 2; units <= 15; ++units) EXPECT_TRUE(sizes.contains(units)) << units;
  EXPECT_EQ(sizes.size(), 28U);
}

TEST(SlotSizeTest, EpochOfChangeAndValueLieInOneLineWhateverTheSlot) {
  for (std::uint32_t unit = Place::kUnits; unit < 2 * Place::kUnits; ++unit) {
    const std::uint64_t begin = Place{.unit = unit}.offset() + offsetof(layout::Slot, changed_epoch);
    const std::uint64_t end = Place{.unit = unit}.offset() + offsetof(layout::Slot, words) + kWord;
    ASSERT_EQ(begin / layout::kLine, (end - 1) / layout::kLine) << unit;
  }
}

TEST(SlotSizeTest, OnlyTheBeginningOfASlotIsOneAndAllLieWithinThePage) {
  for (unsigned units = layout::kSlotUnitsMin; units <= layout::kSlotUnitsMax; ++units) {
    unsigned count = 0;
    for (std::uint32_t unit = 0; unit < Place::kUnits; ++unit) {
      const Place place{.unit = 7 * Place::kUnits + unit};
      if (!place.is_in_slab_of(units)) continue;
      ++count;
      ASSERT_EQ(unit % units, 0U);
      ASSERT_LE(place.offset() + units * layout::kSlotUnitBytes, std::uint64_t{8} * layout::kPageBytes);
    }
    ASSERT_EQ(count, layout::kPageUnits / units);
  }
}

TEST(SlotSizeTest, ABlockIsAsManyPagesAsItsBytesNeed) {
  EXPECT_EQ(block_pages(1), 1U);
  EXPECT_EQ(block_pages(layout::kPageBytes), 1U);
  EXPECT_EQ(block_pages(layout::kPageBytes + 1), 2U);
  EXPECT_EQ(block_pages(kValueBytesMax), 256U);
}

}  // namespace
}  // namespace shmstate
