// The merge engine while readers hold snapshots: whom it waits for, how long, and what it catches up with.
#include "attachment.h"

#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "layout/record.h"
#include "shmstate/inspect.h"
#include "unit/engine_support.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::error_of;
using test::kSmallRing;
using test::numbered;
using test::ring_of;
using test::TestInstance;
using Kind = MergeEvent::Kind;
using Progress = MergeEngine::Progress;

TEST(EngineTest, WithTwoBuffersAPinStallsPublishingAndIsCounted) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  {
    const Snapshot pinned = reader.snapshot();
    writer.set("k", 2);
    EXPECT_EQ(instance.step(), Progress::kWorked) << "the other buffer is free";
    EXPECT_EQ(reader.get<std::int64_t>("k"), 2);
    EXPECT_EQ(instance.step(), Progress::kIdle) << "without work nothing stalls";
    writer.set("k", 3);
    EXPECT_EQ(instance.step(), Progress::kStalled);
    EXPECT_EQ(instance.step(30ms), Progress::kStalled);
    EXPECT_EQ(instance.statistic(Stat::kPinStallMax), std::uint64_t{30'000'000}) << "shown while it goes on";
    EXPECT_EQ(reader.get<std::int64_t>("k"), 2);
    EXPECT_EQ(pinned.get<std::int64_t>("k"), 1);
    EXPECT_FALSE(pinned.expired());
  }
  EXPECT_EQ(instance.step(20ms), Progress::kWorked);
  EXPECT_EQ(reader.get<std::int64_t>("k"), 3);
  EXPECT_EQ(instance.statistic(Stat::kPinStalls), 1U);
  EXPECT_EQ(instance.statistic(Stat::kPinStallMax), std::uint64_t{50'000'000});
  EXPECT_EQ(instance.statistic(Stat::kPinStallTotal), std::uint64_t{50'000'000});
}

TEST(EngineTest, AWriterGoesOnDuringAStallUntilItsRingIsFull) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer(ring_of(kSmallRing));
  instance.pump();
  std::uint64_t pushed = 0;
  {
    const Snapshot pinned = reader.snapshot();
    writer.set("k", 0);
    instance.step();
    while (writer.add("count", 1) == Status::kOk) {
      ++pushed;
      ASSERT_EQ(instance.step(), Progress::kStalled);
    }
    EXPECT_EQ(pushed, kSmallRing / record_bytes(5, 8, 0)) << "nothing was taken from the ring";
  }
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("count"), pushed);
}

TEST(EngineTest, ABacklogIsShownWhileAPinStallsPublishing) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  const Snapshot pinned = reader.snapshot();
  writer.set("k", 2);
  EXPECT_EQ(instance.step(), Progress::kWorked);
  const std::uint64_t applied = writer.ticket();
  writer.set("k", 3);
  EXPECT_EQ(instance.step(100ms), Progress::kStalled);
  const RingInfo ring = inspect(instance.path()).rings.at(0);
  EXPECT_EQ(ring.applied_bytes, applied);
  EXPECT_EQ(ring.applied_count, 2U);
  EXPECT_EQ(ring.pushed_bytes, writer.ticket());
}

/// With two buffers, of which a reader pins one after the other: what is pushed meanwhile waits for that.
class PinnedTurns {
 public:
  explicit PinnedTurns(std::size_t writers, std::size_t ring_bytes = kSmallRing)
      : instance_({.memory_limit_bytes = std::uint64_t{1} << 30}), slow_(instance_.path()) {
    while (writers_.size() < writers) writers_.push_back(instance_.writer(ring_of(ring_bytes)));
    instance_.pump();
    lone_.emplace(instance_.writer());
    instance_.pump();
    slow_.start(instance_);
  }

  [[nodiscard]] TestInstance& instance() { return instance_; }
  [[nodiscard]] std::vector<Writer>& writers() { return writers_; }
  [[nodiscard]] Reader& reader() { return slow_.reader; }

  /// A publish, with the other buffer pinned, so that the next one must wait.
  void stall() {
    const Snapshot pinned = slow_.reader.snapshot();
    lone_->add("lone", 1);
    ASSERT_EQ(slow_.step(), Progress::kWorked);
    lone_->add("lone", 1);
    for (int i = 0; i < 20; ++i) ASSERT_EQ(slow_.step(), Progress::kStalled);
  }
  Progress step() { return slow_.step(); }
  [[nodiscard]] Epoch epoch() const { return slow_.engine->epoch(); }

 private:
  /// An engine for which a millisecond passes whenever it looks at its clock.
  struct Slow {
    explicit Slow(const std::string& path) : reader(path) {}
    void start(TestInstance& instance) {
      now_ns = os::now_ns();
      instance.stop();
      owner.emplace(instance.path(), InstanceOptions{});
      engine.emplace(*owner, TestInstance::never_expire(), nullptr, now_ns, [this] { return now_ns += 1'000'000; });
    }
    Progress step() { return engine->step(now_ns += 1'000'000); }

    Reader reader;
    std::uint64_t now_ns = 0;
    std::optional<InstanceOwner> owner;
    std::optional<MergeEngine> engine;
  };

  TestInstance instance_;
  std::vector<Writer> writers_;
  std::optional<Writer> lone_;
  Slow slow_;
};

// While readers pin one buffer after the other, each turn waits for a pin. So it takes what has piled up in all rings,
// however long that takes by its clock, and is not cut short for the sake of the next turn, which would wait, too.
TEST(EngineTest, ATurnThatFollowsAPinTakesAllThatHasPiledUp) {
  constexpr std::size_t kWriters = 200;
  PinnedTurns turns(kWriters);
  ASSERT_NO_FATAL_FAILURE(turns.stall());
  for (Writer& writer : turns.writers()) {
    while (writer.add("count", 1) == Status::kOk) {
    }
  }
  const Epoch before = turns.epoch();
  EXPECT_EQ(turns.step(), Progress::kWorked);
  EXPECT_EQ(turns.epoch(), before + 1);
  for (Writer& writer : turns.writers()) {
    ASSERT_EQ(writer.flush(0ns), Status::kRingFull) << "the push that found it full; all others are merged";
    ASSERT_EQ(writer.flush(0ns), Status::kOk);
  }
}

// Only what piled up: then turns are as short as ever.
TEST(EngineTest, TheTurnAfterThatIsCutShortAgain) {
  PinnedTurns turns(10);
  ASSERT_NO_FATAL_FAILURE(turns.stall());
  EXPECT_EQ(turns.step(), Progress::kWorked);
  for (Writer& writer : turns.writers()) ASSERT_EQ(writer.add("count", 1), Status::kOk);
  EXPECT_EQ(turns.step(), Progress::kWorked);
  EXPECT_EQ(turns.reader().get<std::int64_t>("count"), 1) << "of a ring, with a clock that says that this took 1 ms";
}

// Not even the largest ring keeps such a turn, and who waits for it, for more than a second.
TEST(EngineTest, ATurnThatFollowsAPinEndsAfterASecondAllTheSame) {
  PinnedTurns turns(2, std::size_t{64} << 20);
  ASSERT_NO_FATAL_FAILURE(turns.stall());
  Writer& large = turns.writers().front();
  std::int64_t pushed = 0;
  while (large.add("large", 1) == Status::kOk) ++pushed;
  EXPECT_EQ(turns.step(), Progress::kWorked);
  EXPECT_LT(turns.reader().get<std::int64_t>("large").value_or(0), pushed);
  EXPECT_GT(turns.reader().get<std::int64_t>("large").value_or(0), 0);
}

// What falls due during a pin goes with it, in place of a part in each of many turns that wait for one pin each.
TEST(EngineTest, KeysThatExpireDuringAPinGoWithTheTurnThatFollows) {
  constexpr std::int64_t kKeys = 10'000;
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  SetOptions fleeting;
  fleeting.ttl = 1ms;
  for (std::int64_t i = 0; i < kKeys; ++i) writer.set(numbered("k", static_cast<std::size_t>(i)), i, fleeting);
  ASSERT_EQ(instance.step(0ns), Progress::kWorked);
  {
    const Snapshot pinned = reader.snapshot();
    writer.set("stays", 1);
    ASSERT_EQ(instance.step(0ns), Progress::kWorked);
    ASSERT_EQ(instance.step(50ms), Progress::kStalled);
  }
  EXPECT_EQ(instance.step(), Progress::kWorked);
  EXPECT_EQ(reader.snapshot().size(), 1U);
}

TEST(EngineTest, WithThreeBuffersAPinStallsNothing) {
  TestInstance instance({.buffer_count = 3});
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 0);
  instance.pump();
  const Snapshot pinned = reader.snapshot();
  for (int i = 1; i <= 100; ++i) {
    writer.set("k", i);
    ASSERT_EQ(instance.step(), Progress::kWorked);
    ASSERT_EQ(reader.get<std::int64_t>("k"), i);
  }
  EXPECT_EQ(pinned.get<std::int64_t>("k"), 0);
  EXPECT_EQ(instance.statistic(Stat::kPinStalls), 0U);
}

TEST(EngineTest, EachBufferMoreAllowsOneMoreOldSnapshotBeforeAStall) {
  for (std::uint32_t buffer_count = 2; buffer_count <= layout::kBuffersMax; ++buffer_count) {
    TestInstance instance({.buffer_count = buffer_count});
    Reader reader = instance.reader();
    Writer writer = instance.writer();
    writer.set("k", 0);
    instance.pump();
    std::vector<Snapshot> pinned;
    std::int64_t n = 0;
    for (; n < 20; ++n) {
      pinned.push_back(reader.snapshot());
      writer.set("k", n + 1);
      if (instance.step() == Progress::kStalled) break;
    }
    EXPECT_EQ(n, std::int64_t{buffer_count} - 1) << buffer_count << " buffers";
    for (std::size_t i = 0; i < pinned.size(); ++i) {
      EXPECT_EQ(pinned[i].get<std::int64_t>("k"), std::min(static_cast<std::int64_t>(i), n))
          << buffer_count << " buffers";
    }
  }
}

// A buffer whose pin was kept for too long is left to other readers while another buffer is free.
TEST(EngineTest, ABufferWithAnExpiredPinIsAvoidedWhileAnotherIsFree) {
  TestInstance instance({.buffer_count = 3}, {.pin_time_max = 100ms});
  Writer writer = instance.writer();
  const auto publish = [&](std::int64_t n) {
    writer.set("k", n);
    for (int i = 0; i < 5 && instance.reader().get<std::int64_t>("k") != n; ++i) instance.step(40ms);
    ASSERT_EQ(instance.reader().get<std::int64_t>("k"), n);
  };
  publish(1);
  Reader first = instance.reader();
  std::optional<Snapshot> short_pin = first.snapshot();
  publish(2);
  Reader second = instance.reader();
  const Snapshot long_pin = second.snapshot();
  publish(3);
  publish(4);  // both other buffers are pinned: takes the newest, that of the long pin
  ASSERT_TRUE(long_pin.expired());
  Reader third = instance.reader();
  const Snapshot other = third.snapshot();  // the same buffer
  short_pin.reset();
  for (std::int64_t n = 5; n < 20; ++n) publish(n);
  EXPECT_FALSE(other.expired());
  EXPECT_EQ(other.get<std::int64_t>("k"), 4);
  EXPECT_EQ(instance.statistic(Stat::kPinsExpired), 1U);
}

// Once a lock that was kept for too long has gone, pins of that buffer count again.
TEST(EngineTest, PinsOfABufferCountAgainWhenTheExpiredOneHasGone) {
  TestInstance instance({}, {.pin_time_max = 100ms});
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  Reader first = instance.reader();
  std::optional<Snapshot> long_pin = first.snapshot();
  for (int n = 2; n < 6; ++n) {
    writer.set("k", n);
    instance.step(100ms);
  }
  ASSERT_TRUE(long_pin->expired());
  long_pin.reset();
  for (int n = 0; n < 2; ++n) {
    writer.set("k", 10 + n);
    instance.step();
  }
  Reader second = instance.reader();
  const Snapshot pinned = second.snapshot();
  for (int n = 0; n < 5; ++n) {
    writer.set("k", 20 + n);
    instance.step();
  }
  EXPECT_FALSE(pinned.expired());
}

TEST(EngineTest, AfterTheMaximumPinTimeTheBufferIsReclaimedAndTheSnapshotSaysSo) {
  TestInstance instance({}, {.pin_time_max = 100ms});
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  const Snapshot pinned = reader.snapshot();
  writer.set("k", 2);
  EXPECT_EQ(instance.step(), Progress::kWorked);
  writer.set("k", 3);
  EXPECT_EQ(instance.step(), Progress::kStalled);
  EXPECT_EQ(instance.step(99ms), Progress::kStalled);
  EXPECT_FALSE(pinned.expired());
  EXPECT_EQ(pinned.get<std::int64_t>("k"), 1);
  EXPECT_EQ(instance.step(1ms), Progress::kWorked);
  EXPECT_EQ(reader.get<std::int64_t>("k"), 3);

  EXPECT_TRUE(pinned.expired());
  EXPECT_EQ(error_of([&] { static_cast<void>(pinned.get<std::int64_t>("k")); }).first, Status::kExpired);
  EXPECT_EQ(error_of([&] { static_cast<void>(pinned.find("missing")); }).first, Status::kExpired);
  EXPECT_EQ(error_of([&] { static_cast<void>(pinned.size()); }).first, Status::kExpired);
  EXPECT_EQ(error_of([&] { static_cast<void>(pinned.begin()); }).first, Status::kExpired);
  EXPECT_EQ(instance.statistic(Stat::kPinsExpired), 1U);
  EXPECT_EQ(instance.count_events(Kind::kPinExpired), 1U);
}

TEST(EngineTest, AReaderThatWasNotWokenByAMergerThatDiedIsWokenByTheNext) {
  TestInstance instance;
  const Attachment files(instance.path(), 0ns, false);
  const Shared<std::uint64_t>& word = files.publication().epoch_word;
  std::atomic<long> woken = 1;
  std::thread reader([&] {
    const auto seen = static_cast<std::uint32_t>(word.load(std::memory_order_acquire));
    const timespec long_time{.tv_sec = 60, .tv_nsec = 0};
    woken = ::syscall(SYS_futex, word.futex(), FUTEX_WAIT, seen, &long_time, nullptr, 0);
  });
  while (woken == 1) {  // until the reader slept before a restart
    instance.restart();
    instance.step();
  }
  reader.join();
  EXPECT_EQ(woken, 0);
}

// Readers are not woken for each publish of a flood. That the last one still has to be told needs no buffer.
TEST(EngineTest, AWakeThatIsOwedIsNotHeldUpByAPinAndExpiresNone) {
  TestInstance instance({}, {.pin_time_max = 10ms});
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  writer.set("k", 2);
  EXPECT_EQ(instance.step(), Progress::kWorked);
  const Snapshot pinned = reader.snapshot();
  writer.set("k", 3);
  EXPECT_EQ(instance.step(1us), Progress::kWorked);
  EXPECT_TRUE(instance.engine().has_work()) << "no wake is owed";
  EXPECT_EQ(instance.step(1ms), Progress::kIdle);
  EXPECT_FALSE(instance.engine().has_work());
  for (int i = 0; i < 20; ++i) EXPECT_EQ(instance.step(), Progress::kIdle);
  EXPECT_FALSE(pinned.expired());
  EXPECT_EQ(instance.statistic(Stat::kPinStalls), 0U);
}

// A merger that was stopped while it waited for a pin must not take that time for the reader's when it goes on.
TEST(EngineTest, ForAsLongAsTheMergerStandsStillNoPinExpires) {
  TestInstance instance({}, {.pin_time_max = 1s});
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  const Snapshot pinned = reader.snapshot();
  for (int n = 2; n < 4; ++n) {
    writer.set("k", n);
    instance.step();
  }
  EXPECT_EQ(instance.step(60s), Progress::kStalled);
  EXPECT_FALSE(pinned.expired());
  for (int i = 0; i < 20; ++i) instance.step(50ms);
  EXPECT_TRUE(pinned.expired()) << "it still expires";
}

// The work that waited for a pin may vanish; then nothing waits any more.
TEST(EngineTest, APinIsNotExpiredForWorkThatIsGone) {
  TestInstance instance({}, {.pin_time_max = 1s});
  Reader reader = instance.reader();
  Writer writer = instance.writer({.survive_truncation = true});
  writer.set("k", 1);
  instance.pump();
  const Snapshot pinned = reader.snapshot();
  for (int n = 2; n < 4; ++n) {
    writer.set("k", n);
    instance.step();
  }
  ASSERT_EQ(instance.step(), Progress::kStalled);
  std::filesystem::resize_file(rings_path(instance.path()) / ring_name(writer.ring_id()), 0);
  for (int i = 0; i < 30; ++i) instance.step(100ms);
  EXPECT_EQ(instance.count_events(Kind::kRingQuarantined), 1U);
  EXPECT_FALSE(pinned.expired());
}

TEST(EngineTest, ASnapshotThatExpiresWhileItIsIteratedThrowsInsteadOfMixingStates) {
  TestInstance instance({}, {.pin_time_max = 1ms});
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  for (std::size_t k = 0; k < 5'000; ++k) writer.set(numbered("k", k), 1);
  instance.pump();
  const Snapshot pinned = reader.snapshot();
  std::size_t seen = 0;
  const auto [status, text] = error_of([&] {
    for (const auto& [key, value] : pinned) {
      EXPECT_EQ(value.int64(), 1) << key;
      if (++seen != 1'000) continue;
      for (int i = 0; i < 10; ++i) {
        writer.set(numbered("k", static_cast<std::size_t>(i)), 2);
        instance.step();
      }
    }
  });
  EXPECT_EQ(status, Status::kExpired);
  EXPECT_LE(seen, 1'000U + 16) << "what was looked up before it expired may still come";
}

// ---- how the merger learns of pins

class PinNewsTest : public ::testing::Test {
 protected:
  /// How often the kernel is asked in `turns` turns within one maintenance interval, each of which publishes.
  std::uint64_t questions_in(TestInstance& instance, Writer& writer, int turns) {
    instance.pass_rounds(1);
    const std::uint64_t before = instance.statistic(Stat::kPinQuestions);
    for (int i = 0; i < turns; ++i) {
      writer.set("k", i);
      instance.step(1us);
    }
    return instance.statistic(Stat::kPinQuestions) - before;
  }
  /// Two publishes of which the second needs the buffer that a reader holds.
  static void expect_stall(TestInstance& instance, Writer& writer) {
    writer.set("k", 1'000);
    instance.step(1us);
    writer.set("k", 1'001);
    EXPECT_EQ(instance.step(1us), Progress::kStalled);
  }
  /// As a hostile reader does.
  static void set_count(const TestInstance& instance, std::uint32_t count) {
    const os::Fd file = os::open_file(pins_path(instance.path()), O_RDWR);
    ASSERT_EQ(::pwrite(file.get(), &count, sizeof count, 0), static_cast<ssize_t>(sizeof count));
  }
  static std::uint32_t count(TestInstance& instance) {
    return instance.owner().pin_word().announced.load(std::memory_order_relaxed);
  }
};

TEST_F(PinNewsTest, TheKernelIsAskedOnceForEachBufferUntilSomebodyPins) {
  TestInstance instance;
  Writer writer = instance.writer();
  EXPECT_LE(questions_in(instance, writer, 50), 2U);
  Reader reader = instance.reader();
  EXPECT_LE(questions_in(instance, writer, 50), 2U) << "who reads without a pin costs nothing";
  { const Snapshot pinned = reader.snapshot(); }
  EXPECT_EQ(count(instance), 1U);
  EXPECT_LE(questions_in(instance, writer, 50), 2U);
}

TEST_F(PinNewsTest, WhereReadersAnnounceNothingTheKernelIsAskedInEachTurn) {
  TestInstance instance({.has_announced_pins = false});
  Writer writer = instance.writer();
  EXPECT_GE(questions_in(instance, writer, 50), 50U);
  EXPECT_FALSE(os::file_info(pins_path(instance.path())));
  Reader reader = instance.reader();
  const Snapshot pinned = reader.snapshot();
  expect_stall(instance, writer);
  EXPECT_FALSE(pinned.expired());
}

TEST_F(PinNewsTest, APinThatIsAnnouncedInTheMiddleOfManyTurnsIsKept) {
  TestInstance instance({.buffer_count = 3});
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  for (int round = 0; round < 50; ++round) {
    writer.set("k", round);
    instance.step(1us);
    const Snapshot pinned = reader.snapshot();
    for (int turn = 0; turn < 5; ++turn) {
      writer.set("k", -1);
      instance.step(1us);
    }
    ASSERT_FALSE(pinned.expired());
    ASSERT_EQ(pinned.get<std::int64_t>("k"), round);
  }
}

// A count that is set back hides a pin for a turn: its holder is told. The next maintenance asks whatever it says.
TEST_F(PinNewsTest, APinThatAHostileReaderHidesExpiresAndIsSeenAfterTheNextMaintenance) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  questions_in(instance, writer, 4);  // both buffers are known to be free
  const std::uint32_t known = count(instance);
  const Snapshot hidden = reader.snapshot();
  set_count(instance, known);
  for (int i = 0; i < 3; ++i) {
    writer.set("k", 100 + i);
    EXPECT_EQ(instance.step(1us), Progress::kWorked);
  }
  EXPECT_TRUE(hidden.expired());
  EXPECT_THROW(static_cast<void>(hidden.get<std::int64_t>("k")), Error);

  const Snapshot pinned = reader.snapshot();
  set_count(instance, known);
  instance.step(100ms);  // maintenance
  expect_stall(instance, writer);
  EXPECT_FALSE(pinned.expired());
}

TEST_F(PinNewsTest, ATruncatedFileHidesNoPinAndIsMadeWhole) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  questions_in(instance, writer, 4);
  for (const std::uintmax_t bytes : {std::uintmax_t{0}, std::uintmax_t{3}}) {
    std::filesystem::resize_file(pins_path(instance.path()), bytes);
    {
      const Snapshot pinned = reader.snapshot();
      expect_stall(instance, writer);
      EXPECT_FALSE(pinned.expired());
    }
    instance.pass_rounds(2);
    EXPECT_EQ(std::filesystem::file_size(pins_path(instance.path())), 4096U);
  }
}

TEST_F(PinNewsTest, TheNextMergerAsksAnewAndServesPinsOfBefore) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  const Snapshot pinned = reader.snapshot();
  instance.restart();
  expect_stall(instance, writer);
  EXPECT_EQ(pinned.get<std::int64_t>("k"), 1);
}

}  // namespace
}  // namespace shmstate
