#include "writer-agent/flusher.h"

#include <utility>

#include "writer-agent/input.h"
#include "writer-agent/writer_sink.h"

namespace shmstate::agent {
namespace {

constexpr std::chrono::milliseconds kMoment{1};

}  // namespace

std::optional<Status> Flusher::flush(Input& input) {
  const Ticket ticket = writer_->ticket();
  if (waiting_.empty()) {
    const Status status = wait(ticket, kMoment);
    if (status != Status::kTimeout) return status;
  }
  waiting_.push_back({&input, ticket, Clock::now() + timeout_});
  return std::nullopt;
}

void Flusher::forget(const Input& input) noexcept {
  std::erase_if(waiting_, [&](const Waiting& waiting) { return waiting.input == &input; });
}

void Flusher::poll() {
  while (!waiting_.empty()) {
    const Waiting first = waiting_.front();
    const Status status = wait(first.ticket, kMoment);
    if (status == Status::kTimeout && Clock::now() < first.deadline) return;
    waiting_.pop_front();
    first.input->on_flushed(status);
  }
}

/// A writer's flush also returns the first failure of a push since the last flush. That was told when it happened, and
/// a push that timed out must not look like a flush that did: so it asks again.
Status Flusher::wait(Ticket ticket, std::chrono::milliseconds timeout) {
  Status status = writer_->flush(ticket, timeout);
  if (status == Status::kTimeout) status = writer_->flush(ticket, std::chrono::nanoseconds(0));
  if (status == Status::kTimeout || is_ring_loss(status)) return status;
  const std::uint64_t rejected = writer_->counters().rejected;
  return std::exchange(rejected_told_, rejected) == rejected ? Status::kOk : Status::kRejected;
}

}  // namespace shmstate::agent
