#include "engine/file_actions.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>

#include "shmstate/status.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;

// Returns whether it is new. `asked` is what it is for.
bool make_directory(const fs::path& path, unsigned mode, const fs::path& asked) {
  if (::mkdir(path.c_str(), mode) == 0) {
    if (::chmod(path.c_str(), mode) != 0) os::throw_errno("cannot chmod " + path.string(), errno);  // umask
    return true;
  }
  if (errno != EEXIST) {
    os::throw_errno("cannot create " + asked.string(), errno,
                    "the merger's user must be allowed to write there, or choose another path for the instance");
  }
  return false;
}

}  // namespace

void throw_closed(const fs::path& path) {
  os::throw_errno("cannot open " + path.string(), errno, "the merger's user must be allowed to read and write it");
}

os::Fd open_or_throw(const fs::path& path, int flags, unsigned mode) {
  os::Fd fd = os::open_file(path, flags, mode);
  if (!fd.is_open()) throw_closed(path);
  return fd;
}

void commit_or_throw(const os::Fd& fd, const fs::path& path, std::uint64_t offset, std::uint64_t bytes) {
  if (const int error_number = os::commit(fd.get(), offset, bytes); error_number != 0) {
    os::throw_errno(path.string() + ": cannot commit " + std::to_string(bytes) + " bytes", error_number);
  }
}

bool make_directory(const fs::path& path, unsigned mode) { return make_directory(path, mode, path); }

void apply_permissions(const os::Fd& fd, const fs::path& path, unsigned mode, std::uint32_t gid) {
  const os::FileInfo info = info_or_throw(fd, path);
  if (info.gid != gid && ::fchown(fd.get(), static_cast<uid_t>(-1), gid) != 0) {
    os::throw_errno("cannot give " + path.string() + " to group " + std::to_string(gid), errno,
                    "the merger's user must own it and be a member of that group");
  }
  if (info.mode != mode && ::fchmod(fd.get(), mode) != 0) {
    os::throw_errno("cannot chmod " + path.string(), errno, "the merger's user must own it");
  }
}

void apply_permissions(const fs::path& directory, unsigned mode, std::uint32_t gid) {
  apply_permissions(open_or_throw(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0), directory, mode, gid);
}

os::FileInfo info_or_throw(const fs::path& path) {
  const std::optional<os::FileInfo> found = os::file_info(path);
  if (!found) os::throw_errno("cannot look at " + path.string(), errno);
  return *found;
}

os::FileInfo info_or_throw(const os::Fd& fd, const fs::path& path) {
  const std::optional<os::FileInfo> found = os::file_info(fd.get());
  if (!found) os::throw_errno("cannot look at " + path.string(), errno);
  return *found;
}

bool exists_or_throw(const fs::path& path) {
  if (os::file_info(path)) return true;
  if (!os::is_absence(errno)) os::throw_errno("cannot look at " + path.string(), errno);
  return false;
}

void remove_if_there(const fs::path& path) {
  if (::remove(path.c_str()) != 0 && !os::is_absence(errno)) os::throw_errno("cannot remove " + path.string(), errno);
}

void resize_or_throw(const os::Fd& fd, const fs::path& path, std::uint64_t bytes) {
  if (const int error_number = os::resize(fd.get(), bytes); error_number != 0) {
    os::throw_errno(path.string() + ": cannot make it " + std::to_string(bytes) + " bytes long", error_number);
  }
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    os::throw_errno("cannot rename " + from.string() + " to " + to.string(), errno);
  }
}

void make_whole_directory(const fs::path& path, unsigned mode, std::optional<std::uint32_t> gid) {
  if (exists_or_throw(path)) return;
  const fs::path unnamed = path.parent_path() / std::string(".").append(path.filename().string()).append(".new");
  make_directory(unnamed, 0700, path);
  try {
    apply_permissions(open_or_throw(unnamed, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0), path, mode,
                      gid ? *gid : info_or_throw(unnamed).gid);
    rename_or_throw(unnamed, path);
  } catch (const Error&) {
    ::rmdir(unnamed.c_str());
    if (!exists_or_throw(path)) throw;
  }
}

}  // namespace shmstate::internal
