#include "engine/ring_drain.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "layout/hash.h"
#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

using layout::QuarantineReason;
using layout::Reject;

constexpr std::uint64_t kPiledUpTimeNs = 1'000'000'000;    // of a turn that takes all
constexpr std::uint64_t kBytesPerClockReading = 64 << 10;  // outside batches
constexpr std::size_t kPlainBytesById = record_bytes(0, kWord, kById);
constexpr std::uint64_t kRefusedBytesPerTurn = 1 << 20;  // of a batch that is too big; parsed to find its end

std::uint64_t saturating_add(std::uint64_t a, std::uint64_t b) {
  return b > std::numeric_limits<std::uint64_t>::max() - a ? std::numeric_limits<std::uint64_t>::max() : a + b;
}

}  // namespace

RingDrain::RingDrain(const EngineContext& context, const std::function<std::uint64_t()>& clock, RingRegistry& rings,
                     Table& table)
    : context_(context), clock_(clock), rings_(rings), table_(table), hash_seed_(context.owner.geometry().hash_seed) {}

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
    pass.applied_count += apply(pass, group.count);
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
// then the tags are matched while the caches fetch the slots; when `apply` comes, both are near. A key that its writer
// changes meanwhile has only been looked for in a wrong place: `apply` goes by the key that it finds. Flattened, so
// that the hash is no call.
[[gnu::flatten]] RingDrain::Group RingDrain::stage(Pass& pass) {
  const Segments::Guesses guesses(pass.back);
  const std::uint64_t hash_seed = hash_seed_;
  const std::byte* const begin = pass.ring.file.at(pass.position);
  const std::byte* const end = begin + (pass.tail - pass.position);
  const std::byte* const enough = begin + std::min(pass.quota_end - pass.position, kBytesPerClockReading);
  const std::byte* at = begin;
  Staged* next = staged_.data();
  Staged* const last = staged_.data() + kGroupRecords;
  Staged* by_id = nullptr;  // the first one
  while (next != last && at < end) {
    MutationHead head = MutationHead::take(at);
    Staged& staged = *next;
    staged.head = head;
    staged.key = reinterpret_cast<const std::uint64_t*>(at) + 1;
    std::size_t bytes = head.usual_record_bytes();
    if (bytes != 0 && bytes <= static_cast<std::size_t>(end - at)) {
      const std::string_view key{reinterpret_cast<const char*>(staged.key), head.key_bytes()};
      staged.home = guesses.prefetch_home(hash_key(key, hash_seed));
      ++next;
    } else if (Staged* const behind = stage_by_id(pass.ring.ids, {at, end, enough}, next, last); behind != next) {
      if (by_id == nullptr) by_id = next;
      bytes = static_cast<std::size_t>(behind - next) * kPlainBytesById;
      next = behind;
      head = next[-1].head;
    } else {
      bytes = head.record_bytes();
      if (bytes == 0 || bytes > static_cast<std::size_t>(end - at)) {
        pass.is_malformed = true;
        break;
      }
      if (by_id == nullptr && head.is_named()) by_id = next;
      stage_other(pass, *next++);
    }
    at += bytes;
    if (at >= enough && !head.has(kBatchContinues)) break;
  }
  by_text_count_ = static_cast<std::size_t>((by_id != nullptr ? by_id : next) - staged_.data());
  prefetch_entries(guesses, pass.back, next);
  return {.count = static_cast<std::size_t>(next - staged_.data()),
          .end = pass.position + static_cast<std::size_t>(at - begin)};
}

void RingDrain::prefetch_entries(const Segments::Guesses& guesses, const BackBuffer& back, const Staged* end) noexcept {
  Staged* staged = staged_.data();
  for (const Staged* const by_id = staged + by_text_count_; staged != by_id; ++staged) {
    staged->guess = guesses.prefetch_slot(staged->home);
  }
  for (; staged != end; ++staged) {
    if (staged->head.is_named()) {
      Table::prefetch(back, *staged->known);
    } else {
      staged->guess = guesses.prefetch_slot(staged->home);
    }
  }
}

// A run of records that are by id and have nothing more to them; returns what is behind the last one.
RingDrain::Staged* RingDrain::stage_by_id(const RingIds& ids, const Range& range, Staged* next,
                                          Staged* last) const noexcept {
  const RingIds::Places places = ids.places();
  const std::size_t left = static_cast<std::size_t>(range.end - range.at) / kPlainBytesById;
  last = next + std::min(left, static_cast<std::size_t>(last - next));
  for (const std::byte* at = range.at; next != last; ++next) {
    const MutationHead head = MutationHead::take(at);
    if (!head.is_plain_by_id()) return next;
    next->head = head;
    next->key = reinterpret_cast<const std::uint64_t*>(at) + 1;
    next->known = places.of(head.id());
    __builtin_prefetch(next->known);
    at += kPlainBytesById;
    if (at >= range.enough && !head.has(kBatchContinues)) return next + 1;
  }
  return next;
}

// What has more to it than a value of one word.
void RingDrain::stage_other(const Pass& pass, Staged& staged) const noexcept {
  const Segments::Guesses guesses(pass.back);
  staged.key += staged.head.optional_words();
  if (staged.head.is_named()) {
    staged.known = pass.ring.ids.places().of(staged.head.is_known() ? staged.head.id() : RingIds::kNobody);
  } else if (staged.head.is_known()) {
    const std::string_view key{reinterpret_cast<const char*>(staged.key), staged.head.key_bytes()};
    staged.home = guesses.prefetch_home(hash_key(key, hash_seed_));
  } else {
    staged.home = Segments::Guesses::nowhere();
  }
}

// A batch may be longer than a group. Before its first part is applied, the rest is surveyed: its end may not have been
// pushed, may be malformed, or may come too late.
void RingDrain::keep_whole_batches(Pass& pass, Group& group) const noexcept {
  Group whole = group;
  while (continues(whole)) whole.end -= staged_[--whole.count].head.record_bytes();
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
    position += staged_[i].head.record_bytes();
    if (before.end >= unlimited_until &&
        !is_batch_allowed(i + 1 - before.count, position - before.end, context_.options.batch_max)) {
      group = before;
      return true;
    }
    if (!staged_[i].head.has(kBatchContinues)) before = {.count = i + 1, .end = position};
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

// Returns how many were applied. The others are counted as rejected, unless their ring is about to be quarantined.
std::size_t RingDrain::apply(Pass& pass, std::size_t count) {
  Table& table = table_;
  BackBuffer& back = pass.back;
  std::size_t applied_count = count;
  const Staged* const end = staged_.data() + count;
  const Staged* staged = staged_.data();
  for (const Staged* const by_id = staged + std::min(count, by_text_count_); staged != by_id; ++staged) {
    crash_point(CrashPoint::kMutationApplied);
    if (staged->guess != nullptr && table.update(back, *staged->guess, staged->head, staged->key)) continue;
    if (!apply_slowly(pass, *staged, end)) --applied_count;
  }
  for (; staged != end; ++staged) {
    if (staged->head.is_named()) {
      staged = apply_by_id(back, staged, end);
      if (staged == end) break;
    }
    crash_point(CrashPoint::kMutationApplied);
    if (!apply_other(back, *staged) && !apply_slowly(pass, *staged, end)) --applied_count;
  }
  return applied_count;
}

// Where a slab becomes something else meanwhile, what was guessed for the records behind may be no slot any more.
bool RingDrain::apply_slowly(Pass& pass, const Staged& staged, const Staged* end) {
  const std::uint64_t closed_count = table_.closed_slab_count();
  const bool is_applied = apply_by_key(pass, staged);
  if (table_.closed_slab_count() == closed_count) return is_applied;
  for (Staged* behind = staged_.data() + (&staged - staged_.data()) + 1; behind != end; ++behind) {
    if (!behind->head.is_named()) behind->guess = nullptr;
  }
  return is_applied;
}

// By text among others that are by id, or bytes by id.
bool RingDrain::apply_other(BackBuffer& back, const Staged& staged) {
  if (!staged.head.is_named()) {
    return staged.guess != nullptr && table_.update(back, *staged.guess, staged.head, staged.key);
  }
  return staged.head.is_plain_bytes() && table_.update_bytes(back, *staged.known, staged.head, staged.key);
}

// A run of values of one word by id, as long as their entries are where they were; returns the first that is none.
const RingDrain::Staged* RingDrain::apply_by_id(BackBuffer& back, const Staged* staged, const Staged* end) {
  Table& table = table_;
  for (; staged != end && staged->head.is_word_by_id(); ++staged) {
    if (!table.update(back, *staged->known, staged->head, staged->key)) break;
    crash_point(CrashPoint::kMutationApplied);
  }
  return staged;
}

// Whatever needs more than a look at one slot.
bool RingDrain::apply_by_key(Pass& pass, const Staged& staged) {
  const RecordView record = view_of(staged.head, staged.key);
  const std::optional<HashedKey> key = key_of(pass, record);
  NewValue value{.type = record.type, .number = 0, .bytes = {}};
  if (record.type == Type::kBytes) {
    value.bytes = {reinterpret_cast<const char*>(record.value), record.value_bytes};
  } else if (record.value_bytes == kWord) {
    value.number = load_word(record.value, std::memory_order_relaxed);
  }
  if (pass.ring.file.has_faulted()) return false;
  if (!key || !staged.head.is_known()) {
    reject(pass, Reject::kUnknown, key ? key->bytes : std::string_view());
    return false;
  }
  if (const std::optional<Reject> why = change(pass, record, *key, value)) {
    reject(pass, *why, key->bytes);
    return false;
  }
  if (staged.head.is_named()) pass.ring.ids.remember(record.id, table_.find(pass.back, *key));
  return true;
}

// The hash must be that of the bytes that are stored, so they are copied before they are hashed. Zeros that a truncated
// file reads as are no key. Nothing for an id that nobody has.
std::optional<HashedKey> RingDrain::key_of(const Pass& pass, const RecordView& record) {
  std::optional<std::string_view> bytes;
  if ((record.flags & kById) != 0) {
    bytes = pass.ring.file.names().copy(record.id, key_.data());
    if (!bytes) return std::nullopt;
  } else {
    for (std::size_t i = 0; i < words_of(record.key_bytes); ++i) {
      key_[i] = load_word(record.key + i, std::memory_order_relaxed);
    }
    bytes = {reinterpret_cast<const char*>(key_.data()), record.key_bytes};
  }
  return HashedKey{.bytes = *bytes, .hash = hash_key(*bytes, hash_seed_)};
}

void RingDrain::reject(Pass& pass, Reject why, std::string_view key) {
  std::uint64_t& count = pass.back.cursor(pass.ring.index).rejected[static_cast<std::size_t>(why)];
  pass.back.store(count, count + 1);
  ++context_.statistics.rejected_count;
  const std::uint64_t now_ns = pass.turn.now_ns;
  if (why == Reject::kNoMemory) {
    ++context_.statistics.commit_failures;
    context_.log.no_memory(now_ns);
  }
  context_.log.mutation_rejected(now_ns, pass.ring.file.id(), why, key);
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
