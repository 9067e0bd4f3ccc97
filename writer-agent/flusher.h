// Inputs that said `flush` and wait until readers can see what was pushed before, without stopping the others.
#pragma once

#include <chrono>
#include <deque>
#include <optional>

#include "shmstate/writer.h"

namespace shmstate::agent {

class Input;

class Flusher {
 public:
  Flusher(Writer& writer, std::chrono::milliseconds timeout) : writer_(&writer), timeout_(timeout) {}

  /// The outcome, when it is known at once; otherwise nothing, and `poll` will call `input.on_flushed`.
  [[nodiscard]] std::optional<Status> flush(Input& input);
  void forget(const Input& input) noexcept;

  [[nodiscard]] bool is_waiting() const noexcept { return !waiting_.empty(); }
  /// Looks who can go on, after waiting a moment for the first one.
  void poll();

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    Input* input;
    Ticket ticket;
    Clock::time_point deadline;
  };

  Writer* writer_;
  std::chrono::milliseconds timeout_;
  std::deque<Waiting> waiting_;  // by ticket
};

}  // namespace shmstate::agent
