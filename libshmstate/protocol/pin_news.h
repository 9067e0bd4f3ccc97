// How the merger learns of pins without a system call in each turn.
//
//   merger                                              reader
//   1 claim the buffer: stamp |= kClaimed               1 version = (epoch, buffer) from the epoch word (acquire)
//   2 barrier; n = announced                            2 announced + 1, in the kernel
//   3 n is what was kept for this buffer? not pinned    3 lock the byte of the buffer; barrier
//   4 otherwise ask the kernel; on "no", keep n         4 is the stamp still that epoch? then it is pinned
//
// Why step 3 of the merger is right: let the reader's step 4 see the epoch, unclaimed. Then the barriers let the
// merger's step 2 in its next claim of that buffer see the announcement, and its step 4 the lock. What was kept for the
// buffer dates from a claim before that epoch was published in it, so before the reader's step 1, and is without that
// announcement: n is another number, and the kernel is asked.
//
// Readers can write the count, so it is only a hint not to ask. Who sets it back hides pins until the merger forgets
// what it kept: such a pin expires early, which its holder sees in the stamp.
//
// A template, so that a model checker can run exactly this code: `kernel` has `fence()`, a full barrier, and
// `is_locked(buffer)`.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>

#include "layout/layout.h"

namespace shmstate::internal {

class PinNews {
 public:
  /// The merger's steps 2 to 4.
  template <typename Word, typename Kernel>
  [[nodiscard]] bool is_pinned(const Word& announced, std::uint32_t buffer, const Kernel& kernel) noexcept {
    kernel.fence();
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
