// `pins` of an instance, where a reader announces its pins to the merger.
#pragma once

#include "files/control.h"
#include "files/fork.h"
#include "files/mapping.h"

namespace shmstate::internal {

class AnnouncedPins {
 public:
  /// For who never pins.
  AnnouncedPins() = default;
  /// Opens the file, unless the merger of this instance asks the kernel in each turn. Throws `Error`, but not for want
  /// of permission: then this process may read, and cannot pin.
  explicit AnnouncedPins(const Control& control);

  /// To be called before the lock is taken: see protocol/pin_news.h. False with errno set: EACCES without permission.
  [[nodiscard]] bool announce() const noexcept;

 private:
  [[nodiscard]] const layout::PinWord& word() const noexcept {
    return *reinterpret_cast<const layout::PinWord*>(mapping_.data());
  }

  bool is_needed_ = true;
  OwnFd fd_;         // not open without permission
  Mapping mapping_;  // for the kernel only: others may have truncated the file
};

}  // namespace shmstate::internal
