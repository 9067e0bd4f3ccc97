// An instance's files as a reader has them mapped.
#pragma once

#include <chrono>
#include <filesystem>

#include "core/instance.h"
#include "core/snapshot_file.h"
#include "shmstate/reader.h"

namespace shmstate {

struct Attachment {
  Attachment(const std::filesystem::path& path, std::chrono::nanoseconds timeout)
      : control(path, timeout), snapshot(control) {}

  [[nodiscard]] const layout::Publication& publication() const noexcept { return control.publication(); }
  /// Pins the current buffer. Tries fail only when the merger publishes between the two loads of one.
  [[nodiscard]] Status pin_current(Version& version) noexcept {
    constexpr int kPinTries = 1000;
    for (int i = 0; i < kPinTries; ++i) {
      if (!snapshot.is_possible(current_version(publication()))) return Status::kDamaged;
      if (try_pin(publication(), snapshot, version)) return Status::kOk;
    }
    return Status::kDamaged;
  }

  Control control;
  SnapshotFile snapshot;
};

}  // namespace shmstate
