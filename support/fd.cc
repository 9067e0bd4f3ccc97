#include "support/fd.h"

#include <fcntl.h>
#include <unistd.h>

namespace shmstate {

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

Fd move_up(int fd) noexcept {
  if (fd < 0 || fd > STDERR_FILENO) return Fd(fd);
  const Fd low(fd);
  return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
}

Fd open_file(const std::filesystem::path& path, int flags, unsigned mode) noexcept {
  return move_up(::open(path.c_str(), flags | O_CLOEXEC, mode));
}

}  // namespace shmstate
