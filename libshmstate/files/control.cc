#include "files/control.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "files/access.h"
#include "files/errors.h"
#include "shmstate/detail/words.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;

constexpr auto kPollInterval = std::chrono::milliseconds(2);

}  // namespace

Control::Control(fs::path instance, std::chrono::nanoseconds timeout, WhenTruncated when_truncated)
    : path_(std::move(instance)), control_path_(path_ / "control"), when_truncated_(when_truncated) {
  const auto began = std::chrono::steady_clock::now();
  std::optional<Error> why;
  while (!try_open(why)) {
    if (std::chrono::steady_clock::now() - began >= timeout) throw *why;
    std::this_thread::sleep_for(kPollInterval);
  }
}

void Control::must_be_current() const {
  if (is_current()) return;
  throw error_of(InstanceError::kRecreated, path_);
}

bool Control::try_open(std::optional<Error>& why) {
  const auto not_ready = [&] {
    why.emplace(error_of(InstanceError::kUnfinished, path_));
    return false;
  };
  fd_ = OwnFd::open_file(control_path_, O_RDONLY);
  if (!fd_.is_open()) {
    if (os::is_absence(errno)) {
      if (os::file_info(new_control_path(path_))) return not_ready();
      why.emplace(absence(path_));
      return false;
    }
    if (errno == EACCES || errno == EPERM) {
      throw refusal(path_, control_path_, Purpose::kRead);
    }
    os::throw_errno("cannot open " + control_path_.string(), errno);
  }
  const std::optional<os::FileInfo> info = os::file_info(fd_.get());
  if (!info) os::throw_errno("cannot look at " + control_path_.string(), errno);
  if (info->bytes == 0) return not_ready();
  if (info->bytes < sizeof(layout::ControlHeader)) throw error_of(InstanceError::kControlTruncated, path_);
  const auto bytes = static_cast<std::size_t>(info->bytes);
  if (info->committed_bytes < round_up(sizeof(layout::ControlHeader), 4096)) return not_ready();
  Mapping mapping(fd_.fd(), Access::kReadOnly, 0, bytes, control_path_.string());
  FaultGuard guard;
  if (when_truncated_ == WhenTruncated::kReadZeros) guard = FaultGuard(mapping.data(), mapping.size());
  const auto& header = *reinterpret_cast<const layout::ControlHeader*>(mapping.data());
  const std::uint64_t magic = header.identity.magic.load(std::memory_order_acquire);  // pair: identity.magic
  if (magic == 0) return not_ready();
  if (magic != layout::kControlMagic) throw error_of(InstanceError::kControlForeign, path_);
  layout::Identity identity;  // a copy, so that what is checked is what is used
  const ssize_t got = ::pread(fd_.get(), &identity, sizeof identity, 0);
  if (got < 0) os::throw_errno("cannot read " + control_path_.string(), errno);
  if (got != static_cast<ssize_t>(sizeof identity)) return not_ready();
  geometry_ = check_identity(identity, bytes, path_);
  mapping_ = std::move(mapping);
  guard_ = std::move(guard);
  return true;
}

}  // namespace shmstate::internal
