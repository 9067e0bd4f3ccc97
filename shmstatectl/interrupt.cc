#include "shmstatectl/interrupt.h"

#include <atomic>
#include <csignal>

namespace shmstate::ctl {

namespace {

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

void end_on_interrupt() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted.store(true, std::memory_order_relaxed); };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaction(signal, &action, nullptr);
}

bool is_interrupted() noexcept { return interrupted.load(std::memory_order_relaxed); }

}  // namespace shmstate::ctl
