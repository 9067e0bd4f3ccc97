#include "files/fault_guard.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <mutex>

#include "shmstate/status.h"

namespace shmstate::internal {
namespace {

struct Range {
  std::atomic<std::uintptr_t> begin{0};  // zero: free
  std::atomic<std::size_t> bytes{0};
  std::atomic<int> other{-1};  // the place of a range that gets zeros, too
  std::atomic<const char*> last_words{nullptr};
  std::atomic<bool> has_faulted{false};
};

std::array<Range, 8192> ranges;
std::atomic<int> ranges_used{0};  // beyond this place, none was ever used
struct sigaction previous_action;

Range* range_around(std::uintptr_t address) noexcept {
  const int used = ranges_used.load(std::memory_order_acquire);  // pair: fault_guard.ranges_used
  for (int i = 0; i < used; ++i) {
    Range& range = ranges[static_cast<std::size_t>(i)];
    const std::uintptr_t begin = range.begin.load(std::memory_order_acquire);  // pair: fault_guard.begin
    const std::size_t bytes = range.bytes.load(std::memory_order_relaxed);
    if (begin != 0 && address >= begin && address - begin < bytes) return &range;
  }
  return nullptr;
}

bool put_zeros(Range& range) noexcept {
  void* const begin = reinterpret_cast<void*>(range.begin.load(std::memory_order_relaxed));
  void* const zeros = ::mmap(begin, range.bytes.load(std::memory_order_relaxed), PROT_READ | PROT_WRITE,
                             MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (zeros == MAP_FAILED) return false;
  range.has_faulted.store(true, std::memory_order_release);  // pair: fault_guard.has_faulted
  return true;
}

bool survive(Range& range) noexcept {
  if (const char* const last_words = range.last_words.load(std::memory_order_relaxed); last_words != nullptr) {
    static_cast<void>(!::write(STDERR_FILENO, last_words, std::strlen(last_words)));
    ::_exit(1);
  }
  const int other = range.other.load(std::memory_order_relaxed);
  if (other >= 0 && !put_zeros(ranges[static_cast<std::size_t>(other)])) return false;
  return put_zeros(range);
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const bool was_sent = info->si_code <= 0;  // by a process; then there is no address
  Range* const range = was_sent ? nullptr : range_around(reinterpret_cast<std::uintptr_t>(info->si_addr));
  const int error_number = errno;  // of what was interrupted
  const bool is_survived = range != nullptr && survive(*range);
  errno = error_number;
  if (is_survived) return;
  if ((previous_action.sa_flags & SA_SIGINFO) != 0) return previous_action.sa_sigaction(signal, info, context);
  if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    return previous_action.sa_handler(signal);
  }
  if (was_sent && previous_action.sa_handler == SIG_IGN) return;
  std::signal(SIGBUS, SIG_DFL);  // the access is repeated and kills us, as it should
  if (was_sent) std::raise(SIGBUS);
}

// A handler cannot be taken back: whoever installed another one meanwhile calls ours. So the code must stay, also when
// the library, or what it was linked into, is unloaded (dlclose). Of a program itself this asks for nothing.
void stay_loaded() noexcept {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&on_bus_error), &info) == 0 || info.dli_fname == nullptr) return;
  static_cast<void>(::dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE));
  static_cast<void>(::dlerror());  // which is nobody else's business
}

// On the program's alternate stack, if it has one, and otherwise as the handler that was there.
void install_handler() {
  stay_loaded();
  sigaction(SIGBUS, nullptr, &previous_action);
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK | (previous_action.sa_flags & SA_RESTART);
  action.sa_mask = previous_action.sa_mask;
  sigaction(SIGBUS, &action, &previous_action);
}

}  // namespace

FaultGuard::FaultGuard(void* address, std::size_t bytes) : FaultGuard(address, bytes, Reaction{}) {}

FaultGuard::FaultGuard(void* address, std::size_t bytes, const FaultGuard& other)
    : FaultGuard(address, bytes, Reaction{.other = other.place_}) {}

FaultGuard::FaultGuard(void* address, std::size_t bytes, const char* last_words)
    : FaultGuard(address, bytes, Reaction{.last_words = last_words}) {}

FaultGuard::FaultGuard(void* address, std::size_t bytes, Reaction reaction) {
  static std::once_flag installed;
  std::call_once(installed, install_handler);
  static std::mutex registration;
  const std::lock_guard lock(registration);
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    Range& range = ranges[i];
    if (range.begin.load(std::memory_order_relaxed) != 0) continue;
    range.has_faulted.store(false, std::memory_order_relaxed);
    range.bytes.store(bytes, std::memory_order_relaxed);
    range.other.store(reaction.other, std::memory_order_relaxed);
    range.last_words.store(reaction.last_words, std::memory_order_relaxed);
    range.begin.store(reinterpret_cast<std::uintptr_t>(address), std::memory_order_release);  // pair: fault_guard.begin
    place_ = static_cast<int>(i);
    // pair: fault_guard.ranges_used
    if (place_ >= ranges_used.load(std::memory_order_relaxed)) ranges_used.store(place_ + 1, std::memory_order_release);
    return;
  }
  throw Error(Status::kNoMemory, "shmstate: too many guarded mappings in this process");
}

FaultGuard::~FaultGuard() {
  // pair: fault_guard.begin
  if (place_ >= 0) ranges[static_cast<std::size_t>(place_)].begin.store(0, std::memory_order_release);
}

bool FaultGuard::has_faulted() const noexcept {
  // pair: fault_guard.has_faulted
  return place_ >= 0 && ranges[static_cast<std::size_t>(place_)].has_faulted.load(std::memory_order_acquire);
}

}  // namespace shmstate::internal
