// The timers of the merger, alone: every slot is looked at when its time has come, and an idle wheel stays idle.
#include "engine/timing_wheel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "harness/test_instance.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::Random;

constexpr std::uint64_t kTickNs = std::uint64_t{1} << 20;
constexpr std::uint64_t kNever = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kYearNs = 365ULL * 24 * 3600 * 1'000'000'000;
constexpr std::uint64_t kPages = 8;

TimingWheel::Id slot_id(std::size_t page, std::size_t slot) { return static_cast<TimingWheel::Id>(page * 1024 + slot); }

/// Timers as the table uses them: who is told too early makes sure to be told again.
class Timers {
 public:
  explicit Timers(std::uint64_t now_ns) { wheel_.start_from(now_ns); }

  void ensure(TimingWheel::Id id, std::uint64_t time_ns) {
    wheel_.ensure(id, time_ns);
    if (const auto known = times_.find(id); known != times_.end()) {
      if (known->second <= time_ns) return;
      forget(known->first, known->second);
    }
    times_[id] = time_ns;
    order_.emplace(time_ns, id);
  }
  void advance(std::uint64_t now_ns, std::size_t budget) {
    wheel_.advance(now_ns, budget, [&](TimingWheel::Id id) {
      ++looks_;
      const auto known = times_.find(id);
      ASSERT_NE(known, times_.end()) << "a slot that nobody asked for";
      if (known->second > now_ns) {
        ++early_looks_;
        return wheel_.ensure(id, known->second);
      }
      forget(id, known->second);
      times_.erase(known);
    });
  }
  [[nodiscard]] std::uint64_t first_ns() const { return order_.empty() ? kNever : order_.begin()->first; }
  [[nodiscard]] std::size_t count() const { return times_.size(); }
  [[nodiscard]] std::size_t looks() const { return looks_; }
  [[nodiscard]] std::size_t early_looks() const { return early_looks_; }
  [[nodiscard]] const TimingWheel& wheel() const { return wheel_; }

 private:
  void forget(TimingWheel::Id id, std::uint64_t time_ns) {
    const auto [begin, end] = order_.equal_range(time_ns);
    order_.erase(std::find_if(begin, end, [id](const auto& timer) { return timer.second == id; }));
  }

  TimingWheel wheel_;
  std::map<TimingWheel::Id, std::uint64_t> times_;
  std::multimap<std::uint64_t, TimingWheel::Id> order_;
  std::size_t looks_ = 0;
  std::size_t early_looks_ = 0;
};

/// Advances by as much budget as the slots could need, a few at a time.
void settle(Timers& timers, std::uint64_t now_ns, std::size_t budget) {
  for (int i = 0; i < 10'000 && timers.wheel().next_due_ns() <= now_ns; ++i) timers.advance(now_ns, budget);
  timers.advance(now_ns, budget);
}

std::uint64_t random_time(Random& random, std::uint64_t now_ns) {
  switch (random.below(6)) {
    case 0: return now_ns - std::min<std::uint64_t>(now_ns, random.below(5 * kTickNs));
    case 1: return now_ns + random.below(300 * kTickNs);
    case 2: return now_ns + random.below(70'000 * kTickNs);
    case 3: return (now_ns / kTickNs + random.below(100'000)) * kTickNs;  // exactly on a tick
    case 4: return now_ns + random.below(std::uint64_t{1} << 50);
    default: return now_ns + 1'000'000 + random.word() % (40 * kYearNs);
  }
}

std::uint64_t random_step(Random& random) {
  switch (random.below(7)) {
    case 0: return random.below(1000);
    case 1: return random.below(3 * kTickNs);
    case 2: return random.below(300 * kTickNs);
    case 3: return random.below(70'000 * kTickNs);
    case 4: return (std::uint64_t{1} << random.between(28, 46));
    case 5: return random.word() % (std::uint64_t{1} << 50);
    default: return kTickNs;
  }
}

// Whatever is asked for and however time passes, every slot whose time has come is looked at, and the wheel does not
// claim to be due when nothing is.
TEST(TimingWheel, LooksAtEverySlotWhoseTimeHasCome) {
  for (int run = 0; run < test::steps(40); ++run) {
    Random random(1000 + static_cast<std::uint64_t>(run));
    std::uint64_t now_ns = random.chance(50) ? random.below(kTickNs * 1000) : random.word() % kYearNs;
    Timers timers(now_ns);
    for (int i = 0; i < 400; ++i) {
      for (std::size_t n = random.below(20); n > 0; --n) {
        timers.ensure(slot_id(random.below(kPages), random.below(1000)), random_time(random, now_ns));
      }
      now_ns += random_step(random);
      settle(timers, now_ns, random.chance(30) ? random.between(1, 5) : 4096);
      ASSERT_GT(timers.first_ns(), now_ns - std::min(now_ns, kTickNs)) << "run " << run << ", step " << i;
      ASSERT_GT(timers.wheel().next_due_ns(), now_ns) << "due without anything to do: run " << run << ", step " << i;
      ASSERT_LE(timers.wheel().next_due_ns(), timers.first_ns() == kNever ? kNever : timers.first_ns() + kTickNs);
    }
    settle(timers, now_ns + 45 * kYearNs, 4096);
    ASSERT_EQ(timers.count(), 0U);
  }
}

// With a small budget, what is due takes several advances, and nothing is forgotten in between.
TEST(TimingWheel, DoesAtMostItsBudgetOfWork) {
  Timers timers(0);
  for (std::size_t i = 0; i < 1000; ++i) timers.ensure(slot_id(0, i), (1 + i % 10) * 1'000'000);
  std::size_t advances = 0;
  for (; timers.count() > 0 && advances < 10'000; ++advances) {
    const std::size_t before = timers.looks();
    timers.advance(20'000'000, 7);
    ASSERT_LE(timers.looks() - before, 7U);
  }
  EXPECT_EQ(timers.count(), 0U);
  EXPECT_GE(advances, 1000U / 7);
}

// A slot is not looked at before its time while that is within reach.
TEST(TimingWheel, IsNeverEarly) {
  Random random(2000);
  std::uint64_t now_ns = 0;
  Timers timers(now_ns);
  for (int i = 0; i < test::steps(20'000); ++i) {
    if (random.chance(50)) timers.ensure(slot_id(0, random.below(1000)), now_ns + random.below(100'000 * kTickNs));
    now_ns += random.below(20 * kTickNs);
    timers.advance(now_ns, 4096);
    ASSERT_EQ(timers.early_looks(), 0U);
  }
}

// A bucket that was the last to be emptied before a long idle time is an ordinary bucket afterwards: a slot in it waits
// for its time, and does not keep the wheel busy or other slots waiting until then.
TEST(TimingWheel, BucketLastEmptiedBeforeAPauseIsNotTakenForDueLater) {
  Timers timers(0);
  timers.ensure(slot_id(0, 1), 0x105 * kTickNs);
  timers.advance(0x105 * kTickNs, 100);
  ASSERT_EQ(timers.count(), 0U);
  timers.advance(0x300 * kTickNs, 100);
  timers.ensure(slot_id(0, 2), 0x305 * kTickNs);
  timers.ensure(slot_id(0, 3), 0x303 * kTickNs);
  EXPECT_EQ(timers.wheel().next_due_ns(), 0x303 * kTickNs);
  timers.advance(0x300 * kTickNs, 100);
  EXPECT_EQ(timers.looks(), 1U);
  timers.advance(0x303 * kTickNs, 100);
  EXPECT_EQ(timers.count(), 1U) << "the slot that is due must not wait behind one that is not";
}

// The same one level up, where the mistake would stop all timers for ever.
TEST(TimingWheel, UpperBucketLastEmptiedBeforeAPauseDoesNotStopTheWheel) {
  Timers timers(0);
  timers.ensure(slot_id(0, 1), 0x200 * kTickNs);
  timers.advance(0x200 * kTickNs, 100);
  ASSERT_EQ(timers.count(), 0U);
  timers.advance(0x10000 * kTickNs, 100);
  timers.ensure(slot_id(0, 2), 0x10234 * kTickNs);
  for (int i = 0; i < 100; ++i) timers.advance(0x10300 * kTickNs, 100);
  EXPECT_EQ(timers.count(), 0U);
}

}  // namespace
}  // namespace shmstate
