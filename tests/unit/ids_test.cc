// Bound keys that are pushed by ids: what a writer makes of them, and what the merge engine makes of records that name
// their keys so, whatever a ring's file says.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "layout/record.h"
#include "unit/engine_support.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::kSmallRing;
using test::numbered;
using test::Random;
using test::ring_of;
using test::TestInstance;

constexpr std::size_t kNamedBytes = 16;  // a record that sets a number by id

class IdsTest : public testing::Test {
 protected:
  [[nodiscard]] std::optional<std::int64_t> get(std::string_view key) { return reader_.get<std::int64_t>(key); }
  /// Bytes that a push takes.
  template <typename Push>
  [[nodiscard]] static std::uint64_t bytes_of(Writer& writer, Push&& push) {
    const Ticket before = writer.ticket();
    EXPECT_EQ(push(), Status::kOk);
    return writer.ticket() - before;
  }
  [[nodiscard]] std::uint64_t name_count(const Writer& writer) {
    return instance_.open_ring(writer).header().name_count.load(std::memory_order_relaxed);
  }
  /// Pushes a record of the test's own making.
  void push_raw(const Writer& writer, const Mutation& mutation, std::uint8_t batch_flag = 0) {
    const RingFile ring = instance_.open_ring(writer);
    const std::uint64_t tail = ring.header().tail.load(std::memory_order_relaxed);
    encode_record(ring.at(tail), mutation, batch_flag);
    ring.header().tail.store(tail + record_bytes(mutation), std::memory_order_release);
  }
  [[nodiscard]] static Mutation by_id(std::uint32_t id, ValueView value) {
    Mutation mutation;
    mutation.value = value;
    mutation.flags = kById;
    mutation.id = id;
    return mutation;
  }
  [[nodiscard]] static std::vector<Key> keys(std::size_t count) {
    std::vector<Key> made;
    for (std::size_t i = 0; i < count; ++i) made.emplace_back(numbered("key/", i));
    return made;
  }
  using Model = std::map<std::string, Value, std::less<>>;
  /// Does something to a key, here and in the model.
  void change(Key& key, Random& random, Model& model) {
    const auto number = static_cast<std::int64_t>(random.below(1000));
    const std::string text = random.bytes(random.below(60));
    Value now = number;
    switch (random.below(8)) {
      case 0:
        ASSERT_EQ(writer_.set(key, text), Status::kOk);
        now = text;
        break;
      case 1:
        ASSERT_EQ(writer_.erase(key), Status::kOk);
        model.erase(std::string(key.bytes()));
        return;
      case 2: ASSERT_EQ(writer_.set(key, number, {.ttl = 1h, .ephemeral = random.chance(50)}), Status::kOk); break;
      default: ASSERT_EQ(writer_.set(key, number), Status::kOk);
    }
    model.insert_or_assign(std::string(key.bytes()), now);
  }
  void recreate() {
    instance_.owner().heartbeat().retired.store(1, std::memory_order_release);
    instance_.stop();
    std::filesystem::remove_all(instance_.path());
    instance_.start();
    reader_ = instance_.reader();
  }

  TestInstance instance_;
  Reader reader_ = instance_.reader();
  Writer writer_ = instance_.writer();
};

// ---- the writer

TEST_F(IdsTest, AKeyIsPushedByItsIdFromItsSecondPushOn) {
  Key key("pump/7/rpm");
  const auto push = [&](std::int64_t value) { return bytes_of(writer_, [&] { return writer_.set(key, value); }); };
  EXPECT_EQ(push(1), record_bytes(10, 8, 0)) << "by text";
  EXPECT_EQ(name_count(writer_), 0U);
  EXPECT_EQ(push(2), kNamedBytes);
  EXPECT_EQ(name_count(writer_), 1U);
  EXPECT_EQ(push(3), kNamedBytes);
  EXPECT_EQ(name_count(writer_), 1U);
  instance_.pump();
  EXPECT_EQ(get("pump/7/rpm"), 3);
  EXPECT_EQ(writer_.counters().applied, 3U);
  EXPECT_EQ(writer_.counters().unnamed, 0U);
}

TEST_F(IdsTest, WhateverIsDoneToAKeyIsDoneById) {
  Key key("key");
  ASSERT_EQ(writer_.set(key, 1), Status::kOk);
  ASSERT_EQ(writer_.add(key, 1), Status::kOk);
  EXPECT_EQ(bytes_of(writer_, [&] { return writer_.max(key, 5); }), kNamedBytes);
  EXPECT_EQ(bytes_of(writer_, [&] { return writer_.set(key, "text"); }), 16U);
  EXPECT_EQ(bytes_of(writer_, [&] { return writer_.set(key, 1, {.ttl = 1h, .version = 7}); }), 32U);
  EXPECT_EQ(bytes_of(writer_, [&] { return writer_.erase(key, 6); }), 16U) << "a lower version";
  instance_.pump();
  EXPECT_EQ(reader_.info("key")->version, 7U);
  EXPECT_TRUE(reader_.info("key")->time_to_live);
  EXPECT_EQ(bytes_of(writer_, [&] { return writer_.erase(key); }), 8U);
  instance_.pump();
  EXPECT_FALSE(reader_.info("key"));
  EXPECT_EQ(writer_.counters().rejected, 0U);
}

// The head has 16 bits for the length of a value.
TEST_F(IdsTest, BytesThatAreTooLongForTheHeadGoWithTheKeysText) {
  const std::string longest(kNamedValueBytesMax, 'v');
  Key key("key");
  for (int i = 0; i < 2; ++i) ASSERT_EQ(writer_.set(key, 1), Status::kOk);
  for (const std::string& value : {longest, longest + "v"}) {
    Batch batch = writer_.batch();
    ASSERT_EQ(batch.set(key, value), Status::kOk);
    const std::size_t key_bytes = value == longest ? 0 : 3;
    EXPECT_EQ(bytes_of(writer_, [&] { return batch.commit(); }), record_bytes(key_bytes, value.size(), 0));
    instance_.pump();
    EXPECT_EQ(reader_.get<Value>("key"), Value(value));
  }
  EXPECT_EQ(writer_.counters().rejected, 0U);
}

TEST_F(IdsTest, ABatchNamesKeysByIdsToo) {
  std::vector<Key> bound = keys(100);
  for (std::int64_t round = 0; round < 3; ++round) {
    Batch batch = writer_.batch();
    for (Key& key : bound) ASSERT_EQ(batch.add(key, 1), Status::kOk);
    for (Key& key : bound) ASSERT_EQ(batch.set(key, round), Status::kOk);
    const Ticket before = writer_.ticket();
    ASSERT_EQ(batch.commit(), Status::kOk);
    if (round > 0) {
      EXPECT_EQ(writer_.ticket() - before, 200 * kNamedBytes);
    }
    instance_.pump();
    for (Key& key : bound) ASSERT_EQ(get(key.bytes()), round);
  }
  EXPECT_EQ(name_count(writer_), 100U);
}

TEST_F(IdsTest, AKeyThatIsUsedWithAnotherWriterGetsAnotherIdThere) {
  Writer other = instance_.writer();
  Key first("first");
  Key key("key");
  for (int i = 0; i < 2; ++i) other.set(first, 0);  // so that the ids differ
  std::int64_t value = 0;
  for (Writer* const writer : {&writer_, &other, &writer_}) {
    for (int i = 0; i < 3; ++i) ASSERT_EQ(writer->set(key, ++value), Status::kOk);
    instance_.pump();
    EXPECT_EQ(get("key"), value);
    EXPECT_EQ(get("first"), 0);
  }
  EXPECT_EQ(name_count(other), 2U);
}

TEST_F(IdsTest, KeysForWhichThereIsNoRoomArePushedAsTextAndCounted) {
  WriterOptions options;
  options.names_bytes = 1;  // that is a page
  Writer small = instance_.writer(options);
  constexpr std::uint64_t kRoom = 4096 / (8 + 8);  // each of up to 8 bytes
  std::vector<Key> bound = keys(1000);
  for (std::int64_t round = 1; round <= 3; ++round) {
    for (Key& key : bound) ASSERT_EQ(small.set(key, round), Status::kOk);
    instance_.pump();
  }
  EXPECT_EQ(name_count(small), kRoom);
  EXPECT_EQ(small.counters().unnamed, 1000 - kRoom);
  EXPECT_EQ(bytes_of(small, [&] { return small.set(bound[0], 4); }), kNamedBytes);
  EXPECT_EQ(bytes_of(small, [&] { return small.set(bound[999], 4); }), record_bytes(7, 8, 0));
  instance_.pass_rounds();
  for (std::size_t i = 0; i < bound.size(); ++i) ASSERT_EQ(get(bound[i].bytes()), i == 0 || i == 999 ? 4 : 3);
  EXPECT_EQ(instance_.statistic(Stat::kKeysUnnamed), 1000 - kRoom);
}

TEST_F(IdsTest, AWriterWithoutNamesPushesText) {
  WriterOptions none;
  none.names_bytes = 0;
  WriterOptions shared;
  shared.shared = true;
  for (const WriterOptions& options : {none, shared}) {
    Writer writer = instance_.writer(options);
    Key key("key");
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(bytes_of(writer, [&] { return writer.set(key, i); }), record_bytes(3, 8, 0));
    }
    instance_.pump();
    EXPECT_EQ(get("key"), 3);
    EXPECT_EQ(writer.counters().unnamed, 0U) << "there never was any room";
  }
}

TEST_F(IdsTest, MoreMemoryForNamesThanThereMayBeIsRefusedInWords) {
  WriterOptions options;
  options.names_bytes = kNamesBytesMax + 1;
  const auto [status, text] = test::error_of([&] { static_cast<void>(instance_.writer(options)); });
  EXPECT_EQ(status, Status::kInvalidArgument);
  EXPECT_THAT(text, testing::HasSubstr("names_bytes"));
}

TEST_F(IdsTest, ANameAreaThatIsLargerThanRingsMayBeIsRefused) {
  MergeOptions merge = TestInstance::never_expire();
  merge.ring_bytes_max = kSmallRing;
  instance_.engine().set_options(merge);
  WriterOptions options = ring_of(kSmallRing);
  options.names_bytes = 2 * kSmallRing;
  Writer writer = instance_.writer(options);
  writer.set("key", 1);
  instance_.pump();
  EXPECT_EQ(writer.flush(0ns), Status::kRingRefused);
}

// What is retained is retained by text, and what goes at once by id.
TEST_F(IdsTest, AWriterThatConflatesEndsWithTheLastValueOfEveryKey) {
  Writer writer = instance_.writer(ring_of(kSmallRing, WhenFull::kConflate));
  std::vector<Key> bound = keys(200);
  std::int64_t value = 0;
  for (int round = 0; round < 60; ++round) {
    Batch batch = writer.batch();
    for (std::size_t i = 0; i < 100; ++i) ASSERT_EQ(batch.set(bound[i], ++value), Status::kOk);
    ASSERT_EQ(batch.commit(), Status::kOk);
    for (std::size_t i = 100; i < 200; ++i) ASSERT_EQ(writer.add(bound[i], 1), Status::kOk);
    if (round % 30 == 29) instance_.pump();
  }
  ASSERT_GT(writer.counters().conflated, 0U);
  while (writer.flush(0ns) != Status::kOk) instance_.pump();
  instance_.pump();
  for (std::size_t i = 0; i < 100; ++i) ASSERT_EQ(get(bound[i].bytes()), value - 99 + static_cast<std::int64_t>(i));
  for (std::size_t i = 100; i < 200; ++i) ASSERT_EQ(get(bound[i].bytes()), 60);
  EXPECT_EQ(writer.counters().rejected, 0U);
}

// Ids mean nothing in the ring of the new instance, where the same ids may already be those of other keys.
TEST_F(IdsTest, ABatchThatIsOpenWhileTheInstanceIsRecreatedChangesTheRightKeys) {
  WriterOptions options;
  options.reopen = true;
  for (const bool is_noticed_by_commit : {false, true}) {
    Writer writer = instance_.writer(options);
    std::vector<Key> bound = keys(2000);
    for (int i = 0; i < 2; ++i) {
      for (Key& key : bound) writer.set(key, i);
      instance_.pump();
    }
    Batch batch = writer.batch();
    for (std::size_t i = 0; i < 1500; ++i) ASSERT_EQ(batch.set(bound[i], 7), Status::kOk);
    recreate();
    if (is_noticed_by_commit) {
      std::this_thread::sleep_for(2 * std::chrono::nanoseconds(100'000'000));  // it looks ten times a second
    } else {
      static_cast<void>(writer.status());
      ASSERT_EQ(writer.status().reopen_count, 1U);
      for (int i = 0; i < 3; ++i) {
        for (std::size_t other = 1999; other >= 1500; --other) ASSERT_EQ(writer.set(bound[other], 1), Status::kOk);
      }
      ASSERT_EQ(batch.set(bound[1500], 7), Status::kOk);
    }
    ASSERT_EQ(batch.commit(), Status::kOk);
    instance_.pump();
    ASSERT_EQ(writer.status().reopen_count, 1U);
    const std::size_t changed = is_noticed_by_commit ? 1500 : 1501;
    for (std::size_t i = 0; i < changed; ++i) ASSERT_EQ(get(bound[i].bytes()), 7) << i;
    for (std::size_t i = changed; i < 2000; ++i) {
      ASSERT_EQ(get(bound[i].bytes()), is_noticed_by_commit ? std::nullopt : std::optional<std::int64_t>(1)) << i;
    }
    EXPECT_EQ(writer.counters().rejected, 0U);
  }
}

TEST_F(IdsTest, AChildOfForkGivesNoIdsInItsParentsRing) {
  std::vector<Key> bound = keys(3);
  writer_.set(bound[0], 1);
  writer_.set(bound[0], 2);
  writer_.set(bound[1], 1);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    bool is_right = true;
    for (int i = 0; i < 3; ++i) {
      for (Key& key : bound) is_right = is_right && writer_.set(key, 100) == Status::kForked;
    }
    Batch batch = writer_.batch();
    is_right = is_right && batch.set(bound[0], 100) == Status::kForked && batch.set(bound[1], 100) == Status::kForked;
    std::_Exit(is_right ? 0 : 1);
  }
  int how = 0;
  ASSERT_EQ(::waitpid(child, &how, 0), child);
  EXPECT_EQ(how, 0);
  EXPECT_EQ(name_count(writer_), 1U);
  for (Key& key : bound) ASSERT_EQ(writer_.set(key, 3), Status::kOk);
  instance_.pump();
  for (Key& key : bound) EXPECT_EQ(get(key.bytes()), 3);
}

// ---- the merge engine

TEST_F(IdsTest, AMergerThatIsStartedAgainFindsTheNamesInTheRing) {
  std::vector<Key> bound = keys(3000);
  for (std::int64_t round = 0; round < 4; ++round) {
    for (Key& key : bound) ASSERT_EQ(writer_.set(key, round), Status::kOk);
    if (round == 2) instance_.pump();
    instance_.restart();
  }
  instance_.pump();
  for (Key& key : bound) ASSERT_EQ(get(key.bytes()), 3);
  EXPECT_EQ(writer_.counters().rejected, 0U);
}

// Entries move when segments split, slots are used again by other keys, types and attributes come and go: an id always
// means its key.
TEST_F(IdsTest, AnIdMeansItsKeyWhateverHappensToEntries) {
  constexpr std::size_t kKeys = 3000;
  Random random(71);
  Writer eraser = instance_.writer();
  std::vector<Key> bound = keys(kKeys);
  Model model;
  const auto rounds = static_cast<std::size_t>(test::steps(60));
  for (std::size_t round = 1; round <= rounds; ++round) {
    for (int i = 0; i < 400; ++i) change(bound[random.below(std::min(kKeys, 100 * round))], random, model);
    instance_.pump();
    for (int i = 0; i < 200; ++i) {
      const std::string key = numbered("key/", random.below(2 * kKeys));  // half of them have no bound key
      if (random.chance(50)) {
        ASSERT_EQ(eraser.erase(key), Status::kOk);
        model.erase(key);
      } else {
        ASSERT_EQ(eraser.set(key, -1), Status::kOk);
        model.insert_or_assign(key, Value(std::int64_t{-1}));
      }
    }
    instance_.pump();
    if (random.chance(10)) instance_.restart();
    ASSERT_TRUE(instance_.is_caught_up());
  }
  const Snapshot snapshot = reader_.snapshot();
  EXPECT_EQ(snapshot.size(), model.size());
  for (const auto& [key, value] : model) ASSERT_EQ(snapshot.get<Value>(key), value) << key;
  EXPECT_EQ(writer_.counters().rejected, 0U);
}

TEST_F(IdsTest, AnIdThatNobodyHasIsACountedRejectionAndTheRingGoesOn) {
  for (const std::uint32_t id : {0U, 1U, 65535U, 65536U, ~0U}) push_raw(writer_, by_id(id, 1));
  push_raw(writer_, by_id(0, "text"));
  Mutation erase = by_id(3, {});
  erase.operation = Operation::kErase;
  push_raw(writer_, erase);
  Mutation text;
  text.key = "key";
  text.value = 5;
  push_raw(writer_, text);
  instance_.pump();
  EXPECT_EQ(writer_.rejected(Status::kUnknown), 7U);
  EXPECT_EQ(writer_.flush(0ns), Status::kRejected);
  EXPECT_EQ(get("key"), 5);
  EXPECT_EQ(reader_.snapshot().size(), 1U);
  EXPECT_EQ(instance_.statistic(Stat::kRingsQuarantined), 0U);
  EXPECT_EQ(instance_.events().back().reason, Status::kUnknown);
}

TEST_F(IdsTest, NamesThatCannotBeAreNobodys) {
  const RingFile ring = instance_.open_ring(writer_);
  const auto bytes = static_cast<std::uint32_t>(ring.names().bytes());
  const std::vector<layout::NameEntry> lies{{.offset = bytes, .key_bytes = 1, .reserved = 0},
                                            {.offset = bytes - 8, .key_bytes = 9, .reserved = 0},
                                            {.offset = bytes - 4096, .key_bytes = 4097, .reserved = 0},
                                            {.offset = bytes - 12, .key_bytes = 4, .reserved = 0},
                                            {.offset = ~7U, .key_bytes = 16, .reserved = 0},
                                            {.offset = 4096, .key_bytes = 0, .reserved = 0}};
  auto* const index = reinterpret_cast<layout::NameEntry*>(ring.at(0) + 2 * ring.data_bytes());
  ASSERT_EQ(os::commit(ring.fd(), ring.names_offset(), 4096), 0);
  for (std::size_t i = 0; i < lies.size(); ++i) {
    index[i] = lies[i];
    push_raw(writer_, by_id(static_cast<std::uint32_t>(i), 1));
  }
  instance_.pump();
  EXPECT_EQ(writer_.rejected(Status::kUnknown), lies.size());
  EXPECT_EQ(reader_.snapshot().size(), 0U);
  EXPECT_EQ(instance_.statistic(Stat::kRingsQuarantined), 0U);
}

// What a writer changes behind its own back is a key that it named, now or before.
TEST_F(IdsTest, ANameThatChangesChangesNoKeyThatItNeverWas) {
  Key key("key/1");
  writer_.set(key, 1);
  writer_.set(key, 2);
  instance_.pump();
  const RingFile ring = instance_.open_ring(writer_);
  std::byte* const name = ring.at(0) + 2 * ring.data_bytes() + ring.names().bytes() - 8;
  ASSERT_EQ(std::memcmp(name, "key/1", 5), 0);
  std::memcpy(name, "key/2", 5);
  writer_.set(key, 3);
  instance_.pump();
  EXPECT_EQ(get("key/1"), 3) << "its place is remembered";
  instance_.restart();
  writer_.set(key, 4);
  instance_.pump();
  EXPECT_EQ(get("key/1"), 3);
  EXPECT_EQ(get("key/2"), 4);
}

TEST_F(IdsTest, NamesThatAreCutOffQuarantineTheRing) {
  std::vector<Key> bound = keys(10);
  for (Key& key : bound) writer_.set(key, 0);
  instance_.pump();
  for (Key& key : bound) writer_.set(key, 1);
  const std::filesystem::path ring = instance_.owner().rings_path() / ring_name(writer_.ring_id());
  std::filesystem::resize_file(ring, layout::kRingHeaderBytes + (4U << 20));
  instance_.step();  // too early to look at sizes: it finds out by reading
  EXPECT_EQ(instance_.statistic(Stat::kRingsQuarantined), 1U);
  for (Key& key : bound) EXPECT_EQ(get(key.bytes()), 0);
}

TEST_F(IdsTest, OperationsTypesAndFlagsOfTheFutureAreCountedRejections) {
  Mutation operation;
  operation.key = "key";
  operation.value = 1;
  operation.operation = static_cast<Operation>(9);
  Mutation type = operation;
  type.operation = Operation::kErase;  // of a value
  Mutation flag = operation;
  flag.operation = Operation::kSet;
  flag.flags = 16;
  Mutation ephemeral_sum = operation;
  ephemeral_sum.operation = Operation::kAdd;
  ephemeral_sum.flags = kEphemeral;
  Key key("named");
  writer_.set(key, 1);
  writer_.set(key, 2);
  instance_.pump();
  for (const Mutation& mutation : {operation, type, flag, ephemeral_sum}) {
    push_raw(writer_, mutation);
    Mutation named = mutation;
    named.flags |= kById;
    push_raw(writer_, named);
  }
  push_raw(writer_, by_id(0, 3));
  instance_.pump();
  EXPECT_EQ(writer_.rejected(Status::kUnknown), 8U);
  EXPECT_EQ(get("named"), 3);
  EXPECT_EQ(reader_.snapshot().size(), 1U);
  EXPECT_EQ(instance_.statistic(Stat::kRingsQuarantined), 0U);
}

// A word for each flag that may bring one: what follows is found.
TEST_F(IdsTest, FlagsOfTheFutureMayBringAWord) {
  const RingFile ring = instance_.open_ring(writer_);
  const std::uint64_t head = head_word(8, 1, kind_of(Operation::kSet, Type::kInt64), 64 | 128);
  const std::vector<std::uint64_t> words{head, 11, 12, 'k', 1};
  std::memcpy(ring.at(0), words.data(), words.size() * kWord);
  ring.header().tail.store(words.size() * kWord, std::memory_order_release);
  Mutation behind;
  behind.key = "behind";
  behind.value = 1;
  push_raw(writer_, behind);
  instance_.pump();
  EXPECT_EQ(writer_.rejected(Status::kUnknown), 1U);
  EXPECT_EQ(get("behind"), 1);
}

// ---- what the engine remembers

TEST(RingIdsTest, WhatWasNeverRememberedIsNowhere) {
  RingIds ids(100'000);
  for (const std::uint32_t id : {0U, 8191U, 8192U, 99'999U, 100'000U, ~0U})
    EXPECT_EQ(ids.places().of(id)->generation, 0U);
  ids.remember(20'000, {.place = {.unit = 5}, .generation = 7});
  EXPECT_EQ(ids.places().of(20'000)->place.unit, 5U);
  EXPECT_EQ(ids.places().of(20'000)->generation, 7U);
  EXPECT_EQ(ids.places().of(0)->generation, 0U);
  EXPECT_EQ(ids.places().of(20'001)->generation, 0U);
}

TEST(RingIdsTest, AnIdThatTheRingHasNoRoomForIsNotRemembered) {
  RingIds ids(100);
  ids.remember(100, {.place = {.unit = 1}, .generation = 1});
  ids.remember(~0U, {.place = {.unit = 1}, .generation = 1});
  EXPECT_EQ(ids.places().of(100)->generation, 0U);
  EXPECT_EQ(ids.places().of(~0U)->generation, 0U);
}

}  // namespace
}  // namespace shmstate
