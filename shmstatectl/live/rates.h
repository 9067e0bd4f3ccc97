// How fast an instance works: what two looks at it tell together.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>

#include "shmstate/inspect.h"

namespace shmstate::ctl {

struct Rates {
  double mutations_per_s = 0;
  double publishes_per_s = 0;
  double rejections_per_s = 0;
  std::optional<std::chrono::nanoseconds> turn_mean;     // of the turns between the looks, if there were any
  std::map<std::uint64_t, double> ring_mutations_per_s;  // by ring; without those that were looked at only once
};

/// Bytes that the ring's writer has pushed and nobody can read yet.
[[nodiscard]] std::uint64_t backlog_bytes(const RingInfo& ring);

/// The value of a statistic, if the instance has one of this name.
[[nodiscard]] std::optional<std::uint64_t> statistic_of(const InstanceInfo& info, std::string_view name);

/// Nothing when the looks cannot be compared: another instance, another merger, or no time between them.
[[nodiscard]] std::optional<Rates> rates_between(const InstanceInfo& before, const InstanceInfo& after,
                                                 std::chrono::nanoseconds apart);

}  // namespace shmstate::ctl
