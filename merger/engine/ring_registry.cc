#include "engine/ring_registry.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "files/os.h"
#include "layout/quarantine.h"
#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

using layout::QuarantineReason;
using layout::RingVerdict;

constexpr std::size_t kInspectedPerRound = 64;
constexpr std::size_t kErasuresPerTurn = 2048;  // so that no publish waits for many of them

// For the writer, who may not be allowed to read the snapshot.
void mirror_counters(layout::RingHeader& header, const layout::RingCursor& cursor) noexcept {
  header.applied_count.store(cursor.applied_count, std::memory_order_relaxed);
  for (std::size_t reason = 0; reason < layout::kRejectCount; ++reason) {
    if (header.rejected[reason].load(std::memory_order_relaxed) == cursor.rejected[reason]) continue;
    header.rejected[reason].store(cursor.rejected[reason], std::memory_order_relaxed);
  }
}

}  // namespace

RingRegistry::RingRegistry(const EngineContext& context, const Replicas& replicas, Cursors& cursors, Table& table,
                           AgeMarks& marks)
    : context_(context),
      replicas_(replicas),
      cursors_(cursors),
      table_(table),
      marks_(marks),
      is_index_used_(context.owner.geometry().ring_count_max, false) {
  for (std::size_t i = 0; i < context.owner.geometry().ring_count_max; ++i) {
    context.owner.ring_status(i).ring_id.store(0, std::memory_order_relaxed);
  }
}

// ---- start

void RingRegistry::resume() {
  const std::uint64_t count = std::min<std::uint64_t>(cursors_.capacity(), context_.owner.geometry().ring_count_max);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t id = published_cursor(i).ring_id;
    if (id == 0) continue;
    is_index_used_[i] = true;
    try {
      resume(i);
    } catch (const Error& why) {
      if (why.status() != Status::kNoPermission) throw;  // running out of a resource finishes no ring
      ids_.insert(id);                                   // it must not come back as a new one
      closed_.push_back(i);
      ++context_.statistics.rings_refused;
      context_.log.report(MergeEvent::Kind::kRingRefused, id, why.what());
    }
  }
}

void RingRegistry::resume(std::uint32_t index) {
  const layout::RingCursor& cursor = published_cursor(index);
  InstanceOwner& owner = context_.owner;
  std::optional<RingFile> file = RingFile::open(owner.rings_path(), cursor.ring_id, owner.geometry().instance_id);
  if (!file) {  // finished, or broken by its writer and not to come back as a new one
    RingFile::remove_broken(owner.rings_path(), cursor.ring_id, true);
    ids_.erase(cursor.ring_id);
    orphans_.push_back(index);
    crash_point(CrashPoint::kOrphanFound);
    return;
  }
  ServedRing& ring = add(std::move(*file), index, cursor.cursor);
  layout::RingHeader& header = ring.file.header();
  header.verdict.store(static_cast<std::uint32_t>(RingVerdict::kServed), std::memory_order_relaxed);
  mirror_counters(header, cursor);  // the previous merger may have died before it did this
  if (ring.consumer.release()) os::futex_wake_all(header.head.futex());
  ++context_.statistics.rings_seen;
  crash_point(CrashPoint::kRingResumed);
}

// They could not be opened for lack of permission and may hold mutations, so they keep their index. These mutations may
// have been pushed under another batch limit.
void RingRegistry::retry_closed() {
  std::erase_if(closed_, [this](std::uint32_t index) {
    try {
      const std::size_t before = rings_.size();
      resume(index);
      if (rings_.size() > before) rings_.back()->unlimited_until = rings_.back()->consumer.tail();
      return true;
    } catch (const Error&) {
      return false;
    }
  });
}

void RingRegistry::lift_batch_limits() noexcept {
  for (const std::unique_ptr<ServedRing>& ring : rings_) ring->unlimited_until = ring->consumer.tail();
}

// ---- admission

bool RingRegistry::admit(RingFile file, BackBuffer& back) {
  const auto free = std::find(is_index_used_.begin(), is_index_used_.end(), false);
  const auto index = static_cast<std::uint32_t>(free - is_index_used_.begin());
  const bool is_admitted = free != is_index_used_.end() &&
                           std::max(file.data_bytes(), file.names().bytes()) <= context_.options.ring_bytes_max &&
                           cursors_.reserve(back, index);
  // pair: ring.verdict
  file.header().verdict.store(static_cast<std::uint32_t>(is_admitted ? RingVerdict::kServed : RingVerdict::kRefused),
                              std::memory_order_release);
  crash_point(CrashPoint::kVerdictWritten);
  if (!is_admitted) return false;
  *free = true;
  const ServedRing& ring = add(std::move(file), index, 0);
  layout::RingCursor& cursor = back.cursor(ring.index);
  back.store(cursor.ring_id, ring.file.id());
  back.store(cursor.cursor, 0);
  back.store(cursor.applied_count, 0);
  for (std::uint64_t& rejected : cursor.rejected) back.store(rejected, 0);
  crash_point(CrashPoint::kRingServed);
  ++context_.statistics.rings_seen;
  context_.log.report(MergeEvent::Kind::kRingServed, ring.file.id(), ring.file.writer_name());
  return true;
}

ServedRing& RingRegistry::add(RingFile file, std::uint32_t index, std::uint64_t cursor) {
  ids_.insert(file.id());
  rings_.push_back(std::make_unique<ServedRing>(std::move(file), index, cursor));
  tails_.push_back({.word = &rings_.back()->file.header().tail, .cursor = cursor});
  return *rings_.back();
}

void RingRegistry::remove(std::size_t position) {
  const auto offset = static_cast<std::ptrdiff_t>(position);
  marks_.drop(*rings_[position]);
  ids_.erase(rings_[position]->file.id());
  std::erase(advanced_, rings_[position].get());
  tails_.erase(tails_.begin() + offset);
  rings_.erase(rings_.begin() + offset);
}

void RingRegistry::quarantine(ServedRing& ring, QuarantineReason reason) {
  ring.is_quarantined = true;
  ring.quarantine_reason = reason;
  marks_.drop(ring);
  layout::RingHeader& header = ring.file.header();
  // pair: ring.verdict
  header.verdict.store(static_cast<std::uint32_t>(RingVerdict::kQuarantined), std::memory_order_release);
  os::futex_wake_all(header.head.futex());
  crash_point(CrashPoint::kRingQuarantined);
  ++context_.statistics.rings_quarantined;
  context_.log.report(MergeEvent::Kind::kRingQuarantined, ring.file.id(), describe(reason, ring.consumer.cursor()));
}

// ---- progress

bool RingRegistry::has_records() const noexcept {
  for (std::size_t i = 0; i < rings_.size(); ++i) {
    if (has_records(i)) return true;
  }
  return false;
}

void RingRegistry::move_cursor(ServedRing& ring, std::uint64_t position, BackBuffer& back) {
  layout::RingCursor& cursor = back.cursor(ring.index);
  SHMSTATE_INVARIANT(cursor.ring_id == ring.file.id());
  SHMSTATE_INVARIANT(position >= ring.consumer.cursor());
  ring.consumer.advance(position - ring.consumer.cursor());
  back.store(cursor.cursor, position);
  crash_point(CrashPoint::kCursorStored);
}

void RingRegistry::note_drained(std::size_t position) {
  ServedRing& ring = *rings_[position];
  tails_[position].cursor = ring.consumer.cursor();
  if (ring.consumer.cursor() != ring.published_cursor) advanced_.push_back(&ring);
  marks_.update(ring);
}

void RingRegistry::release_heads() {
  for (ServedRing* const ring : advanced_) {
    const layout::RingCursor& cursor = published_cursor(ring->index);
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

// ---- the end of a ring

bool RingRegistry::finish(const Turn& turn, BackBuffer& back) {
  const std::size_t before = rings_.size();
  if (has_abandoned_) {
    has_abandoned_ = false;
    for (std::size_t i = 0; i < rings_.size();) {
      if (rings_[i]->is_abandoned && try_finish(*rings_[i], turn, back)) {
        remove(i);
      } else {
        ++i;
      }
    }
  }
  if (!orphans_.empty()) drop_orphans(turn, back);
  return rings_.size() < before;
}

// The writer is gone, so its tail is final. What it owned is erased, a part in each turn, then the file goes, then,
// with this turn's publish, the cursor.
bool RingRegistry::try_finish(ServedRing& ring, const Turn& turn, BackBuffer& back) {
  has_abandoned_ = true;
  if (!ring.is_quarantined && ring.consumer.tail() != ring.published_cursor) return false;
  if (!table_.erase_owned(back, ring.index, turn.at_most(kErasuresPerTurn))) return false;
  crash_point(CrashPoint::kOwnedErased);
  // Fails when a writer has attached to it meanwhile.
  if (!ring.file.try_remove(context_.owner.rings_path(), ring.is_quarantined, ring.published_cursor)) {
    ring.is_abandoned = false;
    return false;
  }
  drop_cursor(ring.index, back);
  context_.log.report(MergeEvent::Kind::kRingFinished, ring.file.id(), "");
  return true;
}

void RingRegistry::drop_orphans(const Turn& turn, BackBuffer& back) {
  while (!orphans_.empty() && table_.erase_owned(back, orphans_.back(), turn.at_most(kErasuresPerTurn))) {
    drop_cursor(orphans_.back(), back);
    orphans_.pop_back();
    crash_point(CrashPoint::kOrphanDropped);
  }
}

void RingRegistry::drop_cursor(std::uint32_t index, BackBuffer& back) {
  SHMSTATE_INVARIANT(is_index_used_[index] && back.cursor(index).ring_id != 0);
  back.store(back.cursor(index).ring_id, 0);
  crash_point(CrashPoint::kCursorDropped);
  is_index_used_[index] = false;
  layout::RingStatus& status = context_.owner.ring_status(index);
  status.ring_id.store(0, std::memory_order_relaxed);
  status.state.store(static_cast<std::uint32_t>(layout::RingState::kFree), std::memory_order_relaxed);
}

// ---- inspection

void RingRegistry::inspect_some() {
  for (std::size_t n = std::min(rings_.size(), kInspectedPerRound); n > 0; --n) {
    next_inspected_ = (next_inspected_ + 1) % rings_.size();
    inspect(*rings_[next_inspected_]);
  }
}

void RingRegistry::inspect(ServedRing& ring) {
  ring.is_abandoned = ring.file.is_abandoned();
  has_abandoned_ = has_abandoned_ || ring.is_abandoned;
  if (!ring.is_quarantined && ring.file.is_truncated()) quarantine(ring, QuarantineReason::kTruncated);
  if (ring.consumer.tail() == ring.consumer.cursor()) marks_.drop(ring);  // its writer may have moved the tail back
  const std::uint64_t unnamed = ring.file.header().unnamed_count.load(std::memory_order_relaxed);
  if (unnamed > ring.unnamed_count) context_.statistics.unnamed_count += unnamed - ring.unnamed_count;
  ring.unnamed_count = std::max(ring.unnamed_count, unnamed);
  write_status(ring);
}

void RingRegistry::write_status(const ServedRing& ring) {
  const layout::RingHeader& header = ring.file.header();
  const layout::RingCursor& cursor = published_cursor(ring.index);  // there may be no back buffer
  layout::RingStatus& status = context_.owner.ring_status(ring.index);
  std::uint64_t rejected = 0;
  for (const std::uint64_t count : cursor.rejected) rejected += count;
  status.owner_pid.store(header.owner_pid, std::memory_order_relaxed);
  status.owner_uid.store(ring.file.owner_uid(), std::memory_order_relaxed);
  status.ring_bytes.store(ring.file.data_bytes(), std::memory_order_relaxed);
  std::array<std::uint64_t, sizeof header.name / sizeof(std::uint64_t)> name{};
  std::memcpy(name.data(), header.name, sizeof header.name - 1);  // the last byte stays NUL
  for (std::size_t i = 0; i < name.size(); ++i) status.name[i].store(name[i], std::memory_order_relaxed);
  status.tail.store(ring.consumer.tail(), std::memory_order_relaxed);
  status.head.store(ring.published_cursor, std::memory_order_relaxed);
  status.applied_count.store(cursor.applied_count, std::memory_order_relaxed);
  status.rejected_count.store(rejected, std::memory_order_relaxed);
  const auto state = ring.is_quarantined ? layout::RingState::kQuarantined
                     : ring.is_abandoned ? layout::RingState::kFinished
                                         : layout::RingState::kLive;
  status.state.store(static_cast<std::uint32_t>(state), std::memory_order_relaxed);
  status.quarantine_reason.store(static_cast<std::uint32_t>(ring.quarantine_reason), std::memory_order_relaxed);
  status.ring_id.store(ring.file.id(), std::memory_order_release);  // pair: ring_status.ring_id
}

}  // namespace shmstate::internal
