// What each operation does to the state, against a model: versions, time to live, ephemeral keys, bound keys; limits;
// and readers that outlive the instance.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "harness/test_instance.h"
#include "layout/combine.h"
#include "layout/layout.h"
#include "layout/record.h"
#include "protocol/publish.h"
#include "shmstate/watch.h"

namespace {

/// What is to happen just before somebody takes an exclusive lock on the first byte of a file; once.
std::function<void()> before_exclusive_lock;

}  // namespace

// In front of the C library's: it lets a test act between two steps of the engine that nothing else separates.
// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): its names are reserved ones
extern "C" int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (command == F_OFD_SETLK && before_exclusive_lock) {
    const auto& lock = *static_cast<const struct flock*>(argument);
    if (lock.l_type == F_WRLCK && lock.l_start == 0) std::exchange(before_exclusive_lock, nullptr)();
  }
  return static_cast<int>(::syscall(SYS_fcntl, fd, command, argument));
}

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using std::chrono::nanoseconds;
using test::Random;
using test::ring_of;
using test::TestInstance;

constexpr std::size_t kSmallRing = std::size_t{64} << 10;

SetOptions with_ttl(nanoseconds ttl) {
  SetOptions options;
  options.ttl = ttl;
  return options;
}
SetOptions with_version(std::uint64_t version) {
  SetOptions options;
  options.version = version;
  return options;
}
SetOptions ephemeral() {
  SetOptions options;
  options.ephemeral = true;
  return options;
}

// ---- the model: what the entries are after each step

struct Known {
  bool is_tombstone = false;
  Value value;
  std::uint64_t version = 0;
  std::uint64_t expiry_ns = 0;
  std::uint64_t owner = 0;  // ring id

  bool operator==(const Known&) const = default;
};
using State = std::map<std::string, Known>;

struct Change {
  Mutation mutation;  // its views point into the change
  std::string key;
  Value value;
  Ticket end = 0;
};

struct Producer {
  std::optional<Writer> writer;  // none: its process is gone
  std::uint64_t ring_id = 0;
  std::deque<std::unique_ptr<Change>> pending;
  std::map<std::string, Key> keys;
  std::array<std::uint64_t, layout::kRejectCount> rejected{};
};

double infinity_like(std::int64_t number) {
  return std::copysign(std::numeric_limits<double>::infinity(), static_cast<double>(number));
}

Known made_by(const Change& change, std::uint64_t ring_id, std::uint64_t now_ns) {
  const Mutation& mutation = change.mutation;
  return {.is_tombstone = false,
          .value = change.value,
          .version = mutation.version,
          .expiry_ns = (mutation.flags & kWithTtl) != 0 ? now_ns + mutation.ttl_ns : 0,
          .owner = (mutation.flags & kEphemeral) != 0 ? ring_id : 0};
}

std::optional<layout::Reject> combine_known(State& state, const Change& change, std::uint64_t ring_id,
                                            std::uint64_t now_ns) {
  const auto [at, is_new] = state.try_emplace(change.key);
  Known& known = at->second;
  if (is_new || known.is_tombstone) {
    known = made_by(change, ring_id, now_ns);
    return std::nullopt;
  }
  if (known.value.index() != change.value.index()) return layout::Reject::kWrongType;
  if (auto* const number = std::get_if<double>(&known.value)) {
    const auto result = combine(change.mutation.operation, *number, std::get<double>(change.value));
    if (!result) return layout::Reject::kOutOfRange;
    *number = *result;
    return std::nullopt;
  }
  auto& number = std::get<std::int64_t>(known.value);
  const auto result = combine(change.mutation.operation, number, std::get<std::int64_t>(change.value));
  if (!result) return layout::Reject::kOutOfRange;
  number = *result;
  return std::nullopt;
}

std::optional<layout::Reject> apply_to(State& state, const Change& change, std::uint64_t ring_id, std::uint64_t now_ns,
                                       std::uint64_t tombstone_ns) {
  const Mutation& mutation = change.mutation;
  const auto at = state.find(change.key);
  const bool is_versioned = (mutation.flags & kWithVersion) != 0;
  if (mutation.operation != Operation::kSet && mutation.operation != Operation::kErase) {
    return combine_known(state, change, ring_id, now_ns);
  }
  if (is_versioned && at != state.end() && mutation.version <= at->second.version) return std::nullopt;
  if (mutation.operation == Operation::kSet) {
    state[change.key] = made_by(change, ring_id, now_ns);
  } else if (is_versioned) {
    state[change.key] = {
        .is_tombstone = true, .value = {}, .version = mutation.version, .expiry_ns = now_ns + tombstone_ns, .owner = 0};
  } else if (at != state.end()) {
    state.erase(at);  // also what a tombstone remembers
  }
  return std::nullopt;
}

/// An instance with several writers whose rings are drained in pieces. Times are such that nothing becomes due within
/// 4 ms of a step, so that the model knows what is due.
class World {
 public:
  explicit World(Random& random) : random_(random), instance_({.ring_count_max = 16}, options()) {
    instance_.fix_hash_seed(random.word());
    now_ns_ = buffer_header().published_ns;
    step(10ms);
    reader_.emplace(instance_.path());
    filler_.emplace(instance_.writer(ring_of(std::size_t{1} << 20)));
    step(10ms);
    for (std::size_t i = 0; i < 4; ++i) replace(producers_.emplace_back());
  }

  void turn() {
    for (Producer& producer : producers_) {
      if (producer.writer && random_.chance(40)) push_some(producer);
    }
    if (random_.chance(4)) fill();
    if (random_.chance(4)) restart();
    if (random_.chance(4)) let_go(producers_[random_.below(producers_.size())]);
    static constexpr std::array kSteps{10ms, 10ms, 20ms, 50ms, 100ms, 300ms, 1000ms};
    step(kSteps[random_.below(kSteps.size())]);
    for (Producer& producer : producers_) {
      if (!producer.writer && !rings().contains(producer.ring_id)) replace(producer);
    }
  }

  void check() {
    const Snapshot snapshot = reader_->snapshot();
    std::size_t count = 0;
    std::size_t tombstones = 0;
    for (const auto& [key, known] : state_) {
      const std::optional<EntryView> entry = snapshot.find(key);
      if (known.is_tombstone) {
        ++tombstones;
        ASSERT_FALSE(entry) << key << " was erased";
        continue;
      }
      ++count;
      ASSERT_TRUE(entry) << key << " is missing";
      ASSERT_EQ(entry->value.to_value(), known.value) << key;
      ASSERT_EQ(entry->version, known.version) << key;
      ASSERT_EQ(entry->expiry_ns, known.expiry_ns) << key;
      ASSERT_EQ(entry->ephemeral, known.owner != 0) << key;
    }
    ASSERT_EQ(snapshot.size(), count + filled_);
    ASSERT_EQ(buffer_header().tombstone_count, tombstones);
    ASSERT_EQ(buffer_header().entry_count, count + filled_);
    for (const Producer& producer : producers_) {
      if (!producer.writer) continue;
      ASSERT_EQ(producer.writer->rejected(Status::kWrongType),
                producer.rejected[std::size_t(layout::Reject::kWrongType)]);
      ASSERT_EQ(producer.writer->rejected(Status::kOutOfRange),
                producer.rejected[std::size_t(layout::Reject::kOutOfRange)]);
    }
  }

  [[nodiscard]] TestInstance& instance() { return instance_; }

 private:
  static MergeOptions options() {
    MergeOptions options = TestInstance::never_expire();
    options.tombstone_time = 305ms;
    return options;
  }

  [[nodiscard]] const std::byte* buffer() {
    return instance_.owner().buffer(current_version(instance_.owner().publication()).buffer);
  }
  [[nodiscard]] const layout::BufferHeader& buffer_header() {
    return *reinterpret_cast<const layout::BufferHeader*>(buffer());
  }
  /// By ring id: the index and the cursor in the current snapshot.
  struct Place {
    std::size_t index;
    std::uint64_t cursor;
  };
  [[nodiscard]] std::map<std::uint64_t, Place> rings() {
    std::map<std::uint64_t, Place> rings;
    for (std::uint32_t i = 0; i < 16; ++i) {
      const layout::RingCursor& cursor = ring_cursor(buffer(), i);
      if (cursor.ring_id != 0) rings[cursor.ring_id] = {.index = i, .cursor = cursor.cursor};
    }
    return rings;
  }

  void step(nanoseconds later) {
    instance_.step(later);
    now_ns_ += static_cast<std::uint64_t>(later.count());
    const auto served = rings();
    for (const std::uint64_t ring_id : order_) {
      for (Producer& producer : producers_) {
        if (producer.ring_id == ring_id) merge(producer, served.contains(ring_id) ? served.at(ring_id).cursor : ~0ULL);
      }
    }
    std::erase_if(state_,
                  [this](const auto& at) { return at.second.expiry_ns != 0 && at.second.expiry_ns <= now_ns_; });
    std::erase_if(state_, [&](const auto& at) { return at.second.owner != 0 && !served.contains(at.second.owner); });
    std::erase_if(order_, [&](std::uint64_t ring_id) { return !served.contains(ring_id); });
  }

  void merge(Producer& producer, std::uint64_t cursor) {
    for (; !producer.pending.empty() && producer.pending.front()->end <= cursor; producer.pending.pop_front()) {
      const auto reject = apply_to(state_, *producer.pending.front(), producer.ring_id, now_ns_, 305'000'000);
      if (reject) ++producer.rejected[static_cast<std::size_t>(*reject)];
    }
  }

  void replace(Producer& producer) {
    producer = {};
    producer.writer.emplace(instance_.writer(ring_of(kSmallRing)));
    producer.ring_id = producer.writer->ring_id();
    order_.push_back(producer.ring_id);
    step(10ms);
  }
  void let_go(Producer& producer) { producer.writer.reset(); }

  // A resumed engine drains the rings in the order of their indexes.
  void restart() {
    instance_.restart();
    const auto served = rings();
    std::sort(order_.begin(), order_.end(),
              [&](std::uint64_t a, std::uint64_t b) { return served.at(a).index < served.at(b).index; });
  }

  void fill() {
    for (std::size_t i = random_.between(50, 400); i > 0; --i) {
      ASSERT_EQ(filler_->set("fill/" + std::to_string(filled_++), 1), Status::kOk);
    }
  }

  void push_some(Producer& producer) {
    const bool much = random_.chance(10);
    for (std::size_t i = much ? random_.between(200, 1500) : random_.between(1, 10); i > 0; --i) {
      auto change = std::make_unique<Change>();
      randomise(*change);
      if (push(producer, *change) == Status::kRingFull) return;
      change->end = producer.writer->ticket();
      producer.pending.push_back(std::move(change));
    }
  }

  void randomise(Change& change) {
    static constexpr std::array kOperations{Operation::kSet, Operation::kSet, Operation::kSet, Operation::kErase,
                                            Operation::kAdd, Operation::kMax, Operation::kMin};
    change.key = "key/" + std::to_string(random_.below(40));
    if (change.key.back() == '7') change.key.append(100, 'k');
    Mutation& mutation = change.mutation;
    mutation.operation = kOperations[random_.below(kOperations.size())];
    const auto number = static_cast<std::int64_t>(random_.below(200)) - 100;
    change.value = number;
    if (change.key.back() == '3' || random_.chance(5)) change.value = static_cast<double>(number);
    if (change.key.back() == '3' && random_.chance(10)) change.value = infinity_like(number);
    if (mutation.operation == Operation::kAdd && random_.chance(5))
      change.value = std::numeric_limits<std::int64_t>::max();
    const bool is_set = mutation.operation == Operation::kSet;
    if (is_set && random_.chance(20)) change.value = random_.bytes(random_.below(200));
    mutation.key = change.key;
    mutation.value = ValueView(change.value);
    if (is_set && random_.chance(30)) {
      mutation.flags |= kWithTtl;
      mutation.ttl_ns = (random_.below(60) * 10 + 5) * 1'000'000;
    }
    if (is_set && random_.chance(25)) mutation.flags |= kEphemeral;
    if ((is_set || mutation.operation == Operation::kErase) && random_.chance(50)) {
      mutation.flags |= kWithVersion;
      ++highest_version_;
      mutation.version = highest_version_ - std::min<std::uint64_t>(highest_version_, random_.below(30));
    }
  }

  Status push(Producer& producer, const Change& change) {
    Writer& writer = *producer.writer;
    const Mutation& mutation = change.mutation;
    SetOptions options;
    options.ttl = nanoseconds(mutation.ttl_ns);
    options.ephemeral = (mutation.flags & kEphemeral) != 0;
    const bool is_versioned = (mutation.flags & kWithVersion) != 0;
    if (is_versioned) options.version = mutation.version;
    Key& key = producer.keys.try_emplace(change.key, change.key).first->second;
    const bool is_bound = random_.chance(50);
    switch (mutation.operation) {
      case Operation::kSet:
        if (mutation.flags == 0) return is_bound ? writer.set(key, change.value) : writer.set(change.key, change.value);
        return writer.set(change.key, change.value, options);
      case Operation::kErase:
        return is_versioned ? writer.erase(change.key, mutation.version) : writer.erase(change.key);
      case Operation::kAdd: return is_bound ? writer.add(key, change.value) : writer.add(change.key, change.value);
      case Operation::kMax: return is_bound ? writer.max(key, change.value) : writer.max(change.key, change.value);
      case Operation::kMin: return is_bound ? writer.min(key, change.value) : writer.min(change.key, change.value);
    }
    return Status::kOk;
  }

  Random& random_;
  TestInstance instance_;
  std::uint64_t now_ns_ = 0;
  std::optional<Reader> reader_;
  std::optional<Writer> filler_;
  std::deque<Producer> producers_;
  std::vector<std::uint64_t> order_;  // in which rings are drained
  State state_;
  std::size_t filled_ = 0;
  std::uint64_t highest_version_ = 0;
};

// After every step the state is that of the model: the highest version won, times to live were kept to the nanosecond,
// ephemeral keys went with their writer and no other, in whatever pieces the rings were drained, across restarts and
// splits of the table.
TEST(Semantics, EveryStepLeadsToTheStateOfTheModel) {
  for (int run = 0; run < test::steps(6); ++run) {
    SCOPED_TRACE("run " + std::to_string(run));
    Random random(400 + static_cast<std::uint64_t>(run));
    World world(random);
    for (int i = 0; i < 400; ++i) {
      SCOPED_TRACE("turn " + std::to_string(i));
      world.turn();
      world.check();
      if (HasFatalFailure()) return;
    }
    EXPECT_GT(world.instance().engine().table().segments().segment_count(), 1U);
  }
}

// ---- versions

// Whatever the order in which rings are drained, the highest version of all writers wins, erasures included.
TEST(Semantics, HighestVersionWinsInEveryInterleaving) {
  for (int run = 0; run < test::steps(200); ++run) {
    Random random(1000 + static_cast<std::uint64_t>(run));
    TestInstance instance;
    std::vector<Writer> writers;
    for (int i = 0; i < 4; ++i) writers.push_back(instance.writer(ring_of(kSmallRing)));
    std::vector<std::uint64_t> versions(60);
    for (std::size_t i = 0; i < versions.size(); ++i) versions[i] = i + 1;
    for (std::size_t i = versions.size() - 1; i > 0; --i) std::swap(versions[i], versions[random.below(i + 1)]);
    for (const std::uint64_t version : versions) {
      Writer& writer = writers[random.below(writers.size())];
      if (version % 3 == 0) {
        ASSERT_EQ(writer.erase("key", version), Status::kOk);
      } else {
        ASSERT_EQ(writer.set("key", static_cast<std::int64_t>(version), with_version(version)), Status::kOk);
      }
      if (random.chance(20)) instance.step();
    }
    instance.pump();
    ASSERT_FALSE(instance.reader().get<Value>("key")) << "version 60 erased it";
    writers[0].set("key", 58, with_version(59));
    instance.pump();
    ASSERT_FALSE(instance.reader().get<Value>("key")) << "a late set of an older version";
    writers[1].set("key", 61, with_version(61));
    instance.pump();
    ASSERT_EQ(instance.reader().get<std::int64_t>("key"), 61);
  }
}

// A tombstone is counted while it is remembered, and then forgotten: after that an older version is new again.
TEST(Semantics, TombstonesAreCountedAndThenForgotten) {
  MergeOptions options = TestInstance::never_expire();
  options.tombstone_time = 100ms;
  TestInstance instance({}, options);
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  writer.set("key", 1, with_version(5));
  writer.erase("key", 7);
  writer.erase("never/set", 3);
  instance.step();
  EXPECT_EQ(instance.statistic(Stat::kTombstones), 2U);
  EXPECT_EQ(instance.statistic(Stat::kEntries), 0U);
  instance.step(90ms);
  writer.set("key", 6, with_version(6));
  instance.step();
  EXPECT_FALSE(reader.get<std::int64_t>("key"));
  EXPECT_EQ(instance.statistic(Stat::kSuperseded), 1U);
  instance.step(15ms);
  EXPECT_EQ(instance.statistic(Stat::kTombstones), 0U);
  writer.set("key", 6, with_version(6));
  instance.step();
  EXPECT_EQ(reader.get<std::int64_t>("key"), 6);
}

// ---- time to live

// A key is never gone before its time, and at most 2 ms plus a step later.
TEST(Semantics, KeysExpireWhenTheyAreDue) {
  Random random(2000);
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  instance.pump();
  constexpr std::uint64_t kStepNs = 250'000;
  constexpr std::uint64_t kLateNs = 2'100'000 + kStepNs;
  std::map<std::string, std::uint64_t> due;
  for (int i = 0; i < test::steps(8'000); ++i) {
    if (random.chance(20)) {
      const std::string key = "key/" + std::to_string(random.below(300));
      writer.set(key, 1, with_ttl(nanoseconds(1'000'000 + random.below(random.chance(10) ? 900'000'000 : 30'000'000))));
      due[key] = 0;
    }
    instance.step(nanoseconds(kStepNs));
    const Snapshot snapshot = reader.snapshot();
    const auto& header = *reinterpret_cast<const layout::BufferHeader*>(
        instance.owner().buffer(current_version(instance.owner().publication()).buffer));
    const std::uint64_t published_ns = header.published_ns;
    for (auto key = due.begin(); key != due.end();) {
      const std::optional<EntryView> entry = snapshot.find(key->first);
      if (entry) {
        ASSERT_GT(entry->expiry_ns + kLateNs, published_ns) << "late";
        key->second = entry->expiry_ns;
        ++key;
      } else {
        ASSERT_LE(key->second, published_ns) << "early";
        key = due.erase(key);
      }
    }
  }
}

// A set refreshes the time to live, one without clears it, and add, max and min keep it.
TEST(Semantics, TimeToLiveIsRefreshedClearedAndKept) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  for (const char* const key : {"refreshed", "cleared", "added", "raised", "lowered"})
    writer.set(key, 1, with_ttl(50ms));
  instance.step();
  instance.step(30ms);
  writer.set("refreshed", 2, with_ttl(50ms));
  writer.set("cleared", 2);
  writer.add("added", 1);
  writer.max("raised", 5);
  writer.min("lowered", -5);
  instance.step();
  EXPECT_TRUE(reader.info("added")->time_to_live);
  EXPECT_FALSE(reader.info("cleared")->time_to_live);
  instance.step(25ms);
  EXPECT_TRUE(reader.get<Value>("refreshed"));
  EXPECT_TRUE(reader.get<Value>("cleared"));
  for (const char* const key : {"added", "raised", "lowered"}) EXPECT_FALSE(reader.get<Value>(key)) << key;
  instance.step(30ms);
  EXPECT_FALSE(reader.get<Value>("refreshed"));
  EXPECT_TRUE(reader.get<Value>("cleared"));
}

// A key expires although a reader holds every other buffer, once the maximum pin time is over, also when nobody pushes.
TEST(Semantics, ExpiryIsNotHeldUpForEverByAPin) {
  MergeOptions options;
  options.pin_time_max = 100ms;
  TestInstance instance({}, options);
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  writer.set("key", 1, with_ttl(50ms));
  instance.step();
  const Snapshot held = reader.snapshot();
  writer.set("other", 1);
  instance.step();  // now the only other buffer is the one that is held
  for (int i = 0; i < 1000; ++i) instance.step(10ms);
  EXPECT_FALSE(instance.reader().get<Value>("key")) << "10 s late";
  EXPECT_TRUE(held.expired());
}

// ---- ephemeral keys

// An ephemeral key that another writer has set since stays when its first writer goes.
TEST(Semantics, KeyTakenOverSurvivesItsFirstWriter) {
  TestInstance instance;
  std::optional<Writer> first = instance.writer();
  Writer second = instance.writer();
  Reader reader = instance.reader();
  for (const char* const key : {"own", "taken", "added"}) first->set(key, 1, ephemeral());
  instance.pump();
  second.set("taken", 2);
  second.add("added", 1);
  instance.pump();
  instance.restart();
  first.reset();
  instance.pass_rounds();
  EXPECT_FALSE(reader.get<Value>("own"));
  EXPECT_EQ(reader.get<std::int64_t>("taken"), 2);
  EXPECT_FALSE(reader.get<Value>("added")) << "only a set takes a key over";
}

// Two writers that take the same keys over from each other a million times leave nothing behind in the merger's memory.
TEST(Semantics, TakeoversDoNotAccumulate) {
  TestInstance instance;
  std::array writers{instance.writer(), instance.writer()};
  instance.pump();
  const auto exchange = [&](int times) {
    for (int i = 0; i < times; ++i) {
      for (Writer& writer : writers) {
        for (int key = 0; key < 100; ++key) writer.set("key/" + std::to_string(key), i, ephemeral());
      }
      instance.step();
    }
  };
  exchange(100);
  const std::size_t before = ::mallinfo2().uordblks;
  exchange(5'000);
  EXPECT_LT(::mallinfo2().uordblks, before + (std::size_t{1} << 20));
}

// ---- bound keys

// Bound keys of writers and readers mean the same as their bytes: while they are erased and set again, while growth
// moves them, and after a restart.
TEST(Semantics, BoundKeysStayCorrectWhileEntriesMove) {
  constexpr std::size_t kBound = 200;
  const std::size_t total = 100'000;
  TestInstance instance;
  Writer writer = instance.writer(ring_of(std::size_t{8} << 20));
  Reader reader = instance.reader();
  Random random(3000);
  std::vector<Key> written;
  std::vector<Key> read;
  std::vector<std::optional<std::int64_t>> expected(kBound);
  for (std::size_t i = 0; i < kBound; ++i) {
    written.emplace_back("bound/" + std::to_string(i));
    read.emplace_back("bound/" + std::to_string(i));
  }
  for (std::size_t added = 0; added < total; added += 1000) {
    for (std::size_t i = 0; i < 1000; ++i) writer.set("fill/" + std::to_string(added + i), 1);
    for (int i = 0; i < 300; ++i) {
      const std::size_t which = random.below(kBound);
      const auto value = static_cast<std::int64_t>(random.below(1000));
      switch (random.below(5)) {
        case 0:
          writer.erase(written[which].bytes());
          expected[which].reset();
          break;
        case 1:
          writer.add(written[which], value);
          expected[which] = expected[which].value_or(0) + value;
          break;
        case 2:
          writer.max(written[which], value);
          expected[which] = std::max(expected[which].value_or(value), value);
          break;
        case 3:
          writer.min(written[which], value);
          expected[which] = std::min(expected[which].value_or(value), value);
          break;
        default:
          writer.set(written[which], value);
          expected[which] = value;
          break;
      }
    }
    instance.pump();
    if (random.chance(5)) instance.restart();
    for (std::size_t i = 0; i < kBound; ++i) {
      ASSERT_EQ(reader.get<std::int64_t>(read[i]), expected[i]) << read[i].bytes();
      ASSERT_EQ(reader.get<std::int64_t>(read[i].bytes()), expected[i]);
    }
  }
}

// ---- reads with conditions

// `info` tells what is known about a key.
TEST(Semantics, InfoTellsWhatIsKnown) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  instance.pump();
  SetOptions options = with_ttl(1h);
  options.version = 7;
  options.ephemeral = true;
  writer.set("key", "text", options);
  instance.step();
  const std::optional<EntryInfo> info = reader.info("key");
  ASSERT_TRUE(info);
  EXPECT_EQ(info->type, Type::kBytes);
  EXPECT_EQ(info->value_bytes, 4U);
  EXPECT_EQ(info->changed_epoch, reader.epoch());
  EXPECT_EQ(info->version, 7U);
  EXPECT_TRUE(info->ephemeral);
  ASSERT_TRUE(info->time_to_live);
  EXPECT_GT(*info->time_to_live, 50min);
  writer.erase("key", 9);
  instance.step();
  EXPECT_FALSE(reader.info("key"));
  EXPECT_FALSE(reader.info("missing"));
}

// A read that must be fresh is refused when the merger has been silent for longer, and given otherwise.
TEST(Semantics, FreshReadsRefuseAnOldSnapshot) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  writer.set("key", 5);
  instance.pump();
  std::int64_t value = 0;
  EXPECT_EQ(reader.read_fresh("key", value, 1h), Status::kOk);
  EXPECT_EQ(value, 5);
  std::this_thread::sleep_for(20ms);  // the engine stands still; the test's clock is the machine's at first
  EXPECT_EQ(reader.read_fresh("key", value, 1ns), Status::kTooOld);
  EXPECT_EQ(reader.read_fresh("missing", value, 1h), Status::kNotFound);
}

// wait_change returns for a change of this key, an erasure included, and not for another's.
TEST(Semantics, WaitChangeWaitsForThisKey) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  writer.set("key", 1);
  instance.pump();
  const Position before = reader.position();
  writer.set("other", 1);
  instance.pump();
  EXPECT_EQ(reader.wait_change("key", before, 20ms), Status::kTimeout);
  const test::EngineThread merging(instance);
  std::thread later([&] {
    std::this_thread::sleep_for(10ms);
    writer.erase("key");
  });
  EXPECT_EQ(reader.wait_change("key", before, 30s), Status::kOk);
  later.join();
  EXPECT_FALSE(reader.get<Value>("key"));
  EXPECT_EQ(reader.wait_change("key", before, 0ns), Status::kOk) << "it has changed already";
}

// wait_until returns once the predicate holds, and kTimeout otherwise.
TEST(Semantics, WaitUntilWaitsForAValue) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  instance.pump();
  const test::EngineThread merging(instance);
  std::thread later([&] {
    for (std::int64_t i = 0; i <= 20; ++i) {
      writer.set("key", i);
      std::this_thread::sleep_for(1ms);
    }
  });
  const auto is = [](std::int64_t wanted) {
    return [wanted](const std::optional<Value>& value) { return value == std::optional<Value>(wanted); };
  };
  EXPECT_EQ(reader.wait_until("key", is(20), 30s), Status::kOk);
  later.join();
  EXPECT_EQ(reader.wait_until("key", is(21), 10ms), Status::kTimeout);
  EXPECT_EQ(reader.wait_until(
                "missing", [](const auto& value) { return !value; }, 0ns),
            Status::kOk);
}

// A scan visits exactly the entries with the prefix for which the predicate holds.
TEST(Semantics, ScanVisitsWhatMatches) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  for (std::int64_t i = 0; i < 3000; ++i) writer.set((i % 3 == 0 ? "pump/" : "fan/") + std::to_string(i), i);
  writer.erase("pump/0", 5);
  instance.pump();
  std::set<std::int64_t> visited;
  const Snapshot snapshot = reader.snapshot();
  snapshot.scan(
      "pump/", [](const EntryView& entry) { return entry.value.int64() % 2 == 0; },
      [&](const EntryView& entry) { EXPECT_TRUE(visited.insert(entry.value.int64()).second); });
  std::set<std::int64_t> expected;
  for (std::int64_t i = 6; i < 3000; i += 6) expected.insert(i);
  EXPECT_EQ(visited, expected);
}

// get_many never mixes epochs: two keys that change together are always read together.
TEST(Semantics, GetManyReadsOneEpoch) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  const auto push = [&](std::int64_t i) {
    Batch batch = writer.batch();
    batch.set("a", i);
    batch.set("b", i);
    return batch.commit();
  };
  ASSERT_EQ(push(0), Status::kOk);
  instance.pump();
  const test::EngineThread merging(instance);
  std::atomic<bool> stop{false};
  std::thread pushing([&] {
    for (std::int64_t i = 1; !stop; ++i) static_cast<void>(push(i));
  });
  const std::array<std::string_view, 3> keys{"a", "b", "missing"};
  std::vector<std::optional<Value>> values;
  Position last;
  for (int i = 0; i < 3'000; ++i) {
    const Position position = reader.get_many(keys, values);
    EXPECT_GE(position, last);
    last = position;
    EXPECT_TRUE(values[0] && values[0] == values[1] && !values[2]);
  }
  stop = true;
  pushing.join();
}

// ---- limits

// At the maximum number of entries new keys are refused and counted, and everything else goes on.
TEST(Semantics, EntryLimitRefusesOnlyNewKeys) {
  MergeOptions options = TestInstance::never_expire();
  options.entries_max = 100;
  TestInstance instance({}, options);
  Writer writer = instance.writer();
  Writer other = instance.writer();
  Reader reader = instance.reader();
  for (std::int64_t i = 0; i < 150; ++i) writer.set("key/" + std::to_string(i), i);
  writer.add("key/0", 1000);
  instance.pump();
  EXPECT_EQ(writer.flush(0ns), Status::kRejected);
  EXPECT_EQ(writer.flush(0ns), Status::kOk) << "reported once";
  EXPECT_EQ(writer.rejected(Status::kLimit), 50U);
  EXPECT_EQ(writer.counters().rejected, 50U);
  EXPECT_EQ(other.counters().rejected, 0U);
  EXPECT_EQ(reader.get<std::int64_t>("key/0"), 1000);
  writer.erase("key/1");
  writer.set("key/149", 149);
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("key/149"), 149);
  EXPECT_EQ(writer.flush(0ns), Status::kOk);
}

// Without memory, values that need more are refused and counted; numbers still change, and erasing makes room.
TEST(Semantics, MemoryLimitRefusesOnlyWhatNeedsMore) {
  InstanceOptions files;
  files.memory_limit_bytes = std::uint64_t{16} << 20;
  TestInstance instance(files);
  Writer writer = instance.writer(ring_of(std::size_t{16} << 20));
  Reader reader = instance.reader();
  writer.set("number", 1);
  instance.pump();
  const std::string big(100'000, 'b');
  std::int64_t pushed = 0;
  for (; pushed < 1000 && writer.rejected(Status::kNoMemory) == 0; ++pushed) {
    writer.set("big/" + std::to_string(pushed), big);
    writer.add("number", 1);
    instance.pump();
  }
  ASSERT_EQ(writer.rejected(Status::kNoMemory), 1U);
  EXPECT_EQ(writer.flush(0ns), Status::kRejected);
  EXPECT_EQ(reader.get<std::int64_t>("number"), 1 + pushed);
  EXPECT_FALSE(reader.get<std::string>("big/" + std::to_string(pushed - 1)));
  EXPECT_EQ(reader.get<std::string>("big/0"), big);
  writer.erase("big/0");
  writer.set("big/again", big);
  instance.pump();
  EXPECT_EQ(reader.get<std::string>("big/again"), big);
}

// A ring that is too large, or one too many, is refused and told so; those that are served go on, and a refused one is
// served when there is room.
TEST(Semantics, RingLimitsRefuseOnlyThoseRings) {
  InstanceOptions files;
  files.ring_count_max = 2;
  MergeOptions options = TestInstance::never_expire();
  options.ring_bytes_max = std::uint64_t{1} << 20;
  TestInstance instance(files, options);
  Writer large = instance.writer(ring_of(std::size_t{2} << 20));
  std::optional<Writer> first = instance.writer(ring_of(kSmallRing));
  instance.pump();
  Writer second = instance.writer(ring_of(kSmallRing));
  instance.pump();
  Writer third = instance.writer(ring_of(kSmallRing));
  instance.pump();
  for (Writer* const writer : {&large, &*first, &second, &third}) writer->add("sum", 1);
  instance.pump();
  EXPECT_EQ(large.flush(1s), Status::kRingRefused);
  EXPECT_EQ(third.flush(1s), Status::kRingRefused);
  EXPECT_EQ(first->flush(1s), Status::kOk);
  EXPECT_EQ(second.flush(1s), Status::kOk);
  EXPECT_EQ(instance.reader().get<std::int64_t>("sum"), 2);
  EXPECT_GE(instance.statistic(Stat::kRingsRefused), 2U);
  first.reset();
  instance.pass_rounds(20);
  EXPECT_EQ(third.flush(1s), Status::kOk);
  EXPECT_EQ(instance.reader().get<std::int64_t>("sum"), 3);
}

// ---- shared rings

WriterOptions shared_ring() {
  WriterOptions options;
  options.shared = true;
  return options;
}

// A writer that attaches, pushes and goes while the merger is about to remove the ring that nobody holds loses nothing.
TEST(Semantics, PushOfAWriterThatCameAndWentWhileTheRingWasRemovedIsMerged) {
  TestInstance instance;
  ASSERT_EQ(instance.writer(shared_ring()).add("sum", 1), Status::kOk);
  instance.pump();
  before_exclusive_lock = [&] { ASSERT_EQ(instance.writer(shared_ring()).add("sum", 1), Status::kOk); };
  instance.pass_rounds(20);
  ASSERT_FALSE(before_exclusive_lock) << "the ring was never removed";
  EXPECT_EQ(instance.reader().get<std::int64_t>("sum"), 2);
}

// A writer that has just attached to a shared ring does not report refusals from before its time.
TEST(Semantics, NewWriterOfASharedRingDoesNotReportOldRefusals) {
  TestInstance instance;
  Writer first = instance.writer(shared_ring());
  first.set("text", "text");
  first.add("text", 1);
  instance.pump();
  EXPECT_EQ(first.flush(0ns), Status::kRejected);
  Writer second = instance.writer(shared_ring());
  second.set("key", 1);
  instance.pump();
  EXPECT_EQ(second.flush(0ns), Status::kOk);
}

// ---- instances that are re-created

/// Removes the instance's directory, lets the old engine notice, and re-creates the instance.
void recreate(TestInstance& instance) {
  std::filesystem::remove_all(instance.path());
  instance.step(2s);  // retires the old one
  instance.stop();
  instance.start();
}

/// Waits until a reader that does nothing but read has reattached.
template <typename Read>
void read_until_reattached(Reader& reader, Read&& read) {
  for (const auto end = std::chrono::steady_clock::now() + 60s;
       reader.status().reattach_count == 0 && std::chrono::steady_clock::now() < end;) {
    read();
  }
}

// A reader reattaches to an instance that was re-created; an old snapshot still shows the old state; a bound key finds
// the new place; changes of the old instance's epochs are a gap.
TEST(Semantics, ReadersReattachToARecreatedInstance) {
  TestInstance instance;
  std::optional<Writer> writer = instance.writer();
  Reader reader = instance.reader();
  Watch watch(instance.path(), "");
  Key bound("key");
  for (int i = 0; i < 10; ++i) {
    writer->set("key", 1);
    writer->set("old", 1);
    writer->add(bound, 0);
    instance.step();
  }
  ASSERT_TRUE(watch.next(0ns).complete);
  ASSERT_EQ(reader.get<std::int64_t>(bound), 1);
  const Position old_position = reader.position();
  const Snapshot old = reader.snapshot();
  recreate(instance);
  const Status flushed = writer->flush(1s);  // what was pushed was readable, but the writer may have looked since then
  EXPECT_TRUE(flushed == Status::kOk || flushed == Status::kNoInstance) << describe(flushed);
  writer.emplace(instance.writer());
  writer->set(bound, 2);
  writer->set("new", 2);
  instance.step();
  instance.step();
  std::this_thread::sleep_for(150ms);
  EXPECT_EQ(reader.changes(old_position).gap_reason, GapReason::kRecreated);
  EXPECT_EQ(reader.wait(old_position, 1h), reader.position());
  EXPECT_EQ(reader.status().reattach_count, 1U);
  EXPECT_FALSE(reader.status().instance_gone);
  EXPECT_EQ(reader.get<std::int64_t>(bound), 2);
  EXPECT_EQ(reader.get<std::int64_t>("new"), 2);
  EXPECT_FALSE(reader.get<std::int64_t>("old"));
  EXPECT_LT(reader.epoch(), old_position.epoch);
  EXPECT_EQ(old.position(), old_position);
  EXPECT_EQ(old.get<std::int64_t>("key"), 1);
  EXPECT_EQ(old.get<std::int64_t>("old"), 1);
  EXPECT_EQ(old.size(), 2U);
  WatchBatch batch = watch.next(0ns);
  EXPECT_TRUE(batch.complete);
  EXPECT_EQ(batch.changes.size(), 2U);
}

/// Where the first slot is in use.
Place place_in_first_slab(const std::byte* buffer) {
  const BufferView view(buffer, layout::kPagesMax);
  Place place{.unit = layout::kFirstPage * Place::kUnits};
  while (view.slot_units_of(place.page()) == 0) place.unit += Place::kUnits;
  while (view.slot(place).head == 0) place.unit += view.slot_units_of(place.page());
  return place;
}

// It is told the complete state of the new instance, also when its first try to read that failed.
TEST(Semantics, AWatchThatCouldNotReadTheRecreatedInstanceTriesAgainWithoutHoles) {
  TestInstance instance;
  Watch watch(instance.path(), "");
  ASSERT_TRUE(watch.next(0ns).complete);
  recreate(instance);
  Writer writer = instance.writer();
  for (std::int64_t i = 0; i < 20; ++i) {
    writer.set("key" + std::to_string(i), i);
    instance.step();
  }
  std::byte* const buffer = instance.owner().buffer(current_version(instance.owner().publication()).buffer);
  const Place place = place_in_first_slab(buffer);
  std::uint64_t& head = reinterpret_cast<layout::Slot*>(buffer + place.offset())->head;
  const std::uint64_t good = std::exchange(head, SlotHead(100, 4'000, Type::kBytes).pack());
  std::this_thread::sleep_for(150ms);  // until it looks around
  EXPECT_EQ(test::error_of([&] { static_cast<void>(watch.next(0ns)); }).first, Status::kDamaged);
  head = good;
  const WatchBatch batch = watch.next(0ns);
  EXPECT_TRUE(batch.complete);
  EXPECT_TRUE(batch.conflated);
  EXPECT_EQ(batch.changes.size(), 20U);
}

// A watch that is to continue from a position which nothing is known about delivers the complete state, and says why.
TEST(Semantics, AWatchAtAPositionThatIsGoneDeliversTheStateAndSaysWhy) {
  TestInstance instance({.feed_record_count = 64});
  std::optional<Writer> writer = instance.writer();
  const auto first_batch = [&](const Position& since) { return Watch(instance.path(), "", since).next(0ns); };
  writer->set("key", 0);
  instance.pump();
  const Position early = instance.reader().position();
  EXPECT_TRUE(first_batch({}).complete);
  EXPECT_EQ(first_batch({}).gap_reason, GapReason::kNone) << "from nowhere there is nothing to continue";
  EXPECT_FALSE(first_batch(early).complete);
  EXPECT_TRUE(first_batch(early).changes.empty());
  EXPECT_EQ(first_batch(early).position, early);
  for (std::int64_t i = 0; i < 200; ++i) {
    writer->set("key", i);
    instance.pump();
  }
  EXPECT_EQ(first_batch(early).gap_reason, GapReason::kFellBehind);
  const Position late = instance.reader().position();
  recreate(instance);
  writer.emplace(instance.writer());
  writer->set("new", 1);
  instance.pump();
  const WatchBatch batch = first_batch(late);
  EXPECT_EQ(batch.gap_reason, GapReason::kRecreated);
  EXPECT_TRUE(batch.complete);
  EXPECT_TRUE(batch.conflated);
  ASSERT_EQ(batch.changes.size(), 1U);
  EXPECT_EQ(batch.changes.front().key, "new");
  EXPECT_EQ(batch.position, instance.reader().position());
}

// The descriptor of a watch that continues from a position is readable if something has been published since.
TEST(Semantics, DescriptorOfAWatchAtAPositionTellsWhetherThereIsNews) {
  TestInstance instance;
  Writer writer = instance.writer();
  writer.set("key", 1);
  instance.pump();
  const Position early = instance.reader().position();
  const auto is_readable = [&](Watch& watch, int timeout_ms) {
    pollfd poll_fd{.fd = watch.fd(), .events = POLLIN, .revents = 0};
    return ::poll(&poll_fd, 1, timeout_ms) == 1;
  };
  Watch idle(instance.path(), "", early);
  EXPECT_FALSE(is_readable(idle, 50));
  writer.set("key", 2);
  instance.pump();
  Watch late(instance.path(), "", early);
  EXPECT_TRUE(is_readable(late, 60'000));
  EXPECT_EQ(late.next(0ns).changes.size(), 1U);
}

// While the directory is gone, the status says so, and the last state stays readable.
TEST(Semantics, StatusSaysThatTheInstanceIsGone) {
  TestInstance instance;
  Writer writer = instance.writer();
  Reader reader = instance.reader();
  writer.set("key", 1);
  instance.pump();
  std::filesystem::remove_all(instance.path());
  instance.step(2s);
  EXPECT_FALSE(instance.engine().is_current());
  for (int i = 0; i < 100 && !reader.status().instance_gone; ++i) std::this_thread::sleep_for(20ms);
  EXPECT_TRUE(reader.status().instance_gone);
  EXPECT_EQ(reader.get<std::int64_t>("key"), 1);
  EXPECT_EQ(reader.status().reattach_count, 0U);
}

// The read that reattaches to the new instance already finds what is in it: a key that both instances hold is never
// missing.
TEST(Semantics, ReadThatReattachesFindsTheKeyInTheNewInstance) {
  TestInstance instance;
  std::optional<Writer> writer = instance.writer();
  Reader reader = instance.reader();
  writer->set("key", 1);
  instance.pump();
  ASSERT_EQ(reader.get<std::int64_t>("key"), 1);
  recreate(instance);
  writer.emplace(instance.writer());
  writer->set("key", 2);
  instance.pump();
  std::int64_t missing = 0;
  std::optional<std::int64_t> value;
  for (const auto end = std::chrono::steady_clock::now() + 60s; value != 2 && std::chrono::steady_clock::now() < end;) {
    value = reader.get<std::int64_t>("key");
    missing += value ? 0 : 1;
  }
  EXPECT_EQ(value, 2);
  EXPECT_EQ(missing, 0) << "hashed for the old instance, looked up in the new one";
}

// The same with a bound key.
TEST(Semantics, BoundReadThatReattachesFindsTheKeyInTheNewInstance) {
  TestInstance instance;
  std::optional<Writer> writer = instance.writer();
  Reader reader = instance.reader();
  Key key("key");
  writer->set("key", 1);
  instance.pump();
  ASSERT_EQ(reader.get<std::int64_t>(key), 1);
  recreate(instance);
  writer.emplace(instance.writer());
  writer->set("key", 2);
  instance.pump();
  std::int64_t missing = 0;
  std::optional<std::int64_t> value;
  for (const auto end = std::chrono::steady_clock::now() + 60s; value != 2 && std::chrono::steady_clock::now() < end;) {
    value = reader.get<std::int64_t>(key);
    missing += value ? 0 : 1;
  }
  EXPECT_EQ(value, 2);
  EXPECT_EQ(missing, 0) << "hashed for the old instance, looked up in the new one";
}

// A wait for a value that reattaches to the new instance waits for its epochs, not for the old ones.
TEST(Semantics, WaitThatReattachesWaitsForTheNewInstance) {
  constexpr auto kTimeout = 5s;
  for (int reads_before = 1018; reads_before <= 1024; ++reads_before) {  // a reader looks around now and then
    TestInstance instance;
    std::optional<Writer> writer = instance.writer();
    Reader reader = instance.reader();
    for (int i = 0; i < 20; ++i) {
      writer->set("key", 1);
      instance.pump();
    }
    recreate(instance);
    writer.emplace(instance.writer());
    writer->set("key", 2);
    instance.pump();
    for (int i = 0; i < reads_before; ++i) static_cast<void>(reader.epoch());
    const auto is_three = [&](const std::optional<Value>& value) {
      if (value == Value(std::int64_t{2})) {
        writer->set("key", 3);
        instance.pump();
      }
      return value == Value(std::int64_t{3});
    };
    const auto began = std::chrono::steady_clock::now();
    EXPECT_EQ(reader.wait_until("key", is_three, kTimeout), Status::kOk) << reads_before << " reads before";
    EXPECT_LT(std::chrono::steady_clock::now() - began, kTimeout) << "it was noticed only when the wait was over";
  }
}

// A watch's descriptor tells that the instance was re-created, even when the new one has reached the same epoch.
TEST(Semantics, DescriptorOfAWatchTellsOfANewInstanceAtTheSameEpoch) {
  TestInstance instance;
  instance.step();
  Writer writer = instance.writer();
  writer.set("key", 1);
  instance.pump();
  Reader epochs = instance.reader();
  Watch watch(instance.path(), "");
  ASSERT_TRUE(watch.next(0ns).complete);
  const int fd = watch.fd();
  const auto is_readable = [fd](int timeout_ms) {
    pollfd poll_fd{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&poll_fd, 1, timeout_ms) == 1;
  };
  while (is_readable(300)) static_cast<void>(watch.next(0ns));
  const Epoch epoch = epochs.epoch();
  // The new instance is put in place complete, by a rename, as no reader of the old one may see it grow.
  TestInstance next;
  Writer new_writer = next.writer();
  for (std::int64_t i = 0; next.engine().epoch() < epoch; ++i) {
    new_writer.set("key", i);
    next.step();
  }
  ASSERT_EQ(next.engine().epoch(), epoch);
  std::filesystem::rename(instance.path(), instance.path() + ".old");
  std::filesystem::rename(next.path(), instance.path());
  instance.step(2s);
  EXPECT_TRUE(is_readable(3000));
  EXPECT_TRUE(watch.next(0ns).complete);
}

}  // namespace
}  // namespace shmstate
