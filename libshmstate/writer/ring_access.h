// Writing records into the ring: alone, or, in a shared ring, behind a lock that the kernel frees when its holder dies.
#pragma once

#include "layout/record.h"
#include "shmstate/detail/crash_point.h"
#include "writer/ring_room.h"

namespace shmstate::internal {

struct RingAccess : RingRoom {
  using RingRoom::RingRoom;

  /// What is wrong with a mutation before it is pushed here.
  [[nodiscard]] Status check_for_ring(const Mutation& mutation) const noexcept {
    const bool is_impossible = (mutation.flags & kEphemeral) != 0 && options.shared;
    const bool is_negative = static_cast<std::int64_t>(mutation.ttl_ns) < 0;
    return is_impossible || is_negative ? Status::kInvalidArgument : check(mutation);
  }
  /// Pushes `bytes` of `count` mutations, which `fill(at)` writes, with the wait for room that the options ask for.
  /// kNoInstance also when the wait led to another instance: what was made for the old ring may name keys by its ids.
  template <typename Fill>
  [[nodiscard]] Status write(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept {
    if (options.shared) return write_locked(bytes, count, fill);
    if (!pusher.may_push(bytes)) {
      const std::uint64_t ring_id = pusher.ring_id;
      if (const Status status = make_room(bytes); status != Status::kOk) return status;
      if (pusher.ring_id != ring_id) return Status::kNoInstance;
    }
    return write_here(bytes, count, fill);
  }

 private:
  template <typename Fill>
  [[nodiscard]] Status write_here(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept {
    fill(pusher.here());
    pusher.publish(bytes, count);
    wake_merger();
    return Status::kOk;
  }
  template <typename Fill>
  [[nodiscard]] Status write_locked(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept;
  [[nodiscard]] Status lock(Clock::time_point began) noexcept;
  void unlock() noexcept;
};

template <typename Fill>
Status RingAccess::write_locked(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept {
  if (const Status status = check_place(); status != Status::kOk) return status;
  if (bytes > ring.data_bytes()) return Status::kMutationTooBig;
  const auto began = Clock::now();
  for (;;) {
    if (const Status status = lock(began); status != Status::kOk) return status;
    crash_point(CrashPoint::kSharedRingLocked);
    take_over();
    Status status = pusher.has_room(bytes) ? commit_memory(bytes) : Status::kRingFull;
    if (status == Status::kOk) status = write_here(bytes, count, fill);
    crash_point(CrashPoint::kSharedRingPushed);
    unlock();
    if (status != Status::kRingFull) return status;
    if (options.when_full != WhenFull::kBlock) return full_status();
    status = wait_for_head(left_of(options.full_timeout, began),
                           [&](std::uint64_t) {  // the lock decides which writer is next
                             pusher.take_over();
                             return pusher.has_room(bytes);
                           });
    if (status != Status::kOk) return status;
  }
}

}  // namespace shmstate::internal
