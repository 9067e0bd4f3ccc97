// The status of an instance as people read it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "shmstate/inspect.h"
#include "shmstatectl/pin_holders.h"

namespace shmstate::ctl {

/// What an instance does not say about itself.
struct StatusExtras {
  std::vector<PinHolder> pin_holders = {};
  std::map<std::uint64_t, double> mutations_per_s = {};  // by ring; without those that were looked at only once
};

/// With `verbose`, the meaning of every statistic, too.
[[nodiscard]] std::string status_text(const InstanceInfo& info, bool verbose, const StatusExtras& extras = {});

}  // namespace shmstate::ctl
