#include "interrupt.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <string_view>

#include "files/os.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

std::atomic<int> interrupted_by = 0;  // a signal
std::atomic<int> code_at_cpu_limit = static_cast<int>(ExitCode::kOther);
static_assert(std::atomic<int>::is_always_lock_free);

void handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigaction(signal, &action, nullptr);
}

void mask_cpu_limit(int how) noexcept {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGXCPU);
  ::pthread_sigmask(how, &signals, nullptr);
}

}  // namespace

void end_on_interrupt() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGXCPU})
    handle(signal, [](int number) { interrupted_by.store(number, std::memory_order_relaxed); });
}

bool is_interrupted() noexcept { return interrupted_by.load(std::memory_order_relaxed) != 0; }

void end_at_cpu_limit() {
  os::hear_of_cpu_limit();
  handle(SIGXCPU, [](int) {
    for (const std::string_view part : {std::string_view("shmstate: "), os::kCpuLimitText, std::string_view("\n")})
      static_cast<void>(!::write(STDERR_FILENO, part.data(), part.size()));
    ::_exit(code_at_cpu_limit.load(std::memory_order_relaxed));
  });
}

void set_exit_code_at_cpu_limit(ExitCode code) noexcept {
  code_at_cpu_limit.store(static_cast<int>(code), std::memory_order_relaxed);
}

CpuLimitLater::CpuLimitLater() noexcept { mask_cpu_limit(SIG_BLOCK); }
CpuLimitLater::~CpuLimitLater() { mask_cpu_limit(SIG_UNBLOCK); }

bool is_at_cpu_limit() noexcept { return interrupted_by.load(std::memory_order_relaxed) == SIGXCPU; }

}  // namespace shmstate::ctl
