// Takes what a ring holds and applies it: records in groups, each of which goes through three stages (decode and hash,
// match tags, apply), so that the caches fetch what the next stage needs. Never ends within a batch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "engine/back_buffer.h"
#include "engine/engine_context.h"
#include "engine/ring_registry.h"
#include "engine/served_ring.h"
#include "engine/table.h"
#include "layout/record.h"

namespace shmstate::internal {

class RingDrain {
 public:
  RingDrain(const EngineContext& context, const std::function<std::uint64_t()>& clock, RingRegistry& rings,
            Table& table);

  /// Begins a turn; its time counts from its first drain.
  void start() noexcept { began_ns_ = 0; }
  /// Takes what one ring holds, until its quota or the time of this turn is used up.
  void drain(ServedRing& ring, const Turn& turn, BackBuffer& back);
  /// Whether the time of this turn is used up.
  [[nodiscard]] bool is_time_over(const Turn& turn) const;

 private:
  static constexpr std::size_t kGroupRecords = 64;

  /// A record on its way through the stages. What lies in the ring is no private copy, except the head.
  struct Staged {
    MutationHead head;
    const std::uint64_t* key;  // or, by id, the value
    union {
      Segments::Guesses::Home home;  // by text, after the first stage
      layout::Slot* guess;           // after the second: where the key probably is, or null
      const KnownPlace* known;       // by id: where it was found before
    };
  };
  static_assert(sizeof(Staged) == 24);
  /// The drain of one ring in one turn.
  struct Pass {
    ServedRing& ring;
    const Turn& turn;
    BackBuffer& back;
    std::uint64_t tail;
    std::uint64_t quota_end;
    std::uint64_t position;        // everything before is applied
    std::uint64_t clock_position;  // where the clock was read last
    std::uint64_t whole_until;     // batches that begin before are known to be whole
    std::uint64_t applied_count = 0;
    bool is_malformed = false;
    bool is_in_batch = false;  // the last record that was applied belongs to a batch that continues
  };
  /// Of a ring: from here to what was pushed; from `enough` on, only what belongs to a batch.
  struct Range {
    const std::byte* at;
    const std::byte* end;
    const std::byte* enough;
  };
  /// Staged records, up to a position.
  struct Group {
    std::size_t count = 0;
    std::uint64_t end = 0;
  };
  enum class Survey : std::uint8_t { kWhole, kTooBig, kMalformed };

  void merge(Pass& pass);
  [[nodiscard]] Group next_group(Pass& pass);
  [[nodiscard]] Group stage(Pass& pass);
  [[nodiscard, gnu::noinline]] Staged* stage_by_id(const RingIds& ids, const Range& range, Staged* next,
                                                   Staged* last) const noexcept;
  void prefetch_entries(const Segments::Guesses& guesses, const BackBuffer& back, const Staged* end) noexcept;
  [[gnu::noinline]] void stage_other(const Pass& pass, Staged& staged) const noexcept;
  [[nodiscard]] bool continues(const Group& group) const noexcept {
    return group.count > 0 && staged_[group.count - 1].head.has(kBatchContinues);
  }
  [[nodiscard]] bool cut_before_big_batch(const Pass& pass, Group& group) const noexcept;
  void keep_whole_batches(Pass& pass, Group& group) const noexcept;
  [[nodiscard]] Survey survey_batch(Pass& pass, std::uint64_t begin) const noexcept;
  void refuse_batch(Pass& pass);

  [[nodiscard]] std::size_t apply(Pass& pass, std::size_t count);
  [[nodiscard, gnu::noinline]] const Staged* apply_by_id(BackBuffer& back, const Staged* staged, const Staged* end);
  [[nodiscard, gnu::noinline]] bool apply_other(BackBuffer& back, const Staged& staged);
  [[nodiscard]] bool apply_slowly(Pass& pass, const Staged& staged, const Staged* end);
  [[nodiscard]] bool apply_by_key(Pass& pass, const Staged& staged);
  [[nodiscard]] std::optional<HashedKey> key_of(const Pass& pass, const RecordView& record);
  void reject(Pass& pass, layout::Reject why, std::string_view key);
  [[nodiscard]] std::optional<layout::Reject> change(Pass& pass, const RecordView& record, const HashedKey& key,
                                                     const NewValue& value);

  EngineContext context_;
  const std::function<std::uint64_t()>& clock_;
  RingRegistry& rings_;
  Table& table_;
  std::uint64_t hash_seed_;
  std::uint64_t began_ns_ = 0;
  std::array<Staged, kGroupRecords> staged_;
  std::size_t by_text_count_ = 0;                        // of these, before the first that is by id
  std::array<std::uint64_t, kKeyBytesMax / kWord> key_;  // a private copy, where the fast path does not suffice
};

}  // namespace shmstate::internal
