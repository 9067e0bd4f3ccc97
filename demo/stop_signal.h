// SIGTERM and SIGINT end a program of the demo at its next look, and at once when it sleeps.
#pragma once

#include <chrono>

namespace shmstate::demo {

using Clock = std::chrono::steady_clock;

void stop_on_signals();
[[nodiscard]] bool stop_requested();
/// Returns early when a signal arrives.
void sleep_until(Clock::time_point time);

}  // namespace shmstate::demo
