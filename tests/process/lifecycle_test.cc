// Mergers that end, crash, come again or stand still, and participants that do.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "files/control.h"
#include "harness/positions.h"
#include "harness/process_support.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr std::size_t kWriters = 4;
constexpr std::size_t kReaders = 2;

/// What writers and readers under load tell the test, and the test them.
struct Load {
  std::array<std::atomic<std::int64_t>, kWriters> accepted{};  // batches, by writer
  std::atomic<std::uint64_t> checks{0};
  std::atomic<bool> stop{false};
};

std::string own_counter(std::size_t writer) { return "writer/" + std::to_string(writer); }

/// Batches that add 1 to the writer's own counter and 1 to what all share, until the load stops.
void keep_adding(const std::string& instance, Load& load, std::size_t index) {
  Writer writer(
      instance,
      {.name = own_counter(index), .ring_bytes = std::size_t{64} << (2 * index + 10), .full_timeout = kPatience});
  while (!load.stop.load(std::memory_order_relaxed)) {
    Batch batch = writer.batch();
    batch.add(own_counter(index), 1);
    batch.add("total", 1);
    must_be_ok(batch.commit(), "commit");
    load.accepted[index].fetch_add(1, std::memory_order_relaxed);
  }
  must_be_ok(writer.flush(kPatience), "flush");
}

struct Counted {
  Epoch epoch = 0;
  std::array<std::int64_t, kWriters> by_writer{};
};

/// The counters as of one epoch. They must add up to what all share, or a batch was split.
Counted count(Reader& reader) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kWriters; ++i) names.push_back(own_counter(i));
  std::vector<std::string_view> keys(names.begin(), names.end());
  keys.emplace_back("total");
  std::vector<std::optional<Value>> values;
  Counted counted{.epoch = reader.get_many(keys, values).epoch};
  const auto number = [&](std::size_t i) { return values[i] ? std::get<std::int64_t>(*values[i]) : 0; };
  std::int64_t total = 0;
  for (std::size_t i = 0; i < kWriters; ++i) total += counted.by_writer[i] = number(i);
  must(total == number(kWriters),
       "the counters add up to " + std::to_string(total) + ", their total says " + std::to_string(number(kWriters)));
  return counted;
}

void must_not_go_back(const Counted& before, const Counted& after) {
  must(after.epoch >= before.epoch, "epoch " + std::to_string(after.epoch) + " after " + std::to_string(before.epoch));
  for (std::size_t i = 0; i < kWriters; ++i) {
    must(after.by_writer[i] >= before.by_writer[i], own_counter(i) + " went back");
  }
}

void keep_counting(const std::string& instance, Load& load) {
  Reader reader(instance);
  Counted before;
  while (!load.stop.load(std::memory_order_relaxed)) {
    const Counted now = count(reader);
    must_not_go_back(before, now);
    before = now;
    load.checks.fetch_add(1, std::memory_order_relaxed);
  }
}

/// An instance under load: its writers and readers live until `end`, whatever happens to the merger.
class UnderLoad : public testing::Test {
 protected:
  void begin() {
    for (std::size_t i = 0; i < kWriters; ++i) children_.emplace_back([&, i] { keep_adding(instance_, *load_, i); });
    for (std::size_t i = 0; i < kReaders; ++i) children_.emplace_back([&] { keep_counting(instance_, *load_); });
    for (std::size_t i = 0; i < kWriters; ++i) wait_for_accepted(i, 100);
  }
  void wait_for_accepted(std::size_t writer, std::int64_t count) {
    eventually("pushes of writer " + std::to_string(writer), [&] { return load_->accepted[writer] >= count; });
  }
  [[nodiscard]] std::array<std::int64_t, kWriters> accepted() const {
    std::array<std::int64_t, kWriters> now{};
    for (std::size_t i = 0; i < kWriters; ++i) now[i] = load_->accepted[i];
    return now;
  }
  /// Ends the load, and expects that every accepted batch was applied once, and every ring is removed.
  void end_and_expect_exact_counters() {
    load_->stop = true;
    expect_kept(children_);
    Reader reader(instance_);
    EXPECT_EQ(count(reader).by_writer, accepted());
    EXPECT_GT(load_->checks, 0U);
    eventually("the removal of all rings", [&] { return fs::is_empty(rings_path(instance_)); });
  }

  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
  Board<Load> load_;
  std::vector<Child> children_;
};

using Lifecycle = UnderLoad;

// A second merger refuses, names the first one, and does it no harm.
TEST_F(Lifecycle, SecondMergerRefuses) {
  Program first = start_merger(instance_);
  Writer writer(instance_);
  Program second = launch_merger(instance_);
  EXPECT_EQ(second.wait(), 3);
  const std::string message = second.output();
  EXPECT_NE(message.find(instance_), std::string::npos) << message;
  EXPECT_NE(message.find("already running as process " + std::to_string(first.pid())), std::string::npos) << message;
  EXPECT_NE(message.find("; stop that one first"), std::string::npos) << message;
  ASSERT_EQ(writer.set("key", 1), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(inspect(instance_).merger_pid, static_cast<std::uint32_t>(first.pid()));
}

// SIGTERM publishes everything that was pushed before it and exits with 0; the next merger goes on from the same state,
// with the same writers and readers.
TEST_F(Lifecycle, SigtermUnderLoadPublishesEverything) {
  Program merger = start_merger(instance_);
  begin();
  for (int i = 0; i < 2; ++i) {
    const auto pushed_before = accepted();
    merger.signal(SIGTERM);
    ASSERT_EQ(merger.wait(), 0) << merger.output();
    Reader reader(instance_);
    EXPECT_FALSE(reader.merger_running());
    const Counted ended = count(reader);
    for (std::size_t w = 0; w < kWriters; ++w) EXPECT_GE(ended.by_writer[w], pushed_before[w]) << own_counter(w);
    merger = start_merger(instance_);
    must_not_go_back(ended, count(reader));
    EXPECT_GT(reader.wait(test::at_epoch(reader, ended.epoch), kPatience).epoch, ended.epoch);
    for (std::size_t w = 0; w < kWriters; ++w) wait_for_accepted(w, accepted()[w] + 1);
  }
  end_and_expect_exact_counters();
}

// However often and whenever the merger is killed, also while it starts, every accepted batch is applied exactly once,
// readers never see a step back, and writers and readers just go on.
TEST_F(Lifecycle, KilledMergerLosesAndRepeatsNothing) {
  const char* const given = std::getenv("SHMSTATE_TEST_SEED");
  const unsigned seed = given != nullptr ? static_cast<unsigned>(std::stoul(given)) : std::random_device()();
  std::cout << "SHMSTATE_TEST_SEED=" << seed << '\n';
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> lifetime_us(0, 60'000);
  std::optional<Program> merger = start_merger(instance_, {"--buffers", "3"});
  begin();
  const int kills = is_long_run() ? 2000 : 100;
  for (int i = 0; i < kills; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(lifetime_us(random)));
    merger->kill();
    merger = launch_merger(instance_);
  }
  end_and_expect_exact_counters();
}

// The counters of a program that pushes through the agent are exact, too, when mergers die under it.
TEST_F(Lifecycle, AgentLivesThroughKilledMergers) {
  constexpr int kLines = 300'000;
  std::string lines;
  for (int i = 0; i < kLines; ++i) lines += "add lines 1\n";
  std::optional<Program> merger = start_merger(instance_);
  Program agent(SHMSTATE_AGENT,
                {"-i", instance_, "--full-timeout", "60s", "--flush-timeout", "60s", "--ring-size", "64KB", "--strict"},
                {.input = lines});
  Reader reader(instance_);
  int kills = 0;
  for (; !agent.has_ended() && kills < 20; ++kills) {
    std::this_thread::sleep_for(5ms);
    merger->kill();
    merger = launch_merger(instance_);
  }
  EXPECT_EQ(agent.wait(), 0) << agent.output();
  EXPECT_EQ(reader.get<std::int64_t>("lines"), kLines) << "after " << kills << " kills";
}

// Readers and writers may come before the merger: they wait for it, within their attach timeout.
TEST_F(Lifecycle, AttachingWaitsForTheMerger) {
  children_.emplace_back([&] {
    Writer writer(instance_, {.name = "early", .attach_timeout = kPatience});
    must_be_ok(writer.set("key", 1), "set");
    must_be_ok(writer.flush(kPatience), "flush");
    load_->stop = true;
  });
  children_.emplace_back([&] {
    Reader reader(instance_, {.attach_timeout = kPatience});
    eventually("the writer", [&] { return load_->stop.load(); });
    must(reader.get<std::int64_t>("key") == 1, "the reader does not see what was flushed");
  });
  std::this_thread::sleep_for(200ms);
  for (Child& child : children_) ASSERT_FALSE(child.has_ended()) << child.verdict();
  const Program merger = start_merger(instance_);
  expect_kept(children_);
}

// While the merger is down, readers keep the last snapshot and writers push, also those that attach and end meanwhile;
// the next merger finds it all.
TEST_F(Lifecycle, WritersPushWhileTheMergerIsDown) {
  Program merger = start_merger(instance_);
  Writer old_writer(instance_);
  Reader old_reader(instance_);
  ASSERT_EQ(old_writer.set("old", 1), Status::kOk);
  ASSERT_EQ(old_writer.flush(kPatience), Status::kOk);
  merger.signal(SIGTERM);
  ASSERT_EQ(merger.wait(), 0) << merger.output();

  for (int i = 2; i <= 1000; ++i) ASSERT_EQ(old_writer.set("old", i), Status::kOk);
  EXPECT_EQ(old_writer.flush(10ms), Status::kTimeout);
  children_.emplace_back([&] {
    Writer writer(instance_);
    for (int i = 0; i < 1000; ++i) must_be_ok(writer.add("new", 1), "add");
  });
  expect_kept(children_);
  Reader new_reader(instance_);
  for (Reader* const reader : {&old_reader, &new_reader}) {
    EXPECT_FALSE(reader->merger_running());
    EXPECT_EQ(reader->get<std::int64_t>("old"), 1);
    EXPECT_EQ(reader->get<std::int64_t>("new"), std::nullopt);
  }

  const Program next = start_merger(instance_);
  EXPECT_EQ(old_writer.flush(kPatience), Status::kOk);
  eventually("the mutations of the writer that ended", [&] { return old_reader.get<std::int64_t>("new") == 1000; });
  EXPECT_EQ(old_reader.get<std::int64_t>("old"), 1000);
  EXPECT_EQ(new_reader.get<std::int64_t>("old"), 1000);
  eventually("the removal of the ended writer's ring", [&] { return inspect(instance_).rings.size() == 1; });
}

// An ephemeral key goes when its writer is killed, also while the merger is down; what else the writer set stays.
TEST_F(Lifecycle, EphemeralKeysGoWithTheirWriter) {
  Program merger = start_merger(instance_);
  const auto hold_key = [&](const std::string& key) {
    Writer writer(instance_);
    must_be_ok(writer.set(key, 1, {.ttl = 0ns, .ephemeral = true, .version = {}}), "set");
    must_be_ok(writer.set(key + " stays", 1), "set");
    must_be_ok(writer.flush(kPatience), "flush");
    eventually("the end", [&] { return load_->stop.load(); });
  };
  children_.emplace_back([&] { hold_key("first"); });
  children_.emplace_back([&] { hold_key("second"); });
  Reader reader(instance_);
  const auto has = [&](const std::string& key) { return reader.get<std::int64_t>(key).has_value(); };
  eventually("both keys", [&] { return has("first") && has("second"); });
  children_[0].kill();
  eventually("the erasure of the first key", [&] { return !has("first"); });
  merger.kill();
  children_[1].kill();
  EXPECT_TRUE(has("second"));
  merger = start_merger(instance_);
  eventually("the erasure of the second key", [&] { return !has("second"); });
  EXPECT_TRUE(has("first stays") && has("second stays"));
}

// When an instance is removed under a running merger, the merger ends with a failure, writers are told, and readers go
// over to the new instance that the next merger creates.
TEST_F(Lifecycle, RemovedInstanceIsRecreated) {
  Program merger = start_merger(instance_);
  Writer writer(instance_);
  Reader reader(instance_);
  ASSERT_EQ(writer.set("key", "old"), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  fs::remove_all(instance_);
  EXPECT_EQ(merger.wait(), 1) << merger.output();
  EXPECT_EQ(reader.get<std::string>("key"), "old");
  ASSERT_EQ(writer.set("key", "lost"), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kNoInstance);

  merger = start_merger(instance_);
  Writer new_writer(instance_);
  ASSERT_EQ(new_writer.set("key", "new"), Status::kOk);
  ASSERT_EQ(new_writer.flush(kPatience), Status::kOk);
  eventually("the reader's change to the new instance", [&] { return reader.get<std::string>("key") == "new"; });
  EXPECT_EQ(reader.status().reattach_count, 1U);
}

// A merger that was asked to leaves nothing behind.
TEST_F(Lifecycle, RemoveAtExitRemovesTheInstance) {
  Program merger = start_merger(instance_, {"--remove-at-exit"});
  merger.signal(SIGTERM);
  EXPECT_EQ(merger.wait(), 0) << merger.output();
  EXPECT_FALSE(fs::exists(instance_));
}

TEST_F(Lifecycle, RemoveAtExitLeavesWhatIsNotOfTheInstance) {
  const fs::path directory = instance_;
  fs::create_directories(directory / "private");
  Program merger = start_merger(directory, {"--remove-at-exit"});
  merger.signal(SIGTERM);
  EXPECT_EQ(merger.wait(), 0) << merger.output();
  EXPECT_NE(merger.output().find("cannot remove"), std::string::npos) << merger.output();
  EXPECT_EQ(std::distance(fs::directory_iterator(directory), {}), 1);
  EXPECT_TRUE(fs::exists(directory / "private"));
}

// ---- StoppedParticipants

using StoppedParticipants = UnderLoad;

// A writer that is stopped anywhere in its pushes delays nobody, and none of its batches is seen in part.
TEST_F(StoppedParticipants, StoppedWriterDelaysNobody) {
  const Program merger = start_merger(instance_);
  begin();
  std::optional<Writer> other(instance_);
  Reader reader(instance_);
  for (int i = 1; i <= (is_long_run() ? 1000 : 50); ++i) {
    const Child& stopped = children_[static_cast<std::size_t>(i) % kWriters];
    stopped.stop();
    ASSERT_EQ(other->set("other", i), Status::kOk);
    ASSERT_EQ(other->flush(kPatience), Status::kOk);
    EXPECT_EQ(reader.get<std::int64_t>("other"), i);
    count(reader);
    stopped.go_on();
  }
  other.reset();
  end_and_expect_exact_counters();
}

/// A reader that takes a snapshot of `key`, is stopped and continued by the test, and then looks at what it holds.
class HeldSnapshot : public testing::Test {
 protected:
  void start(const std::vector<std::string>& options) {
    merger_.emplace(start_merger(instance_, options));
    holder_.emplace([&] { hold(); });
    writer_.emplace(instance_);
    ASSERT_EQ(writer_->set("key", 0), Status::kOk);
    ASSERT_EQ(writer_->flush(kPatience), Status::kOk);
    steps_->may_begin = true;
    eventually("the snapshot", [&] { return steps_->holds.load(); });
    holder_->stop();
  }
  void hold() {
    Reader reader(instance_, {.attach_timeout = kPatience});
    eventually("the first value", [&] { return steps_->may_begin.load(); });
    const Snapshot snapshot = reader.snapshot();
    steps_->holds = true;
    eventually("the end", [&] { return steps_->may_end.load(); });
    look_(snapshot);
  }
  void finish() {
    steps_->may_end = true;
    holder_->go_on();
    EXPECT_EQ(holder_->verdict(), "");
  }
  void push_and_flush(int value) {
    ASSERT_EQ(writer_->set("key", value), Status::kOk);
    ASSERT_EQ(writer_->flush(kPatience), Status::kOk) << "value " << value;
    ASSERT_EQ(Reader(instance_).get<std::int64_t>("key"), value);
  }
  void wait_for_fresh_statistics() {
    const std::uint64_t publishes = statistic(instance_, "publishes");
    ASSERT_EQ(writer_->set("beat", 1), Status::kOk);
    eventually("fresh statistics", [&] { return statistic(instance_, "publishes") > publishes; });
  }

  static void must_hold_the_old_value(const Snapshot& snapshot) {
    must(!snapshot.expired(), "the snapshot expired");
    must(snapshot.get<std::int64_t>("key") == 0, "the snapshot changed");
  }
  static void must_be_expired(const Snapshot& snapshot) {
    must(snapshot.expired(), "the snapshot did not expire");
    try {
      static_cast<void>(snapshot.find("key"));
      must(false, "an expired snapshot gave data");
    } catch (const Error& error) {
      must(error.status() == Status::kExpired, error.what());
    }
  }

  struct Steps {
    std::atomic<bool> may_begin{false};
    std::atomic<bool> holds{false};
    std::atomic<bool> may_end{false};
  };
  std::function<void(const Snapshot&)> look_;
  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
  Board<Steps> steps_;
  std::optional<Program> merger_;
  std::optional<Child> holder_;
  std::optional<Writer> writer_;
};

// With three buffers, a reader that is stopped with a snapshot in its hands holds nothing up, and keeps its snapshot.
TEST_F(HeldSnapshot, StallsNothingWithThreeBuffers) {
  look_ = must_hold_the_old_value;
  start({"--buffers", "3", "--pin-time-max", "0s"});
  for (int i = 1; i <= 1000; ++i) push_and_flush(i);
  wait_for_fresh_statistics();
  EXPECT_EQ(statistic(instance_, "pin_stalls"), 0U);
  finish();
}

// With two buffers, such a reader holds up publishes only until the maximum pin time; then its buffer is reclaimed,
// and it is told so instead of getting torn data.
TEST_F(HeldSnapshot, ExpiresAfterTheMaximumPinTimeWithTwoBuffers) {
  look_ = must_be_expired;
  start({"--buffers", "2", "--pin-time-max", "100ms"});
  for (int i = 1; i <= 3; ++i) push_and_flush(i);
  finish();
  wait_for_fresh_statistics();
  EXPECT_GE(statistic(instance_, "pin_stalls"), 1U);
  EXPECT_GE(statistic(instance_, "pins_expired"), 1U);
}

// A pin whose time is over holds up nothing any more: one stopped reader costs one stall, not one at every other
// publish for as long as it is stopped.
TEST_F(HeldSnapshot, ExpiredPinStallsOnlyOnce) {
  look_ = must_be_expired;
  start({"--buffers", "2", "--pin-time-max", "100ms"});
  for (int i = 1; i <= 20; ++i) push_and_flush(i);
  finish();
  wait_for_fresh_statistics();
  EXPECT_EQ(statistic(instance_, "pin_stalls"), 1U);
}

// Without a maximum pin time the reader keeps its snapshot; writers go on pushing, and when it lets go, all of it is
// published.
TEST_F(HeldSnapshot, IsKeptWithoutAMaximumPinTime) {
  look_ = must_hold_the_old_value;
  start({"--buffers", "2", "--pin-time-max", "0s"});
  int last = 0;
  eventually("a stall", [&] {  // one more publish fits before it
    EXPECT_EQ(writer_->set("key", ++last), Status::kOk);
    return statistic(instance_, "pin_stalls") == 1;
  });
  EXPECT_EQ(writer_->flush(200ms), Status::kTimeout);
  finish();
  EXPECT_EQ(writer_->flush(kPatience), Status::kOk);
  EXPECT_EQ(Reader(instance_).get<std::int64_t>("key"), last);
}

// While the merger is stopped, readers read on, writers push until their rings are full, and no second merger takes
// over; when it goes on, everything that was accepted is merged.
TEST_F(StoppedParticipants, StoppedMergerStopsNobodyElse) {
  const Program merger = start_merger(instance_);
  Writer writer(instance_, {.name = "w", .ring_bytes = std::size_t{64} << 10, .when_full = WhenFull::kFail});
  Writer patient(instance_, {.name = "p", .ring_bytes = std::size_t{64} << 10, .full_timeout = 10ms});
  Reader reader(instance_);
  ASSERT_EQ(writer.add("count", 1), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  merger.stop();

  std::int64_t accepted = 1;
  while (writer.add("count", 1) == Status::kOk) ++accepted;
  EXPECT_EQ(writer.add("count", 1), Status::kRingFull);
  std::int64_t accepted_patient = 0;
  while (patient.add("patient", 1) == Status::kOk) ++accepted_patient;
  EXPECT_EQ(patient.add("patient", 1), Status::kTimeout);
  EXPECT_GT(accepted, 1000);
  EXPECT_EQ(reader.get<std::int64_t>("count"), 1);
  EXPECT_EQ(Reader(instance_).snapshot().size(), 1U);
  EXPECT_TRUE(reader.merger_running());
  Program second = launch_merger(instance_);
  EXPECT_EQ(second.wait(), 3) << second.output();

  merger.go_on();
  EXPECT_EQ(writer.flush(kPatience), Status::kRingFull) << "the first failure is reported, after the wait";
  EXPECT_EQ(patient.flush(kPatience), Status::kTimeout) << "the first failure is reported, after the wait";
  EXPECT_EQ(reader.get<std::int64_t>("count"), accepted);
  EXPECT_EQ(reader.get<std::int64_t>("patient"), accepted_patient);
}

}  // namespace
}  // namespace shmstate::test
