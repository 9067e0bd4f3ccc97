// Which file it is, whatever its name.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <string>
#include <string_view>
#include <utility>

namespace shmstate {

/// Device and inode. A file that is kept open shares its identity with no other one.
using FileIdentity = std::pair<dev_t, ino_t>;

inline constexpr FileIdentity kNoFile{};

[[nodiscard]] inline FileIdentity identity_of(const struct stat& info) noexcept { return {info.st_dev, info.st_ino}; }

/// Of what the path leads to; `kNoFile` when that is nothing.
[[nodiscard]] inline FileIdentity identity_of(const std::string& path) noexcept {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? identity_of(info) : kNoFile;
}

[[nodiscard]] inline FileIdentity identity_of(int fd) noexcept {
  struct stat info {};
  return ::fstat(fd, &info) == 0 ? identity_of(info) : kNoFile;
}

/// "a FIFO", "a directory", and so on.
[[nodiscard]] constexpr std::string_view kind_of(mode_t mode) noexcept {
  switch (mode & S_IFMT) {
    case S_IFREG: return "a plain file";
    case S_IFIFO: return "a FIFO";
    case S_IFDIR: return "a directory";
    case S_IFSOCK: return "a socket";
    default: return "a device";
  }
}

}  // namespace shmstate
