#include "engine/merge_engine.h"

#include <algorithm>
#include <utility>

#include "files/errors.h"
#include "files/os.h"
#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

constexpr std::uint64_t kMaintenanceIntervalNs = 100'000'000;       // statistics, liveness of some rings
constexpr std::uint64_t kDirectoryCheckIntervalNs = 1'000'000'000;  // also for ring files whose writer could not ring
constexpr std::uint64_t kWakeIntervalNs = 50'000;                   // readers are woken at most this often
constexpr std::uint64_t kCollapseTimeNs = 50'000'000;               // for huge pages, when there is no work
constexpr std::size_t kExpiriesPerTurn = 2048;                      // so that no publish waits for many of them

}  // namespace

// ---- start

MergeEngine::MergeEngine(InstanceOwner& owner, const MergeOptions& options,
                         std::function<void(const MergeEvent&)> on_event, std::uint64_t now_ns,
                         std::function<std::uint64_t()> clock)
    : owner_(owner),
      options_(options),
      clock_(std::move(clock)),
      log_(std::move(on_event)),
      context_{.owner = owner_, .options = options_, .log = log_, .statistics = statistics_},
      replicas_(owner),
      pages_(owner.geometry().pages_max(), [this](BackBuffer& back, std::uint64_t first,
                                                  std::uint64_t end) { return commit_pages(back, first, end); }),
      cursors_(pages_),
      feed_(owner),
      table_(pages_, feed_, owner.geometry()),
      rings_(context_, replicas_, cursors_, table_, marks_),
      search_(context_, rings_),
      drain_(context_, clock_, rings_, table_),
      pins_(context_, replicas_),
      turn_{.now_ns = now_ns} {
  owner_.heartbeat().beat_ns.store(now_ns, std::memory_order_relaxed);  // resuming may take long
  table_.start_timers(now_ns);
  const std::uint64_t batch_max_before = owner.sleep().batch_max.load(std::memory_order_relaxed);
  set_options(options);
  if (owner.is_resumed()) {
    resume();
    if (batch_max_before == 0 || options.batch_max < batch_max_before) rings_.lift_batch_limits();
  } else {
    create();
  }
}

void MergeEngine::set_options(const MergeOptions& options) noexcept {
  if (options.batch_max < options_.batch_max) rings_.lift_batch_limits();
  options_ = options;
  table_.set_entries_max(options.entries_max);
  owner_.sleep().batch_max.store(options.batch_max, std::memory_order_relaxed);
}

bool MergeEngine::commit_pages(BackBuffer& back, std::uint64_t first, std::uint64_t end) {
  if (owner_.commit_pages(first, end) != 0) return false;
  crash_point(CrashPoint::kPagesCommitted);
  for (std::uint64_t page = first; page < end; ++page) {
    if (page != map_page_of(page)) continue;  // what a merger that died had there is no part of the map
    auto* const words = back.at<std::uint64_t>(page * layout::kPageBytes);
    for (std::size_t i = 0; i < layout::kPageBytes / kWord; ++i) back.store(words[i], 0);
  }
  back.store(back.header().page_count, end);
  return true;
}

void MergeEngine::create() {
  const auto refuse = [this] { throw error_of(InstanceError::kNoMemoryForTable, owner_.path()); };
  if (owner_.commit_pages(0, owner_.geometry().first_page) != 0) refuse();
  crash_point(CrashPoint::kFirstPagesCommitted);
  back_.emplace(replicas_.first());
  back_->store(back_->header().page_count, owner_.geometry().first_page);
  if (!table_.create(*back_)) refuse();
  publish();
  crash_point(CrashPoint::kFirstPublished);
  owner_.heartbeat().current_as_of_ns.store(turn_.now_ns, std::memory_order_relaxed);
  write_statistics();
  owner_.announce();
  crash_point(CrashPoint::kAnnounced);
}

void MergeEngine::resume() {
  const auto refuse = [this](InstanceError why) { throw error_of(why, owner_.path()); };
  const Version current = current_version(owner_.publication());
  if (current.epoch == 0 || current.buffer >= owner_.geometry().buffer_count ||
      !is_intact(owner_.publication(), current)) {
    refuse(InstanceError::kNoCurrentBuffer);
  }
  const std::byte* const buffer = owner_.buffer(current.buffer);
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
  if (header.page_count < owner_.geometry().first_page || header.page_count > owner_.geometry().pages_max()) {
    refuse(InstanceError::kBufferImpossible);
  }
  pages_.start_from(header.page_count);
  feed_.start_from(header.feed_end);
  replicas_.resume_from(current);
  const BufferView view(buffer, owner_.geometry().pages_max());
  if (!cursors_.resume(view) || !table_.resume(buffer)) refuse(InstanceError::kTableDamaged);
  crash_point(CrashPoint::kTableResumed);
  rings_.resume();
  must_wake_readers_ = true;  // on behalf of a merger that died between publish and wake
}

// ---- one turn

MergeEngine::Progress MergeEngine::step(std::uint64_t now_ns) {
  count_time(now_ns);
  if (now_ns >= next_maintenance_ns_) maintain();
  turn_.takes_all = pins_.is_stalled();
  if (!back_ && !claim_back_buffer()) {
    wake_readers();
    return has_waiting_work() ? Progress::kStalled : Progress::kIdle;
  }

  search_.advance(turn_, *back_);
  drain_rings(*back_);
  if (table_.next_expiry_ns() <= now_ns) table_.expire(*back_, now_ns, turn_.at_most(kExpiriesPerTurn));
  if (rings_.has_finished() && rings_.finish(turn_, *back_))
    search_.request_search();  // a refused ring may now be admitted
  const bool worked = back_->is_changed();
  if (worked) {
    turn_began_ns_ = now_ns;
    publish();
    rings_.release_heads();
  }
  if (marks_.are_reached()) owner_.heartbeat().current_as_of_ns.store(marks_.set_ns(), std::memory_order_relaxed);
  wake_readers();
  if (worked) static_cast<void>(claim_back_buffer());
  return worked ? Progress::kWorked : Progress::kIdle;
}

// Time during which the merger was stopped, alone or with the whole machine, does not count against readers' pins.
void MergeEngine::count_time(std::uint64_t now_ns) noexcept {
  const std::uint64_t passed_ns = now_ns - std::exchange(turn_.now_ns, now_ns);
  if (passed_ns > kMaintenanceIntervalNs) pins_.excuse(passed_ns);
  if (turn_began_ns_ != 0) {
    const std::uint64_t turn_ns = now_ns - std::exchange(turn_began_ns_, 0);
    statistics_.turn_ns_max = std::max(statistics_.turn_ns_max, turn_ns);
    statistics_.turn_ns_total += turn_ns;
  }
  owner_.heartbeat().beat_ns.store(now_ns, std::memory_order_relaxed);
}

bool MergeEngine::claim_back_buffer() {
  std::optional<BackBuffer> claimed = pins_.claim(turn_.now_ns);
  if (claimed) {
    back_.emplace(std::move(*claimed));
  } else {
    pins_.wait(turn_.now_ns, has_waiting_work());
  }
  return back_.has_value();
}

// Whether a turn would find something, whatever the time.
bool MergeEngine::has_input() const noexcept {
  return rings_.has_finished() || search_.has_more() || rings_.has_records();
}

// Whether something needs a back buffer now.
bool MergeEngine::has_waiting_work() const noexcept { return has_input() || table_.next_expiry_ns() <= turn_.now_ns; }

// Round robin, starting where the last turn was cut short. The first turn after all age marks were reached sets new
// ones on the way.
void MergeEngine::drain_rings(BackBuffer& back) {
  const bool sets_marks = marks_.are_reached();
  if (sets_marks) marks_.start(turn_.now_ns);
  const auto after = [this](std::size_t position) { return position + 1 < rings_.size() ? position + 1 : 0; };
  std::size_t position = next_drained_ < rings_.size() ? next_drained_ : 0;
  bool is_cut_short = false;
  drain_.start();
  for (std::size_t left = rings_.size(); left > 0 && (sets_marks || !is_cut_short);
       --left, position = after(position)) {
    if (!rings_.has_records(position)) continue;
    ServedRing& ring = rings_[position];
    if (sets_marks) marks_.set(ring);
    if (is_cut_short) continue;
    drain_.drain(ring, turn_, back);
    rings_.note_drained(position);
    is_cut_short = drain_.is_time_over(turn_);
    if (is_cut_short) next_drained_ = after(position);
  }
}

void MergeEngine::publish() {
  SHMSTATE_INVARIANT(table_.is_counted());
  layout::BufferHeader& header = back_->header();
  SHMSTATE_INVARIANT(header.page_count == pages_.committed());
  back_->store(header.published_ns, turn_.now_ns);
  back_->store(header.entry_count, table_.entry_count());
  back_->store(header.tombstone_count, table_.tombstone_count());
  back_->store(header.feed_end, feed_.end());
  back_->store(header.block_bytes, table_.blocks().used_bytes());
  crash_point(CrashPoint::kBufferHeaderWritten);
  replicas_.publish(std::move(*back_));
  back_.reset();
  must_wake_readers_ = true;
  ++statistics_.publish_count;
}

// Readers cannot announce that they wait, so every publish wakes them, but at a limited rate.
void MergeEngine::wake_readers() {
  if (!must_wake_readers_ || turn_.now_ns - last_wake_ns_ < kWakeIntervalNs) return;
  os::futex_wake_all(owner_.publication().epoch_word.futex());
  crash_point(CrashPoint::kReadersWoken);
  last_wake_ns_ = turn_.now_ns;
  must_wake_readers_ = false;
}

// ---- maintenance

void MergeEngine::maintain() {
  next_maintenance_ns_ = turn_.now_ns + kMaintenanceIntervalNs;
  search_.request_news();
  owner_.repair_public_pages();
  pins_.forget_news();
  rings_.inspect_some();
  if (turn_.now_ns >= next_directory_check_ns_) {
    next_directory_check_ns_ = turn_.now_ns + kDirectoryCheckIntervalNs;
    search_.request_search();
    rings_.retry_closed();
    check_directory();
  }
  move_to_huge_pages();
  write_statistics();
}

void MergeEngine::check_directory() {
  is_current_ = owner_.is_current();
  if (is_current_) return;
  if (owner_.heartbeat().retired.exchange(1, std::memory_order_acq_rel) == 0) {  // pair: heartbeat.retired
    // pair: sleep.phase; so the next push rings, and its writer notices
    owner_.sleep().phase.fetch_add(1, std::memory_order_release);
  }
  log_.report(MergeEvent::Kind::kInstanceGone, 0, owner_.path().string());
}

// With work waiting, a single page, so that no mutation waits longer than that.
void MergeEngine::move_to_huge_pages() {
  const std::uint64_t began_ns = clock_();
  while (owner_.collapse_next(pages_.committed()) && !has_work() && clock_() - began_ns < kCollapseTimeNs) {
  }
}

void MergeEngine::write_statistics() {
  statistics_.rings_live = rings_.size();
  statistics_.lines_copied = replicas_.lines_copied();
  statistics_.write(owner_, table_, pages_, pins_.stalled_ns(turn_.now_ns));
}

}  // namespace shmstate::internal
