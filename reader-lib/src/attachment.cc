#include "attachment.h"

#include <cerrno>

#include "files/errors.h"

namespace shmstate::internal {

Attachment::Attachment(const std::filesystem::path& path, std::chrono::nanoseconds timeout, bool survive_truncation)
    : control(path, timeout, survive_truncation ? WhenTruncated::kReadZeros : WhenTruncated::kDie),
      snapshot(open_more(control, [this] { return SnapshotFile(control); })) {
  Version version;
  if (pin_current(version) != Status::kOk) return;
  const bool is_foreign = has_foreign_snapshot(version);
  snapshot.unpin(version.buffer);
  if (!is_foreign) return;
  control.must_be_current();
  throw error_of(InstanceError::kSnapshotForeign, path);
}

std::shared_ptr<Attachment> Attachment::open(const std::filesystem::path& path, std::chrono::nanoseconds timeout,
                                             bool survive_truncation) {
  return attach_within(timeout, [&](std::chrono::nanoseconds left) {
    return std::make_shared<Attachment>(path, left, survive_truncation);
  });
}

Status Attachment::pin_current(Version& version) noexcept {
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

}  // namespace shmstate::internal
