// How the merger falls asleep, and how a writer wakes it without a fence on its hot path.
//
//   merger                                              writer
//   1 w = wakes                                         1 store of tail
//   2 phase + 1: odd                                    2 phase: even, or rung in before? then done
//   3 barrier in all processes                          3 wakes + 1 and wake, in the kernel
//   4 work in a ring? then 6
//   5 sleep while wakes = w
//   6 phase + 1: even
//
// No order is needed on any of these accesses, the barrier of step 3 is all there is: a push that precedes it is seen
// in step 4, and a writer that pushes behind it sees the odd phase. Ringing once in each phase suffices: a ring changes
// `wakes`, so the merger does not sleep on, and it looks at the rings again before the next phase.
//
// Templates, so that a model checker can run exactly this code.
#pragma once

#include <atomic>
#include <cstdint>

#include "shmstate/detail/ring_doorbell.h"

namespace shmstate::internal {

/// A writer's side.
class MergerWaker {
 public:
  /// After each push. `ring()` adds 1 to `wakes` and wakes who sleeps on it. False when the merger still sleeps though
  /// it was rung for.
  template <typename Sleep, typename Ring>
  bool wake(const Sleep& sleep, Ring ring) noexcept {
    const std::uint64_t phase = phase_after_push(sleep);
    if (phase % 2 == 0) return true;
    if (phase == phase_rung_) return false;
    phase_rung_ = phase;
    ring();
    return true;
  }

 private:
  std::uint64_t phase_rung_ = 0;  // the sleep that we ended last
};

/// The merger's side. `fence_all()` makes every writer pass a barrier, and returns whether it could;
/// `sleep_unless_work(wakes_before, fenced)` looks at the rings, then sleeps while `wakes` is what it was before.
template <typename Sleep, typename Wakes, typename FenceAll, typename SleepUnlessWork>
void sleep_for_a_phase(Sleep& sleep, const Wakes& wakes, FenceAll fence_all, SleepUnlessWork sleep_unless_work) {
  const std::uint32_t wakes_before = wakes.load(std::memory_order_relaxed);
  sleep.phase.fetch_add(1, std::memory_order_relaxed);  // pair: sleep.phase
  const bool fenced = fence_all();
  sleep_unless_work(wakes_before, fenced);
  sleep.phase.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace shmstate::internal
