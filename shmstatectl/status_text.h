// The status of an instance as people read it.
#pragma once

#include <string>

#include "shmstate/inspect.h"

namespace shmstate::ctl {

/// With `verbose`, the meaning of every statistic, too.
[[nodiscard]] std::string status_text(const InstanceInfo& info, bool verbose);

}  // namespace shmstate::ctl
