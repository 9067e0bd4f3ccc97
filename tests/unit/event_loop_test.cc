// What handlers may do to each other within one round, and when they are called.
#include "support/event_loop.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace shmstate {
namespace {

using namespace std::chrono_literals;

constexpr std::chrono::milliseconds kNoWait{0};

class Handler : public EventHandler {
 public:
  explicit Handler(std::function<void(std::uint32_t)> on_call = {}) : on_call_(std::move(on_call)) {}
  void on_events(std::uint32_t events) override {
    ++calls;
    if (on_call_) on_call_(events);
  }
  int calls = 0;

 private:
  std::function<void(std::uint32_t)> on_call_;
};

/// A descriptor that is ready to be read.
Fd ready() { return Fd(::eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC)); }

TEST(EventLoop, ASourceThatIsReadyIsToldEachRound) {
  EventLoop loop;
  const Fd fd = ready();
  Handler handler;
  ASSERT_TRUE(loop.watch(fd.get(), EPOLLIN, handler));
  for (int round = 1; round <= 3; ++round) {
    loop.round(kNoWait);
    EXPECT_EQ(handler.calls, round);
  }
  loop.unwatch(fd.get());
  loop.round(kNoWait);
  EXPECT_EQ(handler.calls, 3);
}

// The other one was still called, when its events had been fetched already.
TEST(EventLoop, WhatIsUnwatchedIsNotToldInTheRunningRoundEither) {
  EventLoop loop;
  const Fd fds[] = {ready(), ready()};
  int calls = 0;
  const auto unwatch_both = [&](std::uint32_t /*events*/) {
    ++calls;
    for (const Fd& fd : fds) loop.unwatch(fd.get());
  };
  Handler first(unwatch_both);
  Handler second(unwatch_both);
  ASSERT_TRUE(loop.watch(fds[0].get(), EPOLLIN, first) && loop.watch(fds[1].get(), EPOLLIN, second));
  loop.round(kNoWait);
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, AHandlerMayForgetAndDestroyTheOthersAndItself) {
  EventLoop loop;
  const Fd fds[] = {ready(), ready(), ready()};
  std::vector<std::unique_ptr<Handler>> handlers;
  int calls = 0;
  const auto end_all = [&](std::uint32_t /*events*/) {
    ++calls;
    for (const auto& handler : handlers) loop.forget(*handler);
    const std::vector<std::unique_ptr<Handler>> ended = std::move(handlers);
  };
  for (const Fd& fd : fds) {
    handlers.push_back(std::make_unique<Handler>(end_all));
    ASSERT_TRUE(loop.watch(fd.get(), EPOLLIN, *handlers.back()));
    loop.call_again(*handlers.back());
    loop.call_at(*handlers.back(), EventLoop::Clock::now());
  }
  loop.round(kNoWait);
  loop.round(kNoWait);
  EXPECT_EQ(calls, 1);
}

TEST(EventLoop, AForgottenHandlerIsNotCalledAgainInTheRunningRound) {
  EventLoop loop;
  Handler second;
  Handler first([&](std::uint32_t /*events*/) { loop.forget(second); });
  loop.call_again(first);
  loop.call_again(second);
  loop.round(kNoWait);
  loop.round(kNoWait);
  EXPECT_EQ(first.calls, 1);
  EXPECT_EQ(second.calls, 0);
}

TEST(EventLoop, WhatIsNoLongerWantedIsNotToldInTheRunningRound) {
  EventLoop loop;
  const Fd fds[] = {ready(), ready()};
  std::vector<std::uint32_t> told;
  Handler second([&](std::uint32_t events) { told.push_back(events); });
  Handler first([&](std::uint32_t /*events*/) { EXPECT_TRUE(loop.watch(fds[1].get(), EPOLLOUT, second)); });
  ASSERT_TRUE(loop.watch(fds[0].get(), EPOLLIN, first));
  ASSERT_TRUE(loop.watch(fds[1].get(), EPOLLIN | EPOLLOUT, second));
  loop.round(kNoWait);
  for (const std::uint32_t events : told) EXPECT_EQ(events & EPOLLIN, 0U);
  loop.forget(first);
  loop.forget(second);
}

TEST(EventLoop, ADescriptorThatComesAgainIsItsNewHandlers) {
  EventLoop loop;
  Handler old_one;
  Handler new_one;
  Fd fd = ready();
  const int number = fd.get();
  ASSERT_TRUE(loop.watch(number, EPOLLIN, old_one));
  fd = Fd();  // closed, and not unwatched
  fd = ready();
  ASSERT_EQ(fd.get(), number);
  ASSERT_TRUE(loop.watch(number, EPOLLIN, new_one));
  loop.forget(old_one);
  loop.round(kNoWait);
  EXPECT_EQ(old_one.calls, 0);
  EXPECT_EQ(new_one.calls, 1);
  loop.forget(new_one);
}

TEST(EventLoop, WhoAsksToBeCalledAgainIsCalledOnceARound) {
  EventLoop loop;
  Handler handler([&](std::uint32_t events) {
    EXPECT_EQ(events, 0U);
    loop.call_again(handler);
    loop.call_again(handler);
  });
  loop.call_again(handler);
  for (int round = 1; round <= 10; ++round) {
    loop.round(-1ms);
    EXPECT_EQ(handler.calls, round);
  }
  loop.forget(handler);
}

// Those behind it were not called, in no round.
TEST(EventLoop, AHandlerThatThrowsTakesNoCallFromOthers) {
  EventLoop loop;
  const Fd fd = ready();
  Handler thrower([](std::uint32_t /*events*/) { throw std::runtime_error("on purpose"); });
  Handler again;
  Handler timed;
  loop.call_again(thrower);
  loop.call_again(again);
  loop.call_at(timed, EventLoop::Clock::now());
  EXPECT_THROW(loop.round(kNoWait), std::runtime_error);
  loop.round(-1ms);
  EXPECT_EQ(thrower.calls, 1);
  EXPECT_EQ(again.calls, 1);
  EXPECT_EQ(timed.calls, 1);

  ASSERT_TRUE(loop.watch(fd.get(), EPOLLIN, thrower));
  loop.call_again(again);
  loop.call_at(timed, EventLoop::Clock::now());
  EXPECT_THROW(loop.round(kNoWait), std::runtime_error);
  loop.forget(thrower);
  loop.round(-1ms);
  EXPECT_EQ(again.calls, 2);
  EXPECT_EQ(timed.calls, 2);
}

TEST(EventLoop, ATimeIsWaitedForAndComesOnce) {
  EventLoop loop;
  Handler handler;
  const EventLoop::Clock::time_point due = EventLoop::Clock::now() + 20ms;
  loop.call_at(handler, due);
  loop.round(kNoWait);
  EXPECT_EQ(handler.calls, 0);
  while (handler.calls == 0) loop.round(-1ms);
  EXPECT_GE(EventLoop::Clock::now(), due);
  loop.round(kNoWait);
  EXPECT_EQ(handler.calls, 1);
}

TEST(EventLoop, TimesComeInTheirOrderAndCanBeMovedAndCancelled) {
  EventLoop loop;
  std::vector<int> order;
  Handler first([&](std::uint32_t /*events*/) { order.push_back(1); });
  Handler second([&](std::uint32_t /*events*/) { order.push_back(2); });
  Handler never([&](std::uint32_t /*events*/) { order.push_back(3); });
  const EventLoop::Clock::time_point now = EventLoop::Clock::now();
  loop.call_at(second, now);
  loop.call_at(first, now + 1h);
  loop.call_at(never, now);
  loop.call_at(first, now - 1s);
  loop.cancel_call_at(never);
  loop.round(-1ms);
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

TEST(EventLoop, ATimeThatIsOverStarvesNobody) {
  EventLoop loop;
  const Fd fd = ready();
  Handler ready_one;
  Handler timed([&](std::uint32_t /*events*/) { loop.call_at(timed, EventLoop::Clock::now()); });
  ASSERT_TRUE(loop.watch(fd.get(), EPOLLIN, ready_one));
  loop.call_at(timed, EventLoop::Clock::now());
  for (int round = 1; round <= 5; ++round) {
    loop.round(kNoWait);
    EXPECT_EQ(timed.calls, round);
    EXPECT_EQ(ready_one.calls, round);
  }
  loop.forget(timed);
  loop.forget(ready_one);
}

TEST(EventLoop, ARegularFileCannotBeWatched) {
  EventLoop loop;
  Handler handler;
  const Fd file = open_file("/proc/self/exe", 0);
  ASSERT_TRUE(file.is_open());
  EXPECT_FALSE(loop.watch(file.get(), EPOLLIN, handler));
}

}  // namespace
}  // namespace shmstate
