// A pusher's look at whether the merger sleeps; protocol/doorbell.h has the whole of it, and why it needs no fence.
#pragma once

#include <atomic>
#include <cstdint>

namespace shmstate::internal {

/// After each push: odd while the merger sleeps, or is about to.
template <typename Sleep>
[[nodiscard]] inline std::uint64_t phase_after_push(const Sleep& sleep) noexcept {
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler must keep the order, the barrier does the rest
  return sleep.phase.load(std::memory_order_relaxed);   // pair: sleep.phase
}

}  // namespace shmstate::internal
