// The merge engine, step by step, in the test's own process: what it publishes, when, and what it survives.
#include "attachment.h"
#include "engine/merge_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "harness/positions.h"
#include "harness/test_instance.h"
#include "layout/record.h"
#include "protocol/buffer_view.h"
#include "protocol/publish.h"
#include "shmstate/inspect.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::error_of;
using test::Random;
using test::ring_of;
using test::TestInstance;
using ::testing::HasSubstr;
using Kind = MergeEvent::Kind;
using Progress = MergeEngine::Progress;

constexpr std::size_t kSmallRing = kRingBytesMin;

std::string numbered(std::string_view prefix, std::size_t number) {
  return std::string(prefix) + std::to_string(number);
}

std::vector<layout::RingCursor> published_cursors(TestInstance& instance) {
  InstanceOwner& owner = instance.owner();
  const Version version = current_version(owner.publication());
  const auto* const cursors = ring_cursors(owner.buffer(version.buffer));
  std::vector<layout::RingCursor> used;
  for (std::uint32_t i = 0; i < owner.geometry().ring_count_max; ++i) {
    if (cursors[i].ring_id != 0) used.push_back(cursors[i]);
  }
  return used;
}

// ---- publishing

TEST(EngineTest, ANewInstanceHasAnEmptyFirstSnapshot) {
  TestInstance instance;
  Reader reader = instance.reader();
  EXPECT_EQ(reader.epoch(), 1U);
  EXPECT_EQ(reader.snapshot().size(), 0U);
}

TEST(EngineTest, AStepWithoutChangesPublishesNothing) {
  TestInstance instance;
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  const Epoch epoch = instance.engine().epoch();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(instance.step(10ms), Progress::kIdle);
  EXPECT_EQ(instance.engine().epoch(), epoch);
}

TEST(EngineTest, ALoneMutationIsReadableAfterOneStep) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 1);
  EXPECT_EQ(instance.step(), Progress::kWorked);
  EXPECT_EQ(reader.get<std::int64_t>("k"), 1);
  EXPECT_EQ(writer.flush(0ns), Status::kOk);
}

TEST(EngineTest, BatchesAreNeverSplitHoweverTinyTheRing) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer(ring_of(kSmallRing));
  Random random(30);
  std::int64_t pushed = 0;
  for (int i = 0; i < test::steps(2'000); ++i) {
    if (random.chance(50)) {
      // Up to the whole ring, and so many records that they take several groups and several quarters.
      const std::size_t count = random.between(1, kSmallRing / 32);
      Batch batch = writer.batch();
      for (std::size_t k = 0; k < count; ++k) batch.set(numbered("filler/", k % 700), pushed + 1);
      batch.set("first", pushed + 1);
      batch.set("last", pushed + 1);
      if (batch.commit() == Status::kOk) ++pushed;
    } else {
      writer.set("single", static_cast<std::int64_t>(i));
    }
    if (random.chance(60)) instance.step();
    const Snapshot snapshot = reader.snapshot();
    ASSERT_EQ(snapshot.get<std::int64_t>("first"), snapshot.get<std::int64_t>("last"));
  }
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("last"), pushed);
  EXPECT_GT(pushed, test::steps(100)) << "the test pushes too little";
}

TEST(EngineTest, ABigBatchIsAppliedByOnePublish) {
  TestInstance instance;
  Writer writer = instance.writer(ring_of(kSmallRing));
  instance.pump();
  const Epoch epoch = instance.engine().epoch();
  Batch batch = writer.batch();
  for (std::size_t k = 0; k < 2000; ++k) batch.set(numbered("k", k), 1);
  ASSERT_EQ(batch.commit(), Status::kOk);
  instance.step();
  EXPECT_EQ(instance.engine().epoch(), epoch + 1);
  EXPECT_EQ(instance.reader().snapshot().size(), 2000U);
  EXPECT_EQ(writer.flush(0ns), Status::kOk);
}

// ---- batches that are larger than allowed

MergeOptions with_batch_max(std::uint64_t batch_max) {
  MergeOptions options = TestInstance::never_expire();
  options.batch_max = batch_max;
  return options;
}

/// Pushes a batch as a writer of an older version does, or a hostile one.
Status push_batch_of_any_size(TestInstance& instance, Writer& writer, std::size_t count) {
  Shared<std::uint64_t>& said = instance.owner().sleep().batch_max;
  const std::uint64_t limit = said.exchange(0, std::memory_order_relaxed);
  Batch batch = writer.batch();
  for (std::size_t i = 0; i < count; ++i) batch.add("batched", 1);
  const Status status = batch.commit();
  said.store(limit, std::memory_order_relaxed);
  return status;
}

TEST(EngineTest, ABatchThatIsLargerThanAllowedIsRefusedAsAWholeAndCounted) {
  TestInstance instance({}, with_batch_max(100));
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.add("before", 1);
  ASSERT_EQ(push_batch_of_any_size(instance, writer, 100), Status::kOk);
  ASSERT_EQ(push_batch_of_any_size(instance, writer, 101), Status::kOk);
  writer.add("behind", 1);
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("before"), 1);
  EXPECT_EQ(reader.get<std::int64_t>("batched"), 100) << "the one that is allowed";
  EXPECT_EQ(reader.get<std::int64_t>("behind"), 1) << "the ring goes on";
  EXPECT_EQ(writer.flush(0ns), Status::kRejected);
  EXPECT_EQ(writer.rejected(Status::kMutationTooBig), 101U);
  EXPECT_EQ(writer.counters().applied, 102U);
  EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 0U);
}

// Of few mutations, but of many bytes; and of as few as fit one group of records that the engine takes at once.
TEST(EngineTest, ABatchOfMoreBytesThanAllowedIsRefusedToo) {
  TestInstance instance({}, with_batch_max(20));
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.add("before", 1);
  instance.owner().sleep().batch_max.store(0, std::memory_order_relaxed);
  for (const std::size_t bytes : {std::size_t{10}, std::size_t{9'000}}) {
    Batch batch = writer.batch();
    ASSERT_EQ(batch.set(numbered("a", bytes), std::string(bytes, 'a')), Status::kOk);
    ASSERT_EQ(batch.set(numbered("b", bytes), std::string(bytes, 'b')), Status::kOk);
    ASSERT_EQ(batch.commit(), Status::kOk);
  }
  ASSERT_EQ(push_batch_of_any_size(instance, writer, 21), Status::kOk);
  writer.set("alone", std::string(100'000, 'c'));
  instance.pump();
  EXPECT_EQ(writer.rejected(Status::kMutationTooBig), 2U + 21U);
  EXPECT_EQ(reader.snapshot().size(), 4U) << "before, the small batch, and the mutation alone";
}

// Its end is looked for in parts, and in each turn everybody else is served.
TEST(EngineTest, AHugeBatchThatIsRefusedDelaysNobody) {
  constexpr std::size_t kRing = std::size_t{32} << 20;
  constexpr std::size_t kCount = kRing / record_bytes(7, 8, 0);
  TestInstance instance({}, with_batch_max(1000));
  Reader reader = instance.reader();
  Writer hostile = instance.writer(ring_of(kRing));
  Writer other = instance.writer();
  instance.pump();
  ASSERT_EQ(push_batch_of_any_size(instance, hostile, kCount), Status::kOk);
  std::int64_t turns = 0;
  while (hostile.rejected(Status::kMutationTooBig) == 0) {
    other.add("other", 1);
    instance.step();
    ASSERT_EQ(reader.get<std::int64_t>("other"), ++turns);
    ASSERT_LT(turns, 100);
  }
  EXPECT_GT(turns, 30) << "about a MiB in a turn";
  EXPECT_EQ(hostile.rejected(Status::kMutationTooBig), kCount);
  EXPECT_EQ(hostile.flush(0ns), Status::kRejected);
  EXPECT_FALSE(reader.get<std::int64_t>("batched"));
}

TEST(EngineTest, AMergerThatIsStartedAgainWhileABatchIsRefusedAppliesNoPartOfIt) {
  constexpr std::size_t kRing = std::size_t{8} << 20;
  TestInstance instance({}, with_batch_max(1000));
  Writer writer = instance.writer(ring_of(kRing));
  instance.pump();
  constexpr std::size_t kCount = kRing / record_bytes(7, 8, 0);
  ASSERT_EQ(push_batch_of_any_size(instance, writer, kCount), Status::kOk);
  for (int i = 0; i < 4; ++i) instance.step();
  EXPECT_EQ(writer.rejected(Status::kMutationTooBig), 0U) << "it is not finished";
  instance.restart();
  instance.pump();
  EXPECT_EQ(writer.rejected(Status::kMutationTooBig), kCount);
  EXPECT_FALSE(instance.reader().get<std::int64_t>("batched"));
}

TEST(EngineTest, ABatchWithoutAnEndThatIsLargerThanAllowedQuarantinesItsRing) {
  TestInstance instance({}, with_batch_max(1000));
  Writer writer = instance.writer();
  instance.pump();
  ASSERT_EQ(push_batch_of_any_size(instance, writer, 5000), Status::kOk);
  const RingFile ring = instance.open_ring(writer);
  ring.header().tail.store(writer.ticket() - record_bytes(7, 8, 0), std::memory_order_relaxed);
  for (int i = 0; i < 10; ++i) instance.step();
  EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U);
  EXPECT_FALSE(instance.reader().get<std::int64_t>("batched"));
}

// What a writer was told to be allowed when it pushed is merged, whatever is allowed now.
TEST(EngineTest, BatchesThatWerePushedUnderAHigherLimitAreMerged) {
  TestInstance instance({}, with_batch_max(1000));
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  instance.pump();
  ASSERT_EQ(push_batch_of_any_size(instance, writer, 1000), Status::kOk);
  instance.engine().set_options(with_batch_max(100));
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("batched"), 1000) << "reconfigured";
  EXPECT_EQ(writer.batch_max(), 100U);

  ASSERT_EQ(push_batch_of_any_size(instance, writer, 100), Status::kOk);
  instance.restart(with_batch_max(10));
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("batched"), 1100) << "started again with less";

  instance.owner().sleep().batch_max.store(0, std::memory_order_relaxed);
  ASSERT_EQ(push_batch_of_any_size(instance, writer, 5000), Status::kOk);
  instance.stop();
  const os::Fd control = os::open_file(instance.path() + "/control", O_RDWR);
  constexpr std::uint64_t kNone = 0;
  ASSERT_EQ(::pwrite(control.get(), &kNone, sizeof kNone,
                     offsetof(layout::ControlHeader, sleep) + offsetof(layout::Sleep, batch_max)),
            ssize_t{sizeof kNone});
  instance.start();
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("batched"), 6100) << "of a merger of an older version";

  ASSERT_EQ(push_batch_of_any_size(instance, writer, 11), Status::kOk);
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("batched"), 6100) << "what is pushed now is not allowed";
}

// Mutations that do not belong together are not merged in one go, however large the ring.
TEST(EngineTest, ALargeRingIsLeftWhenTheTimeOfATurnIsOver) {
  constexpr std::size_t kRing = std::size_t{32} << 20;
  TestInstance instance;
  Writer large = instance.writer(ring_of(kRing));
  Writer other = instance.writer();
  instance.pump();
  std::int64_t pushed = 0;
  while (large.add("large", 1) == Status::kOk) ++pushed;
  other.add("other", 1);
  instance.stop();
  std::uint64_t now_ns = os::now_ns();
  InstanceOwner owner(instance.path(), {});
  MergeEngine engine(owner, TestInstance::never_expire(), nullptr, now_ns, [&] { return now_ns += 300'000; });
  Reader reader = instance.reader();
  for (int turns = 0; turns < 2; ++turns) EXPECT_EQ(engine.step(now_ns), Progress::kWorked);
  EXPECT_EQ(reader.get<std::int64_t>("other"), 1);
  EXPECT_LT(reader.get<std::int64_t>("large").value_or(0), pushed / 20) << "of a quarter in each turn";
}

TEST(EngineTest, AStepTakesAboutAQuarterOfARingSoThatItsWriterIsServedEarly) {
  TestInstance instance;
  Writer writer = instance.writer(ring_of(kSmallRing));
  while (writer.set("k", 1) == Status::kOk) {
  }
  instance.step();
  const std::uint64_t applied_bytes = published_cursors(instance).at(0).cursor;
  EXPECT_GE(applied_bytes, kSmallRing / 4);
  EXPECT_LT(applied_bytes, kSmallRing / 2);
  EXPECT_EQ(writer.set("k", 2), Status::kOk) << "there is room again";
}

TEST(EngineTest, AHeadIsNeverAheadOfWhatIsPublished) {
  TestInstance instance;
  std::vector<Writer> writers;
  for (int i = 0; i < 3; ++i) writers.push_back(instance.writer(ring_of(kSmallRing, WhenFull::kBlock)));
  instance.pump();
  std::vector<RingFile> rings;
  for (const Writer& writer : writers) rings.push_back(instance.open_ring(writer));
  const auto* const publication = &instance.owner().publication();
  const auto published_cursor = [&](std::uint64_t ring_id) {
    for (;;) {
      const Version version = current_version(*publication);
      const auto* const cursors = ring_cursors(instance.owner().buffer(version.buffer));
      std::uint64_t cursor = 0;
      for (std::size_t i = 0; i < rings.size(); ++i) {
        if (load_word(&cursors[i].ring_id, std::memory_order_acquire) == ring_id) {
          cursor = load_word(&cursors[i].cursor, std::memory_order_acquire);
        }
      }
      if (is_intact(*publication, version)) return cursor;
    }
  };

  const test::EngineThread merging(instance);
  std::jthread pushing([&](const std::stop_token& stop) {
    for (std::int64_t n = 0; !stop.stop_requested(); ++n) {
      for (Writer& writer : writers) writer.set("k", n);
    }
  });
  for (int i = 0; i < test::steps(20'000); ++i) {
    for (const RingFile& ring : rings) {
      const std::uint64_t head = ring.header().head.load(std::memory_order_acquire);
      ASSERT_LE(head, published_cursor(ring.id())) << "a crash here would lose mutations";
    }
  }
}

// The number of lines copied for each publish that changes one key among `key_count`.
std::uint64_t lines_copied_for_one_change(std::size_t key_count) {
  TestInstance instance;
  Writer writer = instance.writer();
  for (std::size_t k = 0; k < key_count; ++k) {
    writer.set(numbered("some/longer/key/", k), 0);
    if (k % 10'000 == 0) instance.pump();
  }
  instance.pump();
  constexpr std::size_t kPublishes = 100;
  for (std::size_t i = 0; i < 2; ++i) {  // both buffers are up to date but for the lines of one change
    writer.set(numbered("some/longer/key/", i), 1);
    instance.step();
  }
  const std::uint64_t before = instance.statistic(Stat::kLinesCopied);
  for (std::size_t i = 0; i < kPublishes; ++i) {
    writer.set(numbered("some/longer/key/", i * 7 % key_count), 2);
    EXPECT_EQ(instance.step(), Progress::kWorked);
  }
  return (instance.statistic(Stat::kLinesCopied) - before) / kPublishes;
}

TEST(EngineTest, APublishOfOneChangeCopiesAHandfulOfLinesHoweverManyKeysThereAre) {
  const std::uint64_t of_few = lines_copied_for_one_change(1'000);
  const std::uint64_t of_many = lines_copied_for_one_change(300'000);
  EXPECT_LE(of_few, 4U) << "the header, the cursor, the slot";
  EXPECT_EQ(of_many, of_few);
}

TEST(EngineTest, RepeatedChangesOfAKeyCostOneLine) {
  TestInstance instance;
  Writer writer = instance.writer();
  for (int i = 0; i < 3; ++i) {
    writer.set("k", 0);
    instance.step();
  }
  const std::uint64_t before = instance.statistic(Stat::kLinesCopied);
  for (std::int64_t i = 0; i < 1'000; ++i) writer.set("k", i);
  instance.step();
  EXPECT_LE(instance.statistic(Stat::kLinesCopied) - before, 4U);
}

TEST(EngineTest, EpochsGrowByOneWithEachPublishAndAcrossRestarts) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  for (int i = 0; i < 20; ++i) {
    const Epoch before = reader.epoch();
    writer.set("k", i);
    instance.step();
    ASSERT_EQ(reader.epoch(), before + 1);
    if (i % 3 == 0) instance.restart();
    ASSERT_GE(reader.epoch(), before + 1);
  }
}

TEST(EngineTest, StatisticsTellWhatHappened) {
  TestInstance instance;
  Writer writer = instance.writer();
  writer.set("number", 1);
  writer.set("text", std::string(1000, 'x'));
  writer.add("text", 1);
  writer.set("number", 2);
  instance.pump();
  EXPECT_EQ(instance.statistic(Stat::kMutationsApplied), 3U);
  EXPECT_EQ(instance.statistic(Stat::kMutationsRejected), 1U);
  EXPECT_EQ(instance.statistic(Stat::kPublishes), instance.engine().epoch() - 0U);
  EXPECT_EQ(instance.statistic(Stat::kEntries), 2U);
  EXPECT_EQ(instance.statistic(Stat::kSegments), 1U);
  EXPECT_EQ(instance.statistic(Stat::kHeapBytes), heap_block_bytes(1000));
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 1U);
  EXPECT_EQ(instance.statistic(Stat::kRingsSeen), 1U);
  EXPECT_GE(instance.statistic(Stat::kPagesCommitted), instance.statistic(Stat::kPagesFree));
}

// age() and the silence of the merger were the machine's uptime until the first turn.
TEST(EngineTest, AFreshInstanceIsNoOlderThanItIs) {
  const std::uint64_t began_ns = os::now_ns();
  TestInstance instance;  // which has made no turn
  const auto lived = [&] { return std::chrono::nanoseconds(os::now_ns() - began_ns); };
  Reader reader = instance.reader();
  std::int64_t value = 0;
  EXPECT_LE(reader.age(), lived());
  EXPECT_EQ(reader.read_fresh("k", value, lived() + 1min), Status::kNotFound) << "not: too old";
  const InstanceInfo info = inspect(instance.path());
  EXPECT_LE(info.merger_silence, lived());
  EXPECT_LE(info.age, lived());
  const auto publishes = std::find_if(info.statistics.begin(), info.statistics.end(),
                                      [](const StatisticInfo& statistic) { return statistic.name == "publishes"; });
  ASSERT_NE(publishes, info.statistics.end());
  EXPECT_EQ(publishes->value, info.epoch);
}

// One that is resumed is as old as what it shows, but its merger is there.
TEST(EngineTest, AResumedInstanceIsAsOldAsItWas) {
  TestInstance instance;
  instance.step(0ns);
  const std::uint64_t as_of_ns = instance.owner().heartbeat().current_as_of_ns.load(std::memory_order_relaxed);
  instance.stop();
  instance.pass(1h);
  instance.start();
  EXPECT_EQ(instance.owner().heartbeat().current_as_of_ns.load(std::memory_order_relaxed), as_of_ns);
  EXPECT_GE(instance.owner().heartbeat().beat_ns.load(std::memory_order_relaxed), as_of_ns + 3'600'000'000'000);
}

TEST(EngineTest, OneMergerServesAnInstance) {
  TestInstance instance;
  const auto [status, text] = error_of([&] { const InstanceOwner second(instance.path(), {}); });
  EXPECT_EQ(status, Status::kAlreadyRunning);
  EXPECT_THAT(text, HasSubstr(std::to_string(::getpid())));
}

TEST(EngineTest, ImpossibleOptionsAreRefusedBeforeAnythingIsCreated) {
  const test::TemporaryDirectory directory;
  for (const InstanceOptions& options : std::initializer_list<InstanceOptions>{{.buffer_count = 1},
                                                                               {.buffer_count = 9},
                                                                               {.memory_limit_bytes = 1},
                                                                               {.ring_count_max = 0},
                                                                               {.ring_count_max = 4097},
                                                                               {.feed_record_count = 0},
                                                                               {.feed_record_count = 100}}) {
    const auto [status, text] = error_of([&] { const InstanceOwner owner(directory.path() / "plant", options); });
    EXPECT_EQ(status, Status::kInvalidArgument) << text;
    EXPECT_FALSE(std::filesystem::exists(directory.path() / "plant"));
  }
}

// ---- pins

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

TEST(EngineTest, AfterTheMaximumPinTimeTheBufferIsTakenBackAndTheSnapshotSaysSo) {
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
    const auto* const futex = reinterpret_cast<const std::uint32_t*>(word.address());
    const auto seen = static_cast<std::uint32_t>(word.load(std::memory_order_acquire));
    const timespec long_time{.tv_sec = 60, .tv_nsec = 0};
    woken = ::syscall(SYS_futex, futex, FUTEX_WAIT, seen, &long_time, nullptr, 0);
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

// Who attaches, and stands still between its pin and its look at the buffer, must not take that for damage.
TEST(EngineTest, ABufferThatIsTakenBackWhileAReaderAttachesIsNoDamage) {
  TestInstance instance({}, {.pin_time_max = 1ms});
  Writer writer = instance.writer();
  instance.pump();
  Attachment files(instance.path(), 0ns, false);
  Version pinned;
  ASSERT_EQ(files.pin_current(pinned), Status::kOk);
  EXPECT_FALSE(files.has_foreign_snapshot(pinned));
  for (int i = 0; i < 4; ++i) {
    writer.set("k", i);
    instance.step(1ms);
  }
  ASSERT_NE(files.snapshot.buffer(pinned.buffer).epoch(), pinned.epoch) << "it was not taken back";
  EXPECT_FALSE(files.has_foreign_snapshot(pinned));
  files.snapshot.unpin(pinned.buffer);
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
  EXPECT_LT(seen, 1'000U + layout::kGroupSlots) << "what was looked up before it expired may still come";
}

TEST(EngineTest, StatisticsThatAnOlderInstanceHasNoRoomForAreLeftOut) {
  TestInstance instance;
  instance.stop();
  const os::Fd fd = os::open_file(instance.path() + "/control", O_RDWR);
  const auto fewer = static_cast<std::uint32_t>(Stat::kRingsLive);
  ASSERT_EQ(::pwrite(fd.get(), &fewer, sizeof fewer, offsetof(layout::Identity, statistic_count)),
            ssize_t{sizeof fewer});
  instance.start();
  constexpr std::uint64_t kForeign = 77;
  instance.owner().statistic(Stat::kRingsLive).store(kForeign, std::memory_order_relaxed);
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), kForeign);
  EXPECT_EQ(instance.statistic(Stat::kMutationsApplied), 1U);
}

// ---- rings that lie, break or end

// What tools show, after the next slow round.
std::string shown_reason(TestInstance& instance, const Writer& writer) {
  instance.pass_rounds(1);
  for (const RingInfo& ring : inspect(instance.path()).rings) {
    if (ring.id == writer.ring_id()) return ring.quarantine_reason;
  }
  return "no such ring";
}

TEST(EngineTest, ARingWithGarbageIsQuarantinedAndAnotherGoesOn) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer bad = instance.writer();
  Writer good = instance.writer();
  bad.set("bad", 1);
  instance.pump();
  {
    const RingFile ring = instance.open_ring(bad);
    const std::uint64_t tail = ring.header().tail.load(std::memory_order_relaxed);
    std::memset(ring.at(tail), 0xff, 64);
    ring.header().tail.store(tail + 64, std::memory_order_release);
  }
  good.set("good", 1);
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("good"), 1);
  EXPECT_EQ(reader.get<std::int64_t>("bad"), 1) << "what came before the garbage counts";
  EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U);
  EXPECT_EQ(instance.count_events(Kind::kRingQuarantined), 1U);
  EXPECT_EQ(bad.flush(bad.ticket() + 64, 0ns), Status::kRingQuarantined);
  EXPECT_EQ(shown_reason(instance, bad), "its bytes at " + std::to_string(bad.ticket()) + " are no mutation");
  EXPECT_EQ(shown_reason(instance, good), "");
  for (int i = 0; i < 10; ++i) {
    good.set("good", i);
    instance.pump();
    ASSERT_EQ(reader.get<std::int64_t>("good"), i);
  }
}

TEST(EngineTest, ABatchThatTurnsToGarbageOnItsWayIsNotAppliedInPart) {
  constexpr std::size_t kBatch = 500;  // several groups
  for (const std::size_t broken : {std::size_t{1}, std::size_t{63}, std::size_t{64}, std::size_t{300}, kBatch}) {
    TestInstance instance;
    Reader reader = instance.reader();
    Writer bad = instance.writer();
    bad.set("before", 1);
    const std::uint64_t first = bad.ticket();
    Batch batch = bad.batch();
    for (std::size_t i = 0; i < kBatch; ++i) EXPECT_EQ(batch.set(numbered("part", 100 + i), 1), Status::kOk);
    ASSERT_EQ(batch.commit(), Status::kOk);
    const std::uint64_t record_bytes = (bad.ticket() - first) / kBatch;
    ASSERT_EQ(record_bytes * kBatch, bad.ticket() - first);
    const RingFile ring = instance.open_ring(bad);
    if (broken < kBatch) {
      std::memset(ring.at(first + broken * record_bytes), 0xff, 8);
    } else {  // its end is missing
      ring.header().tail.store(bad.ticket() - record_bytes, std::memory_order_release);
    }
    instance.pump();
    EXPECT_EQ(reader.get<std::int64_t>("before"), 1) << broken;
    EXPECT_EQ(reader.snapshot().size(), 1U) << broken;
    EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U) << broken;
  }
}

// A record that is cut off by the tail, or that claims more than the ring can hold, is none: nothing of it is read.
TEST(EngineTest, ARecordThatIsLongerThanWhatWasPushedIsGarbage) {
  for (const std::uint32_t claimed : {9U, 64U, static_cast<std::uint32_t>(kValueBytesMax)}) {
    TestInstance instance;
    Writer bad = instance.writer(ring_of(kSmallRing));
    bad.set("before", 1);
    const std::uint64_t begin = bad.ticket();
    bad.set("cut", "12345678");
    const RingFile ring = instance.open_ring(bad);
    auto* const head = reinterpret_cast<layout::RecordHead*>(ring.at(begin));
    head->value_bytes = claimed;
    instance.pump();
    EXPECT_EQ(instance.reader().get<std::int64_t>("before"), 1) << claimed;
    EXPECT_EQ(instance.reader().get<Value>("cut"), std::nullopt) << claimed;
    EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U) << claimed;
    EXPECT_EQ(shown_reason(instance, bad), "its bytes at " + std::to_string(begin) + " are no mutation") << claimed;
  }
}

TEST(EngineTest, AnImpossibleTailQuarantinesItsRing) {
  for (const std::uint64_t lie : {std::uint64_t{0}, std::uint64_t{8}, std::uint64_t{20}, std::uint64_t{1} << 40,
                                  ~std::uint64_t{0}, ~std::uint64_t{7}}) {
    TestInstance instance;
    Writer bad = instance.writer();
    bad.set("bad", 1);
    instance.pump();
    instance.open_ring(bad).header().tail.store(lie, std::memory_order_release);
    instance.pump();
    EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U) << lie;
    EXPECT_EQ(instance.reader().get<std::int64_t>("bad"), 1) << lie;
    EXPECT_EQ(shown_reason(instance, bad), "its tail is impossible") << lie;
  }
}

TEST(EngineTest, ATailThatGoesBackWhileABatchIsRefusedQuarantinesItsRing) {
  constexpr std::size_t kRing = std::size_t{8} << 20;
  TestInstance instance({}, with_batch_max(1000));
  Writer writer = instance.writer(ring_of(kRing));
  instance.pump();
  ASSERT_EQ(push_batch_of_any_size(instance, writer, kRing / record_bytes(7, 8, 0)), Status::kOk);
  for (int i = 0; i < 4; ++i) instance.step();
  instance.open_ring(writer).header().tail.store(64, std::memory_order_release);
  instance.step();
  EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U);
  EXPECT_EQ(shown_reason(instance, writer), "its tail is impossible");
}

TEST(EngineTest, ATailThatGoesBackToTheCursorDoesNotMakeTheSnapshotLookOld) {
  TestInstance instance;
  Writer bad = instance.writer(ring_of(kSmallRing));
  instance.pump();
  for (std::size_t i = 0; i < kSmallRing / 2 / record_bytes(3, 8, 0); ++i) ASSERT_EQ(bad.set("bad", 1), Status::kOk);
  instance.step();
  const std::uint64_t cursor = published_cursors(instance).at(0).cursor;
  ASSERT_LT(cursor, bad.ticket()) << "the turn took a part of it";
  const auto& as_of_ns = instance.owner().heartbeat().current_as_of_ns;
  const std::uint64_t before_ns = as_of_ns.load(std::memory_order_relaxed);
  instance.open_ring(bad).header().tail.store(cursor, std::memory_order_release);
  instance.pass_rounds();
  EXPECT_GT(as_of_ns.load(std::memory_order_relaxed), before_ns + 100'000'000);
}

TEST(EngineTest, AQuarantinedRingIsRemovedWhenItsWriterEndsAndCountsNoMore) {
  TestInstance instance;
  std::optional<Writer> bad = instance.writer();
  bad->set("bad", 1);
  instance.pump();
  const std::uint64_t id = bad->ring_id();
  instance.open_ring(*bad).header().tail.store(8, std::memory_order_release);
  instance.pump();
  bad.reset();
  instance.pass_rounds();
  EXPECT_FALSE(instance.has_ring_file(id));
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 0U);
  EXPECT_TRUE(published_cursors(instance).empty());
}

TEST(EngineTest, AQuarantinedRingIsQuarantinedAgainAfterARestart) {
  TestInstance instance;
  Writer bad = instance.writer();
  bad.set("bad", 1);
  instance.pump();
  {
    const RingFile ring = instance.open_ring(bad);
    std::memset(ring.at(bad.ticket()), 0xff, 64);
    ring.header().tail.store(bad.ticket() + 64, std::memory_order_release);
  }
  instance.pump();
  instance.restart();
  instance.pump();
  EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U);
  EXPECT_EQ(bad.flush(bad.ticket() + 64, 0ns), Status::kRingQuarantined);
}

// Streams of a hostile writer: valid records, damaged here and there, up to a tail that may be anything.
void write_hostile_stream(const RingFile& ring, Random& random) {
  std::uint64_t position = 0;
  while (position + 2 * kKeyBytesMax < ring.data_bytes()) {
    const std::string key = random.bytes(random.between(1, random.chance(90) ? 40 : kKeyBytesMax));
    const std::string bytes = random.bytes(random.below(200));
    Mutation mutation;
    mutation.operation = static_cast<Operation>(random.between(1, 5));
    mutation.key = key;
    mutation.flags = static_cast<std::uint8_t>(random.word() & random.word() & allowed_flags(mutation.operation));
    mutation.ttl_ns = random.word() >> random.below(64);
    mutation.version = random.word();
    mutation.hint = random.word() >> random.below(64);
    if (mutation.operation != Operation::kErase) mutation.value = static_cast<std::int64_t>(random.word());
    if (mutation.operation == Operation::kSet && random.chance(50)) mutation.value = bytes;
    encode_record(ring.at(position), mutation, 0);
    if (random.chance(1)) *ring.at(position + random.below(8)) = static_cast<std::byte>(random.word());
    position += record_bytes(mutation);
    if (random.chance(1)) break;
  }
  const std::uint64_t tail = random.chance(80) ? position : random.word() >> random.below(64);
  ring.header().tail.store(tail, std::memory_order_release);
}

// A writer is told how many were rejected; which key it was, the log can tell, and a flood of them does not fill it.
TEST(EngineTest, ARejectionIsReportedWithItsKeyOnceASecond) {
  TestInstance instance;
  Writer writer = instance.writer();
  writer.set("the key", "text");
  for (int i = 0; i < 100; ++i) writer.add("the key", 1);
  instance.pump();
  ASSERT_EQ(instance.count_events(Kind::kMutationRejected), 1U);
  EXPECT_EQ(instance.events().back().ring_id, writer.ring_id());
  EXPECT_EQ(instance.events().back().detail, "the key");
  EXPECT_EQ(instance.events().back().reason, Status::kWrongType);
  instance.step(1s);
  writer.add("the key", 1);
  instance.pump();
  EXPECT_EQ(instance.count_events(Kind::kMutationRejected), 2U);
}

// A writer of its own making may push what the library refuses.
TEST(EngineTest, ANaNInARingIsNoOperandAndCreatesNoKey) {
  TestInstance instance;
  Writer writer = instance.writer();
  writer.set("erased", 1, {.version = 1});
  writer.erase("erased", 2);
  const RingFile ring = instance.open_ring(writer);
  std::uint64_t position = writer.ticket();
  for (const Operation operation : {Operation::kAdd, Operation::kMax, Operation::kMin}) {
    for (const std::string_view key : {"missing", "erased"}) {
      Mutation mutation;
      mutation.operation = operation;
      mutation.key = key;
      mutation.value = std::numeric_limits<double>::quiet_NaN();
      encode_record(ring.at(position), mutation, 0);
      position += record_bytes(mutation);
    }
  }
  ring.header().tail.store(position, std::memory_order_release);
  instance.pump();
  EXPECT_EQ(writer.rejected(Status::kOutOfRange), 6U);
  EXPECT_EQ(instance.reader().snapshot().size(), 0U);
}

TEST(EngineTest, NoBytesInARingDisturbTheEngineOrAnotherRing) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer good = instance.writer();
  Random random(31);
  for (int i = 0; i < test::steps(200); ++i) {
    const RingFile ring =
        RingFile::create(instance.owner().rings_path(), {.data_bytes = kSmallRing,
                                                         .flags = static_cast<std::uint32_t>(random.word()),
                                                         .name = "hostile",
                                                         .instance_id = instance.owner().geometry().instance_id});
    write_hostile_stream(ring, random);
    instance.owner().doorbell().registrations.fetch_add(1, std::memory_order_release);
    good.add("good", 1);
    instance.pump();
    ASSERT_EQ(reader.get<std::int64_t>("good"), i + 1);
    ASSERT_EQ(reader.snapshot().size(), instance.engine().table().entry_count());
    if (random.chance(5)) instance.restart();
  }
  EXPECT_GT(instance.count_events(Kind::kRingQuarantined), 20U) << "the test is too gentle";
}

TEST(EngineTest, BytesThatChangeWhileTheyAreMergedDisturbNoOtherRing) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "bytes that change while they are read are a race by intention";
#endif
  TestInstance instance;
  Reader reader = instance.reader();
  Writer good = instance.writer();
  Random random(32);
  for (int i = 0; i < test::steps(100); ++i) {
    const RingFile ring =
        RingFile::create(instance.owner().rings_path(), {.data_bytes = kSmallRing,
                                                         .flags = 0,
                                                         .name = "hostile",
                                                         .instance_id = instance.owner().geometry().instance_id});
    write_hostile_stream(ring, random);
    instance.owner().doorbell().registrations.fetch_add(1, std::memory_order_release);
    std::atomic<bool> stop{false};
    std::thread scribbler([&, stream = 1'000 + static_cast<std::uint64_t>(i)] {
      Random dice(stream);
      while (!stop.load(std::memory_order_relaxed)) {
        auto* const word = reinterpret_cast<std::uint64_t*>(ring.at(dice.below(kSmallRing / kWord) * kWord));
        store_word(word, dice.word() >> dice.below(64), std::memory_order_relaxed);
      }
    });
    good.add("good", 1);
    instance.pump();
    stop.store(true, std::memory_order_relaxed);
    scribbler.join();
    ASSERT_EQ(reader.get<std::int64_t>("good"), i + 1);
    const Snapshot snapshot = reader.snapshot();
    for (const EntryView& entry : snapshot) ASSERT_TRUE(snapshot.find(entry.key)) << "an entry under a wrong hash";
  }
}

// Whatever lies in the directory of rings, nothing of it is followed, waited for or served; what has a ring's name is
// reported once, and all that can be removed is removed.
TEST(EngineTest, FilesThatAreNoRingsAreRefusedAndRemoved) {
  TestInstance instance;
  const std::filesystem::path rings = instance.owner().rings_path();
  std::filesystem::create_directory(rings / ring_name(1));
  std::filesystem::create_symlink("/dev/zero", rings / ring_name(2));
  std::ofstream(rings / ring_name(3)) << "not a ring";
  ASSERT_EQ(::mkfifo((rings / ring_name(4)).c_str(), 0666), 0);
  std::filesystem::create_hard_link(doorbell_path(instance.path()), rings / ring_name(5));
  std::filesystem::create_directories(rings / ring_name(6) / "not empty");
  std::filesystem::create_symlink(rings / ring_name(3), rings / ring_name(7));
  std::ofstream(rings / "README") << "not even a name";
  std::ofstream(rings / shared_ring_name(::geteuid())) << "not a shared ring";
  std::filesystem::create_directory(rings / shared_ring_name(1234567));
  instance.restart();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pass_rounds(30);
  EXPECT_EQ(instance.reader().get<std::int64_t>("k"), 1);
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 1U);
  EXPECT_EQ(instance.count_events(Kind::kRingRefused), 7U);
  std::set<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(rings)) left.insert(entry.path().filename());
  EXPECT_EQ(left, (std::set<std::string>{ring_name(6), ring_name(writer.ring_id())}));
}

// A flood of files costs a bounded number of them a turn, and a bounded number of reports; rings are served in between.
TEST(EngineTest, AFloodOfFilesIsLookedAtInPieces) {
  constexpr std::size_t kFiles = 2000;
  TestInstance instance;
  Writer before = instance.writer();
  instance.pump();
  const std::filesystem::path rings = instance.owner().rings_path();
  for (std::size_t i = 1; i <= kFiles; ++i) std::ofstream(rings / ring_name(i)) << "not a ring";
  Writer after = instance.writer();
  after.set("after", 1);
  Reader reader = instance.reader();
  for (std::int64_t turn = 1; turn <= 10; ++turn) {
    before.add("before", 1);
    instance.step(0ns);
    EXPECT_EQ(reader.get<std::int64_t>("before"), turn);
    const std::filesystem::directory_iterator begin(rings);
    EXPECT_GE(static_cast<std::size_t>(std::distance(begin, {})), kFiles - 64 * static_cast<std::size_t>(turn))
        << "32 that the kernel told of, and 32 of the directory";
  }
  for (std::size_t i = 0; i < kFiles; ++i) instance.step(0ns);
  EXPECT_EQ(reader.get<std::int64_t>("after"), 1);
  EXPECT_EQ(instance.statistic(Stat::kRingsRefused), kFiles);
  EXPECT_EQ(instance.count_events(Kind::kRingRefused), 64U);
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 2U);
}

/// Files with names of rings, made by one user, which no other can remove.
void flood_rings(const std::filesystem::path& rings, std::size_t count, uid_t user) {
  for (std::size_t i = 1; i <= count; ++i) {
    const std::filesystem::path path = rings / ring_name(i);
    const os::Fd file = os::open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    ASSERT_TRUE(file.is_open());
    if (user == ::geteuid()) continue;
    ASSERT_EQ(::fchown(file.get(), user, static_cast<gid_t>(-1)), 0);
  }
}

/// Steps until everything that a writer pushed is readable, while it waits for that; returns the entries of the
/// directory of rings that were read meanwhile.
std::uint64_t names_read_until_merged(TestInstance& instance, Writer& writer) {
  const std::uint64_t before = instance.engine().names_read();
  Status status = Status::kTimeout;
  for (int turns = 0; turns < 10'000 && status != Status::kOk; ++turns) {
    instance.step();
    status = writer.flush(2ms);
  }
  EXPECT_EQ(status, Status::kOk);
  return instance.engine().names_read() - before;
}

// Whoever filled the directory of rings, with however many names: a new ring of somebody else is served after a
// bounded number of them, which is far less than there are.
TEST(EngineTest, ANewRingIsServedAfterABoundedNumberOfNamesWhoeverMadeTheOthers) {
  constexpr uid_t kFlooder = 65'534;
  constexpr std::uint64_t kNamesMax = 4'000;
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make files of somebody else";
  TestInstance instance;
  instance.pump();
  for (const std::size_t files : {std::size_t{10'000}, std::size_t{40'000}}) {  // more than the kernel keeps messages
    for (const auto& left : std::filesystem::directory_iterator(instance.owner().rings_path())) {
      std::filesystem::remove(left);
    }
    ASSERT_NO_FATAL_FAILURE(flood_rings(instance.owner().rings_path(), files, kFlooder));
    for (int i = 0; i < 3; ++i) instance.step(1s);  // a search has begun, which does not meet what comes later
    Writer writer = instance.writer();
    writer.add("new", 1);
    EXPECT_LT(names_read_until_merged(instance, writer), kNamesMax) << "of " << files;
  }
}

// Also of the same user, once the kernel has told of those that were made before.
TEST(EngineTest, ANewRingOfTheUserWhoFloodedIsServedAfterABoundedNumberOfNamesToo) {
  constexpr std::size_t kFiles = 30'000;
  TestInstance instance;
  instance.pump();
  ASSERT_NO_FATAL_FAILURE(flood_rings(instance.owner().rings_path(), kFiles, ::geteuid()));
  for (int i = 0; i < 3; ++i) instance.step(1s);  // a search has begun, which does not meet what comes later
  Writer writer = instance.writer();
  writer.add("new", 1);
  EXPECT_LT(names_read_until_merged(instance, writer), kFiles / 3);
}

// A ring that was refused since there was no place gets the next one that is free, although nobody can find it among
// all those names.
TEST(EngineTest, ARefusedRingIsFoundInAFloodWhenThereIsAPlaceForIt) {
  constexpr uid_t kFlooder = 65'534;
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make files of somebody else";
  TestInstance instance({.ring_count_max = 1});
  std::optional<Writer> first(instance.writer());
  instance.pump();
  Writer second = instance.writer();
  second.add("second", 1);
  instance.pump();
  ASSERT_EQ(second.flush(0ns), Status::kRingRefused);
  ASSERT_NO_FATAL_FAILURE(flood_rings(instance.owner().rings_path(), 10'000, kFlooder));
  first.reset();
  for (int i = 0; i < 3; ++i) instance.step(100ms);
  EXPECT_LT(names_read_until_merged(instance, second), 4'000U);
}

// Somebody keeps so many messages of the kernel coming that it has no room for another. Who waits touches its ring
// again and again, and the merger makes room in each turn.
TEST(EngineTest, ARingIsServedThoughSomebodyTouchesFilesAllTheTime) {
  TestInstance instance;
  instance.pump();
  std::array<std::filesystem::path, 2> files;
  std::vector<os::Fd> held;  // so that the merger does not remove them
  for (std::size_t i = 0; i < files.size(); ++i) {
    files[i] = instance.owner().rings_path() / ring_name(i + 1);
    held.push_back(os::open_file(files[i], O_RDWR | O_CREAT, 0600));
    ASSERT_TRUE(os::try_lock(held.back().get(), kLifeByte, true));
  }
  const auto touch = [&files](int count) {
    for (int i = 0; i < count; ++i) {  // one after the other: two messages that are equal are one
      ASSERT_EQ(::utimensat(AT_FDCWD, files[static_cast<std::size_t>(i) % 2].c_str(), nullptr, 0), 0);
    }
  };
  touch(20'000);
  Writer writer = instance.writer();
  writer.add("k", 1);
  Status status = Status::kTimeout;
  int turns = 0;
  for (; turns < 1'000 && status != Status::kOk; ++turns) {
    touch(2'000);
    instance.step(1us);
    status = writer.flush(2ms);
  }
  EXPECT_EQ(status, Status::kOk);
  EXPECT_GT(turns, 1);
}

// Where the kernel has no more to tell with, the directory is searched whenever somebody rings.
TEST(EngineTest, WithoutNewsOfTheKernelNewRingsAreFoundBySearching) {
  std::vector<os::Fd> instances;
  while (instances.size() < 500) {
    os::Fd one(::inotify_init1(IN_CLOEXEC));
    if (!one.is_open()) break;
    instances.push_back(std::move(one));
  }
  if (instances.size() == 500) GTEST_SKIP() << "a user may have very many inotify instances here";
  TestInstance instance;
  instance.pump();
  Writer writer = instance.writer();
  writer.add("k", 1);
  instance.step(1us);
  EXPECT_EQ(instance.reader().get<std::int64_t>("k"), 1);
}

// A ring that finishes while the directory is read in pieces is not taken for a broken one.
TEST(EngineTest, ARingThatFinishesDuringALookIsNotRefused) {
  TestInstance instance;
  std::vector<Writer> writers;
  for (int i = 0; i < 100; ++i) writers.push_back(instance.writer(ring_of(kSmallRing)));
  instance.step();
  for (int i = 0; i < 10; ++i) {
    instance.step(100ms);
    writers.clear();
  }
  instance.pass_rounds(20);
  EXPECT_EQ(instance.count_events(Kind::kRingRefused), 0U);
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 0U);
}

// The status names the user that a ring's file belongs to, whatever its header says.
TEST(EngineTest, AWriterCannotLieAboutItsUser) {
  TestInstance instance;
  const Writer writer = instance.writer();
  instance.open_ring(writer).header().owner_uid = ::geteuid() + 1;
  instance.pass_rounds();
  EXPECT_EQ(instance.owner().ring_status(0).owner_uid.load(std::memory_order_relaxed), ::geteuid());
}

// A writer's name that has no end, and is not fit to be shown, does no harm.
TEST(EngineTest, AWritersNameWithoutAnEndIsCutAndMadeHarmless) {
  TestInstance instance;
  const Writer writer = instance.writer(ring_of(kSmallRing));
  const os::Fd file = os::open_file(instance.owner().rings_path() / ring_name(writer.ring_id()), O_RDWR);
  const std::string escape(layout::kRingHeaderBytes + kSmallRing - offsetof(layout::RingHeader, name), '\x1b');
  ASSERT_EQ(::pwrite(file.get(), escape.data(), escape.size(), offsetof(layout::RingHeader, name)),
            static_cast<ssize_t>(escape.size()));
  instance.step();
  ASSERT_EQ(instance.count_events(Kind::kRingServed), 1U);
  EXPECT_EQ(instance.events().front().detail, std::string(sizeof layout::RingHeader::name, '?'));
}

TEST(EngineTest, ARingWhoseFileIsTruncatedUnderTheEngineIsQuarantined) {
  for (const std::uint64_t left_bytes : {std::uint64_t{0}, std::uint64_t{layout::kRingHeaderBytes}}) {
    TestInstance instance;
    Reader reader = instance.reader();
    Writer bad = instance.writer();
    Writer good = instance.writer();
    bad.set("bad", 1);
    instance.pump();
    bad.set("bad", 2);
    std::filesystem::resize_file(instance.owner().rings_path() / ring_name(bad.ring_id()), left_bytes);
    good.set("good", 1);
    instance.pump();
    EXPECT_EQ(reader.get<std::int64_t>("good"), 1);
    EXPECT_EQ(reader.get<std::int64_t>("bad"), 1);
    EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U) << left_bytes << " bytes left";
    EXPECT_EQ(shown_reason(instance, bad), "its file was truncated");
  }
}

TEST(EngineTest, ARingThatIsTruncatedBeforeItsFirstMutationWasTakenIsQuarantinedToo) {
  TestInstance instance;
  Writer bad = instance.writer();
  instance.pump();
  bad.set("bad", 1);
  std::filesystem::resize_file(instance.owner().rings_path() / ring_name(bad.ring_id()), 0);
  instance.pass_rounds();
  EXPECT_EQ(instance.statistic(Stat::kRingsQuarantined), 1U);
}

TEST(EngineTest, ATruncatedRingLeavesNoFileBehindAfterARestart) {
  TestInstance instance;
  std::optional<Writer> bad = instance.writer();
  bad->set("bad", 1);
  instance.pump();
  const std::uint64_t id = bad->ring_id();
  std::filesystem::resize_file(instance.owner().rings_path() / ring_name(id), 0);
  instance.restart();
  bad.reset();
  instance.pass_rounds();
  EXPECT_FALSE(instance.has_ring_file(id));
}

TEST(EngineTest, RingFilesVanishAfterTheirWriterIsGoneAndEverythingOfItIsPublished) {
  TestInstance instance;
  Reader reader = instance.reader();
  std::vector<std::uint64_t> ids;
  {
    std::vector<Writer> writers;
    for (int i = 0; i < 10; ++i) {
      writers.push_back(instance.writer());
      ids.push_back(writers.back().ring_id());
      writers.back().add("sum", i);
    }
    EXPECT_TRUE(instance.has_ring_file(ids.front()));
  }
  instance.pass_rounds();
  for (const std::uint64_t id : ids) EXPECT_FALSE(instance.has_ring_file(id));
  EXPECT_EQ(reader.get<std::int64_t>("sum"), 45);
  EXPECT_TRUE(published_cursors(instance).empty());
  EXPECT_EQ(instance.count_events(Kind::kRingFinished), 10U);
}

TEST(EngineTest, ARingIsNotRemovedBeforeItIsDrainedHoweverLongItsWriterIsGone) {
  TestInstance instance;
  Reader reader = instance.reader();
  std::optional<Writer> writer = instance.writer();
  const std::uint64_t id = writer->ring_id();
  writer->set("k", 1);
  instance.pump();
  std::optional<Snapshot> pinned = reader.snapshot();
  writer->set("k", 2);
  instance.step();
  writer->set("k", 3);
  writer.reset();
  for (int i = 0; i < 50; ++i) ASSERT_EQ(instance.step(100ms), Progress::kStalled);
  EXPECT_TRUE(instance.has_ring_file(id));
  pinned.reset();
  instance.pass_rounds();
  EXPECT_EQ(reader.get<std::int64_t>("k"), 3);
  EXPECT_FALSE(instance.has_ring_file(id));
}

TEST(EngineTest, BeyondTheMaximumNumberOfRingsAWriterIsRefusedAndServedWhenAnotherEnds) {
  TestInstance instance({.ring_count_max = 2});
  Reader reader = instance.reader();
  std::optional<Writer> first = instance.writer();
  Writer second = instance.writer();
  Writer third = instance.writer();
  first->set("first", 1);
  second.set("second", 2);
  third.set("third", 3);
  instance.pump();
  const auto refused = std::count_if(instance.events().begin(), instance.events().end(),
                                     [](const MergeEvent& event) { return event.kind == Kind::kRingRefused; });
  ASSERT_EQ(refused, 1);
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 2U);
  EXPECT_EQ(reader.snapshot().size(), 2U);
  // Whichever came too late: which of the files is found first is nobody's promise.
  std::vector<Writer*> writers{&*first, &second, &third};
  const auto is_refused = [](Writer* writer) { return writer->flush(0ns) == Status::kRingRefused; };
  ASSERT_EQ(std::count_if(writers.begin(), writers.end(), is_refused), 1);
  if (is_refused(&*first)) std::swap(*first, second);
  first.reset();
  instance.pass_rounds();
  EXPECT_EQ(reader.snapshot().size(), 3U) << "what was pushed while it was refused is not lost";
  EXPECT_EQ(second.flush(0ns), Status::kOk);
  EXPECT_EQ(third.flush(0ns), Status::kOk);
}

TEST(EngineTest, ARefusedRingIsCountedOnce) {
  TestInstance instance({.ring_count_max = 1});
  const Writer first = instance.writer();
  instance.pump();
  const Writer second = instance.writer();
  for (int i = 0; i < 100; ++i) instance.step(100ms);
  EXPECT_EQ(instance.statistic(Stat::kRingsRefused), 1U);
  EXPECT_EQ(instance.count_events(Kind::kRingRefused), 1U) << "each is a line in the log";
}

// ---- crashes between two steps

TEST(EngineTest, CursorsOfRingsWhoseFilesAreGoneAreDroppedAtResume) {
  TestInstance instance({.ring_count_max = 2});
  std::optional<Writer> gone = instance.writer();
  Writer other = instance.writer();
  gone->set("gone", 1);
  instance.pump();
  const std::uint64_t id = gone->ring_id();
  gone.reset();
  instance.stop();  // as if it had died between removing the file and dropping the cursor
  std::filesystem::remove(rings_path(instance.path()) / ring_name(id));
  instance.start();
  instance.pump();
  const std::vector<layout::RingCursor> cursors = published_cursors(instance);
  ASSERT_EQ(cursors.size(), 1U);
  EXPECT_EQ(cursors[0].ring_id, other.ring_id());
  Writer next = instance.writer();
  next.set("next", 1);
  instance.pump();
  EXPECT_EQ(next.flush(0ns), Status::kOk) << "the place is free again";
  EXPECT_EQ(instance.reader().get<std::int64_t>("gone"), 1);
}

TEST(EngineTest, PlacesOfRingsWhoseFilesAreGoneAreFreedOnceAPinAllowsIt) {
  TestInstance instance({.ring_count_max = 1});
  Reader reader = instance.reader();
  std::optional<Writer> gone = instance.writer();
  gone->set("gone", 1);
  instance.pump();
  std::optional<Snapshot> pinned = reader.snapshot();
  gone->set("gone", 2);
  instance.step();  // publishes into the last buffer that is not pinned
  const std::uint64_t id = gone->ring_id();
  gone.reset();
  instance.stop();
  std::filesystem::remove(rings_path(instance.path()) / ring_name(id));
  instance.start();
  pinned.reset();
  instance.pass_rounds(20);
  EXPECT_TRUE(published_cursors(instance).empty());
  Writer next = instance.writer();
  next.set("next", 1);
  instance.pass_rounds(20);
  EXPECT_EQ(next.flush(0ns), Status::kOk);
}

// Takes back what a step wrote into a ring's header after its publish: the merger was killed just before it.
class CrashBeforeHeadsMove {
 public:
  explicit CrashBeforeHeadsMove(RingFile ring)
      : ring_(std::move(ring)),
        head_(header().head.load(std::memory_order_relaxed)),
        applied_count_(header().applied_count.load(std::memory_order_relaxed)) {
    for (std::size_t i = 0; i < layout::kRejectCount; ++i) {
      rejected_[i] = header().rejected[i].load(std::memory_order_relaxed);
    }
  }
  void forget() const {
    header().head.store(head_, std::memory_order_relaxed);
    header().applied_count.store(applied_count_, std::memory_order_relaxed);
    for (std::size_t i = 0; i < layout::kRejectCount; ++i) {
      header().rejected[i].store(rejected_[i], std::memory_order_relaxed);
    }
  }

 private:
  [[nodiscard]] layout::RingHeader& header() const { return ring_.header(); }

  RingFile ring_;
  std::uint64_t head_;
  std::uint64_t applied_count_;
  std::array<std::uint64_t, layout::kRejectCount> rejected_{};
};

TEST(EngineTest, AFullRingWhoseHeadWasNotMovedBeforeACrashGoesOnAfterResume) {
  TestInstance instance;
  Writer writer = instance.writer(ring_of(kSmallRing));
  instance.pump();
  std::int64_t pushed = 0;
  while (writer.add("sum", 1) == Status::kOk) ++pushed;
  const CrashBeforeHeadsMove crash(instance.open_ring(writer));
  for (int i = 0; i < 10; ++i) instance.step();  // all of it is published
  instance.stop();
  crash.forget();
  ASSERT_EQ(writer.add("sum", 1), Status::kRingFull);
  instance.start();
  EXPECT_EQ(writer.add("sum", 1), Status::kOk);
  instance.pump();
  EXPECT_EQ(instance.reader().get<std::int64_t>("sum"), pushed + 1) << "neither lost nor applied twice";
}

TEST(EngineTest, CountersOfAWriterAreRightAfterACrashBeforeTheHeadsMoved) {
  TestInstance instance;
  Writer writer = instance.writer();
  instance.pump();
  const CrashBeforeHeadsMove crash(instance.open_ring(writer));
  writer.set("text", "x");
  writer.add("text", 1);
  instance.step();
  instance.stop();
  crash.forget();
  instance.start();
  instance.pump();
  EXPECT_EQ(writer.counters().applied, 1U);
  EXPECT_EQ(writer.counters().rejected, 1U);
  EXPECT_EQ(writer.rejected(Status::kWrongType), 1U);
  EXPECT_EQ(writer.flush(0ns), Status::kRejected);
}

TEST(EngineTest, NothingIsLostOrAppliedTwiceOverManyRestarts) {
  TestInstance instance({.buffer_count = 3});
  Reader reader = instance.reader();
  std::vector<Writer> writers;
  for (int i = 0; i < 3; ++i) {
    writers.push_back(instance.writer(ring_of(kSmallRing)));
  }
  Random random(32);
  std::int64_t pushed = 0;
  for (int i = 0; i < test::steps(1'000); ++i) {
    for (Writer& writer : writers) {
      for (std::size_t n = random.below(300); n > 0; --n) pushed += writer.add("sum", 1) == Status::kOk ? 1 : 0;
    }
    std::vector<CrashBeforeHeadsMove> crashes;
    for (const Writer& writer : writers) crashes.emplace_back(instance.open_ring(writer));
    for (std::size_t n = random.below(4); n > 0; --n) instance.step();
    if (random.chance(70)) continue;
    instance.stop();
    if (random.chance(50)) {
      for (const CrashBeforeHeadsMove& crash : crashes) crash.forget();
    }
    instance.start();
  }
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("sum"), pushed);
}

TEST(EngineTest, ADamagedCurrentBufferIsRefusedAtResumeAndNotServed) {
  using Damage = void (*)(layout::BufferHeader&);
  const Damage damages[] = {
      [](layout::BufferHeader& header) { header.page_count = 0; },
      [](layout::BufferHeader& header) { header.page_count = ~std::uint64_t{0}; },
      [](layout::BufferHeader& header) { header.directory = ~std::uint64_t{0}; },
      [](layout::BufferHeader& header) { header.directory = 0; },
      [](layout::BufferHeader& header) { header.directory += 1; },
      [](layout::BufferHeader& header) { header.entry_count += 1; },
  };
  for (const Damage damage : damages) {
    TestInstance instance;
    Writer writer = instance.writer();
    writer.set("k", 1);
    instance.pump();
    const Version version = current_version(instance.owner().publication());
    damage(*reinterpret_cast<layout::BufferHeader*>(instance.owner().buffer(version.buffer)));
    instance.stop();
    EXPECT_EQ(error_of([&] { instance.start(); }).first, Status::kDamaged) << "damage " << &damage - damages;
  }
}

// ---- memory

TEST(EngineTest, WhenMemoryRunsOutMutationsAreRefusedCountedAndChangeNothing) {
  TestInstance instance({.memory_limit_bytes = std::uint64_t{8} << 20});
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  std::map<std::string, std::string> model;
  std::uint64_t refused = 0;
  Random random(33);
  for (int i = 0; i < test::steps(2'000); ++i) {
    const std::string key = numbered("k", random.below(400));
    if (random.chance(20)) {
      writer.erase(key);
      instance.pump();
      model.erase(key);
      continue;
    }
    const std::string value(random.chance(90) ? random.below(30'000) : random.below(kValueBytesMax), 'v');
    writer.set(key, value);
    instance.pump();
    if (writer.rejected(Status::kNoMemory) == refused) {
      model[key] = value;
    } else {
      ++refused;
      EXPECT_EQ(writer.flush(0ns), Status::kRejected);
    }
    ASSERT_EQ(writer.rejected(Status::kNoMemory), refused);
  }
  EXPECT_GT(refused, 10U) << "there is too much memory";
  const Snapshot snapshot = reader.snapshot();
  ASSERT_EQ(snapshot.size(), model.size());
  for (const auto& [key, value] : model) ASSERT_EQ(snapshot.get<std::string>(key), value) << key;
  EXPECT_EQ(instance.statistic(Stat::kCommitFailures), refused);
}

TEST(EngineTest, ANumberCanStillBeChangedWhenMemoryHasRunOut) {
  TestInstance instance({.memory_limit_bytes = std::uint64_t{4} << 20});
  Writer writer = instance.writer();
  writer.set("count", 0);
  for (std::size_t i = 0; writer.rejected(Status::kNoMemory) == 0; ++i) {
    writer.set(numbered("k", i), std::string(3'000, 'v'));
    instance.pump();
  }
  static_cast<void>(writer.flush(0ns));
  for (int i = 0; i < 1'000; ++i) writer.add("count", 1);
  instance.pump();
  EXPECT_EQ(writer.flush(0ns), Status::kOk);
  EXPECT_EQ(instance.reader().get<std::int64_t>("count"), 1'000);
}

// ---- the change feed

// What lay in a recycled page may look like the epoch that is being written.
TEST(EngineTest, EveryNewKeyEntersTheFeedAlsoInPagesThatHeldValuesBefore) {
  TestInstance instance({.feed_record_count = 1U << 20});
  Reader reader = instance.reader();
  Writer writer = instance.writer(ring_of(std::size_t{64} << 20));
  instance.pump();
  const std::uint64_t epoch = instance.engine().epoch() + 3;  // set, erase, then the keys
  std::string value(kValueBytesMax, '\0');
  for (std::size_t at = 0; at < value.size(); at += sizeof epoch) std::memcpy(&value[at], &epoch, sizeof epoch);
  for (std::size_t i = 0; i < 10; ++i) writer.set(numbered("value", i), value);
  instance.step();
  for (std::size_t i = 0; i < 10; ++i) writer.erase(numbered("value", i));
  instance.step();
  const std::uint64_t feed_begin = instance.engine().epoch();
  ASSERT_EQ(feed_begin + 1, epoch);
  constexpr std::size_t kKeys = 100'000;
  for (std::size_t i = 0; i < kKeys; ++i) writer.set(numbered("key", i), 1);
  instance.step();
  ASSERT_EQ(instance.engine().epoch(), epoch);
  ASSERT_EQ(instance.engine().table().entry_count(), kKeys);

  const Changes changes = reader.changes(test::at_epoch(reader, feed_begin));
  ASSERT_FALSE(changes.gap);
  std::size_t missing = kKeys;
  for (const Change& change : changes.changes) missing -= change.key.starts_with("key") ? 1 : 0;
  EXPECT_EQ(missing, 0U) << "of " << kKeys << " new keys";
}

// ---- the directory

TEST(EngineTest, TheEngineNoticesThatItsDirectoryWasRemoved) {
  TestInstance instance;
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pump();
  EXPECT_TRUE(instance.engine().is_current());
  std::filesystem::remove_all(instance.path());
  for (int i = 0; i < 12; ++i) instance.step(100ms);
  EXPECT_FALSE(instance.engine().is_current());
  EXPECT_GE(instance.count_events(Kind::kInstanceGone), 1U);
  EXPECT_EQ(reader.get<std::int64_t>("k"), 1) << "who is attached stays attached";
}

TEST(EngineTest, InspectTellsOfRingsAndBuffers) {
  TestInstance instance;
  Reader reader = instance.reader();
  WriterOptions options = ring_of(kSmallRing);
  options.name = "tester";
  Writer writer = instance.writer(options);
  writer.set("k", 1);
  writer.set("k", 2);
  instance.pass_rounds();
  const Snapshot pinned = reader.snapshot();
  const InstanceInfo info = inspect(instance.path());
  EXPECT_TRUE(info.merger_running);
  EXPECT_EQ(info.epoch, instance.engine().epoch());
  EXPECT_EQ(info.entry_count, 1U);
  ASSERT_EQ(info.buffers.size(), 2U);
  for (const BufferInfo& buffer : info.buffers) EXPECT_EQ(buffer.pinned, buffer.current);
  ASSERT_EQ(info.rings.size(), 1U);
  EXPECT_EQ(info.rings[0].id, writer.ring_id());
  EXPECT_EQ(info.rings[0].name, "tester");
  EXPECT_EQ(info.rings[0].state, "live");
  EXPECT_EQ(info.rings[0].pid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(info.rings[0].ring_bytes, kSmallRing);
  EXPECT_EQ(info.rings[0].pushed_bytes, writer.ticket());
  EXPECT_EQ(info.rings[0].applied_bytes, writer.ticket());
  EXPECT_EQ(info.rings[0].applied_count, 2U);
  instance.stop();
  EXPECT_FALSE(inspect(instance.path()).merger_running);
}

// A turn is cut short at the publish interval, and the next one goes on with the next ring: none is starved.
TEST(EngineTest, ATurnThatTakesTooLongGoesOnWithTheNextRing) {
  MergeOptions options;
  options.publish_interval = 0ns;
  TestInstance instance({}, options);
  std::vector<Writer> writers;
  for (int i = 0; i < 3; ++i) writers.push_back(instance.writer());
  Reader reader = instance.reader();
  instance.pump();
  for (int round = 1; round <= 2; ++round) {
    for (Writer& writer : writers) writer.add("count", 1);
    for (int turn = 1; turn <= 3; ++turn) {
      for (Writer& writer : writers) writer.add("flood", 1);
      instance.step();
    }
    EXPECT_EQ(reader.get<std::int64_t>("count"), 3 * round) << "each ring had one of three turns";
  }
}

}  // namespace
}  // namespace shmstate
