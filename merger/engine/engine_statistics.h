// What the merge engine counts, and how that becomes the instance's statistics.
#pragma once

#include <cstdint>

#include "engine/instance_owner.h"
#include "engine/page_allocator.h"
#include "engine/table.h"

namespace shmstate::internal {

struct EngineStatistics {
  std::uint64_t applied_count = 0;
  std::uint64_t rejected_count = 0;
  std::uint64_t publish_count = 0;
  std::uint64_t turn_ns_max = 0;
  std::uint64_t turn_ns_total = 0;
  std::uint64_t lines_copied = 0;
  std::uint64_t rings_live = 0;
  std::uint64_t rings_seen = 0;
  std::uint64_t rings_quarantined = 0;
  std::uint64_t rings_refused = 0;
  std::uint64_t stall_count = 0;
  std::uint64_t stall_ns_total = 0;
  std::uint64_t stall_ns_max = 0;
  std::uint64_t pins_expired = 0;
  std::uint64_t pin_questions = 0;
  std::uint64_t commit_failures = 0;
  std::uint64_t sleep_count = 0;
  std::uint64_t unnamed_count = 0;
  std::uint64_t refresh_count = 0;

  /// `stalled_ns`: how long a stall that has not ended has lasted.
  void write(InstanceOwner& owner, const Table& table, const PageAllocator& pages, std::uint64_t stalled_ns);
};

}  // namespace shmstate::internal
