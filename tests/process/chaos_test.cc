// Everybody dies or stands still at random, as the programs that are installed: the merger, writers, readers. What was
// accepted counts exactly once, batches stay whole, epochs only grow, and in the end nothing is left behind.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "files/control.h"
#include "files/ring_file.h"
#include "harness/explored.h"
#include "harness/process_support.h"
#include "harness/test_instance.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kWriters = 3;
constexpr std::size_t kSharedWriters = 2;  // of one shared ring
constexpr std::size_t kReaders = 2;
constexpr std::int64_t kPartsOfABatch = 80;
constexpr std::int64_t kKeysInTurn = 200;

struct Notes {
  std::array<std::atomic<std::int64_t>, kWriters + kSharedWriters> accepted{};
  std::array<std::atomic<std::uint64_t>, kWriters> ring_ids{};
  std::array<std::atomic<std::uint64_t>, kReaders> epochs{};
  std::array<std::atomic<std::int64_t>, kReaders> looks{};
  std::atomic<bool> writers_may_end{false};
  std::atomic<bool> readers_may_end{false};
};

std::string key_of(std::size_t writer, const std::string& name) {
  return "writer/" + std::to_string(writer) + '/' + name;
}

std::int64_t number(const Snapshot& snapshot, const std::string& key) {
  return snapshot.get<std::int64_t>(key).value_or(0);
}

// ---- participants

void push_round(Writer& writer, std::size_t who, std::int64_t round) {
  const std::string turn = key_of(who, "turn/" + std::to_string(round % kKeysInTurn));
  must_be_ok(writer.set(turn, std::string(static_cast<std::size_t>(round * 37 % 900), 'v')), "set");
  Batch batch = writer.batch();
  must_be_ok(batch.set(key_of(who, "round"), round), "batch");
  must_be_ok(batch.add(key_of(who, "sum"), round), "batch");
  for (std::int64_t k = 0; k < kPartsOfABatch; ++k) {
    must_be_ok(batch.set(key_of(who, "part/" + std::to_string(k)), round), "batch");
  }
  must_be_ok(batch.commit(), "commit");
}

/// Goes on from `round`, which what was pushed before brought into the snapshot.
void write_until_told(const std::string& instance, Notes& notes, std::size_t who, std::int64_t round) {
  const bool shared = who >= kWriters;
  Writer writer(
      instance,
      {.ring_bytes = kRingBytesMin, .full_timeout = kPatience, .shared = shared, .attach_timeout = kPatience});
  if (!shared) notes.ring_ids[who].store(writer.ring_id());
  while (!notes.writers_may_end.load()) {
    push_round(writer, who, ++round);
    notes.accepted[who].store(round);
  }
  must_be_ok(writer.flush(kPatience), "flush");
}

void check(const Snapshot& snapshot) {
  for (std::size_t who = 0; who < kWriters + kSharedWriters; ++who) {
    const std::int64_t round = number(snapshot, key_of(who, "round"));
    must(number(snapshot, key_of(who, "sum")) == round * (round + 1) / 2, "a batch is lost or counts twice");
    for (std::int64_t k = 0; k < kPartsOfABatch; ++k) {
      must(number(snapshot, key_of(who, "part/" + std::to_string(k))) == round, "a batch is split");
    }
  }
}

void read_until_told(const std::string& instance, Notes& notes, std::size_t who) {
  Reader reader(instance, {.attach_timeout = kPatience});
  while (!notes.readers_may_end.load()) {
    try {
      const Snapshot snapshot = reader.snapshot();
      check(snapshot);
      must(snapshot.epoch() >= notes.epochs[who].load(), "an epoch went back");
      notes.epochs[who].store(snapshot.epoch());
      notes.looks[who].fetch_add(1);
    } catch (const Error& error) {  // it was stopped for longer than a pin may last
      must(error.status() == Status::kExpired, error.what());
    }
    static_cast<void>(reader.get<std::int64_t>(key_of(0, "round")));
  }
}

// ---- chaos

class Chaos : public testing::Test {
 protected:
  void start_all() {
    merger_.emplace(start_merger(instance_, kMergerOptions));
    for (std::size_t who = 0; who < kReaders; ++who) start_reader(who);
    for (std::size_t who = 0; who < kWriters + kSharedWriters; ++who) start_writer(who);
  }

  void start_merger_again() { merger_.emplace(launch_merger(instance_, kMergerOptions)); }
  void start_reader(std::size_t who) {
    readers_[who].emplace([=, this] { read_until_told(instance_, *notes_, who); });
  }
  void start_writer(std::size_t who) {
    const std::int64_t round = merged_round(who);
    must(round >= notes_->accepted[who].load(), "an accepted batch is lost");
    writers_[who].emplace([=, this] { write_until_told(instance_, *notes_, who, round); });
  }
  [[nodiscard]] std::int64_t merged_round(std::size_t who) {
    return Reader(instance_, {.attach_timeout = kPatience}).get<std::int64_t>(key_of(who, "round")).value_or(0);
  }

  // What a writer pushed is merged when its ring is gone; of the shared ring, when it is drained.
  void revive_writer(std::size_t who) {
    if (who < kWriters) {
      const std::uint64_t id = notes_->ring_ids[who].load();
      eventually("a dead writer's ring to be merged and removed",
                 [&] { return !fs::exists(rings_path(instance_) / ring_name(id)); });
    } else {
      Writer writer(instance_, {.shared = true, .attach_timeout = kPatience});
      must_be_ok(writer.flush(kPatience), "flush");
    }
    start_writer(who);
  }

  template <typename P>
  void stop_for_a_while(P& process) {
    process.stop();
    std::this_thread::sleep_for(std::chrono::microseconds(random_.below(30'000)));
    process.go_on();
  }

  static void kill(Child& child) {
    if (child.has_ended()) throw Broken("a participant ended by itself: " + child.verdict());
    child.kill();
  }

  void do_something() {
    const bool is_death = random_.chance(40);
    const std::size_t who = random_.below(1 + kReaders + kWriters + kSharedWriters);
    ++(is_death ? deaths_ : stops_);
    if (who == 0) {
      if (!is_death) return stop_for_a_while(*merger_);
      merger_->kill();
      start_merger_again();
    } else if (who <= kReaders) {
      std::optional<Child>& reader = readers_[who - 1];
      if (!is_death) return stop_for_a_while(*reader);
      kill(*reader);
      start_reader(who - 1);
    } else {
      std::optional<Child>& writer = writers_[who - 1 - kReaders];
      if (!is_death) return stop_for_a_while(*writer);
      kill(*writer);
      revive_writer(who - 1 - kReaders);
    }
  }

  void end_all() {
    notes_->writers_may_end.store(true);
    for (auto& writer : writers_) EXPECT_EQ(writer->verdict(), "");
    eventually("all rings to be removed", [this] { return fs::is_empty(rings_path(instance_)); });
    notes_->readers_may_end.store(true);
    for (auto& reader : readers_) EXPECT_EQ(reader->verdict(), "");
  }

  inline static const std::vector<std::string> kMergerOptions{"--pin-time-max", "10ms"};

  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
  Board<Notes> notes_;
  Random random_{1};
  std::optional<Program> merger_;
  std::array<std::optional<Child>, kReaders> readers_;
  std::array<std::optional<Child>, kWriters + kSharedWriters> writers_;
  std::size_t deaths_ = 0;
  std::size_t stops_ = 0;
};

TEST_F(Chaos, LosesRepeatsAndSplitsNothing) {
  start_all();
  const auto end = Clock::now() + (is_long_run() ? 60s : 4s);
  while (Clock::now() < end) {
    do_something();
    std::this_thread::sleep_for(std::chrono::microseconds(random_.below(3'000)));
  }
  end_all();
  const Snapshot snapshot = Reader(instance_).snapshot();
  check(snapshot);
  std::int64_t rounds = 0;
  for (std::size_t who = 0; who < kWriters + kSharedWriters; ++who) {
    EXPECT_GE(number(snapshot, key_of(who, "round")), notes_->accepted[who].load()) << "writer " << who;
    rounds += number(snapshot, key_of(who, "round"));
  }
  merger_->signal(SIGTERM);
  EXPECT_EQ(merger_->wait(), 0);
  EXPECT_TRUE(fs::is_empty(rings_path(instance_)));
  for (const auto& looks : notes_->looks) EXPECT_GT(looks.load(), 0);
  explored(deaths_, "deaths of programs");
  explored(stops_, "stops of programs");
  explored(static_cast<std::uint64_t>(rounds), "batches of programs that died");
}

}  // namespace
}  // namespace shmstate::test
