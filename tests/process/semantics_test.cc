// The semantics between real processes: shared rings and their sudden deaths, conflation beside a stopped merger, mass
// expiry, and a watcher that is stopped.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "files/control.h"
#include "harness/process_support.h"
#include "shmstate/reader.h"
#include "shmstate/watch.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

WriterOptions shared_ring() {
  WriterOptions options;
  options.shared = true;
  options.ring_bytes = std::size_t{256} << 10;
  options.full_timeout = kPatience;
  return options;
}

/// Names that begin so in the instance's `rings`.
std::size_t count_rings(const std::string& instance) {
  const std::filesystem::directory_iterator entries(rings_path(instance));
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

void expect_no_ring_left(const std::string& instance) {
  eventually("a ring's file goes when all its writers are gone", [&] { return count_rings(instance) == 0; });
}

// ---- shared ring

constexpr std::size_t kPushers = 64;

struct Pushes {
  std::array<std::atomic<std::int64_t>, kPushers> begun{};
  std::array<std::atomic<std::int64_t>, kPushers> completed{};
};

void hammer(const std::string& instance, Pushes& pushes, std::size_t index) {
  Writer writer(instance, shared_ring());
  const std::string key = "pusher/" + std::to_string(index);
  for (;;) {
    pushes.begun[index].fetch_add(1);
    must_be_ok(writer.add(key, 1), "push");
    pushes.completed[index].fetch_add(1);
  }
}

// Of 64 processes that push through one shared ring and are killed one after the other, no completed push is missing,
// and none counts twice; the ring's file goes when all are gone.
TEST(SharedRing, CompletedPushesSurviveTheirKilledWriters) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Board<Pushes> pushes;
  const Program merger = start_merger(instance);
  std::vector<Child> pushers;
  const auto start = [&](std::size_t index) { return Child([&, index] { hammer(instance, *pushes, index); }); };
  for (std::size_t i = 0; i < kPushers; ++i) pushers.push_back(start(i));
  eventually("everybody pushes", [&] {
    return std::all_of(pushes->completed.begin(), pushes->completed.end(), [](const auto& count) { return count > 0; });
  });
  std::array<std::int64_t, kPushers> kills{};
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < (is_long_run() ? 600 : 60); ++i) {
    std::this_thread::sleep_for(50ms);
    const std::size_t victim = random() % kPushers;
    pushers[victim].kill();
    ++kills[victim];
    pushers[victim] = start(victim);
  }
  for (std::size_t i = 0; i < kPushers; ++i) {
    pushers[i].kill();
    ++kills[i];
  }
  expect_no_ring_left(instance);
  Reader reader(instance);
  for (std::size_t i = 0; i < kPushers; ++i) {
    const std::int64_t sum = reader.get<std::int64_t>("pusher/" + std::to_string(i)).value_or(0);
    EXPECT_GE(sum, pushes->completed[i]) << "pusher " << i;
    EXPECT_LE(sum, pushes->begun[i]) << "pusher " << i;
    EXPECT_LE(pushes->begun[i] - pushes->completed[i], kills[i]);
  }
}

// Processes that each push once, many at a time and so also while the ring of those before them is being removed, lose
// nothing.
TEST(SharedRing, ShortLivedProcessesLoseNothing) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Program merger = start_merger(instance);
  const int total = is_long_run() ? 5'000 : 500;
  for (int begun = 0; begun < total;) {
    std::vector<Child> children;
    for (; children.size() < 10 && begun < total; ++begun) {
      children.emplace_back([&] { must_be_ok(Writer(instance, shared_ring()).add("sum", 1), "push"); });
    }
    expect_kept(children);
  }
  expect_no_ring_left(instance);
  EXPECT_EQ(Reader(instance).get<std::int64_t>("sum"), total);
}

// A writer that attaches at the very moment in which the shared ring of its predecessor vanishes loses nothing.
TEST(SharedRing, AttachingWhileTheRingVanishesLosesNothing) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Program merger = start_merger(instance);
  std::int64_t pushed = 0;
  std::mt19937_64 random(std::random_device{}());
  for (int i = 0; i < (is_long_run() ? 400 : 40); ++i) {
    {
      Writer writer(instance, shared_ring());
      must_be_ok(writer.add("sum", 1), "push");
      ++pushed;
    }
    const auto stop = Clock::now() + std::chrono::microseconds(random() % 150'000);
    while (count_rings(instance) > 0 && Clock::now() < stop) {
    }
    for (int quick = 0; quick < 20; ++quick, ++pushed) {
      must_be_ok(Writer(instance, shared_ring()).add("sum", 1), "push");
    }
  }
  expect_no_ring_left(instance);
  EXPECT_EQ(Reader(instance).get<std::int64_t>("sum"), pushed);
}

// ---- conflation

// A conflating writer beside a stopped merger never blocks, and once the merger goes on, every key has its last value
// and every sum is complete.
TEST(Conflation, NeverBlocksBesideAStoppedMergerAndKeepsTheLastWord) {
  constexpr std::int64_t kKeys = 1'000;
  const std::int64_t total = is_long_run() ? 10'000'000 : 1'000'000;
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Program merger = start_merger(instance);
  WriterOptions options;
  options.ring_bytes = std::size_t{64} << 10;
  options.when_full = WhenFull::kConflate;
  Writer writer(instance, options);
  must_be_ok(writer.set("first", 1), "push");
  must_be_ok(writer.flush(kPatience), "flush");
  merger.stop();
  for (std::int64_t i = 0; i < total; ++i) {
    must_be_ok(writer.set("key/" + std::to_string(i % kKeys), i), "push");
    if (i % 10 == 0) must_be_ok(writer.add("sum", 1), "push");
  }
  EXPECT_GT(writer.counters().conflated, 0U);
  merger.go_on();
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  Reader reader(instance);
  for (std::int64_t i = 0; i < kKeys; ++i) {
    EXPECT_EQ(reader.get<std::int64_t>("key/" + std::to_string(i)), total - kKeys + i);
  }
  EXPECT_EQ(reader.get<std::int64_t>("sum"), total / 10);
}

// What conflation keeps is bounded: beyond that the ring is full, which is told, and what was accepted is not lost.
TEST(Conflation, IsBoundedBesideAStoppedMerger) {
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Program merger = start_merger(instance);
  WriterOptions options;
  options.ring_bytes = std::size_t{64} << 10;
  options.when_full = WhenFull::kConflate;
  options.conflate_bytes_max = std::size_t{1} << 20;
  Writer writer(instance, options);
  must_be_ok(writer.flush(kPatience), "flush");
  merger.stop();
  std::int64_t accepted = 0;
  Status status = Status::kOk;
  for (; accepted < 100'000; ++accepted) {
    status = writer.set("key/" + std::to_string(accepted), accepted);
    if (status != Status::kOk) break;
  }
  EXPECT_EQ(status, Status::kRingFull);
  EXPECT_GT(accepted, 1'000);
  merger.go_on();
  EXPECT_EQ(writer.flush(kPatience), Status::kRingFull) << "the push that failed is reported";
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  Reader reader(instance);
  EXPECT_EQ(reader.snapshot().size(), static_cast<std::size_t>(accepted));
}

// ---- expiry

// A million keys expire on time, and meanwhile another writer's mutations are published as ever.
TEST(Expiry, AMillionKeysExpireWithoutHoldingUpOthers) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  constexpr bool kTimeCounts = false;
#else
  constexpr bool kTimeCounts = true;
#endif
  constexpr std::int64_t kKeys = kTimeCounts ? 1'000'000 : 30'000;
  const TestDirectory directory;
  const std::string instance = directory / "plant";
  const Program merger = start_merger(instance, {"--memory-limit", "1G"});
  Writer writer(instance, {.name = "many", .ring_bytes = std::size_t{16} << 20, .full_timeout = kPatience});
  Writer other(instance, {.name = "other"});
  std::mt19937_64 random(1);
  SetOptions options;
  for (std::int64_t i = 0; i < kKeys; ++i) {
    options.ttl = 1ms * (1'000 + random() % 4'000);
    must_be_ok(writer.set("key/" + std::to_string(i), i, options), "push");
  }
  must_be_ok(writer.flush(kPatience), "flush");
  const auto last_due = Clock::now() + 5s;
  Reader reader(instance);
  EXPECT_GT(reader.snapshot().size(), 0U);
  Clock::duration wait_max{};
  std::vector<Clock::duration> waits;
  while (Clock::now() < last_due + 1s) {
    const auto began = Clock::now();
    must_be_ok(other.add("beat", 1), "push");
    must_be_ok(other.flush(kPatience), "flush");
    waits.push_back(Clock::now() - began);
    wait_max = std::max(wait_max, waits.back());
    std::this_thread::sleep_for(200us);
  }
  std::sort(waits.begin(), waits.end());
  const auto in_us = [](Clock::duration time) {
    return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  };
  std::cout << "push to readable while a million keys expire: p50 " << in_us(waits[waits.size() / 2]) << " us, p99 "
            << in_us(waits[waits.size() * 99 / 100]) << " us, max " << in_us(wait_max) << " us, " << waits.size()
            << " pushes\n";
  if (kTimeCounts) {
    EXPECT_LT(wait_max, 1s) << "as long as all of them at once would take, and more";
  }
  eventually("only the beat is left", [&] { return reader.snapshot().size() == 1; });
}

// ---- a stopped watcher

struct Mirror {
  std::atomic<bool> has_begun{false};
  std::atomic<bool> pushing_ended{false};
  std::atomic<std::uint64_t> complete{0};
};

constexpr std::int64_t kWatched = 2'000;

/// Watches until it has seen the last word, and then compares all that it was told with the state.
void watch_all(const std::string& instance, Mirror& mirror) {
  Watch watch(instance, "key/");
  std::map<std::string, Value> told;
  const auto take = [&](std::chrono::nanoseconds timeout) {
    const WatchBatch batch = watch.next(timeout);
    if (batch.complete) {
      told.clear();
      ++mirror.complete;
    }
    for (const Change& change : batch.changes) {
      if (change.value) {
        told.insert_or_assign(change.key, *change.value);
      } else {
        told.erase(change.key);
      }
    }
    mirror.has_begun = true;
  };
  while (!mirror.pushing_ended) take(10ms);
  take(0ns);
  Reader reader(instance);
  const Snapshot snapshot = reader.snapshot();
  std::size_t count = 0;
  snapshot.scan("key/", [&](const EntryView& entry) {
    ++count;
    const auto known = told.find(std::string(entry.key));
    must(known != told.end(), "a key was never told");
    must(ValueView(known->second) == entry.value, "a key's latest value was never told");
  });
  must(count == told.size(), "an erasure was never told");
}

// A watcher that stands still for a second is told everything that changed meanwhile, or the complete state; never
// less.
TEST(StoppedWatcher, IsToldEverythingOrStartsOver) {
  for (const bool is_small : {true, false}) {
    const TestDirectory directory;
    const std::string instance = directory / "plant";
    const Program merger =
        start_merger(instance, {"--feed-bytes", is_small ? "64K" : "256M", "--memory-limit", "512M"});
    const Board<Mirror> mirror;
    Child watcher([&] { watch_all(instance, *mirror); });
    Writer writer(instance, {.name = "flood", .full_timeout = kPatience});
    eventually("the watcher begins", [&] { return mirror->has_begun.load(); });
    std::mt19937_64 random(2);
    const auto flood = [&](std::chrono::milliseconds time) {
      for (const auto end = Clock::now() + time; Clock::now() < end;) {
        for (int i = 0; i < 100; ++i) {
          const std::string key = "key/" + std::to_string(random() % kWatched);
          must_be_ok(random() % 4 == 0 ? writer.erase(key) : writer.set(key, static_cast<std::int64_t>(random())),
                     "push");
        }
        std::this_thread::sleep_for(500us);
      }
    };
    flood(200ms);
    watcher.stop();
    flood(1s);
    must_be_ok(writer.flush(kPatience), "flush");
    watcher.go_on();
    flood(100ms);
    must_be_ok(writer.flush(kPatience), "flush");
    mirror->pushing_ended = true;
    EXPECT_EQ(watcher.verdict(), "");
    // With a large feed it need not start over; but it may have to, if it was stopped while it pinned a buffer.
    if (is_small) {
      EXPECT_GT(mirror->complete, 1U) << "64 KiB of feed cannot hold a second of changes";
    }
  }
}

}  // namespace
}  // namespace shmstate::test
