// The merge engine: drains the rings, applies mutations to the back buffer, publishes it, catches the next one up.
//
// A plain object: it never waits; whoever calls `step` decides when, says what time it is, and brings the clock by
// which a turn with many rings is cut short. It writes shared memory and asks the kernel who lives. Invariants:
//
//   1 Only the back buffer is written, and only while its stamp is kWriting.
//   2 A buffer holds, for every ring, the effect of exactly the bytes before its cursor; cursor and state become
//     visible in the one store of the epoch word.
//   3 A ring's head moves only after the publish of its cursor: what a crash forgets is still in the ring.
//   4 A publish never falls between two records of one batch.
//   5 A finished ring's file is removed before its cursor is dropped: no ring can be taken for a new one.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "engine/feed.h"
#include "engine/instance_owner.h"
#include "engine/page_allocator.h"
#include "engine/replica.h"
#include "engine/ring_news.h"
#include "engine/table.h"
#include "files/ring_file.h"
#include "layout/record.h"
#include "protocol/publish.h"
#include "protocol/ring.h"
#include "shmstate/status.h"

namespace shmstate::internal {

struct MergeOptions {
  std::chrono::nanoseconds publish_interval = std::chrono::milliseconds(1);  ///< at most so long between publishes
  std::chrono::nanoseconds pin_time_max = std::chrono::seconds(5);        ///< then a buffer is taken back; zero: never
  std::chrono::nanoseconds tombstone_time = std::chrono::minutes(1);      ///< how long a versioned erase is remembered
  std::uint64_t entries_max = std::numeric_limits<std::uint64_t>::max();  ///< entries and tombstones of the instance
  std::uint64_t ring_bytes_max = std::uint64_t{1} << 30;                  ///< larger rings are refused
  std::uint64_t batch_max = 32'768;                                       ///< mutations; larger batches are refused
};

/// Something worth a line in a log.
struct MergeEvent {
  enum class Kind : std::uint8_t {
    kRingServed,
    kRingFinished,
    kRingQuarantined,
    kRingRefused,
    kPinExpired,
    kNoMemory,
    kInstanceGone,
    kMutationRejected,  ///< one a second; `detail` is its key
  };
  Kind kind;
  std::uint64_t ring_id = 0;
  std::string detail;
  Status reason = Status::kOk;  ///< of kMutationRejected
};

class MergeEngine {
 public:
  /// Takes over the instance's snapshot, or publishes an empty first one. Throws `Error` (kDamaged, kNoMemory).
  MergeEngine(InstanceOwner& owner, const MergeOptions& options, std::function<void(const MergeEvent&)> on_event,
              std::uint64_t now_ns, std::function<std::uint64_t()> clock = os::now_ns);
  ~MergeEngine();
  MergeEngine(const MergeEngine&) = delete;
  MergeEngine& operator=(const MergeEngine&) = delete;

  enum class Progress : std::uint8_t {
    kIdle,     ///< nothing to do
    kWorked,   ///< mutations were applied and published
    kStalled,  ///< there is work, but readers pin every buffer that could be written
  };
  /// One turn: takes what the rings hold (at most a quarter of each ring's size) and publishes it.
  Progress step(std::uint64_t now_ns);

  /// Whether `step` would find something. Cheap; for going to sleep safely.
  [[nodiscard]] bool has_work() const noexcept;
  /// When `step` must be called at the latest, even without work.
  [[nodiscard]] std::uint64_t deadline_ns() const noexcept { return std::min(next_round_ns_, table_.next_expiry_ns()); }
  /// False once the directory no longer leads to this instance's files: nobody new can attach, so end.
  [[nodiscard]] bool is_current() const noexcept { return is_current_; }

  [[nodiscard]] std::uint64_t epoch() const noexcept { return current_.epoch; }
  [[nodiscard]] std::uint64_t ring_count() const noexcept { return rings_.size(); }
  [[nodiscard]] std::uint64_t applied_count() const noexcept { return applied_count_; }
  /// Entries of the directory of rings that were read so far.
  [[nodiscard]] std::uint64_t names_read() const noexcept { return names_read_; }
  /// Whether the kernel tells of new rings; otherwise they are searched for.
  [[nodiscard]] bool is_told_of_rings() const noexcept { return news_.is_told(); }
  [[nodiscard]] const Table& table() const noexcept { return table_; }
  /// The one that was written last.
  [[nodiscard]] std::uint32_t back_buffer() const noexcept { return replicas_.back_index(); }
  /// Also in the middle of everything: batches that were pushed under a higher limit are merged.
  void set_options(const MergeOptions& options) noexcept;
  void count_sleep() noexcept { ++sleep_count_; }
  /// Brings the statistics in `control` up to date; `step` does so ten times a second.
  void write_statistics();

 private:
  static constexpr std::size_t kGroupRecords = 64;

  struct ServedRing;
  /// What every turn looks at, of every ring: close together, since most rings are idle.
  struct Look {
    const Shared<std::uint64_t>* tail;
    std::uint64_t cursor;
  };
  /// A record on its way through the stages, with a private copy of its key.
  struct Staged {
    RecordView record;
    HashedKey key;
    Table::Home home;
    layout::Slot* guess;  // where the key probably is, or null
    std::array<std::uint64_t, 8> short_key;
  };

  // Start
  void create();
  void resume();
  void resume_rings();
  void resume_ring(std::uint32_t index);
  void lift_limit_of_pushed_batches() noexcept;

  // One turn
  enum class Pins : std::uint8_t { kRespect, kOverrideExpired, kOverride };
  bool claim_back_buffer();
  [[nodiscard]] bool claim_newest(Pins pins);
  void forget_ended_pins() noexcept;
  [[nodiscard]] std::size_t at_most(std::size_t count) const noexcept;
  [[nodiscard]] std::optional<std::uint32_t> newest_buffer_except(std::uint32_t excluded) const noexcept;
  void end_stall() noexcept;
  [[nodiscard]] bool has_changes() const noexcept;
  [[nodiscard]] bool is_due() const noexcept;
  [[nodiscard]] bool has_news(std::size_t place) const noexcept;
  void set_goal(ServedRing& ring) noexcept;
  void close_goal(ServedRing& ring) noexcept;
  void drain_rings();
  [[nodiscard]] bool is_time_over() const;
  void drain(ServedRing& ring);
  [[nodiscard]] std::size_t stage(ServedRing& ring, std::uint64_t position, std::uint64_t tail, std::uint64_t quota_end,
                                  std::uint64_t& end, bool& is_malformed);
  enum class Survey : std::uint8_t { kWhole, kTooBig, kMalformed };
  [[nodiscard]] Survey survey_batch(const ServedRing& ring, std::uint64_t begin, std::uint64_t tail,
                                    std::uint64_t& end) const noexcept;
  void unstage_open_batch(std::size_t& count, std::uint64_t& end) const noexcept;
  [[nodiscard]] bool cut_before_big_batch(const ServedRing& ring, std::uint64_t position, std::uint64_t whole_until,
                                          std::size_t& count, std::uint64_t& end) const noexcept;
  void move_cursor(ServedRing& ring, std::uint64_t position);
  void refuse_batch(ServedRing& ring, std::uint64_t tail);
  bool apply(ServedRing& ring, Staged& staged);
  bool apply_by_key(ServedRing& ring, Staged& staged, std::uint64_t epoch);
  [[nodiscard]] std::optional<layout::Reject> change(const ServedRing& ring, const RecordView& record,
                                                     const HashedKey& key, const NewValue& value, std::uint64_t epoch);
  void publish();
  void release_heads();
  static void mirror_counters(layout::RingHeader& header, const layout::RingCursor& cursor) noexcept;
  void wake_readers();

  // Rings
  void look_for_rings();
  void read_news();
  void search_directory();
  [[nodiscard]] bool begin_search();
  bool consider(const std::string& name);
  void refuse(std::uint64_t id, std::string why);
  bool serve(RingFile file);
  ServedRing& add_ring(RingFile file, std::uint32_t index, std::uint64_t cursor);
  void remove_ring(std::size_t place);
  void finish_rings();
  bool try_finish(ServedRing& ring);
  void drop_orphans();
  void drop_cursor(std::uint32_t index);
  void quarantine(ServedRing& ring, layout::QuarantineReason reason);
  [[nodiscard]] layout::RingCursor& cursor_of(const ServedRing& ring) noexcept;
  [[nodiscard]] const layout::RingCursor& published_cursor_at(std::uint32_t index) const noexcept;

  // The slow round
  void round();
  void move_to_huge_pages();
  void inspect_some_rings();
  void inspect(ServedRing& ring);
  void retry_closed_rings();
  void report_no_memory();
  void report_rejection(const ServedRing& ring, layout::Reject reject, std::string_view key);
  void report(MergeEvent::Kind kind, std::uint64_t ring_id, std::string detail) const;

  InstanceOwner& owner_;
  MergeOptions options_;
  std::function<void(const MergeEvent&)> on_event_;
  std::function<std::uint64_t()> clock_;
  std::uint64_t now_ns_;

  Replicas replicas_;
  PageAllocator pages_;
  Feed feed_;
  Table table_;

  Version current_;
  bool is_back_claimed_ = false;
  bool is_dirty_ = false;            // the back buffer differs from the current one
  std::uint64_t turn_began_ns_ = 0;  // of a turn that worked, until the next turn tells how long it took
  std::uint64_t drain_began_ns_ = 0;
  bool takes_all_ = false;  // this turn follows a pin: it is not cut short while others wait for the next one
  std::uint64_t stalled_since_ns_ = 0;
  std::uint32_t expired_pins_ = 0;  // a bit for each buffer whose pin was overridden and is still there
  std::uint64_t goal_ns_ = 0;       // when the goals of the rings were set
  std::size_t open_goals_ = 0;      // rings that have not reached theirs

  std::vector<std::unique_ptr<ServedRing>> rings_;
  std::vector<Look> looks_;            // one for each of `rings_`
  std::vector<ServedRing*> advanced_;  // in this turn: their heads move after the publish
  std::vector<bool> is_index_used_;
  RingNews news_;
  std::optional<std::filesystem::directory_iterator> search_;  // a look at the directory of rings that goes on
  std::unordered_set<std::uint64_t> served_ids_;
  std::unordered_set<std::uint64_t> refused_;         // rings in this look
  std::unordered_set<std::uint64_t> refused_before_;  // in the one before, so that each is reported once
  std::uint64_t next_refusal_report_ns_ = 0;
  std::size_t refusal_reports_ = 0;          // until then
  std::vector<std::uint32_t> closed_rings_;  // places of rings in the state that we may not open
  std::vector<std::uint32_t> orphans_;       // cursors whose ring was finished before a crash
  bool has_abandoned_rings_ = false;
  std::size_t next_drained_ = 0;
  std::size_t next_inspected_ = 0;
  std::uint32_t registrations_seen_ = 0;
  bool must_read_news_ = true;
  bool must_search_ = true;

  std::array<Staged, kGroupRecords> staged_;
  std::vector<std::uint64_t> long_keys_;

  std::uint64_t next_round_ns_ = 0;
  std::uint64_t next_search_ns_ = 0;
  std::uint64_t next_memory_report_ns_ = 0;
  std::uint64_t next_rejection_report_ns_ = 0;
  std::uint64_t last_wake_ns_ = 0;
  bool is_wake_owed_ = false;
  bool is_current_ = true;

  std::uint64_t applied_count_ = 0;
  std::uint64_t rejected_count_ = 0;
  std::uint64_t publish_count_ = 0;
  std::uint64_t turn_ns_max_ = 0;
  std::uint64_t turn_ns_total_ = 0;
  std::uint64_t lines_copied_ = 0;
  std::uint64_t names_read_ = 0;
  std::uint64_t rings_seen_ = 0;
  std::uint64_t rings_quarantined_ = 0;
  std::uint64_t rings_refused_ = 0;
  std::uint64_t stall_count_ = 0;
  std::uint64_t stall_ns_total_ = 0;
  std::uint64_t stall_ns_max_ = 0;
  std::uint64_t pins_expired_ = 0;
  std::uint64_t commit_failures_ = 0;
  std::uint64_t refresh_count_ = 0;  // of the statistics
  std::uint64_t sleep_count_ = 0;
};

}  // namespace shmstate::internal
