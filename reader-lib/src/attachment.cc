#include "attachment.h"

#include <cerrno>

#include "files/errors.h"

namespace shmstate::internal {

Attachment::Attachment(const std::filesystem::path& path, std::chrono::nanoseconds timeout, bool survive_truncation)
    : control(path, timeout, survive_truncation ? WhenTruncated::kReadZeros : WhenTruncated::kDie),
      snapshot(open_more(control, [this] { return SnapshotFile(control, AnnouncedPins(control)); })) {
  Version version;
  Epoch found = 0;
  constexpr int kTries = 1000;
  const auto look = [&](const BufferView& buffer) { found = buffer.epoch(); };
  if (look_unpinned(kTries, version, look) != Status::kOk || found == version.epoch) return;
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
    if (errno != 0 && errno != EAGAIN) return os::status_of(errno);  // no permission, or no lock is left
    tries_of_it = version.epoch == tried ? tries_of_it + 1 : 0;
    tried = version.epoch;
  }
  return Status::kDamaged;
}

}  // namespace shmstate::internal
