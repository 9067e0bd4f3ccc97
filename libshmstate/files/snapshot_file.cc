#include "files/snapshot_file.h"

#include <fcntl.h>

#include <cerrno>

#include "files/access.h"
#include "files/errors.h"

namespace shmstate::internal {
SnapshotFile::SnapshotFile(const Control& control, AnnouncedPins announced)
    : announced_(std::move(announced)),
      feed_offset_(control.geometry().feed_offset),
      buffer_stride_(control.geometry().buffer_stride),
      pages_max_(control.geometry().pages_max()),
      buffer_count_(control.geometry().buffer_count) {
  const std::filesystem::path path = control.path() / "snapshot";
  fd_ = OwnFd::open_file(path, O_RDONLY);
  if (!fd_.is_open() && errno == EACCES) throw refusal(control.path(), path, Purpose::kRead);
  if (!fd_.is_open()) os::throw_errno("cannot open " + path.string(), errno);
  const std::optional<os::FileInfo> info = os::file_info(fd_.get());
  if (!info || info->bytes < control.geometry().snapshot_bytes) {
    throw error_of(InstanceError::kSnapshotTruncated, control.path());
  }
  mapping_ = fd_.opened_again(O_RDONLY, [&](const os::Fd& file) {
    return Mapping(file, Access::kReadOnly, 0, static_cast<std::size_t>(control.geometry().snapshot_bytes),
                   path.string());
  });
  buffers_ = mapping_.data() + control.geometry().buffer_offset;
  if (control.guard().is_active()) guard_ = FaultGuard(mapping_.data(), mapping_.size(), control.guard());
}

void SnapshotFile::prefault(std::uint32_t buffer_index) const noexcept {
  const auto bytes = static_cast<std::size_t>(buffer(buffer_index).page_count() * layout::kPageBytes);
  for (std::uint32_t b = 0; b < buffer_count_; ++b) {
    os::populate(buffers_ + b * buffer_stride_, bytes);
  }
}

bool SnapshotFile::pin(std::uint32_t buffer) noexcept {
  if (pins_[buffer] == 0 && !(announced_.announce() && os::try_lock(fd_.get(), kPinByte + buffer, false))) return false;
  ++pins_[buffer];
  return true;
}

void SnapshotFile::unpin(std::uint32_t buffer) noexcept {
  if (--pins_[buffer] == 0) os::unlock(fd_.get(), kPinByte + buffer);
}

}  // namespace shmstate::internal
