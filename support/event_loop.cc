#include "support/event_loop.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <utility>

namespace shmstate::agent {
using namespace internal;

EventLoop::EventLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_.is_open()) os::throw_errno("epoll_create1", errno);
}

bool EventLoop::watch(int fd, std::uint32_t events, EventHandler& handler) {
  epoll_event event{.events = events, .data = {.ptr = &handler}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0) return true;
  if (errno == ENOENT && ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return true;
  if (errno == EPERM) return false;
  os::throw_errno("epoll_ctl", errno);
}

void EventLoop::unwatch(int fd) noexcept { ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

void EventLoop::call_again(EventHandler& handler) {
  if (std::exchange(handler.is_queued_, true)) return;
  again_.push_back(&handler);
}

void EventLoop::forget(EventHandler& handler) noexcept {
  if (std::exchange(handler.is_queued_, false)) std::erase(again_, &handler);
}

void EventLoop::round(std::chrono::milliseconds timeout) {
  std::array<epoll_event, 64> events;
  const std::vector<EventHandler*> again = std::exchange(again_, {});
  for (EventHandler* handler : again) handler->is_queued_ = false;
  const int wait_ms = again.empty() ? static_cast<int>(timeout.count()) : 0;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), wait_ms);
  if (count < 0 && errno != EINTR) os::throw_errno("epoll_wait", errno);
  for (int i = 0; i < count; ++i) static_cast<EventHandler*>(events[i].data.ptr)->on_events(events[i].events);
  for (EventHandler* handler : again) handler->on_events(0);
}

}  // namespace shmstate::agent
