// The counters and gauges that the merger keeps in `control`, each with its own description beside it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace shmstate::internal {

/// Append only: tools find a statistic by its name, but its place shall not move within a layout version.
enum class Stat : std::uint8_t {
  kMutationsApplied,
  kMutationsRejected,
  kPublishes,
  kTurnDurationMax,
  kTurnDurationTotal,
  kLinesCopied,
  kRingsLive,
  kRingsSeen,
  kRingsQuarantined,
  kRingsRefused,
  kPinStalls,
  kPinStallTotal,
  kPinStallMax,
  kPinsExpired,
  kEntries,
  kSegments,
  kSegmentSplits,
  kPagesCommitted,
  kPagesFree,
  kHeapBytes,
  kSleeps,
  kCommitFailures,
  kTombstones,
  kSuperseded,
  kExpired,
  kHugePageBytes,
  kRefreshes,
  kPinQuestions,
  kKeysUnnamed,
  kCount
};

struct StatDescription {
  std::string_view name;
  std::string_view unit;
  std::string_view meaning;
};

inline constexpr std::array<StatDescription, static_cast<std::size_t>(Stat::kCount)> kStatDescriptions{{
    {"mutations_applied", "", "mutations applied and published since the merger started"},
    {"mutations_rejected", "", "mutations refused since the merger started, all rings and reasons"},
    {"publishes", "", "snapshots published since the merger started"},
    {"turn_duration_max", "ns", "longest turn: drain, apply, publish, catch up; since the merger started"},
    {"turn_duration_total", "ns", "time spent in such turns since the merger started"},
    {"lines_copied", "", "64-byte lines copied, whole or in part, to bring stale buffers up to date"},
    {"rings_live", "", "rings served now"},
    {"rings_seen", "", "rings served since the merger started"},
    {"rings_quarantined", "", "rings whose bytes were no mutations, since the merger started"},
    {"rings_refused", "", "rings refused for the maximum number of rings or a bad file"},
    {"pin_stalls", "", "times that readers pinned every buffer that could be written"},
    {"pin_stall_total", "ns", "time during which nothing could be published because of pins"},
    {"pin_stall_max", "ns", "longest such time"},
    {"pins_expired", "", "buffers reclaimed from readers after the maximum pin time"},
    {"entries", "", "entries in the newest snapshot"},
    {"segments", "", "segments of the index"},
    {"segment_splits", "", "segments split since the merger started"},
    {"pages_committed", "4KiB", "pages of memory that each buffer has"},
    {"pages_free", "4KiB", "of these, not in use now"},
    {"heap_bytes", "bytes", "pages in use for long keys and values, in each buffer"},
    {"sleeps", "", "times that the merger slept for want of work"},
    {"commit_failures", "", "times that the file system or the limit had no room for more pages"},
    {"tombstones", "", "versioned erases that are remembered now"},
    {"mutations_superseded", "", "versioned mutations without effect because a higher version was there"},
    {"entries_expired", "", "entries erased because their time to live was over"},
    {"huge_page_bytes", "bytes", "memory of all buffers that the merger moved to huge pages"},
    {"refreshes", "", "times that these statistics were written, since the merger started"},
    {"pin_questions", "", "times that the merger asked the kernel whether a buffer is pinned"},
    {"keys_unnamed", "", "bound keys whose names found no room in their ring, so go as text"},
}};

}  // namespace shmstate::internal
