// Room in the ring: waiting until the merger has made some, and committing the memory of it.
#pragma once

#include <algorithm>

#include "files/os.h"
#include "writer/writer_place.h"

namespace shmstate::internal {

/// What is left of a timeout of any size; adding it to a point in time could overflow.
[[nodiscard]] inline std::chrono::nanoseconds left_of(std::chrono::nanoseconds timeout,
                                                      WriterFiles::Clock::time_point began) noexcept {
  const auto elapsed = WriterFiles::Clock::now() - began;
  return timeout > elapsed ? timeout - elapsed : std::chrono::nanoseconds::zero();
}

struct RingRoom : WriterPlace {
  using WriterPlace::WriterPlace;

  /// With the wait that the options ask for.
  [[nodiscard]] Status make_room(std::uint64_t bytes) noexcept;
  /// Commits the memory of the next `bytes`: before it is touched, and only as far as the ring has ever been used.
  [[nodiscard]] Status commit_memory(std::uint64_t bytes) noexcept;
  /// In a shared ring, after taking its lock: others have pushed, and committed, meanwhile.
  void take_over() noexcept;

  /// Why this ring is not merged; kOk when it is, or nothing is known.
  [[nodiscard]] Status verdict() const noexcept;
  /// kRingFull, or the reason for it.
  [[nodiscard]] Status full_status() noexcept;
  /// kTimeout, or the reason for it.
  [[nodiscard]] Status timeout_status() const noexcept {
    return control.is_lost() || control.is_current() ? Status::kTimeout : Status::kNoInstance;
  }
  /// Calls `attempt(head)`, which may do anything, until it returns true: spins a moment, then sleeps on the ring's
  /// head.
  template <typename Attempt>
  [[nodiscard]] Status wait_for_head(std::chrono::nanoseconds timeout, Attempt attempt) noexcept;

 private:
  static constexpr auto kSpinTime = std::chrono::microseconds(20);
  static constexpr std::uint64_t kBytesPerCheck = std::uint64_t{16} << 10;  // of the place

  std::uint64_t next_check_when_full_ns_ = 0;
};

template <typename Attempt>
Status RingRoom::wait_for_head(std::chrono::nanoseconds timeout, Attempt attempt) noexcept {
  const auto began = Clock::now();
  const auto* const futex = ring.header().head.futex();
  for (;;) {
    if (attempt(pusher.head_before_sleep())) return Status::kOk;
    const auto waited = Clock::now() - began;
    if (waited < std::min<std::chrono::nanoseconds>(kSpinTime, timeout)) {
      os::relax();
      continue;
    }
    announce_again();
    if (const Status served = verdict(); served != Status::kOk) return served;
    if (waited >= timeout) return timeout_status();
    wake_merger();
    pusher.announce_wait();
    const std::uint64_t head = pusher.head_before_sleep();
    if (!attempt(head)) {
      os::futex_wait(futex, static_cast<std::uint32_t>(head),
                     std::min<std::chrono::nanoseconds>(sleep_max(), timeout - waited));
      if (waited >= kSleepMax && !control.is_current()) return Status::kNoInstance;  // removed while no merger ran
    }
    if (!options.shared) pusher.end_wait();  // of a shared ring, others may still wait
  }
}

}  // namespace shmstate::internal
