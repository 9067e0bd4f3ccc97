#include "simulation/simulated_kernel.h"

#include <dlfcn.h>
#include <linux/futex.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstring>
#include <ctime>

namespace shmstate::test {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;
constexpr std::uintptr_t kPageMask = 4095;

SimulatedKernel* kernel = nullptr;

std::uint64_t ns_of(const timespec& time) {
  return static_cast<std::uint64_t>(time.tv_sec) * kSecondNs + static_cast<std::uint64_t>(time.tv_nsec);
}

std::uintptr_t place_of(const std::uint32_t* word) { return reinterpret_cast<std::uintptr_t>(word) & kPageMask; }

bool has_changed(const std::uint32_t* word, std::uint32_t expected) {
  return __atomic_load_n(word, __ATOMIC_SEQ_CST) != expected;
}

using SystemCall = long (*)(long, ...);
SystemCall real_syscall() {
  static const auto function = reinterpret_cast<SystemCall>(::dlsym(RTLD_NEXT, "syscall"));
  return function;
}

}  // namespace

SimulatedKernel::SimulatedKernel(std::uint64_t seed) : random_(seed) { kernel = this; }
SimulatedKernel::~SimulatedKernel() { kernel = nullptr; }

void SimulatedKernel::fill_random(void* data, std::size_t bytes) noexcept {
  for (std::size_t done = 0; done < bytes; done += sizeof(std::uint64_t)) {
    const std::uint64_t word = random_.word();
    std::memcpy(static_cast<char*>(data) + done, &word, std::min(bytes - done, sizeof word));
  }
}

bool SimulatedKernel::wait(const std::uint32_t* word, std::uint32_t expected, std::uint64_t timeout_ns) noexcept {
  if (has_changed(word, expected)) return true;
  const std::size_t me = sleepers_.size();
  sleepers_.push_back({.word = word, .expected = expected, .is_woken = false});
  const std::uint64_t end_ns = now_ns_ + timeout_ns;
  const std::uint64_t deaths_before = death_count();
  while (now_ns_ < end_ns && !sleepers_[me].is_woken) act_meanwhile();
  const bool is_woken = sleepers_[me].is_woken;
  sleepers_.resize(me);
  if (!is_woken && has_changed(word, expected) && death_count() == deaths_before) was_not_woken();
  return is_woken;
}

void SimulatedKernel::wake(const std::uint32_t* word) noexcept {
  for (Sleeper& sleeper : sleepers_) {
    const bool is_this = place_of(sleeper.word) == place_of(word) && has_changed(sleeper.word, sleeper.expected);
    sleeper.is_woken = sleeper.is_woken || is_this;
  }
}

void SimulatedKernel::sleep(std::uint64_t ns) noexcept {
  const std::uint64_t end_ns = now_ns_ + ns;
  while (now_ns_ < end_ns) act_meanwhile();
}

}  // namespace shmstate::test

using shmstate::test::kernel;

// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): the C library's names are reserved
extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  if (kernel == nullptr) return static_cast<int>(shmstate::test::real_syscall()(SYS_clock_gettime, clock, time));
  const std::uint64_t now_ns = kernel->read_clock();
  time->tv_sec = static_cast<time_t>(now_ns / shmstate::test::kSecondNs);
  time->tv_nsec = static_cast<long>(now_ns % shmstate::test::kSecondNs);
  return 0;
}

extern "C" int nanosleep(const timespec* time, timespec* left) {
  if (kernel == nullptr) return static_cast<int>(shmstate::test::real_syscall()(SYS_nanosleep, time, left));
  kernel->sleep(shmstate::test::ns_of(*time));
  return 0;
}

extern "C" ssize_t getrandom(void* data, std::size_t bytes, unsigned flags) {
  if (kernel == nullptr) return shmstate::test::real_syscall()(SYS_getrandom, data, bytes, flags);
  kernel->fill_random(data, bytes);
  return static_cast<ssize_t>(bytes);
}

extern "C" long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(list, long);
  va_end(list);
  if (kernel != nullptr && number == SYS_futex) {
    const auto* const word = reinterpret_cast<const std::uint32_t*>(arguments[0]);
    switch (arguments[1]) {
      case FUTEX_WAIT:
        return kernel->wait(word, static_cast<std::uint32_t>(arguments[2]),
                            shmstate::test::ns_of(*reinterpret_cast<const timespec*>(arguments[3])))
                   ? 0
                   : -1;
      case FUTEX_WAKE: kernel->wake(word); return 0;
      default: break;  // to add to a word in a file is for the real one
    }
  }
  return shmstate::test::real_syscall()(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4],
                                        arguments[5]);
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
