#include "writer-agent/flusher.h"

#include "writer-agent/input.h"

namespace shmstate::agent {
namespace {

constexpr std::chrono::milliseconds kMoment{1};

}  // namespace

std::optional<Status> Flusher::flush(Input& input) {
  const Ticket ticket = writer_->ticket();
  if (waiting_.empty()) {
    const Status status = writer_->flush(ticket, kMoment);
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
    const Status status = writer_->flush(first.ticket, kMoment);
    if (status == Status::kTimeout && Clock::now() < first.deadline) return;
    waiting_.pop_front();
    first.input->on_flushed(status);
  }
}

}  // namespace shmstate::agent
