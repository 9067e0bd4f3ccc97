#include "support/stop_signal.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "support/errors.h"

namespace shmstate {
namespace {

std::atomic<unsigned> requested{kNoRequest};
static_assert(std::atomic<unsigned>::is_always_lock_free);

unsigned request_of(int signal) noexcept {
  switch (signal) {
    case SIGHUP: return kHangupRequest;
    case SIGXCPU: return kCpuLimitRequest;
    default: return kStopRequest;
  }
}

void on_signal(int signal) { requested.fetch_or(request_of(signal), std::memory_order_relaxed); }

bool is_ignored(int signal) {
  struct sigaction action {};
  return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

sigset_t signals_of_loops() {
  sigset_t signals;
  ::sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGXCPU}) ::sigaddset(&signals, signal);
  if (!is_ignored(SIGHUP)) ::sigaddset(&signals, SIGHUP);
  return signals;
}

}  // namespace

void hear_of_cpu_limit() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_CPU, &limit) != 0 || limit.rlim_cur < limit.rlim_max || limit.rlim_max < 2) return;
  if (limit.rlim_max == RLIM_INFINITY) return;
  limit.rlim_cur = limit.rlim_max - 1;
  ::setrlimit(RLIMIT_CPU, &limit);
}

void catch_stop_signals(Hangup hangup) noexcept {
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigemptyset(&action.sa_mask);
  for (const int signal : {SIGTERM, SIGINT, SIGXCPU}) ::sigaction(signal, &action, nullptr);
  if (hangup == Hangup::kIsCaught) ::sigaction(SIGHUP, &action, nullptr);
}

std::atomic<unsigned>& requests() noexcept { return requested; }

StopSignal::StopSignal(EventLoop& loop) : loop_(&loop) {
  const sigset_t signals = signals_of_loops();
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  fd_ = Fd(::signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!fd_.is_open() || !loop.watch(fd_.get(), EPOLLIN, *this)) throw_errno("signalfd", errno);
}

StopSignal::~StopSignal() {
  loop_->forget(*this);
  loop_->unwatch(fd_.get());
}

void StopSignal::on_events(std::uint32_t /*events*/) {
  signalfd_siginfo signal{};
  if (::read(fd_.get(), &signal, sizeof signal) != sizeof signal) return;
  has_come_ = true;
  is_cpu_limit_ = signal.ssi_signo == SIGXCPU;
  stop_catching();
}

void StopSignal::stop_catching() noexcept {
  const sigset_t signals = signals_of_loops();
  ::sigprocmask(SIG_UNBLOCK, &signals, nullptr);
}

}  // namespace shmstate
