// What the host gives an instance: the mount, its space, the kernel.
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include "doctor/checks.h"
#include "doctor/mount.h"
#include "files/access.h"
#include "files/os.h"
#include "layout/layout.h"
#include "show/text.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

namespace fs = std::filesystem;

// The last mount of a device is the one that is seen.
Mount mount_of(const fs::path& path) {
  Mount found;
  const auto info = os::file_info(path);
  if (!info) return found;
  const std::string device = fmt::format("{}:{}", major(info->device), minor(info->device));
  std::ifstream lines("/proc/self/mountinfo");
  for (std::string line; std::getline(lines, line);) {
    if (Mount mount = parse_mount(line); mount.device == device) found = std::move(mount);
  }
  return found;
}

}  // namespace

void check_mount(const fs::path& instance, Findings& findings) {
  const Mount mount = mount_of(instance);
  const std::string text = mount.type.empty() ? "/proc/self/mountinfo does not tell more"
                                              : fmt::format("{} on {} ({})", mount.type, mount.point, mount.options);
  struct statfs system {};
  if (::statfs(instance.c_str(), &system) != 0) {
    const std::string why = std::generic_category().message(errno);
    findings.warning("mount", "cannot tell how it is mounted: " + why, "look at: findmnt");
    return;
  }
  if (system.f_type != TMPFS_MAGIC) {
    findings.warning("mount", "not a tmpfs: " + text,
                     "put the instance below /run/shmstate or /dev/shm: a disk makes writers wait");
  } else if ((system.f_flags & ST_RDONLY) != 0) {
    findings.error("mount", "read-only: " + text, "mount it with rw");
  } else {
    findings.ok("mount", text);
  }
}

// The merger asks for them by itself, whatever the mount says.
void check_huge_pages(Findings& findings) {
  const char* const path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  std::string enabled;
  std::getline(std::ifstream(path), enabled);
  if (enabled.empty() && obstacle_to("/sys/kernel/mm", F_OK)) {
    findings.note("huge pages", "cannot tell whether the kernel allows them: there is no /sys");
  } else if (!enabled.empty() && enabled.find("[deny]") == std::string::npos) {
    findings.ok("huge pages", "the kernel allows them");
  } else {
    findings.note("huge pages", enabled.empty() ? "the kernel has none" : "the kernel denies them",
                  fmt::format("for a large state, write another word than deny to {}", path));
  }
}

void check_space(const InstanceInfo& info, Findings& findings) {
  struct statvfs space {};
  if (::statvfs(info.path.c_str(), &space) != 0) return;
  const std::uint64_t free_bytes = std::uint64_t{space.f_bavail} * space.f_frsize;
  const std::uint64_t wanted_bytes = info.limit_bytes - std::min(info.committed_bytes, info.limit_bytes);
  const std::string text = fmt::format("{} free on the file system, the instance may grow by {}",
                                       format_bytes(free_bytes), format_bytes(wanted_bytes));
  const std::uint64_t next_page_bytes = info.buffers.size() * layout::kPageBytes;
  const std::string remedy =
      "give the tmpfs more room: systemctl edit run-shmstate.mount, then systemctl reload run-shmstate.mount (another "
      "one: mount -o remount,size=...); or erase keys: a lower --memory-limit counts for new instances only";
  if (free_bytes < next_page_bytes) {
    findings.error("space", text, remedy, ExitCode::kRejected);
  } else if (free_bytes < wanted_bytes) {
    findings.warning("space", text, remedy);
  } else {
    findings.ok("space", text);
  }
}

}  // namespace shmstate::ctl
