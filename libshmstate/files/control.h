// `control` of an instance: attaching to it, for everybody but the merger that creates it.
#pragma once

#include <chrono>
#include <exception>
#include <filesystem>
#include <optional>

#include "files/fault_guard.h"
#include "files/fork.h"
#include "files/geometry.h"
#include "files/mapping.h"
#include "files/paths.h"
#include "layout/layout.h"

namespace shmstate::internal {

/// Bytes of files under an instance directory whose locks show who is alive (see os::try_lock).
inline constexpr std::uint64_t kLifeByte = 0;    // of `control`: the merger, shared; of a ring: its writer
inline constexpr std::uint64_t kPinByte = 0;     // of `snapshot`: buffer b is byte kPinByte + b
inline constexpr std::uint64_t kPusherByte = 1;  // of a shared ring: the writer that pushes now

/// Calls `attach` with what is left of `timeout`, again while it throws `Error` (kNotReady) and time is left.
template <typename Attach>
auto attach_within(std::chrono::nanoseconds timeout, Attach&& attach) {
  const auto began = std::chrono::steady_clock::now();
  const auto left = [&] {
    const std::chrono::nanoseconds passed = std::chrono::steady_clock::now() - began;
    return timeout > passed ? timeout - passed : std::chrono::nanoseconds::zero();
  };
  for (;;) {
    try {
      return attach(left());
    } catch (const Error& error) {
      if (error.status() != Status::kNotReady || left() == std::chrono::nanoseconds::zero()) throw;
    }
  }
}

/// What happens to a process that touches a truncated page of a mapping: it is killed by SIGBUS, or it finds zeros.
enum class WhenTruncated : std::uint8_t { kDie, kReadZeros };

/// `control`, mapped read-only, of an instance that is completely created.
class Control {
 public:
  /// Waits at most `timeout` for the instance to appear. Throws `Error`.
  Control(std::filesystem::path instance, std::chrono::nanoseconds timeout,
          WhenTruncated when_truncated = WhenTruncated::kDie);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] const Geometry& geometry() const noexcept { return geometry_; }
  [[nodiscard]] const layout::Publication& publication() const noexcept { return header().publication; }
  [[nodiscard]] const layout::Heartbeat& heartbeat() const noexcept { return header().heartbeat; }
  [[nodiscard]] const layout::Sleep& sleep() const noexcept { return header().sleep; }
  [[nodiscard]] const layout::Identity& identity() const noexcept { return header().identity; }
  [[nodiscard]] const std::byte* data() const noexcept { return mapping_.data(); }

  /// For mappings whose truncation makes this one useless as well; not active unless `WhenTruncated::kReadZeros`.
  [[nodiscard]] const FaultGuard& guard() const noexcept { return guard_; }
  /// Whether this file, or one that is guarded together with it, was truncated; then all of it reads as zero.
  [[nodiscard]] bool is_lost() const noexcept { return guard_.has_faulted(); }

  /// Asks the kernel whether a merger holds its lock.
  [[nodiscard]] bool merger_running() const noexcept { return os::is_locked(fd_.get(), kLifeByte); }
  /// Whether the directory still leads to these files; true also when that cannot be told.
  [[nodiscard]] bool is_current() const noexcept { return leads_to(control_path_, fd_.fd()).value_or(true); }
  /// Throws `Error` (kNotReady) when it no longer does: what fails beside these files says nothing then.
  void must_be_current() const;

 private:
  [[nodiscard]] const layout::ControlHeader& header() const noexcept {
    return *reinterpret_cast<const layout::ControlHeader*>(mapping_.data());
  }
  /// Empty when the instance is not ready yet, with the reason in `why`.
  [[nodiscard]] bool try_open(std::optional<Error>& why);

  std::filesystem::path path_;
  std::filesystem::path control_path_;  // looking at it allocates nothing
  WhenTruncated when_truncated_;
  OwnFd fd_;
  Mapping mapping_;
  FaultGuard guard_;
  Geometry geometry_;
};

/// Calls `open`, which opens more of the instance's files. When it throws because the instance was removed or
/// re-created at this moment, throws `Error` (kNotReady) instead.
template <typename Open>
auto open_more(const Control& control, Open&& open) {
  try {
    return open();
  } catch (const std::exception&) {
    control.must_be_current();
    throw;
  }
}

}  // namespace shmstate::internal
