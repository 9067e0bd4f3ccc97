// What the parts of a merge engine share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/engine_log.h"
#include "engine/engine_statistics.h"
#include "engine/instance_owner.h"
#include "engine/merge_options.h"

namespace shmstate::internal {

struct EngineContext {
  InstanceOwner& owner;
  const MergeOptions& options;
  EngineLog& log;
  EngineStatistics& statistics;
};

/// One turn of the engine.
struct Turn {
  static constexpr std::size_t kPiledUpFactor = 16;

  std::uint64_t now_ns = 0;
  /// It follows a stall, and another stall may follow: it takes more work, and is not cut short.
  bool takes_all = false;

  /// How often this turn may do what a usual turn does at most `count` times.
  [[nodiscard]] std::size_t at_most(std::size_t count) const noexcept {
    return takes_all ? kPiledUpFactor * count : count;
  }
};

}  // namespace shmstate::internal
