#include "engine/merge_engine.h"

#include <algorithm>
#include <cstring>

#include "layout/place.h"
#include "layout/quarantine.h"
#include "protocol/crash_point.h"
#include "protocol/invariant.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;
using layout::QuarantineReason;
using layout::Reject;

constexpr std::uint64_t kRoundIntervalNs = 100'000'000;     // heartbeat, statistics, liveness of some rings
constexpr std::uint64_t kSearchIntervalNs = 1'000'000'000;  // for ring files whose writer could not tell us
constexpr std::uint64_t kWakeIntervalNs = 50'000;           // readers are woken at most so often
constexpr std::uint64_t kRejectionReportIntervalNs = 1'000'000'000;
constexpr std::uint64_t kCollapseTimeNs = 50'000'000;  // in a round without work, for huge pages
constexpr std::size_t kRingsPerRound = 64;
constexpr std::size_t kNamesPerTurn = 1024;     // of the directory of rings
constexpr std::size_t kOpenedPerTurn = 32;      // of those, files that are not served yet
constexpr std::size_t kRefusedMax = 65'536;     // remembered, so that each is counted once
constexpr std::size_t kRefusalReportsMax = 64;  // in a second
constexpr std::size_t kErasuresPerTurn = 2048;  // of expired and ephemeral entries, so that no publish waits for many
// In a turn that follows a pin, where all waited for that pin, and the next one may follow.
constexpr std::uint64_t kPiledUpTimeNs = 1'000'000'000;  // in place of the publish interval
constexpr std::size_t kPiledUpFactor = 16;               // of what a turn opens and erases
constexpr std::uint64_t kBytesPerLook = 64 << 10;        // at the clock, of what is merged outside batches
constexpr std::uint64_t kRefusedBytesPerTurn = 1 << 20;  // of a batch that is too big, that are looked through

// Who pins which buffer: asked of the kernel, never of the readers.
class SnapshotLocks {
 public:
  explicit SnapshotLocks(int fd) : fd_(fd) {}
  [[nodiscard]] bool is_pinned(std::uint32_t buffer) const noexcept { return os::is_locked(fd_, kPinByte + buffer); }

 private:
  int fd_;
};

std::uint64_t saturating_add(std::uint64_t a, std::uint64_t b) {
  return b > std::numeric_limits<std::uint64_t>::max() - a ? std::numeric_limits<std::uint64_t>::max() : a + b;
}

Status status_of(Reject reject) noexcept {
  switch (reject) {
    case Reject::kWrongType: return Status::kWrongType;
    case Reject::kOutOfRange: return Status::kOutOfRange;
    case Reject::kNoMemory: return Status::kNoMemory;
    case Reject::kLimit: return Status::kLimit;
    case Reject::kBatchTooBig: return Status::kMutationTooBig;
  }
  return Status::kRejected;
}

}  // namespace

struct MergeEngine::ServedRing {
  ServedRing(RingFile ring_file, std::uint32_t ring_index, std::uint64_t cursor)
      : file(std::move(ring_file)),
        index(ring_index),
        consumer(file.header(), file.data_bytes(), cursor),
        published_cursor(cursor),
        goal(cursor) {}

  RingFile file;
  std::uint32_t index;
  RingConsumer<layout::RingHeader> consumer;
  std::uint64_t published_cursor;     // where head is
  std::uint64_t goal;                 // the tail when the goals were set
  bool has_open_goal = false;         // not reached yet
  std::uint64_t unlimited_until = 0;  // batches that begin before may be of any size: they were pushed when they might
  bool is_refusing = false;           // the batch at the cursor, which is too big
  std::uint64_t refused_until = 0;    // what was seen of it
  std::uint64_t refused_count = 0;
  bool is_abandoned = false;
  bool is_quarantined = false;
  QuarantineReason quarantine_reason = QuarantineReason::kNone;
};

// ---- start

MergeEngine::MergeEngine(InstanceOwner& owner, const MergeOptions& options,
                         std::function<void(const MergeEvent&)> on_event, std::uint64_t now_ns,
                         std::function<std::uint64_t()> clock)
    : owner_(owner),
      options_(options),
      on_event_(std::move(on_event)),
      clock_(std::move(clock)),
      now_ns_(now_ns),
      replicas_(owner),
      pages_(owner.geometry().first_page, owner.geometry().pages_max(),
             [this](std::uint64_t first, std::uint64_t end) {
               if (owner_.commit_pages(first, end) != 0) return false;
               crash_point(CrashPoint::kPagesCommitted);
               replicas_.store(replicas_.header().page_count, end);
               return true;
             }),
      feed_(owner),
      table_(replicas_, pages_, feed_, owner.geometry()),
      is_index_used_(owner.geometry().ring_count_max, false),
      news_(owner.rings_path()),
      long_keys_(kGroupRecords * kKeyBytesMax / kWord) {
  for (std::size_t i = 0; i < owner.geometry().ring_count_max; ++i) {
    owner.ring_status(i).ring_id.store(0, std::memory_order_relaxed);
  }
  owner_.heartbeat().beat_ns.store(now_ns, std::memory_order_relaxed);  // also for as long as resuming takes
  table_.start_timers(now_ns);
  const std::uint64_t batch_max_before = owner.sleep().batch_max.load(std::memory_order_relaxed);
  set_options(options);
  if (owner.is_resumed()) {
    resume();
    if (batch_max_before == 0 || options.batch_max < batch_max_before) lift_limit_of_pushed_batches();
  } else {
    create();
  }
}

MergeEngine::~MergeEngine() = default;

void MergeEngine::set_options(const MergeOptions& options) noexcept {
  if (options.batch_max < options_.batch_max) lift_limit_of_pushed_batches();
  options_ = options;
  table_.set_entries_max(options.entries_max);
  owner_.sleep().batch_max.store(options.batch_max, std::memory_order_relaxed);
}

void MergeEngine::lift_limit_of_pushed_batches() noexcept {
  for (const std::unique_ptr<ServedRing>& ring : rings_) ring->unlimited_until = ring->consumer.tail();
}

void MergeEngine::create() {
  const auto refuse = [this] {
    throw Error(Status::kNoMemory,
                "shmstate: " + quoted(owner_.path()) +
                    ": no memory for an empty table; make the file system larger or raise the limit");
  };
  if (owner_.commit_pages(0, owner_.geometry().first_page) != 0) refuse();
  crash_point(CrashPoint::kFirstPagesCommitted);
  replicas_.start_from(0);
  replicas_.begin_writing(0);
  replicas_.store(replicas_.header().epoch, std::uint64_t{1});
  replicas_.store(replicas_.header().page_count, std::uint64_t{owner_.geometry().first_page});
  if (!table_.create()) refuse();
  is_back_claimed_ = true;
  is_dirty_ = true;
  publish();
  crash_point(CrashPoint::kFirstPublished);
  owner_.heartbeat().current_as_of_ns.store(now_ns_, std::memory_order_relaxed);
  write_statistics();
  owner_.announce();
  crash_point(CrashPoint::kAnnounced);
}

void MergeEngine::resume() {
  const auto refuse = [this](const std::string& why) {
    throw Error(Status::kDamaged, "shmstate: " + quoted(owner_.path()) + ": " + why +
                                      "; remove the directory to begin with an empty state");
  };
  current_ = current_version(owner_.publication());
  if (current_.epoch == 0 || current_.buffer >= owner_.geometry().buffer_count ||
      !is_intact(owner_.publication(), current_)) {
    refuse("no buffer holds the current epoch");
  }
  const std::byte* const buffer = owner_.buffer(current_.buffer);
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
  if (header.page_count < owner_.geometry().first_page || header.page_count > owner_.geometry().pages_max()) {
    refuse("the current buffer has an impossible size");
  }
  pages_.start_from(header.page_count);
  feed_.start_from(header.feed_end);
  replicas_.start_from(current_.buffer);
  if (!table_.resume(buffer)) refuse("the table of the current buffer is damaged");
  crash_point(CrashPoint::kTableResumed);
  resume_rings();
  is_wake_owed_ = true;  // by the merger before us, if it died between publish and wake
}

void MergeEngine::resume_rings() {
  for (std::uint32_t i = 0; i < owner_.geometry().ring_count_max; ++i) {
    const std::uint64_t id = published_cursor_at(i).ring_id;
    if (id == 0) continue;
    is_index_used_[i] = true;
    try {
      resume_ring(i);
    } catch (const Error& why) {
      if (why.status() != Status::kNoPermission) throw;  // what runs out here makes no ring a finished one
      served_ids_.insert(id);                            // it must not come back as a new one
      closed_rings_.push_back(i);
      ++rings_refused_;
      report(MergeEvent::Kind::kRingRefused, id, why.what());
    }
  }
}

void MergeEngine::resume_ring(std::uint32_t index) {
  const layout::RingCursor& cursor = published_cursor_at(index);
  std::optional<RingFile> file = RingFile::open(owner_.rings_path(), cursor.ring_id, owner_.geometry().instance_id);
  if (!file) {  // finished, or broken by its writer; then it must not come back as a new one
    RingFile::remove_broken(owner_.rings_path(), cursor.ring_id, true);
    served_ids_.erase(cursor.ring_id);
    orphans_.push_back(index);
    crash_point(CrashPoint::kOrphanFound);
    return;
  }
  ServedRing& ring = add_ring(std::move(*file), index, cursor.cursor);
  ring.file.header().verdict.store(static_cast<std::uint32_t>(layout::RingVerdict::kServed), std::memory_order_relaxed);
  mirror_counters(ring.file.header(), cursor);  // the merger before us may have died before it came to this
  if (ring.consumer.release()) os::futex_wake_all(ring.file.header().head.futex());
  ++rings_seen_;
  crash_point(CrashPoint::kRingResumed);
}

// Those that their writers did not let us open: nobody knows whether something waits in them, so they keep their place.
// What does may have been pushed under another limit of batches.
void MergeEngine::retry_closed_rings() {
  std::erase_if(closed_rings_, [this](std::uint32_t index) {
    try {
      const std::size_t before = rings_.size();
      resume_ring(index);
      if (rings_.size() > before) rings_.back()->unlimited_until = rings_.back()->consumer.tail();
      return true;
    } catch (const Error&) {
      return false;
    }
  });
}

// ---- one turn

MergeEngine::Progress MergeEngine::step(std::uint64_t now_ns) {
  // For as long as we stood still (stopped, or with the whole machine), we kept work waiting, and no reader's pin.
  const std::uint64_t passed_ns = now_ns - now_ns_;
  if (stalled_since_ns_ != 0 && passed_ns > kRoundIntervalNs) stalled_since_ns_ += passed_ns;
  now_ns_ = now_ns;
  if (turn_began_ns_ != 0) {
    turn_ns_max_ = std::max(turn_ns_max_, now_ns - turn_began_ns_);
    turn_ns_total_ += now_ns - turn_began_ns_;
    turn_began_ns_ = 0;
  }
  owner_.heartbeat().beat_ns.store(now_ns, std::memory_order_relaxed);
  if (now_ns >= next_round_ns_) round();
  takes_all_ = stalled_since_ns_ != 0;
  if (!is_back_claimed_ && !claim_back_buffer()) {
    wake_readers();
    return is_due() ? Progress::kStalled : Progress::kIdle;
  }

  look_for_rings();
  drain_rings();
  if (table_.next_expiry_ns() <= now_ns && table_.expire(now_ns, at_most(kErasuresPerTurn), current_.epoch + 1))
    is_dirty_ = true;
  if (has_abandoned_rings_) finish_rings();
  if (!orphans_.empty()) drop_orphans();
  const bool worked = is_dirty_;
  if (worked) {
    turn_began_ns_ = now_ns;
    publish();
    release_heads();
  }
  if (open_goals_ == 0) owner_.heartbeat().current_as_of_ns.store(goal_ns_, std::memory_order_relaxed);
  wake_readers();
  if (worked) claim_back_buffer();
  return worked ? Progress::kWorked : Progress::kIdle;
}

bool MergeEngine::has_work() const noexcept { return is_wake_owed_ || has_changes(); }

bool MergeEngine::has_changes() const noexcept {
  if (has_abandoned_rings_ || !orphans_.empty() || search_ || news_.has_more()) return true;
  if (owner_.doorbell().registrations.load(std::memory_order_acquire) != registrations_seen_) return true;
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    if (has_news(i)) return true;
  }
  return false;
}

bool MergeEngine::has_news(std::size_t place) const noexcept {
  const Look& look = looks_[place];
  return look.tail->load(std::memory_order_acquire) != look.cursor && !rings_[place]->is_quarantined;
}

bool MergeEngine::is_due() const noexcept { return has_changes() || table_.next_expiry_ns() <= now_ns_; }

// Prefers a buffer that nobody pins. Then one whose pin was kept for too long once: that is not waited for again while
// that lock lasts, whoever else may have pinned the buffer. Overrides other pins only when work has waited for the
// maximum pin time.
bool MergeEngine::claim_back_buffer() {
  const auto pin_time_max = static_cast<std::uint64_t>(options_.pin_time_max.count());
  const bool is_too_long = pin_time_max != 0 && stalled_since_ns_ != 0 && now_ns_ - stalled_since_ns_ >= pin_time_max;
  if (expired_pins_ != 0) forget_ended_pins();
  if (claim_newest(Pins::kRespect) || (expired_pins_ != 0 && claim_newest(Pins::kOverrideExpired)) ||
      (is_too_long && claim_newest(Pins::kOverride))) {
    return true;
  }
  if (!is_due()) {
    end_stall();  // what waited is gone: its ring was cut
  } else if (stalled_since_ns_ == 0) {
    stalled_since_ns_ = now_ns_;
    ++stall_count_;
  }
  return false;
}

void MergeEngine::forget_ended_pins() noexcept {
  const SnapshotLocks locks(owner_.snapshot_fd());
  for (std::uint32_t b = 0; b < owner_.geometry().buffer_count; ++b) {
    if ((expired_pins_ >> b & 1) != 0 && !locks.is_pinned(b)) expired_pins_ &= ~(1U << b);
  }
}

// Prefers the buffer that lacks least.
bool MergeEngine::claim_newest(Pins pins) {
  SnapshotLocks locks(owner_.snapshot_fd());
  std::uint32_t tried = 1U << current_.buffer;
  while (const std::optional<std::uint32_t> buffer = newest_buffer_except(tried)) {
    const std::uint32_t bit = 1U << *buffer;
    tried |= bit;
    const bool is_known = (expired_pins_ & bit) != 0;
    if (pins == Pins::kOverrideExpired && !is_known) continue;
    SHMSTATE_INVARIANT(*buffer != current_.buffer);
    if (!try_claim(owner_.publication(), locks, *buffer, pins != Pins::kRespect)) continue;
    if (pins == Pins::kOverride) {
      expired_pins_ |= bit;
      ++pins_expired_;
      report(MergeEvent::Kind::kPinExpired, 0, "buffer " + std::to_string(*buffer));
    }
    end_stall();
    lines_copied_ += replicas_.begin_writing(*buffer);
    crash_point(CrashPoint::kBufferCaughtUp);
    replicas_.store(replicas_.header().epoch, current_.epoch + 1);
    is_back_claimed_ = true;
    return true;
  }
  return false;
}

std::optional<std::uint32_t> MergeEngine::newest_buffer_except(std::uint32_t excluded) const noexcept {
  const auto epoch_of = [this](std::uint32_t buffer) {
    return owner_.publication().stamps[buffer].load(std::memory_order_relaxed) & ~layout::kClaimed;
  };
  std::optional<std::uint32_t> newest;
  for (std::uint32_t b = 0; b < owner_.geometry().buffer_count; ++b) {
    if ((excluded >> b & 1) == 0 && (!newest || epoch_of(b) > epoch_of(*newest))) newest = b;
  }
  return newest;
}

void MergeEngine::end_stall() noexcept {
  if (stalled_since_ns_ == 0) return;
  const std::uint64_t stalled_ns = now_ns_ - stalled_since_ns_;
  stall_ns_total_ += stalled_ns;
  stall_ns_max_ = std::max(stall_ns_max_, stalled_ns);
  stalled_since_ns_ = 0;
}

// When what is in the ring now has been published, of every ring, the snapshot was current when the goals were set.
void MergeEngine::set_goal(ServedRing& ring) noexcept {
  ring.goal = ring.consumer.tail();
  ring.has_open_goal = ring.goal > ring.consumer.cursor();
  if (ring.has_open_goal) ++open_goals_;
}

void MergeEngine::close_goal(ServedRing& ring) noexcept {
  if (!ring.has_open_goal || (!ring.is_quarantined && ring.consumer.cursor() < ring.goal)) return;
  ring.has_open_goal = false;
  --open_goals_;
}

// Goes around the rings, from where the last turn was cut short. The first turn after all goals were reached sets new
// ones on the way.
void MergeEngine::drain_rings() {
  const bool sets_goals = open_goals_ == 0;
  if (sets_goals) goal_ns_ = now_ns_;
  const auto after = [this](std::size_t place) { return place + 1 < rings_.size() ? place + 1 : 0; };
  std::size_t place = next_drained_ < rings_.size() ? next_drained_ : 0;
  drain_began_ns_ = 0;
  bool is_cut_short = false;
  for (std::size_t left = rings_.size(); left > 0 && (sets_goals || !is_cut_short); --left, place = after(place)) {
    if (!has_news(place)) continue;
    ServedRing& ring = *rings_[place];
    if (sets_goals) set_goal(ring);
    if (is_cut_short) continue;
    if (drain_began_ns_ == 0) drain_began_ns_ = clock_();
    drain(ring);
    looks_[place].cursor = ring.consumer.cursor();
    if (ring.consumer.cursor() != ring.published_cursor) advanced_.push_back(&ring);
    close_goal(ring);
    is_cut_short = is_time_over();
    if (is_cut_short) next_drained_ = after(place);
  }
}

bool MergeEngine::is_time_over() const {
  const auto interval_ns = static_cast<std::uint64_t>(options_.publish_interval.count());
  return clock_() - drain_began_ns_ >= (takes_all_ ? std::max(interval_ns, kPiledUpTimeNs) : interval_ns);
}

// Takes what one ring holds, group by group, until its quota or the time of this turn is used up and no batch is open.
void MergeEngine::drain(ServedRing& ring) {
  const std::uint64_t tail = ring.consumer.tail();
  const std::uint64_t begin = ring.consumer.cursor();
  if (tail == begin) return;
  if (ring.file.has_faulted()) return quarantine(ring, QuarantineReason::kTruncated);
  if (!ring.consumer.is_sane(tail)) return quarantine(ring, QuarantineReason::kImpossibleTail);
  if (ring.is_refusing) return refuse_batch(ring, tail);
  const std::uint64_t quota_end = takes_all_ ? tail : begin + ring.file.data_bytes() / 4;
  std::uint64_t position = begin;
  std::uint64_t looked_at = begin;  // the clock
  std::uint64_t applied = 0;
  bool is_malformed = false;
  std::uint64_t whole_until = begin;  // batches that begin before are known to be whole
  bool ends_in_batch = false;         // what was applied last
  while (position < tail && !is_malformed && !ring.is_refusing) {
    std::uint64_t end = position;
    std::size_t count = stage(ring, position, tail, std::min(quota_end, position + kBytesPerLook), end, is_malformed);
    if (!is_batch_allowed(count, end - position, options_.batch_max) &&
        cut_before_big_batch(ring, position, whole_until, count, end)) {
      ring.is_refusing = true;
      is_malformed = false;  // that lies behind
    }
    const bool batch_is_open = count > 0 && (staged_[count - 1].record.flags & kBatchContinues) != 0;
    if (batch_is_open && end >= whole_until) {
      std::size_t kept = count;
      std::uint64_t batch_begin = end;
      unstage_open_batch(kept, batch_begin);
      const Survey survey = is_malformed ? Survey::kMalformed : survey_batch(ring, batch_begin, tail, whole_until);
      is_malformed = survey == Survey::kMalformed;
      ring.is_refusing = survey == Survey::kTooBig;
      if (survey != Survey::kWhole) {
        count = kept;
        end = batch_begin;
      }
    }
    if (ring.file.has_faulted()) break;
    crash_point(CrashPoint::kGroupStaged);
    for (std::size_t i = 0; i < count; ++i) applied += apply(ring, staged_[i]) ? 1 : 0;
    if (count > 0) ends_in_batch = (staged_[count - 1].record.flags & kBatchContinues) != 0;
    position = end;
    if (batch_is_open) continue;
    if (position >= quota_end) break;
    if (position - looked_at < kBytesPerLook) continue;
    if (is_time_over()) break;
    looked_at = position;
  }
  // Only a writer that changes what it has pushed, or cuts its ring, can break its own batch, and it is not served on.
  SHMSTATE_INVARIANT(!ends_in_batch || is_malformed || ring.is_refusing || ring.file.has_faulted());
  SHMSTATE_INVARIANT(position <= tail);
  ring.refused_until = position;
  move_cursor(ring, position);
  layout::RingCursor& cursor = cursor_of(ring);
  replicas_.store(cursor.applied_count, cursor.applied_count + applied);
  applied_count_ += applied;
  if (ring.file.has_faulted()) return quarantine(ring, QuarantineReason::kTruncated);
  if (is_malformed) quarantine(ring, QuarantineReason::kNoMutation);
}

void MergeEngine::move_cursor(ServedRing& ring, std::uint64_t position) {
  SHMSTATE_INVARIANT(position >= ring.consumer.cursor());
  ring.consumer.advance(position - ring.consumer.cursor());
  replicas_.store(cursor_of(ring).cursor, position);
  crash_point(CrashPoint::kCursorStored);
  is_dirty_ = true;
}

// A batch may be longer than a group. Before its first part is applied, the rest is looked at: its end may never have
// been pushed, or not be found, or come too late. Sets `end` when it is whole.
MergeEngine::Survey MergeEngine::survey_batch(const ServedRing& ring, std::uint64_t begin, std::uint64_t tail,
                                              std::uint64_t& end) const noexcept {
  const bool is_limited = begin >= ring.unlimited_until;
  RecordView record;
  std::uint64_t count = 0;
  for (std::uint64_t position = begin; position < tail;) {
    if (!parse_record(ring.file.at(position), static_cast<std::size_t>(tail - position), record)) break;
    position += record.bytes;
    if (is_limited && !is_batch_allowed(++count, position - begin, options_.batch_max)) return Survey::kTooBig;
    if ((record.flags & kBatchContinues) != 0) continue;
    end = position;
    return Survey::kWhole;
  }
  return Survey::kMalformed;
}

// Of batches that lie within a group.
bool MergeEngine::cut_before_big_batch(const ServedRing& ring, std::uint64_t position, std::uint64_t whole_until,
                                       std::size_t& count, std::uint64_t& end) const noexcept {
  const std::uint64_t unlimited_until = std::max(ring.unlimited_until, whole_until);
  std::uint64_t begin = position;  // of a batch
  std::size_t first = 0;
  for (std::size_t i = 0; i < count; ++i) {
    position += staged_[i].record.bytes;
    if (begin >= unlimited_until && !is_batch_allowed(i + 1 - first, position - begin, options_.batch_max)) {
      count = first;
      end = begin;
      return true;
    }
    if ((staged_[i].record.flags & kBatchContinues) != 0) continue;
    begin = position;
    first = i + 1;
  }
  return false;
}

// The whole batch is refused once its end is found. That is looked for in parts, so that nobody waits for it; until
// then the cursor stays where the batch begins, so that a merger that dies meanwhile leaves no part of it behind.
void MergeEngine::refuse_batch(ServedRing& ring, std::uint64_t tail) {
  RecordView record;
  bool is_end = false;
  for (const std::uint64_t last = ring.refused_until + kRefusedBytesPerTurn; !is_end && ring.refused_until < last;) {
    const std::uint64_t position = ring.refused_until;
    if (!parse_record(ring.file.at(position), static_cast<std::size_t>(tail - position), record)) {
      return quarantine(ring, QuarantineReason::kNoMutation);
    }
    ring.refused_until += record.bytes;
    ++ring.refused_count;
    is_end = (record.flags & kBatchContinues) == 0;
  }
  if (!is_end) return;
  std::uint64_t& count = cursor_of(ring).rejected[static_cast<std::size_t>(Reject::kBatchTooBig)];
  replicas_.store(count, count + ring.refused_count);
  rejected_count_ += std::exchange(ring.refused_count, 0);
  ring.is_refusing = false;
  move_cursor(ring, ring.refused_until);
}

void MergeEngine::unstage_open_batch(std::size_t& count, std::uint64_t& end) const noexcept {
  while (count > 0 && (staged_[count - 1].record.flags & kBatchContinues) != 0) end -= staged_[--count].record.bytes;
}

// Memory latency is what merging costs. So a group of records is decoded and hashed while the caches fetch the tags,
// then the tags are matched while the caches fetch the slots; when `apply` comes, both are near. Flattened, so that the
// hash is no call.
[[gnu::flatten]] std::size_t MergeEngine::stage(ServedRing& ring, std::uint64_t position, std::uint64_t tail,
                                                std::uint64_t quota_end, std::uint64_t& end, bool& is_malformed) {
  const std::uint64_t seed = owner_.geometry().hash_seed;
  std::size_t count = 0;
  while (count < kGroupRecords && position < tail) {
    Staged& staged = staged_[count];
    RecordView& record = staged.record;
    if (!parse_record(ring.file.at(position), static_cast<std::size_t>(tail - position), record)) {
      is_malformed = true;
      break;
    }
    const std::size_t key_bytes = record.key_bytes;
    const std::uint64_t* const key = record.key;
    // The hash must be that of the bytes that are stored, so they are copied before they are hashed.
    const bool is_short = key_bytes <= sizeof staged.short_key;
    std::uint64_t* const copy = is_short ? staged.short_key.data() : long_keys_.data() + count * kKeyBytesMax / kWord;
    for (std::size_t i = 0; i < words_of(key_bytes); ++i) {
      copy[i] = load_word(key + i, std::memory_order_relaxed);
    }
    staged.key.bytes = {reinterpret_cast<const char*>(copy), key_bytes};
    if ((record.flags & kWithHint) != 0) {
      staged.guess = table_.prefetch_hint(record.hint);
    } else {
      staged.key.hash = hash_key(staged.key.bytes, seed);
      staged.home = table_.prefetch_tags(staged.key.hash);
    }
    position += record.bytes;
    ++count;
    if (position >= quota_end && (record.flags & kBatchContinues) == 0) break;
  }
  for (std::size_t i = 0; i < count; ++i) {
    Staged& staged = staged_[i];
    if ((staged.record.flags & kWithHint) != 0) continue;
    staged.guess = table_.prefetch_slot(staged.home, staged.key.hash);
  }
  end = position;
  return count;
}

// Returns whether the mutation was applied; otherwise it is counted as rejected.
bool MergeEngine::apply(ServedRing& ring, Staged& staged) {
  crash_point(CrashPoint::kMutationApplied);
  const RecordView& record = staged.record;
  const std::uint64_t epoch = current_.epoch + 1;
  if (record.is_plain && staged.guess != nullptr) {
    const std::uint64_t number = load_word(record.value, std::memory_order_relaxed);
    if (table_.update(*staged.guess, record.operation, record.type, staged.key.bytes, number, epoch)) return true;
  }
  return apply_by_key(ring, staged, epoch);
}

bool MergeEngine::apply_by_key(ServedRing& ring, Staged& staged, std::uint64_t epoch) {
  const RecordView& record = staged.record;
  NewValue value{.type = record.type, .number = 0, .bytes = {}};
  if (record.type == Type::kBytes) {
    value.bytes = {reinterpret_cast<const char*>(record.value), record.value_bytes};
  } else if (record.type != Type::kNone) {
    value.number = load_word(record.value, std::memory_order_relaxed);
  }
  if ((record.flags & kWithHint) != 0) staged.key.hash = hash_key(staged.key.bytes, owner_.geometry().hash_seed);
  const std::optional<Reject> reject = change(ring, record, staged.key, value, epoch);
  if (!reject) return true;
  std::uint64_t& count = cursor_of(ring).rejected[static_cast<std::size_t>(*reject)];
  replicas_.store(count, count + 1);
  ++rejected_count_;
  if (*reject == Reject::kNoMemory) report_no_memory();
  report_rejection(ring, *reject, staged.key.bytes);
  return false;
}

std::optional<Reject> MergeEngine::change(const ServedRing& ring, const RecordView& record, const HashedKey& key,
                                          const NewValue& value, std::uint64_t epoch) {
  const auto version = (record.flags & kWithVersion) != 0 ? std::optional(record.version) : std::nullopt;
  switch (record.operation) {
    case Operation::kSet: {
      Attributes attributes{.owner = 0, .expiry_ns = 0, .version = version};
      if ((record.flags & kEphemeral) != 0) attributes.owner = static_cast<std::uint16_t>(ring.index + 1);
      if ((record.flags & kWithTtl) != 0) attributes.expiry_ns = saturating_add(now_ns_, record.ttl_ns);
      return table_.set(key, value, attributes, epoch);
    }
    case Operation::kErase: {
      const auto remembered_ns = static_cast<std::uint64_t>(options_.tombstone_time.count());
      return table_.erase(key, version, saturating_add(now_ns_, remembered_ns), epoch);
    }
    case Operation::kAdd:
    case Operation::kMax:
    case Operation::kMin: return table_.combine(record.operation, key, value, epoch);
  }
  return std::nullopt;
}

void MergeEngine::publish() {
  layout::BufferHeader& header = replicas_.header();
  replicas_.store(header.published_ns, now_ns_);
  replicas_.store(header.entry_count, table_.entry_count());
  replicas_.store(header.tombstone_count, table_.tombstone_count());
  replicas_.store(header.feed_end, feed_.end());
  replicas_.store(header.heap_bytes, table_.heap().used_bytes());
  crash_point(CrashPoint::kBufferHeaderWritten);
  SHMSTATE_INVARIANT(table_.is_counted());
  const Version next{.epoch = current_.epoch + 1, .buffer = replicas_.back_index()};
  SHMSTATE_INVARIANT(is_being_written(owner_.publication(), next.buffer) || current_.epoch == 0);
  SHMSTATE_INVARIANT(header.epoch == next.epoch && header.page_count == pages_.committed());
  publish_version(owner_.publication(), next);
  current_ = next;
  replicas_.published();
  is_back_claimed_ = false;
  is_dirty_ = false;
  is_wake_owed_ = true;
  ++publish_count_;
}

// What is published may be forgotten by the writers.
void MergeEngine::release_heads() {
  for (ServedRing* const ring : advanced_) {
    const layout::RingCursor& cursor = published_cursor_at(ring->index);
    SHMSTATE_INVARIANT(cursor.ring_id == ring->file.id() && cursor.cursor == ring->consumer.cursor());
    SHMSTATE_INVARIANT(ring->published_cursor <= cursor.cursor);
    ring->published_cursor = cursor.cursor;
    layout::RingHeader& header = ring->file.header();
    mirror_counters(header, cursor);
    crash_point(CrashPoint::kCountersMirrored);
    const bool is_writer_asleep = ring->consumer.release();
    crash_point(CrashPoint::kHeadMoved);
    if (is_writer_asleep) os::futex_wake_all(header.head.futex());
  }
  advanced_.clear();
}

// For the writer, who may not be allowed to read the snapshot.
void MergeEngine::mirror_counters(layout::RingHeader& header, const layout::RingCursor& cursor) noexcept {
  header.applied_count.store(cursor.applied_count, std::memory_order_relaxed);
  for (std::size_t reason = 0; reason < layout::kRejectCount; ++reason) {
    if (header.rejected[reason].load(std::memory_order_relaxed) == cursor.rejected[reason]) continue;
    header.rejected[reason].store(cursor.rejected[reason], std::memory_order_relaxed);
  }
}

// Readers cannot announce that they wait, so they are woken for every publish, but not for each of a flood.
void MergeEngine::wake_readers() {
  if (!is_wake_owed_ || now_ns_ - last_wake_ns_ < kWakeIntervalNs) return;
  os::futex_wake_all(owner_.publication().epoch_word.futex());
  crash_point(CrashPoint::kReadersWoken);
  last_wake_ns_ = now_ns_;
  is_wake_owed_ = false;
}

// ---- rings

const layout::RingCursor& MergeEngine::published_cursor_at(std::uint32_t index) const noexcept {
  return ring_cursors(owner_.buffer(current_.buffer))[index];
}

layout::RingCursor& MergeEngine::cursor_of(const ServedRing& ring) noexcept {
  return ring_cursors(replicas_.back())[ring.index];
}

std::size_t MergeEngine::at_most(std::size_t count) const noexcept {
  return takes_all_ ? kPiledUpFactor * count : count;
}

// Everybody who may write may fill the directory of rings. So it is searched in parts, and who tells of a new ring does
// not wait for that; for either, a turn looks at a bounded number of files.
void MergeEngine::look_for_rings() {
  read_news();
  std::size_t opened = 0;
  while (opened < at_most(kOpenedPerTurn)) {
    const std::optional<std::uint64_t> id = news_.next();
    if (!id) break;
    if (consider(ring_name(*id))) ++opened;
  }
  search_directory();
}

void MergeEngine::read_news() {
  const std::uint32_t registrations = owner_.doorbell().registrations.load(std::memory_order_acquire);
  const bool has_rung = std::exchange(registrations_seen_, registrations) != registrations;
  if (!has_rung && !must_read_news_ && !news_.has_unread()) return;
  must_read_news_ = false;
  news_.read(served_ids_);
  if (news_.take_lost() || (has_rung && !news_.is_told())) must_search_ = true;
}

void MergeEngine::search_directory() {
  if (!search_ && !begin_search()) return;
  std::size_t opened = 0;
  std::error_code error;
  for (std::size_t names = 0; names < kNamesPerTurn && opened < at_most(kOpenedPerTurn) && search_; ++names) {
    if (*search_ == fs::directory_iterator()) {
      search_.reset();
      break;
    }
    const std::string name = (*search_)->path().filename().string();
    ++names_read_;
    search_->increment(error);
    if (error) search_.reset();
    if (consider(name)) ++opened;
  }
}

bool MergeEngine::begin_search() {
  if (!must_search_) return false;
  must_search_ = false;
  refused_before_ = std::exchange(refused_, {});
  std::error_code error;
  search_.emplace(owner_.rings_path(), error);
  if (error) search_.reset();
  return search_.has_value();
}

// Returns whether more had to be done than to look at the name.
bool MergeEngine::consider(const std::string& name) {
  const std::optional<std::uint64_t> id = ring_id_of(name);
  if (!id) {
    RingFile::remove_junk(owner_.rings_path(), name);
    return true;
  }
  if (served_ids_.contains(*id)) return false;
  if (!os::file_info(owner_.rings_path() / name)) return true;  // removed since its name was read
  std::string why;
  try {
    std::optional<RingFile> file = RingFile::open(owner_.rings_path(), *id, owner_.geometry().instance_id);
    crash_point(CrashPoint::kRingOpened);
    if (file && serve(std::move(*file))) return true;
    if (!file) RingFile::remove_broken(owner_.rings_path(), *id, false);
    why = file ? "too many rings, or too large a one" : "not a ring of this instance";
  } catch (const Error& problem) {  // no address space, no descriptors, no permission: others go on
    if (problem.status() == Status::kNoPermission) RingFile::remove_broken(owner_.rings_path(), *id, false);
    why = problem.what();
  }
  refuse(*id, std::move(why));
  return true;
}

void MergeEngine::refuse(std::uint64_t id, std::string why) {
  if (refused_.contains(id)) return;
  if (refused_.size() < kRefusedMax) refused_.insert(id);
  if (refused_before_.contains(id)) return;
  ++rings_refused_;
  if (now_ns_ >= next_refusal_report_ns_) refusal_reports_ = 0;
  if (refusal_reports_ == kRefusalReportsMax) return;
  if (refusal_reports_++ == 0) next_refusal_report_ns_ = now_ns_ + kSearchIntervalNs;
  report(MergeEvent::Kind::kRingRefused, id, std::move(why));
}

bool MergeEngine::serve(RingFile file) {
  const auto free = std::find(is_index_used_.begin(), is_index_used_.end(), false);
  const bool has_place = free != is_index_used_.end() && file.data_bytes() <= options_.ring_bytes_max;
  file.header().verdict.store(
      static_cast<std::uint32_t>(has_place ? layout::RingVerdict::kServed : layout::RingVerdict::kRefused),
      std::memory_order_release);
  crash_point(CrashPoint::kVerdictWritten);
  if (!has_place) return false;
  *free = true;
  const auto index = static_cast<std::uint32_t>(free - is_index_used_.begin());
  const ServedRing& ring = add_ring(std::move(file), index, 0);
  layout::RingCursor& cursor = cursor_of(ring);
  replicas_.store(cursor.ring_id, ring.file.id());
  replicas_.store(cursor.cursor, std::uint64_t{0});
  replicas_.store(cursor.applied_count, std::uint64_t{0});
  for (std::uint64_t& rejected : cursor.rejected) replicas_.store(rejected, std::uint64_t{0});
  crash_point(CrashPoint::kRingServed);
  is_dirty_ = true;
  ++rings_seen_;
  report(MergeEvent::Kind::kRingServed, ring.file.id(), ring.file.writer_name());
  return true;
}

void MergeEngine::quarantine(ServedRing& ring, QuarantineReason reason) {
  ring.is_quarantined = true;
  ring.quarantine_reason = reason;
  close_goal(ring);
  ring.file.header().verdict.store(static_cast<std::uint32_t>(layout::RingVerdict::kQuarantined),
                                   std::memory_order_release);
  os::futex_wake_all(ring.file.header().head.futex());
  crash_point(CrashPoint::kRingQuarantined);
  ++rings_quarantined_;
  report(MergeEvent::Kind::kRingQuarantined, ring.file.id(), describe(reason, ring.consumer.cursor()));
}

MergeEngine::ServedRing& MergeEngine::add_ring(RingFile file, std::uint32_t index, std::uint64_t cursor) {
  served_ids_.insert(file.id());
  rings_.push_back(std::make_unique<ServedRing>(std::move(file), index, cursor));
  looks_.push_back({.tail = &rings_.back()->file.header().tail, .cursor = cursor});
  return *rings_.back();
}

void MergeEngine::remove_ring(std::size_t place) {
  const auto offset = static_cast<std::ptrdiff_t>(place);
  served_ids_.erase(rings_[place]->file.id());
  std::erase(advanced_, rings_[place].get());
  looks_.erase(looks_.begin() + offset);
  rings_.erase(rings_.begin() + offset);
}

void MergeEngine::finish_rings() {
  has_abandoned_rings_ = false;
  for (std::size_t i = 0; i < rings_.size();) {
    if (rings_[i]->is_abandoned && try_finish(*rings_[i])) {
      remove_ring(i);
      must_search_ = true;  // a refused one may take its place
    } else {
      ++i;
    }
  }
}

// The writer is gone, so its tail is final. What it owned is erased, a part in each turn, then the file goes, then,
// with this turn's publish, the cursor (invariant 5).
bool MergeEngine::try_finish(ServedRing& ring) {
  has_abandoned_rings_ = true;
  if (!ring.is_quarantined && ring.consumer.tail() != ring.published_cursor) return false;
  is_dirty_ = true;
  if (!table_.erase_owned(ring.index, at_most(kErasuresPerTurn), current_.epoch + 1)) return false;
  crash_point(CrashPoint::kOwnedErased);
  if (!ring.file.try_remove(owner_.rings_path(), ring.is_quarantined, ring.published_cursor)) {  // somebody came
    ring.is_abandoned = false;
    return false;
  }
  drop_cursor(ring.index);
  report(MergeEvent::Kind::kRingFinished, ring.file.id(), "");
  return true;
}

void MergeEngine::drop_orphans() {
  while (!orphans_.empty() && table_.erase_owned(orphans_.back(), at_most(kErasuresPerTurn), current_.epoch + 1)) {
    drop_cursor(orphans_.back());
    orphans_.pop_back();
    crash_point(CrashPoint::kOrphanDropped);
  }
  is_dirty_ = true;
}

void MergeEngine::drop_cursor(std::uint32_t index) {
  SHMSTATE_INVARIANT(is_index_used_[index]);
  replicas_.store(ring_cursors(replicas_.back())[index].ring_id, std::uint64_t{0});
  is_dirty_ = true;
  crash_point(CrashPoint::kCursorDropped);
  is_index_used_[index] = false;
  layout::RingStatus& status = owner_.ring_status(index);
  status.ring_id.store(0, std::memory_order_relaxed);
  status.state.store(static_cast<std::uint32_t>(layout::RingState::kFree), std::memory_order_relaxed);
}

// ---- the slow round

void MergeEngine::round() {
  next_round_ns_ = now_ns_ + kRoundIntervalNs;
  must_read_news_ = true;
  owner_.repair_doorbell();
  inspect_some_rings();
  if (now_ns_ >= next_search_ns_) {
    next_search_ns_ = now_ns_ + kSearchIntervalNs;
    must_search_ = true;
    if (!closed_rings_.empty()) retry_closed_rings();
    is_current_ = owner_.is_current();
    if (!is_current_) {
      if (owner_.heartbeat().retired.exchange(1, std::memory_order_acq_rel) == 0) {
        owner_.sleep().phase.fetch_add(1, std::memory_order_release);  // whoever pushes next rings, and finds it out
      }
      report(MergeEvent::Kind::kInstanceGone, 0, owner_.path().string());
    }
  }
  move_to_huge_pages();
  write_statistics();
}

// One page beside work, so that mutations wait for no more than that.
void MergeEngine::move_to_huge_pages() {
  const std::uint64_t began_ns = clock_();
  while (owner_.collapse_next(pages_.committed()) && !has_work() && clock_() - began_ns < kCollapseTimeNs) {
  }
}

void MergeEngine::inspect_some_rings() {
  for (std::size_t n = std::min(rings_.size(), kRingsPerRound); n > 0; --n) {
    next_inspected_ = (next_inspected_ + 1) % rings_.size();
    inspect(*rings_[next_inspected_]);
  }
}

void MergeEngine::inspect(ServedRing& ring) {
  const std::uint64_t tail = ring.consumer.tail();
  ring.is_abandoned = ring.file.is_abandoned();
  has_abandoned_rings_ = has_abandoned_rings_ || ring.is_abandoned;
  if (!ring.is_quarantined && ring.file.is_truncated()) quarantine(ring, QuarantineReason::kTruncated);
  const layout::RingHeader& header = ring.file.header();
  const layout::RingCursor& cursor = published_cursor_at(ring.index);  // the back buffer may be pinned
  layout::RingStatus& status = owner_.ring_status(ring.index);
  std::uint64_t rejected = 0;
  for (const std::uint64_t count : cursor.rejected) rejected += count;
  status.owner_pid.store(header.owner_pid, std::memory_order_relaxed);
  status.owner_uid.store(ring.file.owner_uid(), std::memory_order_relaxed);
  status.ring_bytes.store(ring.file.data_bytes(), std::memory_order_relaxed);
  std::array<std::uint64_t, sizeof header.name / sizeof(std::uint64_t)> name{};
  std::memcpy(name.data(), header.name, sizeof header.name - 1);  // the last byte stays NUL
  for (std::size_t i = 0; i < name.size(); ++i) status.name[i].store(name[i], std::memory_order_relaxed);
  status.tail.store(tail, std::memory_order_relaxed);
  status.head.store(ring.published_cursor, std::memory_order_relaxed);
  status.applied_count.store(cursor.applied_count, std::memory_order_relaxed);
  status.rejected_count.store(rejected, std::memory_order_relaxed);
  const auto state = ring.is_quarantined ? layout::RingState::kQuarantined
                     : ring.is_abandoned ? layout::RingState::kFinished
                                         : layout::RingState::kLive;
  status.state.store(static_cast<std::uint32_t>(state), std::memory_order_relaxed);
  status.quarantine_reason.store(static_cast<std::uint32_t>(ring.quarantine_reason), std::memory_order_relaxed);
  status.ring_id.store(ring.file.id(), std::memory_order_release);
}

void MergeEngine::write_statistics() {
  const auto write = [this](Stat stat, std::uint64_t value) {
    const bool is_known =
        static_cast<std::size_t>(stat) < owner_.geometry().statistic_count;  // to who made the instance
    if (is_known)
      owner_.statistic(stat).store(value, std::memory_order_release);  // the number of refreshes is the last
  };
  const std::uint64_t stalled_ns = stalled_since_ns_ == 0 ? 0 : now_ns_ - stalled_since_ns_;  // by a pin that goes on
  write(Stat::kMutationsApplied, applied_count_);
  write(Stat::kMutationsRejected, rejected_count_);
  write(Stat::kPublishes, publish_count_);
  write(Stat::kTurnDurationMax, turn_ns_max_);
  write(Stat::kTurnDurationTotal, turn_ns_total_);
  write(Stat::kLinesCopied, lines_copied_);
  write(Stat::kRingsLive, rings_.size());
  write(Stat::kRingsSeen, rings_seen_);
  write(Stat::kRingsQuarantined, rings_quarantined_);
  write(Stat::kRingsRefused, rings_refused_);
  write(Stat::kPinStalls, stall_count_);
  write(Stat::kPinStallTotal, stall_ns_total_ + stalled_ns);
  write(Stat::kPinStallMax, std::max(stall_ns_max_, stalled_ns));
  write(Stat::kPinsExpired, pins_expired_);
  write(Stat::kEntries, table_.entry_count());
  write(Stat::kTombstones, table_.tombstone_count());
  write(Stat::kSuperseded, table_.superseded_count());
  write(Stat::kExpired, table_.expired_count());
  write(Stat::kSegments, table_.segment_count());
  write(Stat::kSegmentSplits, table_.split_count());
  write(Stat::kPagesCommitted, pages_.committed());
  write(Stat::kPagesFree, pages_.free_count());
  write(Stat::kHeapBytes, table_.heap().used_bytes());
  write(Stat::kSleeps, sleep_count_);
  write(Stat::kCommitFailures, commit_failures_);
  write(Stat::kHugePageBytes, owner_.collapsed_bytes());
  write(Stat::kRefreshes, ++refresh_count_);  // who saw it grow twice sees what was true in between
}

void MergeEngine::report_no_memory() {
  ++commit_failures_;
  if (now_ns_ < next_memory_report_ns_) return;
  next_memory_report_ns_ = now_ns_ + kSearchIntervalNs;
  report(MergeEvent::Kind::kNoMemory, 0, "the file system or the memory limit has no room for more pages");
}

/// Its writer has only a number: which key it was, the log tells for one of them now and then.
void MergeEngine::report_rejection(const ServedRing& ring, Reject reject, std::string_view key) {
  if (now_ns_ < next_rejection_report_ns_ || !on_event_) return;
  next_rejection_report_ns_ = now_ns_ + kRejectionReportIntervalNs;
  on_event_({.kind = MergeEvent::Kind::kMutationRejected,
             .ring_id = ring.file.id(),
             .detail = std::string(key),
             .reason = status_of(reject)});
}

void MergeEngine::report(MergeEvent::Kind kind, std::uint64_t ring_id, std::string detail) const {
  if (on_event_) on_event_({.kind = kind, .ring_id = ring_id, .detail = std::move(detail)});
}

}  // namespace shmstate::internal
