// Why a ring is quarantined, in words: the merger logs them, tools show them.
#pragma once

#include <cstdint>
#include <string>

#include "layout/layout.h"

namespace shmstate::internal {

/// Empty for no reason. `position`: the head of the ring.
[[nodiscard]] inline std::string describe(layout::QuarantineReason reason, std::uint64_t position) {
  switch (reason) {
    case layout::QuarantineReason::kNone: return {};
    case layout::QuarantineReason::kTruncated: return "its file was truncated";
    case layout::QuarantineReason::kImpossibleTail: return "its tail is impossible";
    case layout::QuarantineReason::kNoMutation: return "its bytes at " + std::to_string(position) + " are no mutation";
  }
  return "reason " + std::to_string(static_cast<std::uint32_t>(reason));
}

}  // namespace shmstate::internal
