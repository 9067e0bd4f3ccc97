// What readers see while writers push: exact prefixes, whole batches, epochs that only grow, and their own writes.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "harness/process_support.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;

// ---- PrefixConsistency: what a writer pushes in its rounds 1, 2, 3 ... decides what any prefix of it looks like

constexpr std::size_t kWriters = 8;
constexpr std::size_t kReaders = 4;
constexpr std::int64_t kTrail = 400;  // a round's own key is erased so many rounds later

/// How far a writer came: the rounds whose first push, whose batch and whose last push are in the snapshot.
struct Progress {
  std::int64_t before = 0;
  std::int64_t batch = 0;
  std::int64_t after = 0;
};

/// A key, and what it must hold; nothing when it must be missing.
using Expectation = std::pair<std::string, std::optional<Value>>;

std::string bytes_of_round(std::int64_t round, std::int64_t bytes_max) {
  std::string text = std::to_string(round) + ':';
  text.append(static_cast<std::size_t>(round * 37 % bytes_max), static_cast<char>('a' + round % 26));
  return text;
}

class Script {
 public:
  explicit Script(std::size_t writer) : prefix_("writer/" + std::to_string(writer) + '/') {}

  [[nodiscard]] std::string before() const { return prefix_ + "before"; }
  [[nodiscard]] std::string count() const { return prefix_ + "count"; }
  [[nodiscard]] std::string after() const { return prefix_ + "after"; }
  [[nodiscard]] std::string trail(std::int64_t round) const { return prefix_ + "trail/" + std::to_string(round); }

  /// What the keys that every round touches must hold.
  [[nodiscard]] std::vector<Expectation> touched(Progress at) const {
    const auto after_first = [](std::int64_t round, Value value) {
      return round > 0 ? std::optional(std::move(value)) : std::nullopt;
    };
    const std::int64_t round = at.batch;
    return {{before(), after_first(at.before, at.before)},
            {count(), after_first(round, round)},
            {prefix_, after_first(round, round)},
            {long_key(300), after_first(round, round)},
            {long_key(4000), after_first(round, static_cast<double>(round) / 2)},
            {prefix_ + "short", after_first(round, bytes_of_round(round, 30))},
            {prefix_ + "long", after_first(round, bytes_of_round(round, 2500))},
            {prefix_ + "changes type", after_first(round, changing(round))},
            {prefix_ + "odd", round % 2 == 1 ? std::optional<Value>(round) : std::nullopt},
            {after(), after_first(at.after, at.after)}};
  }
  /// What every key must hold, the trail of former rounds included.
  [[nodiscard]] std::vector<Expectation> everything(Progress at) const {
    std::vector<Expectation> all = touched(at);
    std::erase_if(all, [](const Expectation& expectation) { return !expectation.second; });
    for (std::int64_t round = std::max<std::int64_t>(at.batch - kTrail, 0) + 1; round <= at.batch; ++round) {
      all.emplace_back(trail(round), Value(round));
    }
    return all;
  }

  void push(std::int64_t round, const std::function<void(const std::function<Status()>&)>& insist,
            Writer& writer) const {
    insist([&] { return writer.set(before(), round); });
    insist([&] { return push_batch(round, writer); });
    insist([&] { return writer.set(after(), round); });
  }

 private:
  [[nodiscard]] std::string long_key(std::size_t bytes) const {
    return prefix_ + std::string(bytes - prefix_.size(), 'k');
  }
  [[nodiscard]] static Value changing(std::int64_t round) {
    return round % 3 == 0 ? Value(round) : Value(bytes_of_round(round, 100));
  }

  [[nodiscard]] Status push_batch(std::int64_t round, Writer& writer) const {
    Batch batch = writer.batch();
    batch.add(count(), 1);
    for (const auto& [key, value] : touched({.before = 0, .batch = round, .after = 0})) {
      if (key == before() || key == count() || key == after()) continue;
      if (value) {
        batch.set(key, *value);
      } else {
        batch.erase(key);
      }
    }
    batch.set(trail(round), round);
    if (round > kTrail) batch.erase(trail(round - kTrail));
    return batch.commit();
  }

  std::string prefix_;
};

struct Observed {
  std::array<std::atomic<std::int64_t>, kWriters> rounds{};  // pushed completely
  std::atomic<std::uint64_t> ring_full_count{0};
  std::atomic<std::uint64_t> snapshots_checked{0};
  std::atomic<bool> stop{false};
};

void push_rounds(const std::string& instance, Observed& observed, std::size_t index) {
  Writer writer(instance, {.name = "writer " + std::to_string(index),
                           .ring_bytes = index % 2 == 0 ? std::size_t{64} << 10 : std::size_t{1} << 20,
                           .when_full = WhenFull::kFail});
  const Script script(index);
  const auto insist = [&](const std::function<Status()>& push) {
    for (;;) {
      const Status status = push();
      if (status == Status::kOk) return;
      must(status == Status::kRingFull, describe(status));
      observed.ring_full_count.fetch_add(1, std::memory_order_relaxed);
      std::this_thread::yield();
    }
  };
  for (std::int64_t round = 1; !observed.stop.load(std::memory_order_relaxed); ++round) {
    script.push(round, insist, writer);
    observed.rounds[index].store(round, std::memory_order_relaxed);
  }
  static_cast<void>(writer.flush(kPatience));  // tells of the pushes that found the ring full
  must_be_ok(writer.flush(kPatience), "flush");
  must(writer.counters().rejected == 0, "the merger rejected mutations");
}

/// Checks what one reader gets to see, and that it never goes back.
class Witness {
 public:
  explicit Witness(const std::string& instance) : reader_(instance) {
    for (std::size_t i = 0; i < kWriters; ++i) scripts_.emplace_back(i);
    for (const Script& script : scripts_) {
      for (auto& [key, value] : script.touched({})) keys_.push_back(std::move(key));
    }
    key_views_.assign(keys_.begin(), keys_.end());
  }

  /// Some keys of all writers, read together.
  void check_get_many() {
    const Epoch epoch = reader_.get_many(key_views_, values_).epoch;
    check_epoch(epoch);
    std::unordered_map<std::string_view, ValueView> found;
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      if (values_[i]) found.emplace(keys_[i], *values_[i]);
    }
    for (std::size_t i = 0; i < kWriters; ++i) {
      const Progress progress = check_progress(i, found);
      for (const auto& [key, value] : scripts_[i].touched(progress)) check_value(epoch, key, value, found);
    }
  }

  /// A pin that is given holds: what is found is of that epoch, not of one that is being written.
  void check_pin() {
    const Snapshot snapshot = reader_.snapshot();
    check_epoch(snapshot.epoch());
    const std::int64_t count = snapshot.get<std::int64_t>(scripts_[0].count()).value_or(0);
    must(count >= seen_[0].batch && !snapshot.expired(), "a pinned buffer was written");
  }

  /// The whole state.
  void check_snapshot() {
    const Snapshot snapshot = reader_.snapshot();
    check_epoch(snapshot.epoch());
    std::unordered_map<std::string_view, ValueView> found;
    for (const auto& [key, value] : snapshot) {
      must(found.emplace(key, value).second, "a key appears twice: " + std::string(key));
    }
    std::size_t expected_count = 0;
    for (std::size_t i = 0; i < kWriters; ++i) {
      const Progress progress = check_progress(i, found);
      for (const auto& [key, value] : scripts_[i].everything(progress)) {
        check_value(snapshot.epoch(), key, value, found);
        ++expected_count;
      }
    }
    must(found.size() == expected_count && snapshot.size() == expected_count,
         "a snapshot of " + std::to_string(expected_count) + " keys has " + std::to_string(snapshot.size()) +
             " and shows " + std::to_string(found.size()));
  }

  [[nodiscard]] Progress progress(std::size_t writer) const { return seen_[writer]; }

 private:
  using Found = std::unordered_map<std::string_view, ValueView>;

  void check_epoch(Epoch epoch) {
    must(epoch >= epoch_seen_, "epoch " + std::to_string(epoch) + " after " + std::to_string(epoch_seen_));
    epoch_seen_ = epoch;
  }

  Progress check_progress(std::size_t writer, const Found& found) {
    const auto number = [&](const std::string& key) {
      const auto entry = found.find(key);
      return entry == found.end() ? std::int64_t{0} : entry->second.int64();
    };
    const Script& script = scripts_[writer];
    const Progress now{number(script.before()), number(script.count()), number(script.after())};
    const std::string what = "writer " + std::to_string(writer) + ": before " + std::to_string(now.before) +
                             ", batch " + std::to_string(now.batch) + ", after " + std::to_string(now.after);
    must(now.before >= now.batch && now.batch >= now.after && now.before - now.after <= 1, what + " is no prefix");
    Progress& last = seen_[writer];
    must(now.before >= last.before && now.batch >= last.batch && now.after >= last.after, what + " went back");
    last = now;
    return now;
  }

  static void check_value(Epoch epoch, const std::string& key, const std::optional<Value>& expected,
                          const Found& found) {
    const auto entry = found.find(key);
    const bool holds = expected ? entry != found.end() && entry->second == ValueView(*expected) : entry == found.end();
    must(holds, "epoch " + std::to_string(epoch) + ": " + key.substr(0, 40) + " is not what its writer's prefix says");
  }

  Reader reader_;
  std::vector<Script> scripts_;
  std::vector<std::string> keys_;
  std::vector<std::string_view> key_views_;
  std::vector<std::optional<Value>> values_;
  Epoch epoch_seen_ = 0;
  std::array<Progress, kWriters> seen_;
};

void witness_snapshots(const std::string& instance, Observed& observed) {
  Witness witness(instance);
  while (!observed.stop.load(std::memory_order_relaxed)) {
    for (int i = 0; i < 100; ++i) witness.check_get_many();
    for (int i = 0; i < 500; ++i) witness.check_pin();
    witness.check_snapshot();
    observed.snapshots_checked.fetch_add(601, std::memory_order_relaxed);
  }
}

class PrefixConsistency : public testing::TestWithParam<const char*> {};

// Every snapshot is, for every writer, the effect of an exact prefix of its pushes: no batch is split, nothing is lost,
// applied twice or taken back, and epochs never go back.
TEST_P(PrefixConsistency, HoldsForEverySnapshot) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  Board<Observed> observed;
  Program merger = start_merger(instance, {"--buffers", GetParam(), "--memory-limit", "256m"});
  std::vector<Child> children;
  for (std::size_t i = 0; i < kWriters; ++i) {
    children.emplace_back([&, i] { push_rounds(instance, *observed, i); });
  }
  for (std::size_t i = 0; i < kReaders; ++i) {
    children.emplace_back([&] { witness_snapshots(instance, *observed); });
  }
  std::this_thread::sleep_for(is_long_run() ? 60s : 3s);
  observed->stop = true;
  expect_kept(children);

  Witness witness(instance);
  witness.check_snapshot();
  for (std::size_t i = 0; i < kWriters; ++i)
    EXPECT_EQ(witness.progress(i).after, observed->rounds[i]) << "writer " << i;
  RecordProperty("snapshots_checked", std::to_string(observed->snapshots_checked));
  RecordProperty("rounds_of_writer_0", std::to_string(observed->rounds[0]));
  RecordProperty("pushes_into_full_rings", std::to_string(observed->ring_full_count));
  RecordProperty("epochs", std::to_string(Reader(instance).epoch()));
  EXPECT_GT(observed->snapshots_checked, 0U);
  EXPECT_GT(observed->ring_full_count, 0U) << "no ring ever ran full, so that was not tested";
}

INSTANTIATE_TEST_SUITE_P(Buffers, PrefixConsistency, testing::Values("2", "3"));

// ---- ReadYourWrites: two processes that take turns

/// A line between two children: one tells about rounds, the other looks and answers.
class Line {
 public:
  Line() {
    int ends[2];
    must(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    teller_ = os::Fd(ends[0]);
    listener_ = os::Fd(ends[1]);
  }
  // Each side keeps its end only, so that neither waits for one that died.
  void become_teller() { listener_ = os::Fd(); }
  void become_listener() { teller_ = os::Fd(); }

  void tell(std::int64_t round) const {
    std::int64_t answer = 0;
    send(teller_, round);
    must(receive(teller_, answer) && answer == round, "the reader gave up");
  }
  void listen(const std::function<void(std::int64_t)>& look) const {
    for (std::int64_t round = 0; receive(listener_, round);) {
      look(round);
      send(listener_, round);
    }
  }

 private:
  static void send(const os::Fd& end, std::int64_t round) {
    must(::send(end.get(), &round, sizeof round, MSG_NOSIGNAL) == sizeof round, "the other side gave up");
  }
  static bool receive(const os::Fd& end, std::int64_t& round) {
    return ::recv(end.get(), &round, sizeof round, MSG_WAITALL) == sizeof round;
  }

  os::Fd teller_;
  os::Fd listener_;
};

using Turn = std::function<void(std::int64_t round)>;

class ReadYourWrites : public testing::Test {
 protected:
  /// Two children: in each round the first writes and flushes, and then the second must see it.
  static void take_turns(std::int64_t rounds, const std::function<Turn()>& make_writer,
                         const std::function<Turn()>& make_reader) {
    std::vector<Child> children;
    std::optional<Line> line(std::in_place);
    children.emplace_back([&] {
      line->become_teller();
      const Turn write = make_writer();
      for (std::int64_t round = 1; round <= rounds; ++round) {
        write(round);
        line->tell(round);
      }
    });
    children.emplace_back([&] {
      line->become_listener();
      line->listen(make_reader());
    });
    line.reset();
    expect_kept(children);
  }

  [[nodiscard]] Turn writer_of_one_key(std::chrono::nanoseconds pause = 0ns) const {
    auto writer = std::make_shared<Writer>(instance_);
    return [writer, pause](std::int64_t round) {
      if (pause > 0ns) std::this_thread::sleep_for(pause);
      must_be_ok(writer->set("round", round), "set");
      must_be_ok(writer->flush(kPatience), "flush");
    };
  }
  [[nodiscard]] Turn reader_of_one_key() const {
    auto reader = std::make_shared<Reader>(instance_);
    return [reader](std::int64_t round) { expect_round(*reader, round); };
  }
  static void expect_round(Reader& reader, std::int64_t round) {
    const std::optional<std::int64_t> seen = reader.get<std::int64_t>("round");
    must(seen == round, "flushed " + std::to_string(round) + ", read " + (seen ? std::to_string(*seen) : "nothing"));
  }

  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
  Program merger_ = start_merger(instance_);
};

// What was flushed is readable by another process, every time.
TEST_F(ReadYourWrites, AfterFlush) {
  take_turns(
      is_long_run() ? 1'000'000 : 10'000, [&] { return writer_of_one_key(); }, [&] { return reader_of_one_key(); });
}

// A push wakes a merger that sleeps, so that the flush returns and the value is readable.
TEST_F(ReadYourWrites, WithTheMergerAsleepBeforeEachPush) {
  const std::int64_t rounds = is_long_run() ? 30'000 : 1'000;
  const std::uint64_t sleeps_before = statistic(instance_, "sleeps");
  take_turns(
      rounds, [&] { return writer_of_one_key(1ms); }, [&] { return reader_of_one_key(); });
  eventually("a sleep for most rounds",
             [&] { return statistic(instance_, "sleeps") - sleeps_before > static_cast<std::uint64_t>(rounds) / 2; });
}

// The first thing that a new writer flushes is readable, also for a reader that attaches only then.
TEST_F(ReadYourWrites, RightAfterAttaching) {
  const auto make_writer = [&]() -> Turn { return [&](std::int64_t round) { writer_of_one_key()(round); }; };
  const auto make_reader = [&]() -> Turn { return [&](std::int64_t round) { reader_of_one_key()(round); }; };
  take_turns(is_long_run() ? 30'000 : 500, make_writer, make_reader);
}

// A flushed batch is readable with all its keys.
TEST_F(ReadYourWrites, ForBatches) {
  const std::vector<std::string_view> keys{"a", "b", "c"};
  const auto make_writer = [&]() -> Turn {
    auto writer = std::make_shared<Writer>(instance_);
    return [&, writer](std::int64_t round) {
      Batch batch = writer->batch();
      for (const std::string_view key : keys) batch.set(key, round);
      must_be_ok(batch.commit(), "commit");
      must_be_ok(writer->flush(kPatience), "flush");
    };
  };
  const auto make_reader = [&]() -> Turn {
    auto reader = std::make_shared<Reader>(instance_);
    return [&, reader](std::int64_t round) {
      std::vector<std::optional<Value>> values;
      reader->get_many(keys, values);
      for (const auto& value : values) must(value == Value(round), "a key of the batch is not readable");
    };
  };
  take_turns(is_long_run() ? 300'000 : 5'000, make_writer, make_reader);
}

// What the command line and the agent flushed is readable for the next program.
TEST_F(ReadYourWrites, AcrossThePrograms) {
  for (int round = 1; round <= 20; ++round) {
    const std::string value = std::to_string(round);
    Program set(SHMSTATE_CTL, {"-i", instance_, "set", "from ctl", value});
    Program agent(SHMSTATE_AGENT, {"-i", instance_}, {.input = "set from_agent " + value + "\nflush\n"});
    ASSERT_EQ(set.wait(), 0) << set.output();
    ASSERT_EQ(agent.wait(), 0) << agent.output();
    for (const std::string key : {"from ctl", "from_agent"}) {
      Program get(SHMSTATE_CTL, {"-i", instance_, "get", key});
      EXPECT_EQ(get.wait(), 0) << get.output();
      EXPECT_EQ(get.output(), value + "\n") << key;
    }
  }
}

}  // namespace
}  // namespace shmstate::test
