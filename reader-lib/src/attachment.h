// An instance's files as a reader has them mapped.
#pragma once

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>

#include "files/instance.h"
#include "files/snapshot_file.h"
#include "shmstate/reader.h"

namespace shmstate::internal {

struct Attachment {
  Attachment(const std::filesystem::path& path, std::chrono::nanoseconds timeout, bool survive_truncation)
      : control(path, timeout, survive_truncation ? WhenTruncated::kReadZeros : WhenTruncated::kDie),
        snapshot(open_more(control, [this] { return SnapshotFile(control); })) {
    if (Version version; pin_current(version) == Status::kOk) {
      const bool is_foreign = has_foreign_snapshot(version);
      snapshot.unpin(version.buffer);
      if (is_foreign) {
        control.must_be_current();
        throw Error(Status::kDamaged, "shmstate: " + quoted(path) +
                                          ": snapshot is not the one that control describes; remove the directory and "
                                          "restart the merger");
      }
    }
  }

  /// The same, and again while it fails because the instance is being removed or made anew.
  [[nodiscard]] static std::shared_ptr<Attachment> open(const std::filesystem::path& path,
                                                        std::chrono::nanoseconds timeout, bool survive_truncation) {
    return attach_within(timeout, [&](std::chrono::nanoseconds left) {
      return std::make_shared<Attachment>(path, left, survive_truncation);
    });
  }

  [[nodiscard]] const layout::Publication& publication() const noexcept { return control.publication(); }
  [[nodiscard]] Position position_of(Version version) const noexcept {
    return {.instance = control.geometry().instance_id, .epoch = version.epoch};
  }
  /// Whether a pinned buffer is not of the instance that control describes. One that the merger took back meanwhile,
  /// because whoever pinned it stood still for too long, tells nothing.
  [[nodiscard]] bool has_foreign_snapshot(Version pinned) const noexcept {
    return snapshot.buffer(pinned.buffer).epoch() != pinned.epoch && is_kept(publication(), pinned);
  }
  /// Pins the current buffer. A try fails when the merger publishes between its two loads; one epoch after the other
  /// fails only in a flood of publishes, and the same one again and again only when its stamp is damaged.
  [[nodiscard]] Status pin_current(Version& version) noexcept {
    constexpr int kTries = 1000;
    constexpr int kTriesOfOneEpoch = 10;
    Epoch tried = 0;
    for (int i = 0, tries_of_it = 0; i < kTries && tries_of_it < kTriesOfOneEpoch; ++i) {
      if (!snapshot.is_possible(current_version(publication()))) return Status::kDamaged;
      errno = 0;
      if (try_pin(publication(), snapshot, version)) return Status::kOk;
      if (errno != 0 && errno != EAGAIN) return Status::kSystem;  // the kernel has no lock for us
      tries_of_it = version.epoch == tried ? tries_of_it + 1 : 0;
      tried = version.epoch;
    }
    return Status::kDamaged;
  }

  Control control;
  SnapshotFile snapshot;
};

}  // namespace shmstate::internal
