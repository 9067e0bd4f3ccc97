#include "writer/ring_room.h"

#include <cerrno>
#include <limits>

#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

constexpr std::uint64_t kCommitStep = std::uint64_t{256} << 10;
constexpr std::uint64_t kAllCommitted = std::numeric_limits<std::uint64_t>::max();

}  // namespace

Status RingRoom::make_room(std::uint64_t bytes) noexcept {
  if (const Status status = check_place(); status != Status::kOk) return status;
  if (bytes > ring.data_bytes()) return Status::kMutationTooBig;
  if (!pusher.has_room(bytes)) pusher.refresh();
  if (!pusher.has_room(bytes)) {
    if (options.when_full != WhenFull::kBlock) return full_status();
    const Status waited = wait_for_head(options.full_timeout, [&](std::uint64_t) {
      pusher.refresh();
      return pusher.has_room(bytes);
    });
    if (waited != Status::kOk) return waited;
  }
  const Status status = commit_memory(bytes);
  if (status == Status::kOk) {
    wiped().push_end = std::min({pusher.room_end(), committed_end, pusher.tail() + bytes + kBytesPerCheck});
  }
  return status;
}

Status RingRoom::commit_memory(std::uint64_t bytes) noexcept {
  while (pusher.tail() + bytes > committed_end) {
    if (committed_end >= ring.data_bytes()) {
      committed_end = kAllCommitted;
      break;
    }
    const std::uint64_t missing = pusher.tail() + bytes - committed_end;
    std::uint64_t step = std::min(std::max(kCommitStep, missing), ring.data_bytes() - committed_end);
    const auto commit = [&] { return os::commit(ring.fd(), layout::kRingHeaderBytes + committed_end, step); };
    int error_number = commit();
    // A ring that begins may erase a key, and so make room, with as little as that; and of a shared ring, others may
    // have committed more than this process knows.
    if (error_number == ENOSPC && (committed_end == 0 || options.shared)) {
      step = missing;
      error_number = commit();
    }
    if (error_number != 0) return os::status_of(error_number);
    committed_end += step;
    crash_point(CrashPoint::kRingMemoryCommitted);
  }
  return Status::kOk;
}

void RingRoom::take_over() noexcept {
  pusher.take_over();
  committed_end = pusher.tail() >= ring.data_bytes() ? kAllCommitted : std::max(committed_end, pusher.tail());
}

Status RingRoom::verdict() const noexcept {
  if (ring.has_faulted()) return Status::kRingQuarantined;
  if (control.is_lost()) return Status::kDamaged;
  if (control.heartbeat().retired.load(std::memory_order_acquire) != 0) {  // pair: heartbeat.retired
    return Status::kNoInstance;
  }
  switch (static_cast<layout::RingVerdict>(ring.header().verdict.load(std::memory_order_acquire))) {
    case layout::RingVerdict::kRefused: return Status::kRingRefused;
    case layout::RingVerdict::kQuarantined: return Status::kRingQuarantined;
    default: return Status::kOk;
  }
}

// A merger that was killed a moment ago is not silent yet, so the path is looked at all the same, now and then.
Status RingRoom::full_status() noexcept {
  announce_again();
  Status served = verdict();
  const std::uint64_t now = os::now_ns();
  if (served == Status::kOk && now >= next_check_when_full_ns_) {
    next_check_when_full_ns_ = now + kCheckIntervalNs;
    served = check_path();
  }
  return served == Status::kOk ? Status::kRingFull : served;
}

}  // namespace shmstate::internal
