// Random mutations of several writers, merged step by step, against a model: at any moment the snapshot is, for every
// writer, the effect of an exact prefix of what it pushed, and every way of reading it tells the same.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "harness/test_instance.h"
#include "layout/record.h"
#include "shmstate/detail/buffer_slot.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::is_same;
using test::Random;
using test::ring_of;
using test::TestInstance;

using Entries = std::map<std::string, Value, std::less<>>;

constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kInt64Min = std::numeric_limits<std::int64_t>::min();

struct Change {
  Operation operation;
  std::string key;
  Value value;

  [[nodiscard]] Mutation mutation() const {
    Mutation made;
    made.operation = operation;
    made.key = key;
    if (operation != Operation::kErase) made.value = ValueView(value);
    return made;
  }
};

// To a writer or to a batch.
template <typename To>
Status push(To& to, const Mutation& mutation) {
  switch (mutation.operation) {
    case Operation::kSet: return to.set(mutation.key, mutation.value);
    case Operation::kErase: return to.erase(mutation.key);
    case Operation::kAdd: return to.add(mutation.key, mutation.value);
    case Operation::kMax: return to.max(mutation.key, mutation.value);
    case Operation::kMin: return to.min(mutation.key, mutation.value);
  }
  return Status::kInvalidArgument;
}

// ---- the model

// What add, max and min make of two numbers; nothing when an integer sum overflows, or anything is no number.
template <typename Number>
std::optional<Number> combined(Operation operation, Number old, Number operand) {
  if (std::isnan(old) || std::isnan(operand)) return std::nullopt;
  if (operation == Operation::kMax) return operand > old ? operand : old;
  if (operation == Operation::kMin) return operand < old ? operand : old;
  if constexpr (std::is_same_v<Number, std::int64_t>) {
    const bool overflows = operand > 0 ? old > kInt64Max - operand : old < kInt64Min - operand;
    if (overflows) return std::nullopt;
  } else if (std::isinf(old) && std::isinf(operand) && old != operand) {
    return std::nullopt;
  }
  return old + operand;
}

// What the merger must make of a change: kOk, or the reason for which it must refuse it.
Status apply(Entries& entries, const Change& change) {
  if (change.operation == Operation::kErase) {
    entries.erase(change.key);
    return Status::kOk;
  }
  const auto [entry, is_new] = entries.try_emplace(change.key, change.value);
  if (is_new) return Status::kOk;
  if (change.operation == Operation::kSet) {
    entry->second = change.value;
    return Status::kOk;
  }
  if (entry->second.index() != change.value.index()) return Status::kWrongType;
  if (auto* const number = std::get_if<double>(&entry->second)) {
    const auto result = combined(change.operation, *number, std::get<double>(change.value));
    if (!result) return Status::kOutOfRange;
    *number = *result;
    return Status::kOk;
  }
  auto& number = std::get<std::int64_t>(entry->second);
  const auto result = combined(change.operation, number, std::get<std::int64_t>(change.value));
  if (!result) return Status::kOutOfRange;
  number = *result;
  return Status::kOk;
}

// ---- random keys, values and changes

std::string random_key(Random& random, const std::string& prefix) {
  const std::size_t dice = random.below(100);
  const std::size_t bytes = dice < 70   ? random.between(0, 23)
                            : dice < 85 ? random.between(24, 60)
                            : dice < 95 ? random.between(61, 500)
                                        : random.between(500, kKeyBytesMax - 1);
  return prefix + random.bytes(bytes);
}

// Keys that begin with `prefix`: of all lengths, and some that differ only in zeros at the end.
std::vector<std::string> random_keys(Random& random, char prefix) {
  std::vector<std::string> keys{std::string(1, prefix), prefix + random.bytes(kKeyBytesMax - 1)};
  while (keys.size() < 1'000) {
    keys.push_back(random_key(random, std::string(1, prefix)));
    if (random.chance(20) && keys.back().size() < kKeyBytesMax) keys.push_back(keys.back() + '\0');
  }
  return keys;
}

std::int64_t random_int64(Random& random) {
  const std::size_t dice = random.below(20);
  if (dice == 0) return kInt64Max;
  if (dice == 1) return kInt64Min;
  return dice < 6 ? static_cast<std::int64_t>(random.word()) : static_cast<std::int64_t>(random.below(100)) - 50;
}

double random_float64(Random& random) {
  const std::size_t dice = random.below(20);
  if (dice == 0) return std::numeric_limits<double>::infinity();
  if (dice == 1) return -std::numeric_limits<double>::infinity();
  return dice == 2 ? -0.0 : static_cast<double>(random_int64(random)) / 8;
}

std::string random_value_bytes(Random& random) {
  const std::size_t dice = random.below(1000);
  const std::size_t bytes = dice < 100   ? 0
                            : dice < 600 ? random.between(1, 60)
                            : dice < 900 ? random.between(61, 1'000)
                            : dice < 980 ? random.between(1'000, 40'000)
                            : dice < 997 ? random.between(40'000, 200'000)
                                         : kValueBytesMax;
  if (bytes <= 1'000) return random.bytes(bytes);
  std::string value(bytes, static_cast<char>(random.word()));
  for (int i = 0; i < 8; ++i) value[random.below(bytes)] = static_cast<char>(random.word());
  return value;
}

Value random_number(Random& random) {
  if (random.chance(70)) return random_int64(random);
  return random_float64(random);
}

Change random_change(Random& random, const std::vector<std::string>& keys) {
  if (random.chance(10)) {  // shared by all writers, and the same in whatever order they are merged
    return {Operation::kAdd, "shared/" + std::to_string(random.below(5)), static_cast<std::int64_t>(random.below(100))};
  }
  const std::string& key = keys[random.below(keys.size())];
  const std::size_t dice = random.below(100);
  if (dice < 20) return {Operation::kErase, key, {}};
  if (dice < 40) return {Operation::kAdd, key, random_number(random)};
  if (dice < 44) return {Operation::kMax, key, random_number(random)};
  if (dice < 48) return {Operation::kMin, key, random_number(random)};
  if (dice == 48) return {Operation::kSet, key, std::numeric_limits<double>::quiet_NaN()};
  if (dice < 65) return {Operation::kSet, key, random_number(random)};
  return {Operation::kSet, key, random_value_bytes(random)};
}

// ---- a writer and what it pushed

class Producer {
 public:
  Producer(TestInstance& instance, char prefix, Random& random)
      : instance_(instance), random_(random), keys_(random_keys(random, prefix)) {
    open();
  }

  void push_one() {
    const Change change = random_change(random_, keys_);
    const Mutation mutation = change.mutation();
    const Status status = push(*writer_, mutation);
    expect_possible(status, record_bytes(mutation));
    if (status == Status::kOk) pushed_.push_back({change});
  }

  void push_batch() {
    std::vector<Change> changes;
    std::size_t bytes = 0;
    Batch batch = writer_->batch();
    for (std::size_t n = random_.between(1, 60); n > 0; --n) {
      changes.push_back(random_change(random_, keys_));
      const Mutation mutation = changes.back().mutation();
      bytes += record_bytes(mutation);
      push(batch, mutation);
    }
    if (random_.chance(10)) return;  // dropped: it must leave no trace
    const Status status = batch.commit();
    expect_possible(status, bytes);
    if (status == Status::kOk) pushed_.push_back(std::move(changes));
  }

  void erase_all() {
    for (const std::string& key : keys_) {
      if (writer_->erase(key) == Status::kOk) continue;
      instance_.pump();
      ASSERT_EQ(writer_->erase(key), Status::kOk);
    }
  }

  /// Brings the model to what the merger says it has taken of this writer's stream.
  void settle(Entries& entries) {
    const WriterCounters counters = writer_->counters();
    const std::uint64_t taken_count = counters.applied + counters.rejected;
    while (!pushed_.empty() && settled_count_ < taken_count) settle_next(entries);
    ASSERT_EQ(settled_count_, taken_count) << "a batch was split";
    ASSERT_EQ(counters.rejected, wrong_type_count_ + out_of_range_count_);
    ASSERT_EQ(writer_->rejected(Status::kWrongType), wrong_type_count_);
    ASSERT_EQ(writer_->rejected(Status::kOutOfRange), out_of_range_count_);
  }
  void expect_all_settled() const { ASSERT_TRUE(pushed_.empty()) << pushed_.size() << " pushes are not merged"; }

  /// Ends the writer, with whatever is in its ring.
  void close() { writer_.reset(); }
  /// When the merger has everything of the old writer: settles it and goes on with a new one.
  void reopen(Entries& entries) {
    while (!pushed_.empty()) settle_next(entries);
    open();
  }
  [[nodiscard]] std::uint64_t rejected_count() const { return wrong_type_count_ + out_of_range_count_; }

 private:
  void open() {
    constexpr std::array<std::size_t, 3> kRingBytes{64 << 10, 256 << 10, 4 << 20};
    ring_bytes_ = kRingBytes[random_.below(kRingBytes.size())];
    writer_.emplace(instance_.writer(ring_of(ring_bytes_)));
    settled_count_ = wrong_type_count_ = out_of_range_count_ = 0;
  }
  void expect_possible(Status status, std::size_t bytes) const {
    if (bytes > ring_bytes_) {
      ASSERT_EQ(status, Status::kMutationTooBig);
    } else if (status != Status::kOk) {
      ASSERT_EQ(status, Status::kRingFull);
    }
  }
  void settle_next(Entries& entries) {
    for (const Change& change : pushed_.front()) {
      const Status status = apply(entries, change);
      if (status == Status::kWrongType) ++wrong_type_count_;
      if (status == Status::kOutOfRange) ++out_of_range_count_;
    }
    settled_count_ += pushed_.front().size();
    pushed_.pop_front();
  }

  TestInstance& instance_;
  Random& random_;
  std::vector<std::string> keys_;
  std::optional<Writer> writer_;
  std::size_t ring_bytes_ = 0;
  std::deque<std::vector<Change>> pushed_;  // what is visible together, in order
  std::uint64_t settled_count_ = 0;
  std::uint64_t wrong_type_count_ = 0;
  std::uint64_t out_of_range_count_ = 0;
};

// ---- reading

void expect_exactly(const Snapshot& snapshot, const Entries& entries) {
  ASSERT_EQ(snapshot.size(), entries.size());
  std::size_t count = 0;
  for (const EntryView& entry : snapshot) {
    const auto expected = entries.find(entry.key);
    ASSERT_NE(expected, entries.end()) << "a key that was never set or was erased: " << entry.key;
    ASSERT_TRUE(is_same(entry.value, expected->second)) << entry.key;
    ASSERT_GT(entry.changed_epoch, 0U);
    ASSERT_LE(entry.changed_epoch, snapshot.epoch());
    ASSERT_LE(++count, entries.size()) << "a key comes twice";
  }
  ASSERT_EQ(count, entries.size()) << "keys are missing";
  for (const auto& [key, value] : entries) {
    const std::optional<EntryView> entry = snapshot.find(key);
    ASSERT_TRUE(entry) << key;
    ASSERT_EQ(entry->key, key);
    ASSERT_TRUE(is_same(entry->value, value)) << key;
  }
}

void expect_point_reads(Reader& reader, const Entries& entries, Random& random) {
  for (const auto& [key, value] : entries) {
    if (random.chance(70)) continue;
    Value read;
    ASSERT_EQ(reader.read(key, read), Status::kOk) << key;
    ASSERT_TRUE(is_same(read, value)) << key;
  }
  for (int i = 0; i < 10; ++i) {
    const std::string key = "absent/" + random.bytes(random.below(40));
    Value read;
    ASSERT_EQ(reader.read(key, read), Status::kNotFound) << key;
  }
}

// ---- the world: an instance, its producers, snapshots that are held, and the model

class World {
 public:
  World(std::uint32_t buffer_count, std::uint64_t stream) : random_(stream), instance_({.buffer_count = buffer_count}) {
    instance_.fix_hash_seed(random_.word());
    reader_.emplace(instance_.reader());
    for (char prefix = 'a'; prefix < 'd'; ++prefix) producers_.emplace_back(instance_, prefix, random_);
  }

  void act() {
    const std::size_t dice = random_.below(1000);
    if (dice < 700) {
      any_producer().push_one();
    } else if (dice < 780) {
      any_producer().push_batch();
    } else if (dice < 960) {
      instance_.step(random_.chance(95) ? 1ms : 100ms);
    } else if (dice < 970) {
      check();
    } else if (dice < 980) {
      hold();
    } else if (dice < 990) {
      let_go();
    } else if (dice < 996) {
      instance_.restart();
    } else if (dice < 999) {
      replace_writer();
    } else {
      check_held();
    }
  }

  void check() {
    for (Producer& producer : producers_) {
      producer.settle(entries_);
      if (testing::Test::HasFatalFailure()) return;
    }
    ASSERT_GE(reader_->epoch(), epoch_);
    epoch_ = reader_->epoch();
    expect_exactly(reader_->snapshot(), entries_);
    expect_point_reads(*reader_, entries_, random_);
  }

  void finish() {
    held_.clear();
    instance_.pump();
    check();
    for (const Producer& producer : producers_) producer.expect_all_settled();
  }

  void erase_everything() {
    for (Producer& producer : producers_) {
      producer.erase_all();
      instance_.pump();
    }
    Writer writer = instance_.writer();
    for (int i = 0; i < 5; ++i) writer.erase("shared/" + std::to_string(i));
    instance_.pump();
    EXPECT_EQ(reader_->snapshot().size(), 0U);
    EXPECT_EQ(instance_.statistic(Stat::kEntries), 0U);
    EXPECT_EQ(instance_.statistic(Stat::kHeapBytes), 0U);
    const std::uint64_t used_pages = instance_.statistic(Stat::kPagesCommitted) - instance_.statistic(Stat::kPagesFree);
    const std::uint64_t more_maps = (instance_.statistic(Stat::kPagesCommitted) - 1) / sizeof(layout::PageMap);
    EXPECT_LE(used_pages, instance_.owner().geometry().first_page + more_maps + 2)
        << "only the header, the maps, a segment, and a slab that is kept are left";
  }

  [[nodiscard]] std::uint64_t rejected_count() const {
    std::uint64_t count = 0;
    for (const Producer& producer : producers_) count += producer.rejected_count();
    return count;
  }

 private:
  struct Held {
    Snapshot snapshot;
    Entries entries;
  };

  [[nodiscard]] Producer& any_producer() { return producers_[random_.below(producers_.size())]; }

  void hold() {
    if (held_.size() == 3) return;
    check();
    held_.push_back({reader_->snapshot(), entries_});
  }
  void let_go() {
    if (held_.empty()) return;
    const auto held = held_.begin() + static_cast<std::ptrdiff_t>(random_.below(held_.size()));
    expect_exactly(held->snapshot, held->entries);
    held_.erase(held);
  }
  void check_held() {
    for (const Held& held : held_) {
      ASSERT_FALSE(held.snapshot.expired());
      expect_exactly(held.snapshot, held.entries);
    }
  }
  void replace_writer() {
    check();
    Producer& producer = any_producer();
    producer.close();
    held_.clear();
    instance_.pump();
    producer.reopen(entries_);
    check();
  }

  Random random_;
  TestInstance instance_;
  std::optional<Reader> reader_;
  std::deque<Producer> producers_;
  std::vector<Held> held_;
  Entries entries_;
  Epoch epoch_ = 0;
};

class TablePropertyTest : public testing::TestWithParam<std::uint32_t> {};

TEST_P(TablePropertyTest, EverySnapshotIsForEachWriterTheEffectOfAnExactPrefix) {
  World world(GetParam(), GetParam());
  std::uint64_t rejected_count = 0;
  for (int i = 0; i < test::steps(25'000); ++i) {
    world.act();
    rejected_count = std::max(rejected_count, world.rejected_count());
    ASSERT_FALSE(HasFailure()) << "action " << i;
  }
  world.finish();
  world.erase_everything();
  EXPECT_GT(rejected_count, 10U) << "the changes are too gentle";
}

INSTANTIATE_TEST_SUITE_P(Buffers, TablePropertyTest, testing::Values(2U, 3U, 8U),
                         [](const auto& test) { return "Of" + std::to_string(test.param); });

// ---- growth

std::string grown_key(std::size_t i) {
  return (i % 10 == 0 ? std::string(50, 'k') : std::string()) + std::to_string(i);
}
Value grown_value(std::size_t i) {
  if (i % 10 == 5) return std::string(i % 120, static_cast<char>('a' + i % 26));
  return static_cast<std::int64_t>(i);
}

void expect_grown(Reader& reader, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    Value value;
    ASSERT_EQ(reader.read(grown_key(i), value), Status::kOk) << i;
    ASSERT_TRUE(is_same(value, grown_value(i))) << i;
  }
  const Snapshot snapshot = reader.snapshot();
  ASSERT_EQ(snapshot.size(), count);
  std::vector<bool> is_seen(count, false);
  for (const auto& [key, value] : snapshot) {
    const auto i = static_cast<std::size_t>(std::stoull(std::string(key.substr(key.find_first_not_of('k')))));
    ASSERT_LT(i, count);
    ASSERT_FALSE(is_seen[i]) << i << " comes twice";
    is_seen[i] = true;
    ASSERT_TRUE(is_same(value, grown_value(i))) << i;
  }
  ASSERT_EQ(std::count(is_seen.begin(), is_seen.end(), true), static_cast<std::ptrdiff_t>(count));
}

TEST(TableGrowthTest, ThreeHundredThousandKeysAreAllReadBackAlsoAfterARestartAndLeaveNothingWhenErased) {
  const auto count = static_cast<std::size_t>(test::steps(300'000));
  TestInstance instance({.memory_limit_bytes = std::uint64_t{8} << 30});
  Reader reader = instance.reader();
  Writer writer = instance.writer();
  for (std::size_t i = 0; i < count; ++i) {
    writer.set(grown_key(i), grown_value(i));
    if (i % 5'000 == 0) instance.pump();
  }
  instance.pump();
  ASSERT_EQ(writer.flush(0ns), Status::kOk);
  expect_grown(reader, count);
  instance.restart();
  expect_grown(reader, count);
  for (std::size_t i = 0; i < count; ++i) {
    writer.erase(grown_key(i));
    if (i % 5'000 == 0) instance.pump();
  }
  instance.pump();
  EXPECT_EQ(reader.snapshot().size(), 0U);
  EXPECT_EQ(instance.statistic(Stat::kHeapBytes), 0U);
  EXPECT_EQ(instance.statistic(Stat::kEntries), 0U);
}

TEST(TableGrowthTest, CyclesOfGrowthAndErasureStopTakingMemory) {
  TestInstance instance;
  Random random(60);
  instance.fix_hash_seed(random.word());
  Writer writer = instance.writer();
  constexpr int kWarmUpCycles = 10;
  std::uint64_t warm_pages = 0;
  for (int cycle = 0; cycle < test::steps(40); ++cycle) {
    std::vector<std::string> keys;
    for (std::size_t i = 0; i < 5'000; ++i) {
      keys.push_back(std::to_string(cycle) + "/" + std::to_string(i));
      writer.set(keys.back(), std::string(random.chance(99) ? random.below(1'500) : random.below(100'000), 'v'));
      if (i % 500 == 0) instance.pump();
    }
    std::shuffle(keys.begin(), keys.end(), std::mt19937_64(random.word()));
    for (const std::string& key : keys) writer.erase(key);
    instance.pump();
    ASSERT_EQ(instance.statistic(Stat::kEntries), 0U);
    ASSERT_EQ(instance.statistic(Stat::kHeapBytes), 0U);
    const std::uint64_t pages = instance.statistic(Stat::kPagesCommitted);
    if (cycle < kWarmUpCycles) warm_pages = std::max(warm_pages, pages);
    ASSERT_LE(pages, warm_pages + warm_pages / 3) << "in cycle " << cycle;  // sizes are random; a leak would grow on
  }
}

TEST(TableGrowthTest, AValueThatGrowsAndShrinksTakesNoMoreThanItsLargest) {
  TestInstance instance;
  Reader reader = instance.reader();
  Random random(61);
  Writer writer = instance.writer();
  std::uint64_t pages = 0;
  for (int i = 0; i < test::steps(1'000); ++i) {
    const std::string value(random.below(300'000), static_cast<char>('a' + i % 26));
    writer.set("k", value);
    writer.set(std::string(100, 'k'), value);
    instance.pump();
    ASSERT_EQ(reader.get<std::string>("k"), value);
    if (i == test::steps(1'000) / 2) pages = instance.statistic(Stat::kPagesCommitted);
  }
  EXPECT_LE(instance.statistic(Stat::kPagesCommitted), pages + pages / 3);
}

}  // namespace
}  // namespace shmstate
