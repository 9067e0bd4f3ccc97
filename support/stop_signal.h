// The signals that end a program in good order, or have it read its configuration again: one way for programs that
// look now and then, one for those with an event loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

#include "support/event_loop.h"
#include "support/fd.h"

namespace shmstate {

/// What a program says when SIGXCPU tells it that its processor time is used up.
inline constexpr std::string_view kCpuLimitText =
    "the limit of processor time is reached; raise it (ulimit -t, or LimitCPU of the service)";

/// Lets SIGXCPU come a second before the hard limit, which kills without a word.
void hear_of_cpu_limit() noexcept;

/// What has been asked for; bits, since several signals may come before a program looks.
enum Request : unsigned {
  kNoRequest = 0,
  kStopRequest = 1,      // SIGTERM, SIGINT
  kHangupRequest = 2,    // SIGHUP
  kCpuLimitRequest = 4,  // SIGXCPU
};

enum class Hangup : std::uint8_t { kIsCaught, kKills };

/// From now on SIGTERM, SIGINT, SIGXCPU and, if it is caught, SIGHUP only make a request, and have system calls return.
void catch_stop_signals(Hangup hangup) noexcept;
/// Who takes what was asked for sets it to zero.
[[nodiscard]] std::atomic<unsigned>& requests() noexcept;

/// Becomes true with the first SIGTERM, SIGINT, SIGHUP or SIGXCPU; the second one kills the process. A SIGHUP that was
/// ignored when the program started stays so: that is what nohup does.
class StopSignal final : public EventHandler {
 public:
  /// The loop must outlive it. Throws `Error`.
  explicit StopSignal(EventLoop& loop);
  ~StopSignal() override;

  void on_events(std::uint32_t events) override;
  [[nodiscard]] bool has_come() const noexcept { return has_come_; }
  /// Whether it was SIGXCPU: the processor time is used up.
  [[nodiscard]] bool is_cpu_limit() const noexcept { return is_cpu_limit_; }
  /// From now on, these signals kill.
  static void stop_catching() noexcept;

 private:
  EventLoop* loop_;
  Fd fd_;
  bool has_come_ = false;
  bool is_cpu_limit_ = false;
};

}  // namespace shmstate
