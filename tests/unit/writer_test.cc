// The writer: what it accepts, what it refuses and why, and what it tells about what became of it.
#include "shmstate/writer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "harness/test_instance.h"
#include "layout/record.h"
#include "shmstate/inspect.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::EngineThread;
using test::error_of;
using test::ring_of;
using test::TestInstance;
using ::testing::HasSubstr;

constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();
constexpr std::size_t kSmallRing = kRingBytesMin;

class WriterTest : public testing::Test {
 protected:
  void SetUp() override { instance_.pump(); }
  [[nodiscard]] std::optional<Value> read(std::string_view key) { return reader_.get<Value>(key); }
  [[nodiscard]] std::optional<std::int64_t> read_int64(std::string_view key) { return reader_.get<std::int64_t>(key); }
  /// Pushes until the ring is full; returns how many.
  static std::uint64_t fill(Writer& writer) {
    std::uint64_t count = 0;
    while (writer.set("filler", 1) == Status::kOk) ++count;
    return count;
  }

  TestInstance instance_;
  Reader reader_ = instance_.reader();
  Writer writer_ = instance_.writer();
};

// ---- what is refused

TEST_F(WriterTest, AMutationThatCannotBeIsRefusedAndNothingIsPushed) {
  const std::string long_key(kKeyBytesMax + 1, 'k');
  const std::string big_value(kValueBytesMax + 1, 'v');
  EXPECT_EQ(writer_.set("", 1), Status::kKeyEmpty);
  EXPECT_EQ(writer_.add("", 1), Status::kKeyEmpty);
  EXPECT_EQ(writer_.erase(""), Status::kKeyEmpty);
  EXPECT_EQ(writer_.set(long_key, 1), Status::kKeyTooLong);
  EXPECT_EQ(writer_.add(long_key, 1), Status::kKeyTooLong);
  EXPECT_EQ(writer_.erase(long_key), Status::kKeyTooLong);
  EXPECT_EQ(writer_.set("k", big_value), Status::kValueTooBig);
  EXPECT_EQ(writer_.set("k", std::numeric_limits<std::uint64_t>::max()), Status::kOutOfRange);
  EXPECT_EQ(writer_.set("k", std::uint64_t{1} << 63), Status::kOutOfRange);
  EXPECT_EQ(writer_.add("k", std::uint64_t{1} << 63), Status::kOutOfRange);
  EXPECT_EQ(writer_.add("k", "1"), Status::kWrongType);
  EXPECT_EQ(writer_.add("k", ""), Status::kWrongType);
  EXPECT_EQ(writer_.ticket(), 0U);
  EXPECT_EQ(writer_.counters().pushed, 0U);
  EXPECT_EQ(writer_.counters().failed, 12U);
  instance_.pump();
  EXPECT_EQ(reader_.snapshot().size(), 0U);
}

TEST_F(WriterTest, WhatIsJustWithinTheLimitsIsAccepted) {
  const std::string key(kKeyBytesMax, 'k');
  const std::string value(kValueBytesMax, 'v');
  EXPECT_EQ(writer_.set(key, value), Status::kOk);
  EXPECT_EQ(writer_.set("max", std::uint64_t{kInt64Max}), Status::kOk);
  EXPECT_EQ(writer_.set("min", std::numeric_limits<std::int64_t>::min()), Status::kOk);
  EXPECT_EQ(writer_.set("true", true), Status::kOk);
  EXPECT_EQ(writer_.set("byte", std::uint8_t{255}), Status::kOk);
  EXPECT_EQ(writer_.set("float", 0.5F), Status::kOk);
  instance_.pump();
  EXPECT_EQ(read(key), Value(value));
  EXPECT_EQ(read("max"), Value(kInt64Max));
  EXPECT_EQ(read("min"), Value(std::numeric_limits<std::int64_t>::min()));
  EXPECT_EQ(read("true"), Value(std::int64_t{1}));
  EXPECT_EQ(read("byte"), Value(std::int64_t{255}));
  EXPECT_EQ(read("float"), Value(0.5));
}

TEST_F(WriterTest, AMutationLargerThanTheRingIsRefusedForEver) {
  Writer small = instance_.writer(ring_of(kSmallRing));
  const std::size_t room = kSmallRing - record_bytes(1, 0, 0);
  EXPECT_EQ(small.set("k", std::string(room + 1, 'v')), Status::kMutationTooBig);
  EXPECT_EQ(small.set("k", std::string(room, 'v')), Status::kOk) << "one that fills the ring completely is not";
  EXPECT_EQ(small.set("k", 1), Status::kRingFull);
  instance_.pump();
  EXPECT_EQ(read("k"), Value(std::string(room, 'v')));
}

TEST_F(WriterTest, AFullRingFailsAtOnceWhenToldSo) {
  Writer small = instance_.writer(ring_of(kSmallRing));
  const std::uint64_t count = fill(small);
  EXPECT_EQ(count, kSmallRing / record_bytes(6, 8, 0));
  const Ticket ticket = small.ticket();
  EXPECT_EQ(small.erase("k"), Status::kOk) << "a smaller one still fits";
  while (small.erase("k") == Status::kOk) {
  }
  EXPECT_EQ(small.add("k", 1), Status::kRingFull);
  EXPECT_GT(small.ticket(), ticket);
  instance_.pump();
  EXPECT_EQ(small.set("k", 1), Status::kOk);
}

TEST_F(WriterTest, AFullRingBlocksForItsTimeoutAndNotForEver) {
  WriterOptions options = ring_of(kSmallRing, WhenFull::kBlock);
  options.full_timeout = 20ms;
  Writer small = instance_.writer(options);
  while (small.counters().failed == 0) small.set("filler", 1);
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(small.set("k", 1), Status::kTimeout);
  EXPECT_GE(std::chrono::steady_clock::now() - began, 20ms);
}

TEST_F(WriterTest, ABlockedWriterGoesOnWhenTheMergerMakesRoom) {
  Writer small = instance_.writer(ring_of(kSmallRing));
  fill(small);
  WriterOptions options = ring_of(kSmallRing, WhenFull::kBlock);
  options.full_timeout = 1h;
  Writer blocking = instance_.writer(options);
  std::jthread pushing([&] {
    for (int i = 0; i < test::steps(50'000); ++i) ASSERT_EQ(blocking.add("sum", 1), Status::kOk);
  });
  const EngineThread merging(instance_);
  pushing.join();
  EXPECT_EQ(blocking.flush(1h), Status::kOk);
  EXPECT_EQ(read_int64("sum"), test::steps(50'000));
}

TEST_F(WriterTest, ARefusedRingSaysSoWhenItIsFlushedAndWhenItIsFull) {
  TestInstance instance({.ring_count_max = 1});
  const Writer first = instance.writer();
  instance.pump();
  Writer refused = instance.writer(ring_of(kSmallRing));
  EXPECT_EQ(refused.set("k", 1), Status::kOk);
  instance.pump();
  EXPECT_EQ(refused.flush(1h), Status::kRingRefused) << "at once";
  while (refused.set("k", 1) == Status::kOk) {
  }
  EXPECT_EQ(refused.set("k", 1), Status::kRingRefused);
}

TEST_F(WriterTest, AQuarantinedRingSaysSoWhenItIsFlushedAndWhenItIsFull) {
  Writer bad = instance_.writer(ring_of(kSmallRing));
  bad.set("k", 1);
  std::memset(instance_.open_ring(bad).at(0), 0xff, 8);
  instance_.pump();
  EXPECT_EQ(bad.flush(1h), Status::kRingQuarantined) << "at once";
  while (bad.set("k", 1) == Status::kOk) {
  }
  EXPECT_EQ(bad.set("k", 1), Status::kRingQuarantined);
}

// ---- what the merger refuses

// A sum that is no number any more would never become one again: it is refused as an integer that overflows is.
TEST_F(WriterTest, AFloatSumNeverStopsBeingANumber) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  writer_.set("up", kInfinity);
  writer_.set("down", -kInfinity);
  EXPECT_EQ(writer_.add("up", -kInfinity), Status::kOk);
  EXPECT_EQ(writer_.add("down", kInfinity), Status::kOk);
  writer_.add("up", 1.0);
  writer_.max("down", -kInfinity);
  instance_.pump();
  EXPECT_EQ(writer_.rejected(Status::kOutOfRange), 2U);
  EXPECT_EQ(writer_.flush(0s), Status::kRejected);
  EXPECT_EQ(read("up"), Value(kInfinity));
  EXPECT_EQ(read("down"), Value(-kInfinity));
}

// No add, max or min hides that an entry is no number; a set ends it.
TEST_F(WriterTest, AnEntryThatIsNoNumberRefusesAddMaxAndMin) {
  Key bound("nan");
  writer_.set("nan", std::nan(""));
  writer_.add("nan", 1.0);
  writer_.max("nan", 1.0);
  writer_.min("nan", 1.0);
  writer_.add(bound, 1.0);
  instance_.pump();
  EXPECT_EQ(writer_.rejected(Status::kOutOfRange), 4U);
  EXPECT_TRUE(std::isnan(std::get<double>(*read("nan"))));
  writer_.set("nan", 1.0);
  writer_.add("nan", 1.0);
  instance_.pump();
  EXPECT_EQ(writer_.rejected(Status::kOutOfRange), 4U);
  EXPECT_EQ(read("nan"), Value(2.0));
}

TEST_F(WriterTest, NoOperandIsANaN) {
  const double nan = std::nan("");
  Key bound("nan");
  EXPECT_EQ(writer_.add("nan", nan), Status::kOutOfRange);
  EXPECT_EQ(writer_.max("nan", nan), Status::kOutOfRange);
  EXPECT_EQ(writer_.min("nan", nan), Status::kOutOfRange);
  EXPECT_EQ(writer_.add(bound, nan), Status::kOutOfRange);
  Batch batch = writer_.batch();
  EXPECT_EQ(batch.add("nan", nan), Status::kOutOfRange);
  EXPECT_EQ(batch.commit(), Status::kOutOfRange);
  instance_.pump();
  EXPECT_FALSE(read("nan"));
}

TEST_F(WriterTest, WhatTheMergerRefusesIsCountedByItsReason) {
  writer_.set("text", "x");
  writer_.set("int", kInt64Max);
  writer_.set("float", 1.0);
  writer_.add("text", 1);
  writer_.add("text", 1.0);
  writer_.add("int", 1.0);
  writer_.add("float", 1);
  writer_.add("int", 1);
  writer_.add("int", -1);
  instance_.pump();
  EXPECT_EQ(writer_.rejected(Status::kWrongType), 4U);
  EXPECT_EQ(writer_.rejected(Status::kOutOfRange), 1U);
  EXPECT_EQ(writer_.rejected(Status::kNoMemory), 0U);
  EXPECT_EQ(writer_.rejected(Status::kTimeout), 0U);
  EXPECT_EQ(writer_.counters().rejected, 5U);
  EXPECT_EQ(writer_.counters().applied, 4U);
  EXPECT_EQ(read("text"), Value("x"));
  EXPECT_EQ(read("int"), Value(kInt64Max - 1));
  EXPECT_EQ(read("float"), Value(1.0));
}

TEST_F(WriterTest, ARejectionIsReportedByTheNextFlushAndNotAgain) {
  writer_.set("text", "x");
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
  writer_.add("text", 1);
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kRejected);
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
  writer_.add("text", 1);
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kRejected);
}

TEST_F(WriterTest, ARejectionIsNotForgottenWhenAPushFailedToo) {
  writer_.set("text", "x");
  writer_.add("text", 1);
  writer_.set("", 1);
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kKeyEmpty);
  EXPECT_EQ(writer_.flush(0ns), Status::kRejected);
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
}

TEST_F(WriterTest, RejectionsAreThoseOfTheWriterThatCausedThem) {
  Writer other = instance_.writer();
  writer_.set("text", "x");
  instance_.pump();
  other.add("text", 1);
  instance_.pump();
  EXPECT_EQ(other.counters().rejected, 1U);
  EXPECT_EQ(writer_.counters().rejected, 0U);
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
}

// ---- flush, tickets, counters

TEST_F(WriterTest, AnIgnoredFailureIsReportedByTheNextFlushAndNotAgain) {
  writer_.set("", 1);
  writer_.add("k", "text");
  writer_.set("k", 1);
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kKeyEmpty) << "the first one";
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
}

TEST_F(WriterTest, AFailureIsNotForgottenWhenTheFlushTimesOut) {
  writer_.set("", 1);
  writer_.set("k", 1);
  EXPECT_EQ(writer_.flush(0ns), Status::kTimeout);
  EXPECT_EQ(writer_.flush(1ms), Status::kTimeout);
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kKeyEmpty);
}

TEST_F(WriterTest, AfterAFlushReadersSeeEverythingPushedBefore) {
  const EngineThread merging(instance_);
  for (int i = 0; i < test::steps(2'000); ++i) {
    writer_.set("k", i);
    ASSERT_EQ(writer_.flush(1h), Status::kOk);
    ASSERT_EQ(read_int64("k"), i);
  }
}

TEST_F(WriterTest, AFlushOfATicketDoesNotWaitForWhatCameLater) {
  writer_.set("k", 1);
  const Ticket first = writer_.ticket();
  instance_.pump();
  writer_.set("k", 2);
  EXPECT_EQ(writer_.flush(first, 0ns), Status::kOk);
  EXPECT_EQ(writer_.flush(0ns), Status::kTimeout);
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
}

TEST_F(WriterTest, WithNothingPushedAFlushIsDone) { EXPECT_EQ(writer_.flush(0ns), Status::kOk); }

TEST_F(WriterTest, WithoutAMergerAFlushTimesOutAndLaterEverythingIsThere) {
  instance_.stop();
  writer_.set("k", 1);
  EXPECT_EQ(writer_.flush(5ms), Status::kTimeout);
  EXPECT_EQ(read("k"), std::nullopt);
  instance_.start();
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
  EXPECT_EQ(read_int64("k"), 1);
}

TEST_F(WriterTest, AWriterThatComesWhileTheMergerIsDownIsServedWhenItIsBack) {
  instance_.stop();
  Writer late = instance_.writer();
  late.set("k", 1);
  instance_.start();
  instance_.pump();
  EXPECT_EQ(late.flush(0ns), Status::kOk);
  EXPECT_EQ(read_int64("k"), 1);
}

TEST_F(WriterTest, ATicketIsAPositionInTheStream) {
  EXPECT_EQ(writer_.ticket(), 0U);
  writer_.set("12345678", 1);
  EXPECT_EQ(writer_.ticket(), record_bytes(8, 8, 0));
  writer_.set("", 1);
  EXPECT_EQ(writer_.ticket(), record_bytes(8, 8, 0)) << "what fails has no place in it";
  writer_.erase("k");
  EXPECT_EQ(writer_.ticket(), record_bytes(8, 8, 0) + record_bytes(1, 0, 0));
}

TEST_F(WriterTest, CountersAddUp) {
  for (int i = 0; i < 10; ++i) writer_.set("k", i);
  writer_.set("", 1);
  EXPECT_EQ(writer_.counters().pushed, 10U);
  EXPECT_EQ(writer_.counters().failed, 1U);
  EXPECT_EQ(writer_.counters().applied, 0U);
  instance_.pump();
  writer_.set("text", "x");
  writer_.add("text", 1);
  writer_.erase("missing");
  instance_.pump();
  EXPECT_EQ(writer_.counters().pushed, 13U);
  EXPECT_EQ(writer_.counters().applied, 12U);
  EXPECT_EQ(writer_.counters().rejected, 1U);
}

TEST_F(WriterTest, CountersOfTheMergerSurviveItsRestart) {
  for (int i = 0; i < 10; ++i) writer_.set("k", i);
  instance_.pump();
  instance_.restart();
  writer_.set("k", 1);
  instance_.pump();
  EXPECT_EQ(writer_.counters().applied, 11U);
}

TEST_F(WriterTest, AFlushTakesATimeoutOfAnySize) {
  writer_.set("k", 1);
  EXPECT_EQ(writer_.flush(std::chrono::nanoseconds::min()), Status::kTimeout);
  instance_.pump();
  EXPECT_EQ(writer_.flush(std::chrono::nanoseconds::max()), Status::kOk);
}

// ---- conflating

// What fits although something larger did not must wait behind it.
TEST_F(WriterTest, ASmallMutationDoesNotOvertakeWhatIsConflated) {
  Writer conflating = instance_.writer(ring_of(kSmallRing, WhenFull::kConflate));
  const std::string large(kSmallRing / 2, 'v');
  ASSERT_EQ(conflating.set("k", large), Status::kOk);
  ASSERT_EQ(conflating.set("k", 1), Status::kOk) << "from here on there is room that needs no question";
  ASSERT_EQ(conflating.set("k", large), Status::kOk);
  ASSERT_EQ(conflating.counters().conflated, 1U);
  ASSERT_EQ(conflating.set("k", 2), Status::kOk);
  EXPECT_EQ(conflating.counters().conflated, 2U);
  instance_.pump();
  static_cast<void>(conflating.flush(0ns));  // pushes what is retained, if anything is
  instance_.pump();
  EXPECT_EQ(read_int64("k"), 2);
}

// ---- shared rings

/// Holds the lock of a shared ring, as a pusher does that was stopped.
class StoppedPusher {
 public:
  explicit StoppedPusher(RingFile ring) : ring_(std::move(ring)) {
    EXPECT_TRUE(os::try_lock(ring_.fd(), kPusherByte, true));
  }
  void go_on() { os::unlock(ring_.fd(), kPusherByte); }

 private:
  RingFile ring_;
};

WriterOptions shared_ring(WhenFull when_full, std::chrono::nanoseconds full_timeout) {
  WriterOptions options = ring_of(kSmallRing, when_full);
  options.shared = true;
  options.full_timeout = full_timeout;
  return options;
}

TEST_F(WriterTest, ASharedRingWithAStoppedPusherFailsAtOnceWhenToldSo) {
  Writer failing = instance_.writer(shared_ring(WhenFull::kFail, 1h));
  StoppedPusher pusher(instance_.open_ring(failing));
  EXPECT_EQ(failing.set("k", 1), Status::kRingFull);
  pusher.go_on();
  EXPECT_EQ(failing.set("k", 2), Status::kOk);
}

TEST_F(WriterTest, ASharedRingWithAStoppedPusherIsConflatedWhenToldSo) {
  Writer conflating = instance_.writer(shared_ring(WhenFull::kConflate, 1h));
  StoppedPusher pusher(instance_.open_ring(conflating));
  for (int i = 1; i <= 10; ++i) EXPECT_EQ(conflating.add("sum", i), Status::kOk);
  Batch batch = conflating.batch();
  batch.set("a", 1);
  batch.set("b", 2);
  EXPECT_EQ(batch.commit(), Status::kOk);
  EXPECT_EQ(conflating.counters().conflated, 12U);
  EXPECT_EQ(conflating.flush(1ms), Status::kTimeout);
  pusher.go_on();
  EXPECT_EQ(conflating.flush(0ns), Status::kTimeout) << "pushed, and not yet merged";
  instance_.pump();
  EXPECT_EQ(conflating.flush(0ns), Status::kOk);
  EXPECT_EQ(read_int64("sum"), 55);
  EXPECT_EQ(read_int64("b"), 2);
}

TEST_F(WriterTest, AFullSharedRingIsConflatedWhenToldSo) {
  Writer conflating = instance_.writer(shared_ring(WhenFull::kConflate, 1h));
  std::int64_t count = 0;
  for (; conflating.counters().conflated < 10; ++count) ASSERT_EQ(conflating.add("sum", 1), Status::kOk);
  const EngineThread merging(instance_);
  EXPECT_EQ(conflating.flush(1h), Status::kOk);
  EXPECT_EQ(read_int64("sum"), count);
}

TEST_F(WriterTest, ASharedRingBlocksForATimeoutThatNoClockReaches) {
  Writer blocking = instance_.writer(shared_ring(WhenFull::kBlock, std::chrono::nanoseconds::max()));
  StoppedPusher pusher(instance_.open_ring(blocking));
  std::jthread later([&] {
    std::this_thread::sleep_for(20ms);
    pusher.go_on();
  });
  EXPECT_EQ(blocking.set("k", 1), Status::kOk);
}

// ---- mutations

TEST_F(WriterTest, AddCreatesAMissingKeyWithTheTypeOfItsDelta) {
  writer_.add("int", 5);
  writer_.add("int", -7);
  writer_.add("float", 0.5);
  writer_.add("float", 0.25);
  instance_.pump();
  EXPECT_EQ(read("int"), Value(std::int64_t{-2}));
  EXPECT_EQ(read("float"), Value(0.75));
}

TEST_F(WriterTest, SetReplacesAValueOfAnyType) {
  const std::vector<Value> values{Value(std::int64_t{1}), Value(2.0), Value("text"), Value(std::string(5'000, 'x')),
                                  Value("")};
  for (const Value& before : values) {
    for (const Value& after : values) {
      writer_.set("k", before);
      instance_.pump();
      writer_.set("k", after);
      instance_.pump();
      ASSERT_EQ(read("k"), after);
    }
  }
}

TEST_F(WriterTest, KeysAreBytes) {
  using namespace std::string_literals;
  const std::vector<std::string> keys{"k", "k\0"s, "k\0\0"s, "\0"s, "\0\0"s, "\xff"s, "K", "k "};
  for (std::size_t i = 0; i < keys.size(); ++i) writer_.set(keys[i], i);
  instance_.pump();
  for (std::size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(read_int64(keys[i]), i);
}

// Through a ring that wraps, in each way there is to push a number.
TEST_F(WriterTest, NumbersUnderKeysOfEveryLengthArriveWhole) {
  Writer small = instance_.writer(ring_of(kSmallRing));
  std::vector<std::size_t> lengths{255, 256, 4095, kKeyBytesMax};
  for (std::size_t length = 1; length <= 70; ++length) lengths.push_back(length);
  for (const std::size_t length : lengths) {
    const std::string text(length, 't');
    const std::string bound(length, 'b');
    const std::string together(length, 'c');
    Key key(bound);
    const auto number = static_cast<std::int64_t>(length);
    for (int i = 0; i < 3; ++i) {  // the second one and the third one by id
      ASSERT_EQ(small.set(text, number + i), Status::kOk);
      ASSERT_EQ(small.set(key, 0.5 + i), Status::kOk);
      Batch batch = small.batch();
      ASSERT_EQ(batch.set(together, 100), Status::kOk);
      ASSERT_EQ(batch.add(together, i), Status::kOk);
      ASSERT_EQ(batch.max(key, 1.0 + i), Status::kOk);
      ASSERT_EQ(batch.commit(), Status::kOk);
      instance_.pump();
      ASSERT_EQ(read_int64(text), number + i);
      ASSERT_EQ(read(bound), Value(1.0 + i));
      ASSERT_EQ(read_int64(together), 100 + i);
    }
  }
  EXPECT_GT(small.ticket(), 2 * kSmallRing);
  EXPECT_EQ(small.counters().applied, small.counters().pushed);
}

// A bound key that is longer than a key may be, or empty, is refused as its bytes are.
TEST_F(WriterTest, ABoundKeyThatCannotBeIsRefused) {
  Key empty("");
  Key long_key(std::string(kKeyBytesMax + 1, 'k'));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(writer_.set(empty, 1), Status::kKeyEmpty);
    EXPECT_EQ(writer_.set(long_key, 1), Status::kKeyTooLong);
  }
  EXPECT_EQ(writer_.counters().failed, 6U);
  EXPECT_EQ(writer_.ticket(), 0U);
}

TEST_F(WriterTest, ErasingAMissingKeyHasNoEffect) {
  writer_.erase("missing");
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
  EXPECT_EQ(reader_.snapshot().size(), 0U);
}

// ---- batches

TEST_F(WriterTest, ABatchIsPushedByItsCommitAndNotBefore) {
  Batch batch = writer_.batch();
  EXPECT_EQ(batch.set("a", 1), Status::kOk);
  EXPECT_EQ(batch.add("b", 2), Status::kOk);
  EXPECT_EQ(batch.erase("c"), Status::kOk);
  EXPECT_EQ(writer_.ticket(), 0U);
  EXPECT_EQ(writer_.counters().pushed, 0U);
  EXPECT_EQ(batch.commit(), Status::kOk);
  EXPECT_EQ(writer_.counters().pushed, 3U);
  instance_.pump();
  EXPECT_EQ(read_int64("a"), 1);
  EXPECT_EQ(read_int64("b"), 2);
}

TEST_F(WriterTest, ABatchThatIsDroppedLeavesNoTrace) {
  {
    Batch batch = writer_.batch();
    batch.set("a", 1);
    batch.set("", 1);
  }
  EXPECT_EQ(writer_.batch().commit(), Status::kOk) << "an empty batch";
  EXPECT_EQ(writer_.ticket(), 0U);
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
  EXPECT_EQ(writer_.counters().failed, 0U);
}

TEST_F(WriterTest, TheFirstErrorOfABatchSticksAndNothingIsPushed) {
  Batch batch = writer_.batch();
  EXPECT_EQ(batch.set("a", 1), Status::kOk);
  EXPECT_EQ(batch.add("b", "text"), Status::kWrongType);
  EXPECT_EQ(batch.set("", 1), Status::kWrongType) << "the first error";
  EXPECT_EQ(batch.set("c", 1), Status::kWrongType);
  EXPECT_EQ(batch.commit(), Status::kWrongType);
  EXPECT_EQ(writer_.ticket(), 0U);
  EXPECT_EQ(writer_.counters().failed, 4U) << "all of its mutations";
  EXPECT_EQ(writer_.flush(0ns), Status::kWrongType);
  EXPECT_EQ(batch.set("a", 2), Status::kOk) << "committing emptied it";
  EXPECT_EQ(batch.commit(), Status::kOk);
  instance_.pump();
  EXPECT_EQ(read_int64("a"), 2);
}

TEST_F(WriterTest, ABatchLargerThanTheRingIsRefused) {
  Writer small = instance_.writer(ring_of(kSmallRing));
  Batch batch = small.batch();
  Status status = Status::kOk;
  std::size_t count = 0;
  for (; status == Status::kOk; ++count) status = batch.set("k", 1);
  EXPECT_EQ(status, Status::kMutationTooBig);
  EXPECT_EQ(count, kSmallRing / record_bytes(1, 8, 0) + 1) << "it may fill the ring completely";
  EXPECT_EQ(batch.commit(), Status::kMutationTooBig);
  EXPECT_EQ(small.ticket(), 0U);
}

TEST_F(WriterTest, ABatchOfMoreThanTheMergerAllowsIsRefused) {
  MergeOptions options = TestInstance::never_expire();
  options.batch_max = 10;
  instance_.engine().set_options(options);
  EXPECT_EQ(writer_.batch_max(), 10U);
  Batch batch = writer_.batch();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(batch.add("k", 1), Status::kOk);
  EXPECT_EQ(batch.commit(), Status::kOk);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(batch.add("k", 1), Status::kOk);
  EXPECT_EQ(batch.add("k", 1), Status::kMutationTooBig);
  EXPECT_EQ(batch.commit(), Status::kMutationTooBig);
  instance_.pump();
  EXPECT_EQ(instance_.reader().get<std::int64_t>("k"), 10) << "nothing of the second one was pushed";
}

TEST_F(WriterTest, ALimitThatChangesWhileABatchIsOpenHoldsAtItsCommit) {
  const auto allow = [this](std::uint64_t batch_max) {
    MergeOptions options = TestInstance::never_expire();
    options.batch_max = batch_max;
    instance_.engine().set_options(options);
  };
  allow(10);
  Batch batch = writer_.batch();
  for (int i = 0; i < 10; ++i) ASSERT_EQ(batch.add("k", 1), Status::kOk);
  allow(20);
  for (int i = 0; i < 10; ++i) ASSERT_EQ(batch.add("k", 1), Status::kOk);
  EXPECT_EQ(batch.add("k", 1), Status::kMutationTooBig);
  EXPECT_EQ(batch.commit(), Status::kMutationTooBig);
  for (int i = 0; i < 10; ++i) ASSERT_EQ(batch.add("k", 1), Status::kOk);
  allow(5);
  EXPECT_EQ(batch.commit(), Status::kMutationTooBig);
  EXPECT_EQ(writer_.ticket(), 0U);
}

TEST_F(WriterTest, ABatchOfMoreBytesThanTheMergerAllowsIsRefused) {
  MergeOptions options = TestInstance::never_expire();
  options.batch_max = 10;
  instance_.engine().set_options(options);
  Batch batch = writer_.batch();
  EXPECT_EQ(batch.set("k", std::string(3'000, 'v')), Status::kOk);
  EXPECT_EQ(batch.set("l", std::string(3'000, 'v')), Status::kMutationTooBig) << "512 bytes for each of ten";
  EXPECT_EQ(batch.commit(), Status::kMutationTooBig);
  Batch alone = writer_.batch();
  EXPECT_EQ(alone.set("k", std::string(100'000, 'v')), Status::kOk) << "one mutation is always allowed";
  EXPECT_EQ(alone.commit(), Status::kOk);
}

TEST_F(WriterTest, ABatchThatIsNoLongerAllowedWhenItIsCommittedIsRefused) {
  Batch batch = writer_.batch();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(batch.add("k", 1), Status::kOk);
  MergeOptions options = TestInstance::never_expire();
  options.batch_max = 10;
  instance_.engine().set_options(options);
  EXPECT_EQ(batch.commit(), Status::kMutationTooBig);
}

TEST_F(WriterTest, WithoutAMergerThatSetsALimitABatchMayFillTheRing) {
  instance_.owner().sleep().batch_max.store(0, std::memory_order_relaxed);  // as one of an older version leaves it
  EXPECT_EQ(writer_.batch_max(), std::numeric_limits<std::uint64_t>::max());
  Batch batch = writer_.batch();
  for (int i = 0; i < 40'000; ++i) ASSERT_EQ(batch.add("k", 1), Status::kOk);
  EXPECT_EQ(batch.commit(), Status::kOk);
}

TEST_F(WriterTest, WhatIsConflatedIsPushedInBatchesThatAreAllowed) {
  MergeOptions options = TestInstance::never_expire();
  options.batch_max = 10;
  instance_.engine().set_options(options);
  Writer writer = instance_.writer(ring_of(kSmallRing, WhenFull::kConflate));
  const std::string filler(10'000, 'f');
  while (writer.counters().conflated == 0) ASSERT_EQ(writer.set("filler", filler), Status::kOk);
  const auto push_two = [&](int first, int second) {
    Batch batch = writer.batch();
    EXPECT_EQ(batch.set("k" + std::to_string(first), first), Status::kOk);
    EXPECT_EQ(batch.set("k" + std::to_string(second), second), Status::kOk);
    return batch.commit();
  };
  for (int i = 0; i < 8; ++i) ASSERT_EQ(push_two(i, i + 1), Status::kOk) << "they have a key in common";
  EXPECT_EQ(push_two(8, 9), Status::kOk);
  EXPECT_EQ(push_two(9, 10), Status::kRingFull) << "eleven keys that belong together";
  instance_.pump();
  ASSERT_EQ(writer.flush(0ns), Status::kTimeout);
  instance_.pump();
  EXPECT_EQ(instance_.reader().get<std::int64_t>("k9"), 9);
  EXPECT_EQ(writer.rejected(Status::kMutationTooBig), 0U);
}

TEST_F(WriterTest, ABatchThatFillsTheRingCompletelyIsPushedAndApplied) {
  Writer small = instance_.writer(ring_of(kSmallRing));
  Batch batch = small.batch();
  for (std::size_t i = 0; i < kSmallRing / record_bytes(1, 8, 0); ++i) batch.add("k", 1);
  EXPECT_EQ(batch.commit(), Status::kOk);
  EXPECT_EQ(small.set("k", 1), Status::kRingFull);
  instance_.pump();
  EXPECT_EQ(read_int64("k"), kSmallRing / record_bytes(1, 8, 0));
}

TEST_F(WriterTest, ABatchForWhichThereIsNoRoomIsNotPushedInPart) {
  Writer small = instance_.writer(ring_of(kSmallRing));
  for (std::size_t i = 0; i < kSmallRing / record_bytes(1, 8, 0) - 5; ++i) small.set("k", 1);
  const Ticket ticket = small.ticket();
  Batch batch = small.batch();
  for (int i = 0; i < 6; ++i) batch.set("in batch", 1);
  EXPECT_EQ(batch.commit(), Status::kRingFull);
  EXPECT_EQ(small.ticket(), ticket);
  EXPECT_EQ(small.counters().failed, 6U);
  instance_.pump();
  EXPECT_EQ(read("in batch"), std::nullopt);
}

TEST_F(WriterTest, OtherMutationsMayBePushedWhileABatchIsOpen) {
  Batch batch = writer_.batch();
  batch.set("k", 1);
  writer_.set("k", 2);
  instance_.pump();
  EXPECT_EQ(read_int64("k"), 2);
  EXPECT_EQ(batch.commit(), Status::kOk);
  instance_.pump();
  EXPECT_EQ(read_int64("k"), 1);
}

TEST_F(WriterTest, ABatchCanBeUsedAgainAfterItsCommit) {
  Batch batch = writer_.batch();
  for (int i = 0; i < 10; ++i) {
    batch.set("k", i);
    batch.add("sum", i);
    ASSERT_EQ(batch.commit(), Status::kOk);
  }
  EXPECT_EQ(batch.commit(), Status::kOk) << "an empty one";
  EXPECT_EQ(writer_.counters().pushed, 20U);
  instance_.pump();
  EXPECT_EQ(read_int64("sum"), 45);
}

// Nothing of the first one vanishes because somebody begins a second one.
TEST_F(WriterTest, ASecondBatchWhileOneIsOpenIsRefusedAndTheFirstOneIsWhole) {
  Batch first = writer_.batch();
  first.set("a", 1);
  const auto [status, text] = error_of([&] { static_cast<void>(writer_.batch()); });
  EXPECT_EQ(status, Status::kInvalidArgument);
  EXPECT_THAT(text, HasSubstr("a batch of this writer is open"));
  first.set("b", 2);
  EXPECT_EQ(first.commit(), Status::kOk);
  instance_.pump();
  EXPECT_EQ(read_int64("a"), 1);
  EXPECT_EQ(read_int64("b"), 2);
}

TEST_F(WriterTest, ABatchIsOpenUntilItIsCommittedOrDestroyedAlsoWithoutContent) {
  {
    const Batch open = writer_.batch();
    EXPECT_THROW(static_cast<void>(writer_.batch()), Error);
  }
  Batch failed = writer_.batch();
  failed.set("", 1);
  EXPECT_EQ(failed.commit(), Status::kKeyEmpty);
  Batch next = writer_.batch();
  Batch moved = std::move(next);
  EXPECT_THROW(static_cast<void>(writer_.batch()), Error) << "a batch that was moved is still open";
}

// One that was committed may go on, but not in the middle of another one.
TEST_F(WriterTest, ACommittedBatchThatGoesOnWhileAnotherIsOpenIsRefusedAndTheOtherOneIsWhole) {
  Batch first = writer_.batch();
  first.set("a", 1);
  EXPECT_EQ(first.commit(), Status::kOk);
  {
    Batch second = writer_.batch();
    second.set("b", 2);
    EXPECT_EQ(first.set("a", 3), Status::kInvalidArgument);
    EXPECT_EQ(first.commit(), Status::kInvalidArgument);
    EXPECT_EQ(second.commit(), Status::kOk);
  }
  EXPECT_EQ(first.set("c", 3), Status::kOk) << "now none is open";
  EXPECT_EQ(first.commit(), Status::kOk);
  EXPECT_EQ(writer_.counters().failed, 1U);
  instance_.pump();
  EXPECT_EQ(read_int64("a"), 1);
  EXPECT_EQ(read_int64("b"), 2);
  EXPECT_EQ(read_int64("c"), 3);
}

// Every operation with a key that remembers its place does what it does with the bytes, alone and in a batch.
TEST_F(WriterTest, BoundKeysDoWhatTheirBytesDoInEveryOperation) {
  Key key("bound");
  const auto try_all = [&](auto& to, auto finish) {
    EXPECT_EQ(to.set(key, 5), Status::kOk);
    EXPECT_EQ(to.add(key, 2), Status::kOk);
    finish();
    EXPECT_EQ(read_int64("bound"), 7);
    EXPECT_EQ(to.max(key, 9), Status::kOk);
    finish();
    EXPECT_EQ(read_int64("bound"), 9);
    EXPECT_EQ(to.min(key, 3), Status::kOk);
    finish();
    EXPECT_EQ(read_int64("bound"), 3);
    EXPECT_EQ(to.set(key, "text", {.ttl = 1h, .version = 4}), Status::kOk);
    finish();
    EXPECT_EQ(reader_.info("bound")->version, 4U);
    EXPECT_TRUE(reader_.info("bound")->time_to_live);
    EXPECT_EQ(to.erase(key, 3), Status::kOk);
    finish();
    EXPECT_TRUE(reader_.info("bound")) << "of a lower version";
    EXPECT_EQ(to.erase(key), Status::kOk);
    finish();
    EXPECT_FALSE(reader_.info("bound"));
  };
  try_all(writer_, [&] { instance_.pump(); });
  Batch batch = writer_.batch();
  try_all(batch, [&] {
    EXPECT_EQ(batch.commit(), Status::kOk);
    instance_.pump();
  });
}

// A ring that will never be merged is told to who conflates, too: what it keeps would be kept for ever.
TEST_F(WriterTest, AQuarantinedRingIsToldToAWriterThatConflates) {
  Writer conflating = instance_.writer(ring_of(kSmallRing, WhenFull::kConflate));
  while (conflating.counters().conflated == 0) ASSERT_EQ(conflating.set("k", 1), Status::kOk);
  const RingFile ring = instance_.open_ring(conflating);
  ring.header().verdict.store(static_cast<std::uint32_t>(layout::RingVerdict::kQuarantined), std::memory_order_release);
  EXPECT_EQ(conflating.set("k", 2), Status::kRingQuarantined);
  EXPECT_EQ(conflating.flush(0ns), Status::kRingQuarantined);
}

// ---- moving

TEST_F(WriterTest, AMovedWriterGoesOnWithItsRing) {
  writer_.set("k", 1);
  const std::uint64_t id = writer_.ring_id();
  Writer moved = std::move(writer_);
  EXPECT_EQ(moved.ring_id(), id);
  moved.set("k", 2);
  instance_.pump();
  EXPECT_EQ(moved.flush(0ns), Status::kOk);
  EXPECT_EQ(moved.counters().pushed, 2U);
  EXPECT_EQ(read_int64("k"), 2);
  writer_ = std::move(moved);
  writer_.set("k", 3);
  instance_.pump();
  EXPECT_EQ(read_int64("k"), 3);
}

TEST_F(WriterTest, AnAssignedWriterLeavesItsOldRingToTheMerger) {
  writer_.set("old", 1);
  const std::uint64_t id = writer_.ring_id();
  writer_ = instance_.writer();
  writer_.set("new", 1);
  instance_.pass_rounds();
  EXPECT_EQ(read_int64("old"), 1);
  EXPECT_EQ(read_int64("new"), 1);
  EXPECT_FALSE(instance_.has_ring_file(id));
}

TEST_F(WriterTest, AnAssignedWriterPushesWhatItHadConflated) {
  WriterOptions options = ring_of(kSmallRing, WhenFull::kConflate);
  options.full_timeout = 1h;
  Writer conflating = instance_.writer(options);
  std::int64_t count = 0;
  for (; conflating.counters().conflated < 10; ++count) ASSERT_EQ(conflating.add("sum", 1), Status::kOk);
  {
    const EngineThread merging(instance_);
    conflating = instance_.writer();
  }
  instance_.pass_rounds();
  EXPECT_EQ(read_int64("sum"), count);
}

TEST_F(WriterTest, AWriterThatIsAssignedToItselfGoesOn) {
  Writer& same = writer_;
  writer_ = std::move(same);
  EXPECT_EQ(writer_.set("k", 1), Status::kOk);
}

TEST_F(WriterTest, ABatchSurvivesMovingItAndItsWriter) {
  std::optional<Batch> batch = writer_.batch();
  batch->set("k", 1);
  Batch moved_batch = std::move(*batch);
  batch.reset();
  Writer moved_writer = std::move(writer_);
  moved_batch.set("other", 2);
  EXPECT_EQ(moved_batch.commit(), Status::kOk);
  instance_.pump();
  EXPECT_EQ(read_int64("k"), 1);
  EXPECT_EQ(read_int64("other"), 2);
}

// As its members or locals end, a program may have a batch that is older than its writer. (AddressSanitizer sees it.)
TEST_F(WriterTest, ABatchMayBeDestroyedAfterItsWriter) {
  std::optional<Writer> writer(instance_.writer());
  std::optional<Batch> committed = writer->batch();
  EXPECT_EQ(committed->set("k", 1), Status::kOk);
  EXPECT_EQ(committed->commit(), Status::kOk);
  Batch open = writer->batch();
  EXPECT_EQ(open.set("k", 2), Status::kOk);
  committed.reset();
  EXPECT_EQ(open.set("k", 3), Status::kOk);
  writer.reset();
  const Batch moved = std::move(open);
  instance_.pump();
  EXPECT_EQ(read_int64("k"), 1);
}

// ---- opening

TEST_F(WriterTest, AnUnknownInstanceIsNamedWithTheRemedy) {
  WriterOptions options;
  options.attach_timeout = 0ns;
  const auto [status, text] = error_of([&] { const Writer writer("/dev/shm/no/such", options); });
  EXPECT_EQ(status, Status::kNoInstance);
  EXPECT_THAT(text, HasSubstr("/dev/shm/no/such"));
  EXPECT_THAT(text, HasSubstr("shmstate-merger"));
}

TEST_F(WriterTest, ARingIsFrom64KiBTo1GiBAndAPowerOfTwo) {
  for (const std::size_t bytes : {std::size_t{0}, kSmallRing - 1, (std::size_t{1} << 30) + 1}) {
    const auto [status, text] = error_of([&] { static_cast<void>(instance_.writer(ring_of(bytes))); });
    EXPECT_EQ(status, Status::kInvalidArgument) << bytes;
    EXPECT_THAT(text, HasSubstr(std::to_string(bytes)));
  }
  for (const std::size_t bytes : {kSmallRing, kSmallRing + 1, std::size_t{100'000}, std::size_t{1} << 30}) {
    const Writer writer = instance_.writer(ring_of(bytes));
    EXPECT_EQ(instance_.open_ring(writer).data_bytes(), std::bit_ceil(bytes));
  }
}

TEST_F(WriterTest, ARingTakesMemoryOnlyAsItIsUsed) {
  WriterOptions options = ring_of(std::size_t{1} << 30);
  Writer writer = instance_.writer(options);
  writer.set("k", 1);
  const RingFile ring = instance_.open_ring(writer);
  EXPECT_LE(os::file_info(ring.fd())->committed_bytes, std::uint64_t{1} << 20);
}

TEST_F(WriterTest, OnlyAFailingOpenLeavesNoFile) {
  const auto count_rings = [this] {
    return std::distance(std::filesystem::directory_iterator(instance_.owner().rings_path()), {});
  };
  EXPECT_EQ(count_rings(), 1);
  static_cast<void>(error_of([&] { static_cast<void>(instance_.writer(ring_of(0))); }));
  EXPECT_EQ(count_rings(), 1);
}

TEST_F(WriterTest, TheNameOfAWriterIsShownAndCutToItsField) {
  if (test::is_set("SHMSTATE_TEST_EMULATED")) GTEST_SKIP() << "the kernel knows the emulator by name, not the program";
  WriterOptions options;
  options.name = std::string(100, 'n');
  const Writer named = instance_.writer(options);
  instance_.pass_rounds();
  std::vector<std::string> names;
  for (const RingInfo& ring : inspect(instance_.path()).rings) names.push_back(ring.name);
  EXPECT_THAT(names, testing::UnorderedElementsAre(std::string(47, 'n'), program_invocation_short_name));
}

TEST_F(WriterTest, AnInstanceIsFoundByItsNameInTheRootOfTheEnvironment) {
  const std::filesystem::path path = instance_.path();
  ASSERT_EQ(::setenv("SHMSTATE_ROOT", path.parent_path().c_str(), 1), 0);
  Writer by_name(path.filename().string());
  ::unsetenv("SHMSTATE_ROOT");
  EXPECT_EQ(by_name.path(), path.string());
  by_name.set("k", 1);
  instance_.pump();
  EXPECT_EQ(read_int64("k"), 1);
}

TEST_F(WriterTest, EachWriterHasARingOfItsOwn) {
  Writer other = instance_.writer();
  EXPECT_NE(other.ring_id(), writer_.ring_id());
  writer_.add("sum", 1);
  other.add("sum", 2);
  instance_.pump();
  EXPECT_EQ(read_int64("sum"), 3);
}

TEST_F(WriterTest, AWriterOfAnotherLayoutVersionIsRefusedWithBothVersions) {
  const std::uint32_t other_major = 77;
  const os::Fd fd = os::open_file(instance_.path() + "/control", O_RDWR);
  ASSERT_EQ(::pwrite(fd.get(), &other_major, sizeof other_major, offsetof(layout::Identity, layout_major)),
            ssize_t{sizeof other_major});
  WriterOptions options;
  options.attach_timeout = 0ns;
  const auto [status, text] = error_of([&] { static_cast<void>(instance_.writer(options)); });
  EXPECT_EQ(status, Status::kVersionMismatch);
  EXPECT_THAT(text, HasSubstr("77." + std::to_string(layout::kLayoutMinor)));
  EXPECT_THAT(text, HasSubstr(std::to_string(layout::kLayoutMajor) + "."));
}

// A push rings once in each sleep of the merger, and never while it is awake.
TEST_F(WriterTest, RingsTheDoorbellOnceInASleep) {
  const auto wakes = [this] { return instance_.owner().doorbell().wakes.load(std::memory_order_relaxed); };
  Shared<std::uint64_t>& phase = instance_.owner().sleep().phase;
  ASSERT_EQ(phase.load(std::memory_order_relaxed) % 2, 0U);
  writer_.set("key", 1);
  EXPECT_EQ(wakes(), 0U);
  for (std::uint32_t sleeps = 1; sleeps <= 3; ++sleeps) {
    phase.fetch_add(1, std::memory_order_relaxed);
    writer_.set("key", 1);
    writer_.set("key", 2);
    EXPECT_EQ(wakes(), sleeps);
    phase.fetch_add(1, std::memory_order_relaxed);
    writer_.set("key", 3);
    EXPECT_EQ(wakes(), sleeps);
  }
}

// It was accepted, and the merger could not be woken: what that showed counts for the next push.
TEST_F(WriterTest, APushThatFindsTheInstanceGoneIsFollowedByOneThatSaysSo) {
  ASSERT_EQ(writer_.set("key", 1), Status::kOk);
  std::this_thread::sleep_for(150ms);  // the place is not asked for more often
  const std::filesystem::path away = instance_.path() + "-away";
  std::filesystem::rename(instance_.path(), away);
  instance_.owner().heartbeat().retired.store(1, std::memory_order_release);
  instance_.owner().sleep().phase.fetch_add(1, std::memory_order_relaxed);
  EXPECT_EQ(writer_.set("key", 2), Status::kOk);
  EXPECT_EQ(writer_.set("key", 3), Status::kNoInstance);
  std::filesystem::rename(away, instance_.path());
}

// A merger that died in its sleep is not taken for a sleeping one by the writers of the next.
TEST_F(WriterTest, AMergerBeginsAwake) {
  instance_.owner().sleep().phase.fetch_add(1, std::memory_order_relaxed);
  instance_.restart();
  EXPECT_EQ(instance_.owner().sleep().phase.load(std::memory_order_relaxed) % 2, 0U);
}

// Whatever somebody does to the size of the doorbell, writers push and attach, and the merger makes it whole again.
TEST_F(WriterTest, ADoorbellOfAnySizeKillsNobodyAndIsRepaired) {
  const std::string doorbell = doorbell_path(instance_.path());
  Shared<std::uint64_t>& phase = instance_.owner().sleep().phase;
  for (const std::uintmax_t bytes : {0U, 3U, 8192U}) {
    std::filesystem::resize_file(doorbell, bytes);
    phase.fetch_add(1, std::memory_order_relaxed);
    EXPECT_EQ(writer_.set("key", 1), Status::kOk);
    Writer newcomer = instance_.writer();
    EXPECT_EQ(newcomer.set("other", 2), Status::kOk);
    phase.fetch_add(1, std::memory_order_relaxed);
    instance_.pass_rounds();
    EXPECT_EQ(std::filesystem::file_size(doorbell), 4096U);
    EXPECT_EQ(read_int64("other"), 2);
  }
  const std::uint32_t before = instance_.owner().doorbell().wakes.load(std::memory_order_relaxed);
  phase.fetch_add(1, std::memory_order_relaxed);
  writer_.set("key", 3);
  EXPECT_EQ(instance_.owner().doorbell().wakes.load(std::memory_order_relaxed), before + 1) << "not the same file";
}

}  // namespace
}  // namespace shmstate
