#pragma once

#include <chrono>

namespace shmstate::ctl {

/// An idle merger gives ten heartbeats a second: one that is this late is stopped or badly behind.
inline constexpr auto kSilenceNoticed = std::chrono::seconds(1);

}  // namespace shmstate::ctl
