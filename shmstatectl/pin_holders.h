// Which processes pin buffers, as far as this user may look into other processes: root sees all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace shmstate::ctl {

struct PinHolder {
  std::uint32_t buffer = 0;
  std::uint32_t pid = 0;
  std::string program;
};

/// The holders of pins on the snapshot file of the instance in this directory, by buffer and process.
[[nodiscard]] std::vector<PinHolder> pin_holders(const std::string& instance);

}  // namespace shmstate::ctl
