// Creating, resuming and owning an instance: what the merger does with the files before its first step.
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>

#include "engine/instance_plan.h"
#include "engine/public_page.h"
#include "files/control.h"
#include "files/fault_guard.h"
#include "files/mapping.h"
#include "files/os.h"
#include "layout/layout.h"
#include "layout/statistics.h"

namespace shmstate::internal {

/// Who may do what with an instance.
struct Permissions {
  unsigned directory_mode = 0;
  std::uint32_t readers_group = 0;
  std::uint32_t writers_group = 0;
};

/// An instance that this process serves. Holding it holds the merger's lock.
class InstanceOwner {
 public:
  /// Creates the instance, or resumes it when an earlier merger has left its files, however that merger ended. An
  /// existing instance keeps what it was created with; the options then only matter if it has to be re-created.
  /// Throws `Error` (kAlreadyRunning, kNoPermission, kNoMemory, kVersionMismatch, kInvalidArgument, kSystem). If it
  /// cannot be determined which of the two applies, nothing is touched.
  InstanceOwner(std::filesystem::path path, const InstanceOptions& options);
  InstanceOwner(const InstanceOwner&) = delete;
  InstanceOwner& operator=(const InstanceOwner&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::filesystem::path rings_path() const { return internal::rings_path(path_); }
  [[nodiscard]] const Geometry& geometry() const noexcept { return geometry_; }
  [[nodiscard]] const Permissions& permissions() const noexcept { return permissions_; }
  /// Whether the instance existed, so that its snapshot must be taken over.
  [[nodiscard]] bool is_resumed() const noexcept { return is_resumed_; }

  [[nodiscard]] layout::Publication& publication() noexcept { return header().publication; }
  [[nodiscard]] layout::Heartbeat& heartbeat() noexcept { return header().heartbeat; }
  [[nodiscard]] layout::Doorbell& doorbell() noexcept { return *reinterpret_cast<layout::Doorbell*>(doorbell_.data()); }
  /// Precondition: the instance has announced pins.
  [[nodiscard]] const layout::PinWord& pin_word() const noexcept {
    return *reinterpret_cast<const layout::PinWord*>(pins_.data());
  }
  /// Whether what was read there may be no reader's word.
  [[nodiscard]] bool is_pin_word_lost() const noexcept { return pins_.is_lost(); }
  [[nodiscard]] layout::Sleep& sleep() noexcept { return header().sleep; }
  [[nodiscard]] layout::RingStatus& ring_status(std::size_t index) noexcept {
    return reinterpret_cast<layout::RingStatus*>(control_mapping_.data() + geometry_.ring_table_offset)[index];
  }
  [[nodiscard]] Shared<std::uint64_t>& statistic(Stat stat) noexcept {
    return reinterpret_cast<Shared<std::uint64_t>*>(control_mapping_.data() +
                                                    geometry_.value_offset)[static_cast<std::size_t>(stat)];
  }
  [[nodiscard]] std::byte* buffer(std::uint32_t index) noexcept {
    return snapshot_mapping_.data() + geometry_.buffer_offset + index * geometry_.buffer_stride;
  }
  [[nodiscard]] layout::FeedRecord* feed() noexcept {
    return reinterpret_cast<layout::FeedRecord*>(snapshot_mapping_.data() + geometry_.feed_offset);
  }
  [[nodiscard]] int snapshot_fd() const noexcept { return snapshot_.get(); }

  /// Commits pages [first, end) of every buffer. Returns 0 or ENOSPC.
  [[nodiscard]] int commit_pages(std::uint64_t first, std::uint64_t end) noexcept;
  /// Moves the next 2 MiB of a buffer's first `page_count` pages, which are committed, to a huge page. This takes about
  /// a millisecond. False when nothing is left to do, or the kernel cannot do it.
  bool collapse_next(std::uint64_t page_count) noexcept;
  /// The bytes of all buffers that were moved.
  [[nodiscard]] std::uint64_t collapsed_bytes() const noexcept { return collapsed_bytes_; }
  /// Whether the directory still leads to these files; true if that cannot be determined.
  [[nodiscard]] bool is_current() const noexcept { return leads_to(control_path_, control_).value_or(true); }
  /// Restores what a writer or reader has truncated or extended. Without memory for that, until a later call succeeds,
  /// writers wake the merger late, and the merger asks for pins in each turn.
  void repair_public_pages() noexcept;
  /// Lets others attach to a new instance: called once the first snapshot is published. Throws `Error`.
  void announce();
  /// Removes the instance's files and its directory; if the directory holds something else, that is the error. If the
  /// path now leads to other files, or that cannot be determined, nothing is removed.
  [[nodiscard]] std::error_code remove_files() const noexcept;

 private:
  [[nodiscard]] layout::ControlHeader& header() noexcept {
    return *reinterpret_cast<layout::ControlHeader*>(control_mapping_.data());
  }
  void make_directories(const InstanceOptions& options);
  void lock_instance();
  void apply_permissions(const InstanceOptions& options);
  void hold_control(const std::filesystem::path& path);
  [[nodiscard]] bool can_resume();
  void refuse_if_control_is_lost() const;
  void create(const InstanceOptions& options);
  void guard_state();
  void open_public_pages();
  void open_snapshot();
  void apply_snapshot_permissions();

  std::filesystem::path path_;
  std::filesystem::path control_path_;  // kept, so that checking it allocates nothing
  layout::Id boot_id_;
  Permissions permissions_;  // of the directory and the gate; the files follow
  os::Fd lock_;
  os::Fd control_;
  os::Fd snapshot_;
  Mapping control_mapping_;
  Mapping snapshot_mapping_;
  std::uint64_t collapse_tries_ = 0;  // of huge pages, round robin over the buffers
  std::uint64_t collapsed_bytes_ = 0;
  PublicPage doorbell_;
  PublicPage pins_;
  std::string last_words_;
  FaultGuard control_guard_;
  FaultGuard snapshot_guard_;
  Geometry geometry_;
  bool is_resumed_ = false;
};

}  // namespace shmstate::internal
