// The merge engine and rings that are damaged, and writers that lie or push more than they may.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <thread>

#include "layout/record.h"
#include "shmstate/inspect.h"
#include "unit/engine_support.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::kSmallRing;
using test::numbered;
using test::published_cursors;
using test::Random;
using test::ring_of;
using test::TestInstance;
using Kind = MergeEvent::Kind;

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
    mutation.id = static_cast<std::uint32_t>(random.word() >> random.between(32, 63));
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
  const auto fill = [&](std::size_t begin, std::size_t end) {
    const std::string escape(end - begin, '\x1b');
    ASSERT_EQ(::pwrite(file.get(), escape.data(), escape.size(), static_cast<off_t>(begin)),
              static_cast<ssize_t>(escape.size()));
  };
  fill(offsetof(layout::RingHeader, name), offsetof(layout::RingHeader, required_features));
  fill(offsetof(layout::RingHeader, tail), layout::kRingHeaderBytes + kSmallRing);
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

}  // namespace
}  // namespace shmstate
