// How the merger learns of pins without a system call in each turn.
//
//   reader                                              merger
//   1 lock the byte of the buffer                       1 stamp |= kClaimed
//   2 announced + 1, in the kernel                      2 barrier; a = announced
//   3 barrier                                           3 a is what it was when the kernel last said "no"? not pinned
//   4 is the stamp still that of the epoch? pinned      4 otherwise ask the kernel; on "no", keep a
//
// Either the merger's step 2 sees the announcement, and its step 4 the lock that was taken before; or the reader's step
// 4 sees the claim. The lock comes before its announcement: the other way round, a merger that asks between the two
// would hear "no", and keep the count of a pin that it does not know.
//
// Readers can write the count, so it is only a hint not to ask. Who sets it back hides pins until the merger forgets
// what it kept: such a pin expires early, which its holder sees in the stamp.
//
// Templates, so that a model checker can run exactly this code. `kernel` has `fence()`, a full barrier; for a reader
// `try_lock`, `unlock` and `announce`, which adds 1 to the count; for the merger `is_locked`.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "layout/layout.h"

namespace shmstate::internal {

/// The reader's steps 1 to 3.
template <typename Kernel>
[[nodiscard]] bool lock_announced(const Kernel& kernel, std::uint32_t buffer) noexcept {
  if (!kernel.try_lock(buffer)) return false;
  if (!kernel.announce()) {
    kernel.unlock(buffer);
    return false;
  }
  kernel.fence();  // pair: pins
  return true;
}

/// What the merger knows.
class PinNews {
 public:
  /// The merger's steps 2 to 4.
  template <typename Word, typename Kernel>
  [[nodiscard]] bool is_pinned(const Word& announced, std::uint32_t buffer, const Kernel& kernel) noexcept {
    kernel.fence();  // pair: pins
    const std::uint32_t count = announced.load(std::memory_order_relaxed);
    if (count == unpinned_at_[buffer]) return false;
    if (kernel.is_locked(buffer)) return true;
    unpinned_at_[buffer] = count;
    return false;
  }
  /// The kernel is asked again, whatever the count says.
  void forget() noexcept { unpinned_at_ = {}; }

 private:
  std::array<std::optional<std::uint32_t>, layout::kBuffersMax> unpinned_at_{};
};

}  // namespace shmstate::internal
