// One thread, one epoll: calls handlers when their descriptors are ready, when their time has come, and when they asked
// to be called again.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include <sys/epoll.h>

#include "support/fd.h"

namespace shmstate {

class EventHandler {
 public:
  EventHandler() = default;
  EventHandler(const EventHandler&) = delete;
  EventHandler& operator=(const EventHandler&) = delete;
  virtual ~EventHandler() = default;

  /// `events` as of epoll; 0 when the handler asked for it with `EventLoop::call_again` or `call_at`. It may change
  /// what the loop watches, forget any handler, and destroy those that it forgot, itself included.
  virtual void on_events(std::uint32_t events) = 0;

 private:
  friend class EventLoop;
  using Timers = std::multimap<std::chrono::steady_clock::time_point, EventHandler*>;

  bool is_queued_ = false;
  std::optional<Timers::iterator> timer_;
  std::vector<int> watched_;
};

/// Handlers must be forgotten before they are destroyed. What one of them throws leaves `round`; nobody else loses a
/// call by it. Not thread-safe.
class EventLoop {
 public:
  using Clock = std::chrono::steady_clock;

  /// Throws `Error`.
  EventLoop();

  /// Watches a descriptor, level-triggered, or changes the events watched for, also for the rest of this round. Returns
  /// false for one that epoll cannot watch, such as a regular file. Throws `Error`.
  [[nodiscard]] bool watch(int fd, std::uint32_t events, EventHandler& handler);
  /// To be called before the descriptor is closed. Its events of this round are dropped.
  void unwatch(int fd) noexcept;

  /// Calls the handler once in the next round, or later in this one, ready or not.
  void call_again(EventHandler& handler);
  /// Calls the handler once, not before `time`. A handler has one such time: this one takes the place of an earlier
  /// one.
  void call_at(EventHandler& handler, Clock::time_point time);
  void cancel_call_at(EventHandler& handler) noexcept;

  /// The handler is not called any more, and its descriptors are not watched, from now on.
  void forget(EventHandler& handler) noexcept;

  /// Waits for events, at most `timeout` (for ever when negative), and calls the handlers. Throws `Error`, and what
  /// handlers throw.
  void round(std::chrono::milliseconds timeout);

 private:
  struct Watch {
    EventHandler* handler = nullptr;
    std::uint32_t events = 0;
    std::uint32_t generation = 0;  // events of an earlier one are out of date
  };

  [[nodiscard]] int wait_ms(std::chrono::milliseconds timeout) const;
  void queue_due(Clock::time_point now);
  void dispatch(const epoll_event& event);

  Fd epoll_;
  std::vector<Watch> watches_;         // by descriptor
  std::vector<EventHandler*> again_;   // for the next round
  std::deque<EventHandler*> to_call_;  // in this one
  EventHandler::Timers timers_;
  std::array<epoll_event, 64> events_{};
};

}  // namespace shmstate
