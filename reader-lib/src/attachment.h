// An instance's files as a reader has them mapped.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>

#include "files/control.h"
#include "files/snapshot_file.h"
#include "shmstate/reader.h"

namespace shmstate::internal {

struct Attachment {
  /// Throws `Error`.
  Attachment(const std::filesystem::path& path, std::chrono::nanoseconds timeout, bool survive_truncation);

  /// The same, and again while it fails because the instance is being removed or re-created.
  [[nodiscard]] static std::shared_ptr<Attachment> open(const std::filesystem::path& path,
                                                        std::chrono::nanoseconds timeout, bool survive_truncation);

  [[nodiscard]] const layout::Publication& publication() const noexcept { return control.publication(); }
  [[nodiscard]] Position position_of(Version version) const noexcept {
    return {.instance = control.geometry().instance_id, .epoch = version.epoch};
  }
  /// Pins the current buffer. An attempt fails when the merger publishes between its two loads; one epoch after the
  /// other fails only in a flood of publishes, and the same one again and again only when its stamp is damaged.
  [[nodiscard]] Status pin_current(Version& version) noexcept;

  /// Runs `look(buffer)` on the current buffer, without a pin, until that was intact afterwards: kOk, and `version` is
  /// what was seen. kExpired when publishes overtook it `tries_max` times; kDamaged.
  template <typename Look>
  [[nodiscard, gnu::always_inline]] Status look_unpinned(int tries_max, Version& version, Look&& look) const {
    for (int i = 0; i < tries_max; ++i) {
      version = current_version(publication());
      if (!snapshot.is_possible(version)) return Status::kDamaged;
      look(snapshot.buffer(version.buffer));
      if (is_intact(publication(), version)) return Status::kOk;
    }
    return Status::kExpired;
  }

  Control control;
  SnapshotFile snapshot;
};

}  // namespace shmstate::internal
