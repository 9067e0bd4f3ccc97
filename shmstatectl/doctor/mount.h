// What the kernel says about a mount.
#pragma once

#include <string>

namespace shmstate::ctl {

struct Mount {
  std::string device;  // major:minor
  std::string point;
  std::string type;
  std::string options;  // of the mount and of the file system on it, each once; begins with ro or rw
};

/// A line of /proc/self/mountinfo.
[[nodiscard]] Mount parse_mount(const std::string& line);

}  // namespace shmstate::ctl
