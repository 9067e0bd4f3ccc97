// doorbell.h under the checker: a merger that sleeps is woken by every push that it did not see.
#include "protocol/doorbell.h"

#include "kernel_model.h"
#include "mutation_test.h"
#include "protocol/ring.h"

namespace shmstate::model {
using namespace internal;
namespace {

constexpr std::uint64_t kWord = 8;
constexpr std::uint64_t kDataBytes = 1024;  // never full

struct RingHeader {
  CheckedAtomic<std::uint64_t> tail, head;
  CheckedAtomic<std::uint32_t> waiting;
};
struct Sleep {
  CheckedAtomic<std::uint64_t> phase;
};

/// Writers that push some records each, and a merger that takes them all and sleeps whenever it finds none. A wake-up
/// that is lost is a deadlock, since this kernel wakes nobody after a while.
template <unsigned kWriters, unsigned kPushes, bool kWithBarrier>
struct Sleeping : rl::test_suite<Sleeping<kWriters, kPushes, kWithBarrier>, kWriters + 1> {
  RingHeader rings[kWriters];
  Sleep sleep;
  CheckedAtomic<std::uint32_t> wakes;
  Futexes futexes;

  void before() {
    for (RingHeader& ring : rings) {
      ring.tail.store(0, std::memory_order_relaxed);
      ring.head.store(0, std::memory_order_relaxed);
      ring.waiting.store(0, std::memory_order_relaxed);
    }
    sleep.phase.store(0, std::memory_order_relaxed);
    wakes.store(0, std::memory_order_relaxed);
  }
  void thread(unsigned index) { index < kWriters ? write(rings[index]) : merge(); }

  /// As Writer::Impl::write_here.
  void write(RingHeader& ring) {
    RingProducer<RingHeader> producer(ring, kDataBytes);
    MergerWaker waker;
    for (unsigned i = 0; i < kPushes; ++i) {
      producer.push(kWord);
      waker.wake(sleep, [this] { futexes.add_and_wake(wakes); });
    }
  }
  /// As Service::run, without its spinning.
  void merge() {
    std::uint64_t taken[kWriters] = {};
    for (std::uint64_t count = 0; count < std::uint64_t{kWriters} * kPushes;) {
      const std::uint64_t pushed = look(taken);
      count += pushed;
      if (pushed == 0) fall_asleep(taken);
    }
  }
  /// As MergeEngine::step. Returns the number of records, and takes them.
  std::uint64_t look(std::uint64_t (&taken)[kWriters]) {
    std::uint64_t count = 0;
    for (unsigned i = 0; i < kWriters; ++i) {
      const std::uint64_t tail = RingConsumer<RingHeader>(rings[i], kDataBytes, taken[i]).tail();
      count += (tail - taken[i]) / kWord;
      taken[i] = tail;
    }
    return count;
  }
  /// As Service::sleep and MergeEngine::has_work.
  void fall_asleep(const std::uint64_t (&taken)[kWriters]) {
    const auto fence_all = [] {
      if (kWithBarrier) rl::systemwide_fence(RL_INFO);  // membarrier
      return true;
    };
    sleep_for_a_phase(sleep, wakes, fence_all, [&](std::uint32_t wakes_before, bool) {
      for (unsigned i = 0; i < kWriters; ++i) {
        if (RingConsumer<RingHeader>(rings[i], kDataBytes, taken[i]).tail() != taken[i]) return;
      }
      futexes.wait(wakes, wakes_before);
    });
  }
};

TEST(DoorbellModel, NoWakeUpIsLostInAnySchedule) { expect_holds(check_all<Sleeping<1, 1, true>>()); }
TEST(DoorbellModel, NoWakeUpIsLostOverManyPushes) {
  expect_holds(check_some<Sleeping<1, 4, true>>(schedules(200'000)));
  expect_holds(check_some<Sleeping<2, 2, true>>(schedules(200'000)));
}
TEST(DoorbellModel, WithoutTheBarrierAWakeUpIsLost) {
  EXPECT_FALSE((check_some<Sleeping<1, 2, false>>(schedules(100'000)).holds));
}
TEST(DoorbellModel, EveryMemoryOrderIsNeeded) {
  MutationTest({{"Sleeping", check_some<Sleeping<2, 2, true>>}},
               {SHMSTATE_SOURCE_DIR "/libshmstate/protocol/doorbell.h",
                SHMSTATE_SOURCE_DIR "/libshmstate/include/shmstate/detail/ring_doorbell.h"})
      .run();
}

}  // namespace
}  // namespace shmstate::model
