// Signals that end a command in good order.
#pragma once

#include "exit_code.h"

namespace shmstate::ctl {

/// For commands that go on until SIGINT, SIGTERM or SIGHUP: from now on those, and the limit of processor time, only
/// make `is_interrupted` true, and let system calls return.
void end_on_interrupt();
[[nodiscard]] bool is_interrupted() noexcept;
/// Whether that limit was one of them.
[[nodiscard]] bool is_at_cpu_limit() noexcept;

/// For all others: at the limit of processor time (SIGXCPU) the process says so, and ends with the code that was set
/// last, `kOther` at first.
void end_at_cpu_limit();
void set_exit_code_at_cpu_limit(ExitCode code) noexcept;
/// Puts that signal off while it lives: for a step that changes the code.
class CpuLimitLater {
 public:
  CpuLimitLater() noexcept;
  CpuLimitLater(const CpuLimitLater&) = delete;
  CpuLimitLater& operator=(const CpuLimitLater&) = delete;
  ~CpuLimitLater();
};

}  // namespace shmstate::ctl
