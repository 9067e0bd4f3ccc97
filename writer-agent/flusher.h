// Those who said `flush` and wait until readers can see what was pushed before, without stopping the others.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "shmstate/writer.h"

namespace shmstate::agent {

class OwnRing;

/// Waits for what one writer pushed.
class RingWait {
 public:
  explicit RingWait(Writer& writer) : writer_(&writer) {}

  /// Waits until readers can see everything up to `ticket`. Returns kOk; kRejected when the merger rejected something
  /// since it was last told, whoever pushed it; kTimeout; or why the ring is lost.
  [[nodiscard]] Status wait(Ticket ticket, std::chrono::milliseconds timeout);

 private:
  Writer* writer_;
  std::uint64_t rejected_told_ = 0;
};

class Flusher {
 public:
  /// `timeout` is for each who waits.
  Flusher(Writer& writer, std::chrono::milliseconds timeout)
      : writer_(&writer), common_ring_(writer), timeout_(timeout) {}

  using OnFlushed = std::function<void(Status)>;

  /// Waits for the common ring, and for `own_ring` if there is one. The outcome, when it is known at once; otherwise
  /// nothing, and `poll` will call `on_flushed`, unless `who` is forgotten before.
  [[nodiscard]] std::optional<Status> flush(const void* who, OwnRing* own_ring, OnFlushed on_flushed);
  void forget(const void* who) noexcept;

  [[nodiscard]] bool is_waiting() const noexcept { return !waiting_.empty(); }
  /// Looks who can go on, after waiting a moment for the first one.
  void poll();

  /// As `RingWait::wait`, for the common ring.
  [[nodiscard]] Status wait(Ticket ticket, std::chrono::milliseconds timeout) {
    return common_ring_.wait(ticket, timeout);
  }

 private:
  using Clock = std::chrono::steady_clock;
  struct Waiting {
    const void* who;
    OnFlushed on_flushed;
    Ticket ticket;
    OwnRing* own_ring;  // or null
    Clock::time_point deadline;
    Status common = Status::kTimeout;  // of the common ring, as far as it is known
  };

  [[nodiscard]] Status look(Waiting& waiting, std::chrono::milliseconds timeout);

  Writer* writer_;
  RingWait common_ring_;
  std::chrono::milliseconds timeout_;
  std::deque<Waiting> waiting_;
};

}  // namespace shmstate::agent
