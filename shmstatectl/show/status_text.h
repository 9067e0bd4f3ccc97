// The status of an instance as people read it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "doctor/pin_holders.h"
#include "live/rates.h"
#include "shmstate/inspect.h"

namespace shmstate::ctl {

/// What an instance does not say about itself.
struct StatusExtras {
  std::vector<PinHolder> pin_holders = {};
  std::optional<Rates> rates = {};  // when it was looked at twice
};

/// With `verbose`, the meaning of every statistic, too.
[[nodiscard]] std::string status_text(const InstanceInfo& info, bool verbose, const StatusExtras& extras = {});

}  // namespace shmstate::ctl
