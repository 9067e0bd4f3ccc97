#include "stop_signal.h"

#include <csignal>
#include <ctime>

namespace shmstate::demo {
namespace {

volatile std::sig_atomic_t stop_signal_seen = 0;

void see_stop_signal(int /*signal*/) { stop_signal_seen = 1; }

}  // namespace

void stop_on_signals() {
  struct sigaction action {};
  action.sa_handler = see_stop_signal;
  ::sigaction(SIGTERM, &action, nullptr);
  ::sigaction(SIGINT, &action, nullptr);
}

bool stop_requested() { return stop_signal_seen != 0; }

void sleep_until(Clock::time_point time) {
  const auto since_boot = std::chrono::nanoseconds(time.time_since_epoch()).count();
  const timespec wake{since_boot / 1'000'000'000, since_boot % 1'000'000'000};
  ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, nullptr);
}

}  // namespace shmstate::demo
