// The snapshot file as readers map it, and the pins they take on its buffers.
#pragma once

#include <array>
#include <cstdint>

#include "files/announced_pins.h"
#include "files/control.h"
#include "files/fork.h"
#include "protocol/publish.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate::internal {

class SnapshotFile {
 public:
  /// Maps the file read-only. Throws `Error`. Where `control` is guarded, so is this, and both are lost together: a
  /// stamp of zero voids whatever was read from zeros here.
  explicit SnapshotFile(const Control& control, AnnouncedPins announced = {});

  [[nodiscard]] bool is_possible(Version version) const noexcept {
    return version.epoch != 0 && version.buffer < buffer_count_;
  }
  [[nodiscard]] BufferView buffer(std::uint32_t index) const noexcept {
    return {buffers_ + index * buffer_stride_, pages_max_};
  }
  [[nodiscard]] const layout::FeedRecord* feed() const noexcept {
    return reinterpret_cast<const layout::FeedRecord*>(mapping_.data() + feed_offset_);
  }
  /// Maps the committed pages of all buffers now, as far as one of them says.
  void prefault(std::uint32_t buffer) const noexcept;

  /// The kernel's locks on the bytes of the buffers. They belong to this open file, so several pins of one buffer are
  /// counted here; the kernel sees one lock, and the merger one announcement. False with errno set: EACCES without
  /// the permission to announce, EAGAIN to try again.
  [[nodiscard]] bool pin(std::uint32_t buffer) noexcept;
  void unpin(std::uint32_t buffer) noexcept;

 private:
  OwnFd fd_;
  Mapping mapping_;
  FaultGuard guard_;
  AnnouncedPins announced_;
  std::uint64_t feed_offset_;
  const std::byte* buffers_ = nullptr;
  std::uint64_t buffer_stride_;
  std::uint64_t pages_max_;  // of a buffer
  std::uint32_t buffer_count_;
  std::array<std::uint32_t, layout::kBuffersMax> pins_{};
};

}  // namespace shmstate::internal
