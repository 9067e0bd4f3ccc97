// The merge engine: drains the rings, applies mutations to the back buffer, publishes it, catches the next one up.
//
// A plain object that never waits: the caller of `step` decides when it runs, passes the time, and provides the clock
// by which a long turn is cut short. It writes shared memory and asks the kernel which processes are alive. Invariants:
//
//   1 Only the back buffer is written, and only while its stamp is kWriting: a BackBuffer comes from a claim.
//   2 A buffer holds, for every ring, the effect of exactly the bytes before its cursor; cursor and state become
//     visible in the one store of the epoch word.
//   3 A ring's head moves only after the publish of its cursor: what a crash forgets is still in the ring.
//   4 A publish never falls between two records of one batch.
//   5 A finished ring's file is removed before its cursor is dropped: no ring can be taken for a new one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "engine/age_marks.h"
#include "engine/back_buffer.h"
#include "engine/cursors.h"
#include "engine/engine_context.h"
#include "engine/engine_log.h"
#include "engine/engine_statistics.h"
#include "engine/feed.h"
#include "engine/instance_owner.h"
#include "engine/merge_options.h"
#include "engine/page_allocator.h"
#include "engine/pins.h"
#include "engine/replicas.h"
#include "engine/ring_drain.h"
#include "engine/ring_registry.h"
#include "engine/ring_search.h"
#include "engine/table.h"

namespace shmstate::internal {

class MergeEngine {
 public:
  /// Takes over the instance's snapshot, or publishes an empty first one. Throws `Error` (kDamaged, kNoMemory).
  MergeEngine(InstanceOwner& owner, const MergeOptions& options, std::function<void(const MergeEvent&)> on_event,
              std::uint64_t now_ns, std::function<std::uint64_t()> clock = os::now_ns);
  MergeEngine(const MergeEngine&) = delete;
  MergeEngine& operator=(const MergeEngine&) = delete;

  enum class Progress : std::uint8_t {
    kIdle,     ///< nothing to do
    kWorked,   ///< mutations were applied and published
    kStalled,  ///< there is work, but readers pin every buffer that could be written
  };
  /// One turn: takes what the rings hold (at most a quarter of each ring's size) and publishes it.
  Progress step(std::uint64_t now_ns);

  /// Whether `step` would find something to do, apart from what is due by time. Cheap; for going to sleep safely.
  [[nodiscard]] bool has_work() const noexcept { return must_wake_readers_ || has_input(); }
  /// The latest time at which `step` must be called, even without work.
  [[nodiscard]] std::uint64_t deadline_ns() const noexcept {
    return std::min(next_maintenance_ns_, table_.next_expiry_ns());
  }
  /// False once the directory no longer leads to this instance's files: no process can attach any more, so end.
  [[nodiscard]] bool is_current() const noexcept { return is_current_; }

  [[nodiscard]] std::uint64_t epoch() const noexcept { return replicas_.current().epoch; }
  [[nodiscard]] std::uint64_t ring_count() const noexcept { return rings_.size(); }
  [[nodiscard]] std::uint64_t applied_count() const noexcept { return statistics_.applied_count; }
  /// Entries of the directory of rings that were read so far.
  [[nodiscard]] std::uint64_t names_read() const noexcept { return search_.names_read(); }
  /// Whether the kernel reports new rings; otherwise they are searched for.
  [[nodiscard]] bool is_told_of_rings() const noexcept { return search_.is_watching(); }
  [[nodiscard]] const Table& table() const noexcept { return table_; }
  /// The buffer that was claimed last.
  [[nodiscard]] std::uint32_t back_buffer() const noexcept { return replicas_.last_claimed(); }
  /// At any time; batches that were pushed under a higher limit are still merged.
  void set_options(const MergeOptions& options) noexcept;
  void count_sleep() noexcept { ++statistics_.sleep_count; }
  /// Brings the statistics in `control` up to date; `step` does so ten times a second.
  void write_statistics();

 private:
  [[nodiscard]] bool commit_pages(BackBuffer& back, std::uint64_t first, std::uint64_t end);
  void create();
  void resume();

  // One turn
  void count_time(std::uint64_t now_ns) noexcept;
  [[nodiscard]] bool claim_back_buffer();
  [[nodiscard]] bool has_input() const noexcept;
  [[nodiscard]] bool has_waiting_work() const noexcept;
  void drain_rings(BackBuffer& back);
  void publish();
  void wake_readers();

  // Maintenance, ten times a second
  void maintain();
  void check_directory();
  void move_to_huge_pages();

  InstanceOwner& owner_;
  MergeOptions options_;
  std::function<std::uint64_t()> clock_;
  EngineLog log_;
  EngineStatistics statistics_;
  EngineContext context_;

  Replicas replicas_;
  PageAllocator pages_;
  Cursors cursors_;
  Feed feed_;
  Table table_;
  AgeMarks marks_;
  RingRegistry rings_;
  RingSearch search_;
  RingDrain drain_;
  Pins pins_;
  std::optional<BackBuffer> back_;  // claimed at the end of a turn, unless readers pin all others

  Turn turn_;
  std::uint64_t turn_began_ns_ = 0;  // of a turn that worked, until the next turn measures it
  std::size_t next_drained_ = 0;
  std::uint64_t next_maintenance_ns_ = 0;
  std::uint64_t next_directory_check_ns_ = 0;
  std::uint64_t last_wake_ns_ = 0;
  bool must_wake_readers_ = false;
  bool is_current_ = true;
};

}  // namespace shmstate::internal
