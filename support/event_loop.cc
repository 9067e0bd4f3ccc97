#include "support/event_loop.h"

#include <algorithm>
#include <cerrno>
#include <limits>
#include <utility>

#include "support/errors.h"

namespace shmstate {

EventLoop::EventLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_.is_open()) throw_errno("epoll_create1", errno);
}

bool EventLoop::watch(int fd, std::uint32_t events, EventHandler& handler) {
  const auto index = static_cast<std::size_t>(fd);
  if (index >= watches_.size()) watches_.resize(index + 1);
  Watch& watch = watches_[index];
  if (watch.handler != &handler) handler.watched_.reserve(handler.watched_.size() + 1);
  const std::uint32_t generation = watch.handler == &handler ? watch.generation : watch.generation + 1;
  epoll_event event{.events = events, .data = {.u64 = (std::uint64_t{generation} << 32) | index}};
  const bool is_known = ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) == 0;
  if (!is_known && (errno != ENOENT || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)) {
    if (errno == EPERM) return false;
    throw_errno("epoll_ctl", errno);
  }
  if (watch.handler != &handler) {
    if (watch.handler != nullptr) std::erase(watch.handler->watched_, fd);
    handler.watched_.push_back(fd);
  }
  watch = {&handler, events, generation};
  return true;
}

void EventLoop::unwatch(int fd) noexcept {
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
  const auto index = static_cast<std::size_t>(fd);
  if (fd < 0 || index >= watches_.size()) return;
  Watch& watch = watches_[index];
  if (watch.handler != nullptr) std::erase(watch.handler->watched_, fd);
  watch = {.generation = watch.generation + 1};
}

void EventLoop::call_again(EventHandler& handler) {
  if (handler.is_queued_) return;
  again_.push_back(&handler);
  handler.is_queued_ = true;
}

void EventLoop::call_at(EventHandler& handler, Clock::time_point time) {
  cancel_call_at(handler);
  handler.timer_ = timers_.emplace(time, &handler);
}

void EventLoop::cancel_call_at(EventHandler& handler) noexcept {
  if (handler.timer_) timers_.erase(*handler.timer_);
  handler.timer_.reset();
}

void EventLoop::forget(EventHandler& handler) noexcept {
  cancel_call_at(handler);
  while (!handler.watched_.empty()) unwatch(handler.watched_.back());
  if (!std::exchange(handler.is_queued_, false)) return;
  std::erase(again_, &handler);
  std::erase(to_call_, &handler);
}

void EventLoop::round(std::chrono::milliseconds timeout) {
  to_call_.insert(to_call_.end(), again_.begin(), again_.end());  // behind those that an exception left
  again_.clear();
  const int count = ::epoll_wait(epoll_.get(), events_.data(), static_cast<int>(events_.size()), wait_ms(timeout));
  if (count < 0 && errno != EINTR) throw_errno("epoll_wait", errno);
  queue_due(Clock::now());
  for (int i = 0; i < count; ++i) dispatch(events_[static_cast<std::size_t>(i)]);
  while (!to_call_.empty()) {
    EventHandler* const handler = to_call_.front();
    to_call_.pop_front();
    handler->is_queued_ = false;
    handler->on_events(0);
  }
}

int EventLoop::wait_ms(std::chrono::milliseconds timeout) const {
  using std::chrono::milliseconds;
  if (!to_call_.empty()) return 0;
  constexpr milliseconds kLongest{std::numeric_limits<int>::max()};
  milliseconds wait = timeout < milliseconds(0) ? kLongest : std::min(timeout, kLongest);
  if (!timers_.empty()) {
    const auto left = std::chrono::ceil<milliseconds>(timers_.begin()->first - Clock::now());
    wait = std::clamp(left, milliseconds(0), wait);
  } else if (timeout < milliseconds(0)) {
    return -1;
  }
  return static_cast<int>(wait.count());
}

/// Those whose time has come are called like those that asked to be called again.
void EventLoop::queue_due(Clock::time_point now) {
  while (!timers_.empty() && timers_.begin()->first <= now) {
    EventHandler* const handler = timers_.begin()->second;
    if (!handler->is_queued_) to_call_.push_back(handler);
    handler->is_queued_ = true;
    cancel_call_at(*handler);
  }
}

void EventLoop::dispatch(const epoll_event& event) {
  constexpr std::uint32_t kAlwaysTold = EPOLLERR | EPOLLHUP;
  const Watch& watch = watches_[static_cast<std::uint32_t>(event.data.u64)];
  const std::uint32_t events = event.events & (watch.events | kAlwaysTold);
  if (watch.handler == nullptr || watch.generation != event.data.u64 >> 32 || events == 0) return;
  watch.handler->on_events(events);
}

}  // namespace shmstate
