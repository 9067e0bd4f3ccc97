#include "engine/engine_statistics.h"

#include <algorithm>

namespace shmstate::internal {

void EngineStatistics::write(InstanceOwner& owner, const Table& table, const PageAllocator& pages,
                             std::uint64_t stalled_ns) {
  const auto write = [&owner](Stat stat, std::uint64_t value) {
    const bool is_known = static_cast<std::size_t>(stat) < owner.geometry().statistic_count;  // when it was created
    if (is_known) owner.statistic(stat).store(value, std::memory_order_release);  // the refresh count comes last
  };
  write(Stat::kMutationsApplied, applied_count);
  write(Stat::kMutationsRejected, rejected_count);
  write(Stat::kPublishes, publish_count);
  write(Stat::kTurnDurationMax, turn_ns_max);
  write(Stat::kTurnDurationTotal, turn_ns_total);
  write(Stat::kLinesCopied, lines_copied);
  write(Stat::kRingsLive, rings_live);
  write(Stat::kRingsSeen, rings_seen);
  write(Stat::kRingsQuarantined, rings_quarantined);
  write(Stat::kRingsRefused, rings_refused);
  write(Stat::kPinStalls, stall_count);
  write(Stat::kPinStallTotal, stall_ns_total + stalled_ns);
  write(Stat::kPinStallMax, std::max(stall_ns_max, stalled_ns));
  write(Stat::kPinsExpired, pins_expired);
  write(Stat::kEntries, table.entry_count());
  write(Stat::kTombstones, table.tombstone_count());
  write(Stat::kSuperseded, table.superseded_count());
  write(Stat::kExpired, table.expired_count());
  write(Stat::kSegments, table.segments().segment_count());
  write(Stat::kSegmentSplits, table.segments().split_count());
  write(Stat::kPagesCommitted, pages.committed());
  write(Stat::kPagesFree, pages.free_count());
  write(Stat::kHeapBytes, table.blocks().used_bytes());
  write(Stat::kSleeps, sleep_count);
  write(Stat::kCommitFailures, commit_failures);
  write(Stat::kHugePageBytes, owner.collapsed_bytes());
  write(Stat::kPinQuestions, pin_questions);
  write(Stat::kKeysUnnamed, unnamed_count);
  write(Stat::kRefreshes, ++refresh_count);  // a reader that saw it grow twice saw what was true in between
}

}  // namespace shmstate::internal
