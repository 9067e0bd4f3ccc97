#include "engine/ring_drain.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "layout/hash.h"
#include "protocol/crash_point.h"
#include "protocol/invariant.h"

namespace shmstate::internal {
namespace {

using layout::QuarantineReason;
using layout::Reject;

constexpr std::uint64_t kPiledUpTimeNs = 1'000'000'000;    // of a turn that takes all
constexpr std::uint64_t kBytesPerClockReading = 64 << 10;  // outside batches
constexpr std::uint64_t kRefusedBytesPerTurn = 1 << 20;    // of a batch that is too big; parsed to find its end

std::uint64_t saturating_add(std::uint64_t a, std::uint64_t b) {
  return b > std::numeric_limits<std::uint64_t>::max() - a ? std::numeric_limits<std::uint64_t>::max() : a + b;
}

}  // namespace

RingDrain::RingDrain(const EngineContext& context, const std::function<std::uint64_t()>& clock, RingRegistry& rings,
                     Table& table)
    : context_(context),
      clock_(clock),
      rings_(rings),
      table_(table),
      hash_seed_(context.owner.geometry().hash_seed),
      long_keys_(kGroupRecords * kKeyBytesMax / kWord) {}

bool RingDrain::is_time_over(const Turn& turn) const {
  const auto interval_ns = static_cast<std::uint64_t>(context_.options.publish_interval.count());
  return clock_() - began_ns_ >= (turn.takes_all ? std::max(interval_ns, kPiledUpTimeNs) : interval_ns);
}

void RingDrain::drain(ServedRing& ring, const Turn& turn, BackBuffer& back) {
  if (began_ns_ == 0) began_ns_ = clock_();
  const std::uint64_t tail = ring.consumer.tail();
  const std::uint64_t begin = ring.consumer.cursor();
  if (tail == begin) return;
  if (ring.file.has_faulted()) return rings_.quarantine(ring, QuarantineReason::kTruncated);
  if (!ring.consumer.is_sane(tail)) return rings_.quarantine(ring, QuarantineReason::kImpossibleTail);
  if (ring.is_refusing && tail < ring.refused_until) return rings_.quarantine(ring, QuarantineReason::kImpossibleTail);
  Pass pass{.ring = ring,
            .turn = turn,
            .back = back,
            .tail = tail,
            .quota_end = turn.takes_all ? tail : begin + ring.file.data_bytes() / 4,
            .position = begin,
            .clock_position = begin,
            .whole_until = begin};
  if (ring.is_refusing) return refuse_batch(pass);
  merge(pass);
  SHMSTATE_INVARIANT(pass.position <= tail);
  // Only a writer that modifies what it has pushed can end up here within a batch, its own.
  if (pass.is_in_batch && !ring.is_refusing) pass.is_malformed = true;
  ring.refused_until = pass.position;
  rings_.move_cursor(ring, pass.position, back);
  layout::RingCursor& cursor = back.cursor(ring.index);
  back.store(cursor.applied_count, cursor.applied_count + pass.applied_count);
  context_.statistics.applied_count += pass.applied_count;
  if (ring.file.has_faulted()) return rings_.quarantine(ring, QuarantineReason::kTruncated);
  if (pass.is_malformed) rings_.quarantine(ring, QuarantineReason::kNoMutation);
}

// Group by group, until the quota or the time is used up and no batch is open.
void RingDrain::merge(Pass& pass) {
  while (pass.position < pass.tail && !pass.is_malformed && !pass.ring.is_refusing) {
    const Group group = next_group(pass);
    if (pass.ring.file.has_faulted()) break;
    crash_point(CrashPoint::kGroupStaged);
    for (std::size_t i = 0; i < group.count; ++i) pass.applied_count += apply(pass, staged_[i]) ? 1 : 0;
    if (group.count > 0) pass.is_in_batch = continues(group);
    pass.position = group.end;
    if (pass.is_in_batch) continue;
    if (pass.position >= pass.quota_end) break;
    if (pass.position - pass.clock_position < kBytesPerClockReading) continue;
    if (is_time_over(pass.turn)) break;
    pass.clock_position = pass.position;
  }
}

// ---- groups, and where batches end

// Stages a group, and drops from its end what may not be applied.
RingDrain::Group RingDrain::next_group(Pass& pass) {
  Group group = stage(pass);
  if (!is_batch_allowed(group.count, group.end - pass.position, context_.options.batch_max) &&
      cut_before_big_batch(pass, group)) {
    pass.ring.is_refusing = true;
    pass.is_malformed = false;  // which comes after that batch
  }
  if (continues(group) && group.end >= pass.whole_until) keep_whole_batches(pass, group);
  return group;
}

// Memory latency is what merging costs. So a group of records is decoded and hashed while the caches fetch the tags,
// then the tags are matched while the caches fetch the slots; when `apply` comes, both are near. Flattened, so that the
// hash is no call.
[[gnu::flatten]] RingDrain::Group RingDrain::stage(Pass& pass) {
  const Segments& segments = table_.segments();
  const std::uint64_t tail = pass.tail;
  const std::uint64_t quota_end = std::min(pass.quota_end, pass.position + kBytesPerClockReading);
  std::uint64_t position = pass.position;
  std::size_t count = 0;
  while (count < kGroupRecords && position < tail) {
    Staged& staged = staged_[count];
    RecordView& record = staged.record;
    if (!parse_record(pass.ring.file.at(position), static_cast<std::size_t>(tail - position), record)) {
      pass.is_malformed = true;
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
      staged.guess = segments.prefetch_hint(pass.back, record.hint);
    } else {
      staged.key.hash = hash_key(staged.key.bytes, hash_seed_);
      staged.home = Segments::prefetch_tags(pass.back, staged.key.hash);
    }
    position += record.bytes;
    ++count;
    if (position >= quota_end && (record.flags & kBatchContinues) == 0) break;
  }
  for (std::size_t i = 0; i < count; ++i) {
    Staged& staged = staged_[i];
    if ((staged.record.flags & kWithHint) != 0) continue;
    staged.guess = Segments::prefetch_slot(staged.home, staged.key.hash);
  }
  return {.count = count, .end = position};
}

// A batch may be longer than a group. Before its first part is applied, the rest is surveyed: its end may not have been
// pushed, may be malformed, or may come too late.
void RingDrain::keep_whole_batches(Pass& pass, Group& group) const noexcept {
  Group whole = group;
  while (continues(whole)) whole.end -= staged_[--whole.count].record.bytes;
  const Survey survey = pass.is_malformed ? Survey::kMalformed : survey_batch(pass, whole.end);
  pass.is_malformed = survey == Survey::kMalformed;
  pass.ring.is_refusing = survey == Survey::kTooBig;
  if (survey != Survey::kWhole) group = whole;
}

RingDrain::Survey RingDrain::survey_batch(Pass& pass, std::uint64_t begin) const noexcept {
  const ServedRing& ring = pass.ring;
  const bool is_limited = begin >= ring.unlimited_until;
  RecordView record;
  std::uint64_t count = 0;
  for (std::uint64_t position = begin; position < pass.tail;) {
    if (!parse_record(ring.file.at(position), static_cast<std::size_t>(pass.tail - position), record)) break;
    position += record.bytes;
    if (is_limited && !is_batch_allowed(++count, position - begin, context_.options.batch_max)) return Survey::kTooBig;
    if ((record.flags & kBatchContinues) != 0) continue;
    pass.whole_until = position;
    return Survey::kWhole;
  }
  return Survey::kMalformed;
}

// Of batches that lie within a group.
bool RingDrain::cut_before_big_batch(const Pass& pass, Group& group) const noexcept {
  const std::uint64_t unlimited_until = std::max(pass.ring.unlimited_until, pass.whole_until);
  Group before{.count = 0, .end = pass.position};  // the batch that is measured
  std::uint64_t position = pass.position;
  for (std::size_t i = 0; i < group.count; ++i) {
    position += staged_[i].record.bytes;
    if (before.end >= unlimited_until &&
        !is_batch_allowed(i + 1 - before.count, position - before.end, context_.options.batch_max)) {
      group = before;
      return true;
    }
    if ((staged_[i].record.flags & kBatchContinues) == 0) before = {.count = i + 1, .end = position};
  }
  return false;
}

// The whole batch is refused once its end is found. A turn searches only a part, so that other rings do not wait; until
// then the cursor stays where the batch begins, so that after a crash no part of it has been refused.
void RingDrain::refuse_batch(Pass& pass) {
  ServedRing& ring = pass.ring;
  RecordView record;
  bool is_end = false;
  for (const std::uint64_t last = ring.refused_until + kRefusedBytesPerTurn; !is_end && ring.refused_until < last;) {
    const std::uint64_t position = ring.refused_until;
    if (!parse_record(ring.file.at(position), static_cast<std::size_t>(pass.tail - position), record)) {
      return rings_.quarantine(ring, QuarantineReason::kNoMutation);
    }
    ring.refused_until += record.bytes;
    ++ring.refused_count;
    is_end = (record.flags & kBatchContinues) == 0;
  }
  if (!is_end) return;
  std::uint64_t& count = pass.back.cursor(ring.index).rejected[static_cast<std::size_t>(Reject::kBatchTooBig)];
  pass.back.store(count, count + ring.refused_count);
  context_.statistics.rejected_count += std::exchange(ring.refused_count, 0);
  ring.is_refusing = false;
  rings_.move_cursor(ring, ring.refused_until, pass.back);
}

// ---- mutations

// Returns whether the mutation was applied; if not, it is counted as rejected.
bool RingDrain::apply(Pass& pass, Staged& staged) {
  crash_point(CrashPoint::kMutationApplied);
  const RecordView& record = staged.record;
  if (record.is_plain && staged.guess != nullptr) {
    const std::uint64_t number = load_word(record.value, std::memory_order_relaxed);
    if (table_.update(pass.back, *staged.guess, record.operation, record.type, staged.key.bytes, number)) return true;
  }
  return apply_by_key(pass, staged);
}

bool RingDrain::apply_by_key(Pass& pass, Staged& staged) {
  const RecordView& record = staged.record;
  NewValue value{.type = record.type, .number = 0, .bytes = {}};
  if (record.type == Type::kBytes) {
    value.bytes = {reinterpret_cast<const char*>(record.value), record.value_bytes};
  } else if (record.type != Type::kNone) {
    value.number = load_word(record.value, std::memory_order_relaxed);
  }
  if ((record.flags & kWithHint) != 0) staged.key.hash = hash_key(staged.key.bytes, hash_seed_);
  const std::optional<Reject> reject = change(pass, record, staged.key, value);
  if (!reject) return true;
  std::uint64_t& count = pass.back.cursor(pass.ring.index).rejected[static_cast<std::size_t>(*reject)];
  pass.back.store(count, count + 1);
  ++context_.statistics.rejected_count;
  const std::uint64_t now_ns = pass.turn.now_ns;
  if (*reject == Reject::kNoMemory) {
    ++context_.statistics.commit_failures;
    context_.log.no_memory(now_ns);
  }
  context_.log.mutation_rejected(now_ns, pass.ring.file.id(), *reject, staged.key.bytes);
  return false;
}

std::optional<Reject> RingDrain::change(Pass& pass, const RecordView& record, const HashedKey& key,
                                        const NewValue& value) {
  const std::uint64_t now_ns = pass.turn.now_ns;
  const auto version = (record.flags & kWithVersion) != 0 ? std::optional(record.version) : std::nullopt;
  switch (record.operation) {
    case Operation::kSet: {
      Attributes attributes{.owner = 0, .expiry_ns = 0, .version = version};
      if ((record.flags & kEphemeral) != 0) attributes.owner = static_cast<std::uint16_t>(pass.ring.index + 1);
      if ((record.flags & kWithTtl) != 0) attributes.expiry_ns = saturating_add(now_ns, record.ttl_ns);
      return table_.set(pass.back, key, value, attributes);
    }
    case Operation::kErase: {
      const auto remembered_ns = static_cast<std::uint64_t>(context_.options.tombstone_time.count());
      return table_.erase(pass.back, key, version, saturating_add(now_ns, remembered_ns));
    }
    case Operation::kAdd:
    case Operation::kMax:
    case Operation::kMin: return table_.combine(pass.back, record.operation, key, value);
  }
  return std::nullopt;
}

}  // namespace shmstate::internal
