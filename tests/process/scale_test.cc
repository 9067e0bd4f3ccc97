// Many writers, many keys, and nothing to do.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "files/control.h"
#include "harness/process_support.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

// ---- ManyProcesses

constexpr std::size_t kWriters = 64;
constexpr std::size_t kCounters = 16;

struct Accepted {
  std::array<std::atomic<std::int64_t>, kWriters> by_writer{};
};

std::string own_counter(std::size_t writer) { return "writer/" + std::to_string(writer); }
std::string shared_counter(std::size_t index) { return "shared/" + std::to_string(index); }

/// Each batch adds to a counter that all writers share, to their sum, and to the writer's own counter.
void add_to_counters(const std::string& instance, Accepted& accepted, std::size_t index, std::int64_t batches) {
  Writer writer(instance, {.name = own_counter(index), .ring_bytes = std::size_t{64} << 10, .full_timeout = kPatience});
  for (std::int64_t i = 0; i < batches; ++i) {
    Batch batch = writer.batch();
    batch.add(shared_counter(static_cast<std::size_t>(i) % kCounters), 1);
    batch.add("sum", 0.5);
    batch.add(own_counter(index), 1);
    must_be_ok(batch.commit(), "commit");
    accepted.by_writer[index].store(i + 1, std::memory_order_relaxed);
  }
}

// What 64 processes add to shared counters adds up exactly, also when half of them are killed while they push; and no
// ring is left when they have ended.
TEST(ManyProcesses, AddUpExactlyAndLeaveNoRing) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Board<Accepted> accepted;
  Program merger = start_merger(instance);
  const auto is_killed = [](std::size_t i) { return i % 2 == 0; };
  std::vector<Child> writers;
  for (std::size_t i = 0; i < kWriters; ++i) {
    const std::int64_t batches = is_killed(i) ? INT64_MAX : is_long_run() ? 100'000 : 3'000;
    writers.emplace_back([&, i, batches] { add_to_counters(instance, *accepted, i, batches); });
  }
  for (std::size_t i = 0; i < kWriters; ++i) {
    if (!is_killed(i)) continue;
    eventually("a writer that pushes", [&] { return accepted->by_writer[i] > 100; });
    writers[i].kill();
  }
  for (std::size_t i = 0; i < kWriters; ++i) {
    if (is_killed(i)) continue;
    EXPECT_EQ(writers[i].verdict(), "") << "writer " << i;
  }
  eventually("the removal of all rings", [&] { return fs::is_empty(rings_path(instance)); });

  Reader reader(instance);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < kWriters; ++i) {
    const std::int64_t own = reader.get<std::int64_t>(own_counter(i)).value_or(0);
    const std::int64_t told = accepted->by_writer[i];
    // A killed writer may have died between its push and telling us.
    EXPECT_TRUE(own == told || (is_killed(i) && own == told + 1)) << "writer " << i << ": " << own << " of " << told;
    total += own;
  }
  std::int64_t shared = 0;
  for (std::size_t i = 0; i < kCounters; ++i) shared += reader.get<std::int64_t>(shared_counter(i)).value_or(0);
  EXPECT_EQ(shared, total);
  EXPECT_EQ(reader.get<double>("sum"), static_cast<double>(total) / 2);
  EXPECT_EQ(statistic(instance, "rings_quarantined"), 0U);
  eventually("no ring in the status", [&] { return inspect(instance).rings.empty(); });
}

// Nothing is lost of what processes push that come and go all the time, and their rings go with them.
TEST(ManyProcesses, ComeAndGo) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Program merger = start_merger(instance);
  constexpr int kProcesses = 8;
  const int visits = is_long_run() ? 5000 : 200;
  std::vector<Child> visitors;
  for (int i = 0; i < kProcesses; ++i) {
    visitors.emplace_back([&] {
      for (int visit = 0; visit < visits; ++visit) {
        Writer writer(instance, {.name = "visitor", .full_timeout = kPatience});
        must_be_ok(writer.add("visits", 1), "add");
        if (visit % 10 == 0) std::this_thread::sleep_for(1ms);
      }
    });
  }
  expect_kept(visitors);
  eventually("the removal of all rings", [&] { return fs::is_empty(rings_path(instance)); });
  EXPECT_EQ(Reader(instance).get<std::int64_t>("visits"), kProcesses * visits);
}

// ---- MillionKeys

constexpr std::uint64_t kKeys = 1'000'000;
constexpr std::uint64_t kBytesPerKeyMax = 300;

/// 24 bytes, as keys are in practice.
std::string key_of(std::uint64_t index) {
  std::string digits = std::to_string(index);
  return "sensor/" + std::string(9 - digits.size(), '0') + digits + "/reading";
}
/// A value that tells which key it was written for, and in which pass.
std::int64_t value_of(std::uint64_t index, std::int64_t pass) { return static_cast<std::int64_t>(index) * 10 + pass; }
bool is_of(std::uint64_t index, std::int64_t value) {
  return value == value_of(index, 1) || value == value_of(index, 2);
}

struct Phase {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> values_read{0};
};

/// Point reads, several keys at once, and now and then a whole scan: each value must be one that was written for its
/// key.
void read_while_it_changes(const std::string& instance, Phase& phase, std::uint64_t seed) {
  Reader reader(instance);
  std::mt19937_64 random(seed);
  std::vector<std::optional<Value>> values;
  Epoch last_epoch = 0;
  for (std::uint64_t turn = 0; !phase.stop.load(std::memory_order_relaxed); ++turn) {
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t index = random() % kKeys;
      std::int64_t value = 0;
      const Status status = reader.read(key_of(index), value);
      must(status == Status::kNotFound || (status == Status::kOk && is_of(index, value)),
           key_of(index) + ": " + std::string(describe(status)) + ", value " + std::to_string(value));
      if (status == Status::kOk) phase.values_read.fetch_add(1, std::memory_order_relaxed);
    }
    const std::uint64_t first = random() % kKeys;
    const std::array<std::string, 2> keys{key_of(first), key_of((first + 1) % kKeys)};
    const std::array<std::string_view, 2> views{keys[0], keys[1]};
    const Epoch epoch = reader.get_many(views, values).epoch;
    must(epoch >= last_epoch, "an epoch went back");
    last_epoch = epoch;
    must(!values[0] || is_of(first, std::get<std::int64_t>(*values[0])), keys[0] + ": another key's value");
    if (turn % 1000 != 0) continue;
    std::size_t count = 0;
    const Snapshot snapshot = reader.snapshot();
    for (const auto& [key, value] : snapshot) {
      must(key.size() == 24 && is_of(std::stoull(std::string(key.substr(7, 9))), value.int64()),
           std::string(key) + ": another key's value");
      ++count;
    }
    must(count == snapshot.size(), "a scan shows " + std::to_string(count) + " of " + std::to_string(snapshot.size()));
  }
}

/// Exactly the keys 0 to kKeys - 1, each with what `expected` says, by scan and by key.
void expect_state(const std::string& instance, const std::function<std::int64_t(std::uint64_t)>& expected) {
  Reader reader(instance);
  const Snapshot snapshot = reader.snapshot();
  ASSERT_EQ(snapshot.size(), kKeys);
  std::vector<bool> was_seen(kKeys);
  for (const auto& [key, value] : snapshot) {
    const std::uint64_t index = std::stoull(std::string(key.substr(7, 9)));
    ASSERT_LT(index, kKeys);
    ASSERT_FALSE(was_seen[index]) << key << " appears twice";
    was_seen[index] = true;
    ASSERT_EQ(value.int64(), expected(index)) << key;
  }
  for (std::uint64_t index = 0; index < kKeys; ++index) {
    ASSERT_EQ(reader.get<std::int64_t>(key_of(index)), expected(index)) << key_of(index);
  }
  EXPECT_FALSE(snapshot.expired());
}

// A million keys grow from nothing, half of them go and come again with other values, and at every moment readers find
// only values that were written for the key they asked for. Memory stays within 300 bytes a key.
TEST(MillionKeys, GrowShrinkAndReadBack) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Board<Phase> phase;
  Program merger = start_merger(instance, {"--buffers", "2", "--memory-limit", "1g", "--pin-time-max", "0s"});
  std::vector<Child> readers;
  for (std::uint64_t i = 0; i < 2; ++i) readers.emplace_back([&, i] { read_while_it_changes(instance, *phase, i); });

  Writer writer(instance, {.name = "filler", .full_timeout = kPatience});
  for (std::uint64_t i = 0; i < kKeys; ++i) ASSERT_EQ(writer.set(key_of(i), value_of(i, 1)), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  expect_state(instance, [](std::uint64_t i) { return value_of(i, 1); });

  for (std::uint64_t i = 0; i < kKeys; i += 2) ASSERT_EQ(writer.erase(key_of(i)), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(Reader(instance).snapshot().size(), kKeys / 2);
  for (std::uint64_t i = 0; i < kKeys; i += 2) ASSERT_EQ(writer.set(key_of(i), value_of(i, 2)), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  expect_state(instance, [](std::uint64_t i) { return value_of(i, i % 2 == 0 ? 2 : 1); });

  phase->stop = true;
  expect_kept(readers);
  EXPECT_GT(phase->values_read, 0U);
  const std::uint64_t bytes_per_key = inspect(instance).committed_bytes / kKeys;
  std::cout << "memory: " << bytes_per_key << " bytes a key in two buffers\n";
  RecordProperty("bytes_per_key", std::to_string(bytes_per_key));
  EXPECT_LE(bytes_per_key, kBytesPerKeyMax);
}

// ---- IdleMerger

struct Use {
  std::uint64_t cpu_ns = 0;
  std::uint64_t sleeps = 0;  // times that the process gave the processor away
};

Use use_of(pid_t pid) {
  const std::string process = "/proc/" + std::to_string(pid);
  Use use;
  must(static_cast<bool>(std::ifstream(process + "/schedstat") >> use.cpu_ns), "cannot read schedstat");
  std::ifstream status(process + "/status");
  for (std::string word; status >> word;) {
    if (word == "voluntary_ctxt_switches:") must(static_cast<bool>(status >> use.sleeps), "cannot read status");
  }
  return use;
}

// A merger with nothing to do, with a writer and a reader attached, sleeps: it wakes for its rounds, ten times a
// second, and for nothing else. What that costs is measured by the benchmarks.
TEST(IdleMerger, WakesForItsRoundsAndForNothingElse) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  Program merger = start_merger(instance);
  Writer writer(instance);
  Reader reader(instance);
  ASSERT_EQ(writer.set("key", 1), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  ASSERT_EQ(reader.get<std::int64_t>("key"), 1);
  std::this_thread::sleep_for(200ms);  // it looks for work for a while before it sleeps

  const auto began = std::chrono::steady_clock::now();
  const Use before = use_of(merger.pid());
  std::this_thread::sleep_for(3s);
  const Use after = use_of(merger.pid());
  const auto rounds = static_cast<std::uint64_t>((std::chrono::steady_clock::now() - began) / 100ms);
  EXPECT_GT(after.sleeps, before.sleeps) << "it does not sleep at all";
  EXPECT_LE(after.sleeps - before.sleeps, 3 * rounds) << "some sleeps may be those of the kernel";
  EXPECT_LT(after.cpu_ns - before.cpu_ns, rounds * 50'000'000) << "it looks for work half of the time";
}

}  // namespace
}  // namespace shmstate::test
