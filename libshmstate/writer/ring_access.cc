#include "writer/ring_access.h"

#include <cerrno>
#include <thread>

namespace shmstate::internal {

// OFD locks have no timeout, and a stopped holder must not stop us for longer than the caller allows: so we poll. A
// writer that does not want to wait lets others finish their push, but does not sleep.
Status RingAccess::lock(Clock::time_point began) noexcept {
  constexpr int kTriesAtOnce = 10;
  constexpr auto kPauseMax = std::chrono::microseconds(500);
  std::chrono::nanoseconds pause = std::chrono::microseconds(1);
  for (int tries = 1; !os::try_lock(ring.fd(), kPusherByte, true); ++tries) {
    if (errno != EAGAIN) return Status::kSystem;
    if (tries < kTriesAtOnce) {
      std::this_thread::yield();
      continue;
    }
    if (options.when_full != WhenFull::kBlock) return full_status();
    if (left_of(options.full_timeout, began) == std::chrono::nanoseconds::zero()) return Status::kTimeout;
    const os::NoCancellation shield;
    std::this_thread::sleep_for(pause);
    pause = std::min<std::chrono::nanoseconds>(pause * 2, kPauseMax);
  }
  return Status::kOk;
}

void RingAccess::unlock() noexcept { os::unlock(ring.fd(), kPusherByte); }

}  // namespace shmstate::internal
