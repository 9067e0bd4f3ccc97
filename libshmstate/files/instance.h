// Finding, checking and mapping an instance's files, for everybody but the merger that creates them.
#pragma once

#include <chrono>
#include <exception>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "files/fault_guard.h"
#include "files/fork.h"
#include "files/mapping.h"
#include "files/os.h"
#include "layout/layout.h"

namespace shmstate::internal {

/// Bytes of files under an instance directory that are locked to tell who lives (see os::try_lock).
inline constexpr std::uint64_t kLifeByte = 0;    // of `control`: the merger, shared; of a ring: its writer
inline constexpr std::uint64_t kPinByte = 0;     // of `snapshot`: buffer b is byte kPinByte + b
inline constexpr std::uint64_t kPusherByte = 1;  // of a shared ring: who pushes now

/// Whether an instance may be called so: 1 to 200 characters, of which the first is no dot. What begins with a dot is a
/// directory on its way to become an instance, or none at all: nobody serves, finds or lists it.
[[nodiscard]] bool is_instance_name(std::string_view name) noexcept;

/// The directory of an instance. A name with a slash is a path, whose last part is a name; otherwise it is looked for
/// in $SHMSTATE_ROOT if set, else in /run/shmstate and then in the user's own /dev/shm/shmstate-<uid>. Throws `Error`
/// for an impossible name, for a root to distrust, and when nobody can tell what is there.
[[nodiscard]] std::filesystem::path instance_path(std::string_view name);

/// The directories in which instances may lie, in that order.
[[nodiscard]] std::vector<std::filesystem::path> instance_roots();

/// Everybody may create /dev/shm/shmstate-<uid>, and could then choose what its user reads. So this is an error when
/// `root` is that of this user, but not made by this user.
[[nodiscard]] std::optional<Error> distrust(const std::filesystem::path& root);

/// What becomes `control` when the instance is complete. Where only this is, its creator died.
[[nodiscard]] std::filesystem::path new_control_path(const std::filesystem::path& instance);
/// What only writers need lies behind a directory of its own, the gate: whoever may pass it may write to the instance.
[[nodiscard]] std::filesystem::path gate_path(const std::filesystem::path& instance);
[[nodiscard]] std::filesystem::path rings_path(const std::filesystem::path& instance);
[[nodiscard]] std::filesystem::path doorbell_path(const std::filesystem::path& instance);

/// "instance "plant"", for messages.
[[nodiscard]] std::string quoted(const std::filesystem::path& instance);

/// Whether `path` still leads to the file that `fd` has open; nothing when that cannot be told.
[[nodiscard]] std::optional<bool> leads_to(const std::filesystem::path& path, const os::Fd& fd) noexcept;

/// The constant part of `control`, copied and checked once, so that nothing that changes later is trusted.
struct Geometry {
  layout::Id instance_id{};
  std::uint64_t hash_seed = 0;
  std::uint64_t control_bytes = 0;
  std::uint64_t snapshot_bytes = 0;
  std::uint64_t buffer_offset = 0;
  std::uint64_t buffer_stride = 0;
  std::uint32_t buffer_count = 0;
  std::uint32_t ring_count_max = 0;
  std::uint32_t first_page = 0;
  std::uint32_t statistic_count = 0;
  std::uint64_t feed_offset = 0;
  std::uint64_t feed_record_count = 0;
  std::uint64_t statistic_offset = 0;
  std::uint64_t value_offset = 0;
  std::uint64_t ring_table_offset = 0;

  /// Pages that a buffer may have at most.
  [[nodiscard]] std::uint64_t pages_max() const noexcept { return buffer_stride / layout::kPageBytes; }
};

/// Checks an identity against this build and the sizes of its files. Throws `Error` (kVersionMismatch, kDamaged).
[[nodiscard]] Geometry check_identity(const layout::Identity& identity, std::uint64_t control_file_bytes,
                                      const std::filesystem::path& instance);

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

/// What happens to who has a file mapped that somebody truncates: it is killed by SIGBUS, or it finds zeros.
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

  /// For mappings whose truncation makes this one useless, too; not active unless `WhenTruncated::kReadZeros`.
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

/// Calls `open`, which opens more of the instance's files. When it throws because the instance was removed or made anew
/// at this moment, throws `Error` (kNotReady) instead.
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
