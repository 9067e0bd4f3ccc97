#include "interrupt.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <string_view>

#include "support/stop_signal.h"

namespace shmstate::ctl {

namespace {

std::atomic<int> code_at_cpu_limit = static_cast<int>(ExitCode::kOther);
static_assert(std::atomic<int>::is_always_lock_free);

void mask_cpu_limit(int how) noexcept {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGXCPU);
  ::pthread_sigmask(how, &signals, nullptr);
}

}  // namespace

void end_on_interrupt() { catch_stop_signals(Hangup::kIsCaught); }

bool is_interrupted() noexcept { return requests().load(std::memory_order_relaxed) != kNoRequest; }

bool is_at_cpu_limit() noexcept { return (requests().load(std::memory_order_relaxed) & kCpuLimitRequest) != 0; }

void end_at_cpu_limit() {
  hear_of_cpu_limit();
  struct sigaction action {};
  action.sa_handler = [](int) {
    for (const std::string_view part : {std::string_view("shmstate: "), kCpuLimitText, std::string_view("\n")})
      static_cast<void>(!::write(STDERR_FILENO, part.data(), part.size()));
    ::_exit(code_at_cpu_limit.load(std::memory_order_relaxed));
  };
  ::sigaction(SIGXCPU, &action, nullptr);
}

void set_exit_code_at_cpu_limit(ExitCode code) noexcept {
  code_at_cpu_limit.store(static_cast<int>(code), std::memory_order_relaxed);
}

CpuLimitLater::CpuLimitLater() noexcept { mask_cpu_limit(SIG_BLOCK); }
CpuLimitLater::~CpuLimitLater() { mask_cpu_limit(SIG_UNBLOCK); }
}  // namespace shmstate::ctl
