// The merge engine, step by step, in the test's own process: what it publishes, when, and what it tells.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "harness/positions.h"
#include "protocol/publish.h"
#include "shmstate/inspect.h"
#include "unit/engine_support.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::error_of;
using test::kSmallRing;
using test::numbered;
using test::published_cursors;
using test::Random;
using test::ring_of;
using test::TestInstance;
using ::testing::HasSubstr;
using Kind = MergeEvent::Kind;
using Progress = MergeEngine::Progress;

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
      const std::byte* const buffer = instance.owner().buffer(version.buffer);
      std::uint64_t cursor = 0;
      for (std::uint32_t i = 0; i < rings.size(); ++i) {
        if (load_word(&ring_cursor(buffer, i).ring_id, std::memory_order_acquire) == ring_id) {
          cursor = load_word(&ring_cursor(buffer, i).cursor, std::memory_order_acquire);
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
  writer.set("text", std::string(5000, 'x'));
  writer.add("text", 1);
  writer.set("number", 2);
  instance.pump();
  EXPECT_EQ(instance.statistic(Stat::kMutationsApplied), 3U);
  EXPECT_EQ(instance.statistic(Stat::kMutationsRejected), 1U);
  EXPECT_EQ(instance.statistic(Stat::kPublishes), instance.engine().epoch() - 0U);
  EXPECT_EQ(instance.statistic(Stat::kEntries), 2U);
  EXPECT_EQ(instance.statistic(Stat::kSegments), 1U);
  EXPECT_EQ(instance.statistic(Stat::kHeapBytes), 2 * layout::kPageBytes);
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

}  // namespace
}  // namespace shmstate
