#include "files/announced_pins.h"

#include <fcntl.h>

#include <cerrno>

#include "files/os.h"
#include "files/paths.h"

namespace shmstate::internal {
namespace {

constexpr std::size_t kFileBytes = sizeof(layout::PinWord);

}  // namespace

AnnouncedPins::AnnouncedPins(const Control& control) : is_needed_(control.geometry().has_announced_pins) {
  if (!is_needed_) return;
  const std::filesystem::path path = pins_path(control.path());
  fd_ = OwnFd::open_file(path, O_RDWR);
  if (!fd_.is_open()) {
    if (errno == EACCES || errno == EPERM || errno == EROFS) return;
    os::throw_errno("cannot open " + path.string(), errno);
  }
  mapping_ = fd_.opened_again(
      O_RDWR, [&](const os::Fd& file) { return Mapping(file, Access::kReadWrite, 0, kFileBytes, path.string()); });
}

bool AnnouncedPins::announce() const noexcept {
  if (!is_needed_) return true;
  if (!fd_.is_open()) {
    errno = EACCES;
    return false;
  }
  if (os::futex_add_and_wake(word().announced.futex())) return true;
  errno = os::resize(fd_.get(), kFileBytes);  // another reader has truncated it
  return errno == 0 && os::futex_add_and_wake(word().announced.futex());
}

}  // namespace shmstate::internal
