#include "flusher.h"

#include <utility>

#include "inputs/own_ring.h"
#include "writer_sink.h"

namespace shmstate::agent {
namespace {

constexpr std::chrono::milliseconds kMoment{1};

}  // namespace

/// A writer's flush also returns the first failure of a push since the last flush. That was told when it happened, and
/// a push that timed out must not look like a flush that did: so it asks again.
Status RingWait::wait(Ticket ticket, std::chrono::milliseconds timeout) {
  Status status = writer_->flush(ticket, timeout);
  if (status == Status::kTimeout) status = writer_->flush(ticket, std::chrono::nanoseconds(0));
  if (status == Status::kTimeout || is_ring_loss(status)) return status;
  const std::uint64_t rejected = writer_->counters().rejected;
  return std::exchange(rejected_told_, rejected) == rejected ? Status::kOk : Status::kRejected;
}

std::optional<Status> Flusher::flush(const void* who, OwnRing* own_ring, OnFlushed on_flushed) {
  Waiting waiting{who, std::move(on_flushed), writer_->ticket(), own_ring, Clock::now() + timeout_};
  if (waiting_.empty()) {
    const Status status = look(waiting, kMoment);
    if (status != Status::kTimeout) return status;
  }
  waiting_.push_back(std::move(waiting));
  return std::nullopt;
}

void Flusher::forget(const void* who) noexcept {
  std::erase_if(waiting_, [&](const Waiting& waiting) { return waiting.who == who; });
}

void Flusher::poll() {
  std::chrono::milliseconds patience = kMoment;
  for (auto waiting = waiting_.begin(); waiting != waiting_.end();) {
    const Status status = look(*waiting, std::exchange(patience, std::chrono::milliseconds(0)));
    if (status == Status::kTimeout && Clock::now() < waiting->deadline) {
      ++waiting;
      continue;
    }
    const OnFlushed on_flushed = std::move(waiting->on_flushed);
    waiting = waiting_.erase(waiting);
    on_flushed(status);
  }
}

Status Flusher::look(Waiting& waiting, std::chrono::milliseconds timeout) {
  if (waiting.common == Status::kTimeout) waiting.common = common_ring_.wait(waiting.ticket, timeout);
  if (waiting.common == Status::kTimeout || waiting.own_ring == nullptr) return waiting.common;
  const Status own = waiting.own_ring->wait(timeout);
  return own == Status::kOk ? waiting.common : own;
}

}  // namespace shmstate::agent
