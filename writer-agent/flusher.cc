#include "flusher.h"

#include <utility>

#include "inputs/input.h"
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

std::optional<Status> Flusher::flush(Input& input, OwnRing* own_ring) {
  Waiting waiting{&input, writer_->ticket(), own_ring, Clock::now() + timeout_};
  if (waiting_.empty()) {
    const Status status = look(waiting, kMoment);
    if (status != Status::kTimeout) return status;
  }
  waiting_.push_back(waiting);
  return std::nullopt;
}

void Flusher::forget(const Input& input) noexcept {
  std::erase_if(waiting_, [&](const Waiting& waiting) { return waiting.input == &input; });
}

void Flusher::poll() {
  std::chrono::milliseconds patience = kMoment;
  for (auto waiting = waiting_.begin(); waiting != waiting_.end();) {
    const Status status = look(*waiting, std::exchange(patience, std::chrono::milliseconds(0)));
    if (status == Status::kTimeout && Clock::now() < waiting->deadline) {
      ++waiting;
      continue;
    }
    Input* const input = waiting->input;
    waiting = waiting_.erase(waiting);
    input->on_flushed(status);
  }
}

Status Flusher::look(Waiting& waiting, std::chrono::milliseconds timeout) {
  if (waiting.common == Status::kTimeout) waiting.common = common_ring_.wait(waiting.ticket, timeout);
  if (waiting.common == Status::kTimeout || waiting.own_ring == nullptr) return waiting.common;
  const Status own = waiting.own_ring->wait(timeout);
  return own == Status::kOk ? waiting.common : own;
}

}  // namespace shmstate::agent
