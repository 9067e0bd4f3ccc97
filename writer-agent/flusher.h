// Inputs that said `flush` and wait until readers can see what was pushed before, without stopping the others.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>

#include "shmstate/writer.h"

namespace shmstate::agent {

class Input;

class Flusher {
 public:
  /// `timeout` is for each input that waits.
  Flusher(Writer& writer, std::chrono::milliseconds timeout) : writer_(&writer), timeout_(timeout) {}

  /// The outcome, when it is known at once; otherwise nothing, and `poll` will call `input.on_flushed`.
  [[nodiscard]] std::optional<Status> flush(Input& input);
  void forget(const Input& input) noexcept;

  [[nodiscard]] bool is_waiting() const noexcept { return !waiting_.empty(); }
  /// Looks who can go on, after waiting a moment for the first one.
  void poll();

  /// Waits until readers can see everything up to `ticket`. Returns kOk; kRejected when the merger rejected something
  /// since it was last told, whoever pushed it; kTimeout; or why the ring is lost.
  [[nodiscard]] Status wait(Ticket ticket, std::chrono::milliseconds timeout);

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
  std::uint64_t rejected_told_ = 0;
};

}  // namespace shmstate::agent
