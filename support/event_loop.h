// One thread, one epoll: calls handlers when their descriptors are ready, and those that asked to be called again.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "files/os.h"

namespace shmstate::agent {
using namespace internal;

class EventHandler {
 public:
  EventHandler() = default;
  EventHandler(const EventHandler&) = delete;
  EventHandler& operator=(const EventHandler&) = delete;
  virtual ~EventHandler() = default;

  /// `events` as of epoll; 0 when the handler asked for it with `EventLoop::call_again`.
  virtual void on_events(std::uint32_t events) = 0;

 private:
  friend class EventLoop;
  bool is_queued_ = false;
};

/// Handlers must stay alive during a round, and must be forgotten before they are destroyed.
class EventLoop {
 public:
  EventLoop();

  /// Watches a descriptor, level-triggered, or changes the events watched for. Returns false for one that epoll cannot
  /// watch, such as a regular file.
  [[nodiscard]] bool watch(int fd, std::uint32_t events, EventHandler& handler);
  void unwatch(int fd) noexcept;

  /// Calls the handler in the next round, ready or not.
  void call_again(EventHandler& handler);
  void forget(EventHandler& handler) noexcept;

  /// Waits for events, at most `timeout` (for ever when negative), and calls the handlers.
  void round(std::chrono::milliseconds timeout);

 private:
  os::Fd epoll_;
  std::vector<EventHandler*> again_;
};

}  // namespace shmstate::agent
