// The table as a whole, through the engine: keys and values of every size, keys whose hashes were chosen, memory that
// changes its use.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "harness/chosen_keys.h"
#include "harness/test_instance.h"
#include "shmstate/detail/buffer_slot.h"

namespace shmstate {
using namespace internal;
namespace {

using test::ChosenKeys;
using test::Random;
using test::ring_of;
using test::TestInstance;

using Entries = std::map<std::string, Value, std::less<>>;

class TableTest : public testing::Test {
 protected:
  explicit TableTest(const InstanceOptions& options = {.memory_limit_bytes = std::uint64_t{64} << 20})
      : instance_(options) {}

  [[nodiscard]] std::uint64_t seed() { return instance_.owner().geometry().hash_seed; }
  void set(const std::string& key, ValueView value) {
    if (writer_.set(key, value) == Status::kOk) return;
    instance_.pump();
    ASSERT_EQ(writer_.set(key, value), Status::kOk);
  }
  void erase(const std::string& key) {
    if (writer_.erase(key) == Status::kOk) return;
    instance_.pump();
    ASSERT_EQ(writer_.erase(key), Status::kOk);
  }
  [[nodiscard]] std::uint64_t rejected(Status reason) {
    instance_.pump();
    return writer_.rejected(reason);
  }
  [[nodiscard]] const layout::BufferHeader& current_header() {
    return *reinterpret_cast<const layout::BufferHeader*>(
        instance_.owner().buffer(current_version(instance_.owner().publication()).buffer));
  }
  [[nodiscard]] std::uint64_t used_pages() {
    return instance_.statistic(Stat::kPagesCommitted) - instance_.statistic(Stat::kPagesFree);
  }
  void expect_exactly(const Entries& entries) {
    instance_.pump();
    const Snapshot snapshot = reader_.snapshot();
    ASSERT_EQ(snapshot.size(), entries.size());
    std::size_t count = 0;
    snapshot.for_each([&](const EntryView& entry) {
      const auto expected = entries.find(entry.key);
      ASSERT_NE(expected, entries.end()) << "a key that was never set or was erased";
      ASSERT_EQ(entry.value.to_value(), expected->second);
      ++count;
    });
    ASSERT_EQ(count, entries.size()) << "a key is missing, or comes twice";
    for (const auto& [key, value] : entries) ASSERT_EQ(reader_.get<Value>(key), value);
  }
  void expect_empty() {
    expect_exactly({});
    EXPECT_EQ(instance_.statistic(Stat::kSegments), 1U);
    EXPECT_LE(used_pages(), layout::kFirstPage + 2U) << "the header, the map, a segment, and a slab that is kept";
  }

  TestInstance instance_;
  Writer writer_ = instance_.writer(ring_of(4 << 20));
  Reader reader_ = instance_.reader();
};

// ---- sizes

// The largest values that fit into each size of slots beside the key, and one byte more.
std::vector<std::size_t> edges(std::size_t key_bytes) {
  std::vector<std::size_t> sizes{0, 1, 7, 8, 9, 4'095, 4'096, 4'097};
  const std::size_t key_words = key_bytes > SlotHead::kInlineKeyBytesMax ? 2 : words_of(key_bytes);
  for (std::size_t bytes = 32; bytes <= layout::kSlotUnitsMax * layout::kSlotUnitBytes;) {
    const std::size_t slot_bytes = slot_units(bytes) * layout::kSlotUnitBytes;
    const std::size_t fixed = offsetof(layout::Slot, words) + key_words * kWord;
    for (std::size_t more = 0; more < 2; ++more) {
      if (slot_bytes + more > fixed) sizes.push_back(slot_bytes - fixed + more);
    }
    bytes = slot_bytes + 1;
  }
  return sizes;
}

TEST_F(TableTest, ValuesOnEachSideOfEverySizeAreReadBackAsTheyGrowAndShrink) {
  Random random(1);
  for (const std::size_t key_bytes : {1, 24, 40, 41, 1'007, 1'008, 1'009, 4'096}) {
    const std::string key(key_bytes, 'k');
    std::vector<std::size_t> sizes = edges(key_bytes);
    for (int round = 0; round < 3; ++round) {
      for (const std::size_t bytes : sizes) {
        const std::string value = random.bytes(bytes);
        set(key, std::string_view(value));
        instance_.pump();
        ASSERT_EQ(reader_.get<std::string>(key), value) << "a key of " << key_bytes << " bytes";
        ASSERT_TRUE(instance_.is_caught_up());
      }
      std::shuffle(sizes.begin(), sizes.end(), std::mt19937_64(random.word()));
    }
    erase(key);
  }
  expect_empty();
}

// ---- random histories

class TableHistory : public TableTest, public testing::WithParamInterface<std::uint32_t> {
 protected:
  TableHistory() : TableTest({.buffer_count = GetParam(), .memory_limit_bytes = std::uint64_t{192} << 20}) {
    instance_.fix_hash_seed(random_.word());
    writer_ = instance_.writer(ring_of(4 << 20));
    reader_ = instance_.reader();
    const ChosenKeys chosen(seed());
    for (std::uint64_t i = 0; i < 900; ++i) {
      keys_.push_back(chosen.with_hash(i << 24 | 0x12'3456));        // equal low bits
      keys_.push_back(chosen.with_hash(0xabcd'1234'0000'0000 | i));  // equal high bits: one line, one tag
      keys_.push_back(random_.bytes(random_.between(1, 60)));
    }
    for (int i = 0; i < 100; ++i) keys_.push_back(random_.bytes(random_.between(1, kKeyBytesMax)));
  }

  [[nodiscard]] Value any_value(std::size_t key_bytes) {
    const std::size_t dice = random_.below(100);
    if (dice < 40) return static_cast<std::int64_t>(random_.word());
    if (dice < 45) return static_cast<double>(random_.below(1'000)) / 8;
    if (dice < 70) return random_.bytes(random_.below(64));
    const std::vector<std::size_t> sizes = edges(key_bytes);
    return random_.bytes(dice < 98 ? sizes[random_.below(sizes.size())] : random_.below(20'000));
  }
  void act() {
    const std::string& key = keys_[random_.below(keys_.size())];
    if (random_.chance(erase_percent_)) {
      erase(key);
      entries_.erase(key);
    } else {
      const Value value = any_value(key.size());
      set(key, value);
      entries_[key] = value;
    }
    if (random_.below(2'000) == 0) erase_percent_ = random_.chance(50) ? 20 : 80;
    if (random_.chance(2)) instance_.step();
    ASSERT_TRUE(!random_.chance(1) || instance_.is_caught_up());
  }

  Random random_{2 + GetParam()};
  std::vector<std::string> keys_;
  Entries entries_;
  std::size_t erase_percent_ = 20;
};

TEST_P(TableHistory, KeysOfAllLengthsAndEqualHashesAreWhatAMapSays) {
  for (int i = 0; i < test::steps(30'000); ++i) {
    act();
    if (i % 1'500 == 0) expect_exactly(entries_);
    if (i % 4'000 == 0) {
      instance_.pump();
      instance_.restart();
    }
    ASSERT_FALSE(HasFailure()) << "action " << i;
  }
  EXPECT_EQ(rejected(Status::kCrowded), 0U);
  for (const std::string& key : keys_) erase(key);
  expect_empty();
}

INSTANTIATE_TEST_SUITE_P(Buffers, TableHistory, testing::Values(2U, 3U),
                         [](const auto& test) { return "Of" + std::to_string(test.param); });

// ---- keys whose hashes were chosen

TEST_F(TableTest, AKeyHasTheHashThatWasChosenForIt) {
  Random random(3);
  for (int i = 0; i < 1'000; ++i) {
    const std::uint64_t hash = random.word();
    ASSERT_EQ(hash_key(ChosenKeys(seed()).with_hash(hash), seed()), hash);
  }
}

// A directory as long as their hashes ask for would take 257 MiB, and every scan would go through it.
TEST_F(TableTest, KeysWithEqualLowBitsCostMemoryForThemselvesOnly) {
  const ChosenKeys chosen(seed());
  Entries entries;
  for (std::uint64_t i = 0; i < 955; ++i) {
    const std::string key = chosen.with_hash(i << 24 | 0x65'4321);
    set(key, std::int64_t(i));
    entries[key] = static_cast<std::int64_t>(i);
  }
  set("another key", 1);
  entries["another key"] = 1;
  EXPECT_EQ(rejected(Status::kCrowded), 0U);
  expect_exactly(entries);
  EXPECT_LE(instance_.statistic(Stat::kPagesCommitted), 60U);
  EXPECT_LE(DirectoryWord::unpack(current_header().directory).depth, layout::kSmallDirectoryLog2);
  instance_.restart();
  expect_exactly(entries);
  for (const auto& [key, value] : entries) erase(key);
  expect_empty();
}

class CrowdTest : public TableTest {
 protected:
  // As many low bits as any segment can tell apart.
  [[nodiscard]] std::string crowd_key(std::uint64_t i) const { return chosen_.with_hash(i << 30 | 0x2345'6789); }

  ChosenKeys chosen_{seed()};
};

TEST_F(CrowdTest, AKeyIsRefusedWhenTooManyHashesBeginLikeItsAndNoOtherKeyIs) {
  constexpr std::uint64_t kCount = 1'000;
  for (std::uint64_t i = 0; i < kCount; ++i) set(crowd_key(i), 1);
  const std::uint64_t refused = rejected(Status::kCrowded);
  EXPECT_GT(refused, 0U);
  EXPECT_EQ(reader_.snapshot().size() + refused, kCount);
  EXPECT_EQ(writer_.rejected(Status::kNoMemory), 0U);
  EXPECT_EQ(writer_.flush(std::chrono::nanoseconds::zero()), Status::kRejected);

  Random random(4);
  for (int i = 0; i < 10'000; ++i) set("other/" + std::to_string(i), i);
  for (unsigned bit = 0; bit < 30; ++bit) set(chosen_.with_hash(0x2345'6789 ^ std::uint64_t{1} << bit), 1);
  EXPECT_EQ(rejected(Status::kCrowded), refused) << "keys that differ in one of those bits";
  EXPECT_EQ(reader_.snapshot().size(), kCount - refused + 10'000 + 30);
}

TEST_F(CrowdTest, AnErasedKeyMakesRoomInTheCrowd) {
  for (std::uint64_t i = 0; i < 1'000; ++i) set(crowd_key(i), 1);
  const std::uint64_t refused = rejected(Status::kCrowded);
  erase(crowd_key(0));
  set(crowd_key(2'000), 2);
  EXPECT_EQ(rejected(Status::kCrowded), refused);
  EXPECT_EQ(reader_.get<std::int64_t>(crowd_key(2'000)), 2);
  for (std::uint64_t i = 0; i <= 2'000; ++i) erase(crowd_key(i));
  expect_empty();
}

TEST_F(CrowdTest, ManyCrowdsCostMemoryInProportionToTheirKeys) {
  constexpr std::uint64_t kCrowds = 20;
  constexpr std::uint64_t kKeys = 700;
  for (std::uint64_t crowd = 0; crowd < kCrowds; ++crowd) {
    for (std::uint64_t i = 0; i < kKeys; ++i) set(chosen_.with_hash(i << 24 | crowd * 0x9'7f4b), 1);
  }
  EXPECT_EQ(rejected(Status::kCrowded), 0U);
  EXPECT_LE(instance_.statistic(Stat::kPagesCommitted) * layout::kPageBytes, kCrowds * kKeys * 300);
}

// ---- places that are remembered

// Who knows where an entry was can write what looks like one there.
class ForgedTest : public TableTest {
 protected:
  void SetUp() override {
    set("victim", 1);
    instance_.pump();
    const BufferView view(reinterpret_cast<const std::byte*>(&current_header()), layout::kPagesMax);
    SlotHead head;
    const HashedKey key{.bytes = "victim", .hash = hash_key("victim", seed())};
    ASSERT_EQ(view.find(key, place_, head), BufferView::Found::kYes);
    std::memcpy(forged_.data() + place_.offset() % layout::kPageBytes, entry_.data(), sizeof entry_);
  }
  /// Its slab is free afterwards: another one is kept.
  void erase_victim() {
    erase("victim");
    set("another size takes the place of the slab that is kept", 1);
    erase("another size takes the place of the slab that is kept");
  }
  void set_forged() {
    for (int i = 0; i < 10; ++i) set("forged/" + std::to_string(i), std::string_view(forged_));
  }
  void expect_forged() {
    const auto* const there = reinterpret_cast<const std::byte*>(&current_header()) + place_.offset();
    ASSERT_EQ(std::memcmp(there, entry_.data(), sizeof entry_), 0) << "the page serves something else";
    for (int i = 0; i < 10; ++i) EXPECT_EQ(reader_.get<std::string>("forged/" + std::to_string(i)), forged_);
  }

  Place place_;
  std::string forged_ = std::string(layout::kPageBytes, '\0');
  std::array<std::uint64_t, 4> entry_{SlotHead(6, kWord, Type::kInt64).pack(), 1, 666, tail_word("victim")};
};

TEST_F(ForgedTest, APartOfAValueThatLooksLikeAnEntryIsNone) {
  Key reading("victim");
  Key writing("victim");
  ASSERT_EQ(reader_.get<std::int64_t>(reading), 1);
  ASSERT_EQ(writer_.set(writing, 2), Status::kOk);
  erase_victim();
  set_forged();
  instance_.pump();
  expect_forged();
  EXPECT_EQ(reader_.get<std::int64_t>(reading), std::nullopt);
  EXPECT_EQ(reader_.get<std::int64_t>("victim"), std::nullopt);
  ASSERT_EQ(writer_.set(writing, 3), Status::kOk);
  instance_.pump();
  EXPECT_EQ(reader_.get<std::int64_t>("victim"), 3) << "a writer's hint is not believed either";
  expect_forged();
}

// Where a key probably is, the merger guesses for many records before it applies the first of them.
TEST_F(ForgedTest, AGuessIsDroppedWhenItsSlabBecomesSomethingElse) {
  erase_victim();
  set_forged();
  set("victim", 5);
  instance_.pump();
  EXPECT_EQ(reader_.get<std::int64_t>("victim"), 5);
  expect_forged();
}

// ---- memory that changes its use

class EmptiedTest : public TableTest {
 protected:
  EmptiedTest() : TableTest({.memory_limit_bytes = std::uint64_t{16} << 20}) {}

  /// Until there is no memory left.
  void fill(std::size_t count) {
    const std::string value(100, 'v');
    for (std::size_t i = 0; i < count; ++i) set(key(i), std::string_view(value));
    instance_.pump();
  }
  [[nodiscard]] static std::string key(std::size_t i) { return "key/" + std::to_string(i); }
  void expect_room_for_anything() {
    const std::string largest(kValueBytesMax, 'l');
    const std::uint64_t refused = rejected(Status::kNoMemory);
    for (int i = 0; i < 5; ++i) set("large/" + std::to_string(i), std::string_view(largest));
    instance_.pump();
    EXPECT_EQ(writer_.rejected(Status::kNoMemory), refused);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(reader_.get<std::string>("large/" + std::to_string(i)), largest);
    for (int i = 0; i < 5; ++i) erase("large/" + std::to_string(i));
    instance_.pump();
  }
};

TEST_F(EmptiedTest, WhatHeldSmallKeysTakesAnyValueWhenItIsEmptyAgain) {
  constexpr std::size_t kCount = 64'000;
  fill(kCount);
  EXPECT_GT(rejected(Status::kNoMemory), 0U) << "it was not full";
  for (std::size_t i = 0; i < kCount; ++i) erase(key(i));
  expect_empty();
  expect_room_for_anything();
  fill(kCount);
  for (std::size_t i = 0; i < kCount; ++i) erase(key(i));
  instance_.pump();
  instance_.restart();
  expect_empty();
  expect_room_for_anything();
}

TEST_F(EmptiedTest, WhatHeldLargeValuesTakesSmallKeys) {
  const std::string large(500'000, 'l');
  for (int i = 0; i < 30; ++i) set(key(i), std::string_view(large));
  EXPECT_GT(rejected(Status::kNoMemory), 0U) << "it was not full";
  for (int i = 0; i < 30; ++i) erase(key(i));
  instance_.pump();
  const std::uint64_t refused = rejected(Status::kNoMemory);
  fill(40'000);
  EXPECT_EQ(rejected(Status::kNoMemory), refused);
  std::size_t count = 0;
  reader_.snapshot().for_each([&](const EntryView& entry) { count += entry.value.bytes().size() == 100 ? 1 : 0; });
  EXPECT_EQ(count, 40'000U);
}

TEST_F(EmptiedTest, AKeyThatComesAndGoesMakesNoSlabEachTime) {
  set("stays", 1);
  instance_.pump();
  set("comes", 1);
  instance_.pump();
  const std::uint64_t before = instance_.statistic(Stat::kLinesCopied);
  for (int i = 0; i < 100; ++i) {
    erase("comes");
    instance_.pump();
    set("comes", std::string_view("bytes that need another slot than the number"));
    instance_.pump();
  }
  EXPECT_LT(instance_.statistic(Stat::kLinesCopied) - before, 200U * 32) << "a slab has 64 lines";
}

}  // namespace
}  // namespace shmstate
