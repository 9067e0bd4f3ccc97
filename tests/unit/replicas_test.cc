// Claim, write, publish: what a back buffer may do, and that the buffers stay replicas of each other.
#include "engine/replicas.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "harness/own_replicas.h"

namespace shmstate {
using namespace internal;
namespace {

using test::OwnReplicas;
using test::Random;

// Only a claim makes a back buffer, and there are never two of one claim.
static_assert(!std::is_default_constructible_v<BackBuffer>);
static_assert(!std::is_copy_constructible_v<BackBuffer> && !std::is_copy_assignable_v<BackBuffer>);
static_assert(std::is_nothrow_move_constructible_v<BackBuffer> && !std::is_move_assignable_v<BackBuffer>);
static_assert(!std::is_constructible_v<BackBuffer, std::byte*, std::uint32_t, std::uint64_t, Differences&&>);
static_assert(!std::is_invocable_v<decltype(&Replicas::publish), Replicas&, BackBuffer&>, "a publish consumes it");

struct Pinned {
  std::uint32_t buffers = 0;  // a bit for each
  [[nodiscard]] bool is_pinned(std::uint32_t buffer) const noexcept { return (buffers >> buffer & 1) != 0; }
};

constexpr std::uint64_t kDataOffset = layout::kFirstPage * layout::kPageBytes + layout::kFirstSlotOffset;

/// As a slab has them.
struct SomeSlot {
  std::uint64_t head, changed_epoch, words[4];
};

class ReplicasTest : public testing::Test {
 protected:
  explicit ReplicasTest(std::uint32_t buffer_count = 3) : own_(buffer_count) {
    BackBuffer first = replicas_.first();
    first.store(first.header().page_count, OwnReplicas::kPages);
    replicas_.publish(std::move(first));
  }

  [[nodiscard]] std::optional<BackBuffer> claim(std::uint32_t buffer, Pinned pins = {}, bool anyway = false) {
    return replicas_.claim(pins, buffer, anyway);
  }
  [[nodiscard]] std::uint64_t stamp(std::uint32_t buffer) {
    return own_.owner().publication().stamps[buffer].load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t word(std::uint32_t buffer, std::size_t index) {
    return reinterpret_cast<const std::uint64_t*>(own_.owner().buffer(buffer) + kDataOffset)[index];
  }

  OwnReplicas own_;
  Replicas& replicas_ = own_.replicas();
};

using ReplicasDeathTest = ReplicasTest;

// ---- catch-up by entries

class CatchUpTest : public ReplicasTest, public testing::WithParamInterface<std::uint32_t> {
 protected:
  CatchUpTest() : ReplicasTest(GetParam()) {}

  [[nodiscard]] static SomeSlot* slots(std::byte* buffer) { return reinterpret_cast<SomeSlot*>(buffer + kDataOffset); }
  /// Claims a buffer, which must then hold what the model says.
  [[nodiscard]] std::optional<BackBuffer> claim_checked(std::uint32_t buffer) {
    std::optional<BackBuffer> back = claim(buffer);
    EXPECT_TRUE(back);
    EXPECT_EQ(std::memcmp(slots(own_.owner().buffer(buffer)), model_.data(), sizeof model_), 0) << "buffer " << buffer;
    return back;
  }
  /// As a mutation that finds its key.
  void change(BackBuffer& back, std::size_t index, std::uint64_t value) {
    const bool is_first = model_[index].changed_epoch != back.epoch();
    auto& slot = reinterpret_cast<layout::Slot&>(slots(back.base())[index]);
    EXPECT_EQ(back.store_value(slot, value), is_first);
    model_[index].changed_epoch = back.epoch();
    model_[index].words[0] = value;
  }
  /// As an insert: whatever was in the slot before, nothing of it is left.
  void reuse(BackBuffer& back, std::size_t index, std::uint64_t word) {
    SomeSlot& slot = slots(back.base())[index];
    back.store(slot.head, model_[index].head = word);
    back.store(slot.words[1], model_[index].words[1] = ~word);
    back.store(slot.changed_epoch, model_[index].changed_epoch = 0);
  }

  std::array<SomeSlot, 1'000> model_{};
};

TEST_P(CatchUpTest, ValuesReachEveryBufferWhateverElseHappensToTheirSlots) {
  Random random(2);
  for (int turn = 0; turn < 300 && !HasFailure(); ++turn) {
    auto buffer = static_cast<std::uint32_t>(random.below(GetParam()));
    if (buffer == replicas_.current().buffer) buffer = (buffer + 1) % GetParam();
    std::optional<BackBuffer> back = claim_checked(buffer);
    for (std::size_t n = random.below(100); n > 0; --n) {
      const std::size_t index = random.chance(50) ? random.below(8) : random.below(model_.size());
      random.chance(80) ? change(*back, index, random.word()) : reuse(*back, index, random.word());
    }
    replicas_.publish(std::move(*back));
  }
}

TEST_P(CatchUpTest, AnEntryThatChangesOftenInATurnIsCopiedOnce) {
  for (std::uint32_t turn = 1; turn < 5; ++turn) {
    const std::uint64_t before = replicas_.lines_copied();
    std::optional<BackBuffer> back = claim_checked(turn % 2);
    const std::uint64_t copied = replicas_.lines_copied() - before;
    EXPECT_TRUE(turn <= 2 || copied == 2) << "it, and the epoch in the header: " << copied;
    for (std::uint64_t value = 0; value < 100; ++value) change(*back, 7, value);
    EXPECT_TRUE(back->is_changed());
    replicas_.publish(std::move(*back));
  }
}

INSTANTIATE_TEST_SUITE_P(Buffers, CatchUpTest, testing::Values(2U, 3U),
                         [](const auto& test) { return "Of" + std::to_string(test.param); });

using LongCatchUpTest = CatchUpTest;

// A buffer that is pinned for long lacks more turns than a list of entries may hold.
TEST_P(LongCatchUpTest, AListOfEntriesThatIsFullBecomesLines) {
  replicas_.publish(std::move(*claim_checked(2)));
  std::size_t listed = 0;
  for (std::uint32_t turn = 0; listed <= Differences::kEntriesMax + model_.size(); ++turn) {
    std::optional<BackBuffer> back = claim_checked(turn % 2);
    const std::size_t first = turn == 0 ? 0 : 1;  // the entry that is changed once must not get lost
    for (std::size_t i = first; i < model_.size(); ++i, ++listed) change(*back, i, listed);
    replicas_.publish(std::move(*back));
  }
  const std::uint64_t before = replicas_.lines_copied();
  static_cast<void>(claim_checked(2));
  EXPECT_LT(replicas_.lines_copied() - before, 3 * model_.size()) << "each line once, and what was listed since";
}

INSTANTIATE_TEST_SUITE_P(Buffers, LongCatchUpTest, testing::Values(3U),
                         [](const auto& test) { return "Of" + std::to_string(test.param); });

// ---- claim and publish

TEST_F(ReplicasTest, AClaimIsForTheNextEpochAndShowsInTheStamp) {
  const std::optional<BackBuffer> back = claim(1);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->epoch(), 2U);
  EXPECT_EQ(back->header().epoch, 2U);
  EXPECT_EQ(back->index(), 1U);
  EXPECT_EQ(stamp(1), layout::kWriting);
  EXPECT_EQ(replicas_.current().epoch, 1U) << "nothing is published yet";
}

TEST_F(ReplicasTest, OnlyAStoreChangesABackBuffer) {
  std::optional<BackBuffer> back = claim(1);
  ASSERT_TRUE(back);
  EXPECT_FALSE(back->is_changed());
  back->store(back->at<std::uint64_t>(kDataOffset)[0], 7);
  EXPECT_TRUE(back->is_changed());
}

TEST_F(ReplicasTest, APublishMakesTheBackBufferCurrent) {
  std::optional<BackBuffer> back = claim(2);
  ASSERT_TRUE(back);
  back->store(back->at<std::uint64_t>(kDataOffset)[0], 7);
  replicas_.publish(std::move(*back));
  EXPECT_EQ(replicas_.current().epoch, 2U);
  EXPECT_EQ(replicas_.current().buffer, 2U);
  EXPECT_EQ(stamp(2), 2U);
  EXPECT_EQ(current_version(own_.owner().publication()).buffer, 2U);
}

TEST_F(ReplicasTest, APinnedBufferIsNotClaimedUnlessAnyway) {
  const std::uint64_t before = stamp(1);
  EXPECT_FALSE(claim(1, {.buffers = 2}));
  EXPECT_EQ(stamp(1), before);
  EXPECT_TRUE(claim(1, {.buffers = 2}, true)) << "and the claim that failed left nothing open";
}

TEST_F(ReplicasTest, EveryBufferCatchesUpWhateverTheOrderOfClaims) {
  Random random(1);
  std::vector<std::uint64_t> model(256, 0);
  for (int turn = 0; turn < 300; ++turn) {
    auto buffer = static_cast<std::uint32_t>(random.below(3));
    if (buffer == replicas_.current().buffer) buffer = (buffer + 1) % 3;
    std::optional<BackBuffer> back = claim(buffer);
    ASSERT_TRUE(back);
    for (std::size_t i = 0; i < model.size(); ++i) ASSERT_EQ(word(buffer, i), model[i]) << "turn " << turn;
    auto* const words = back->at<std::uint64_t>(kDataOffset);
    for (std::size_t n = random.below(5); n > 0; --n) {
      const std::size_t at = random.below(model.size());
      back->store(words[at], model[at] = random.word());
    }
    const std::string bytes = random.bytes(random.below(300));
    back->store_bytes(words + 128, bytes);
    for (std::size_t i = 0; i < words_of(bytes.size()); ++i) model[128 + i] = words[128 + i];
    replicas_.publish(std::move(*back));
  }
}

TEST_F(ReplicasDeathTest, ASecondClaimWhileOneIsOpenStops) {
  const std::optional<BackBuffer> back = claim(1);
  EXPECT_DEATH(static_cast<void>(claim(2)), "replicas.cc:[0-9]+: invariant violated");
}

TEST_F(ReplicasDeathTest, AClaimOfTheCurrentBufferStops) {
  EXPECT_DEATH(static_cast<void>(claim(0)), "replicas.cc:[0-9]+: invariant violated");
}

TEST_F(ReplicasDeathTest, ASecondPublishOfOneClaimStops) {
  std::optional<BackBuffer> back = claim(1);
  ASSERT_TRUE(back);
  replicas_.publish(std::move(*back));
  EXPECT_DEATH(replicas_.publish(std::move(*back)), "replicas.cc:[0-9]+: invariant violated");
}

}  // namespace
}  // namespace shmstate
