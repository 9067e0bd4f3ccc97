// Which processes pin buffers, as far as this user may look into other processes: root sees all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shmstate/inspect.h"

namespace shmstate::ctl {

struct PinHolder {
  std::uint32_t buffer = 0;
  std::uint32_t pid = 0;
  std::string program;
};

/// Whether nothing can be published before a reader lets go.
[[nodiscard]] bool is_every_back_buffer_pinned(const InstanceInfo& info);

/// By buffer and process. Looks through all processes, unless nothing was pinned.
[[nodiscard]] std::vector<PinHolder> pin_holders(const InstanceInfo& info);

}  // namespace shmstate::ctl
