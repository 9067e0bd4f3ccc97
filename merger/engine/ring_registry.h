// The rings that are served, and their cursors: taken over at start, admitted, refused, quarantined, finished.
//
// A finished ring's file is removed before its cursor is dropped: no ring can be taken for a new one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_set>
#include <vector>

#include "engine/age_marks.h"
#include "engine/back_buffer.h"
#include "engine/cursors.h"
#include "engine/engine_context.h"
#include "engine/replicas.h"
#include "engine/served_ring.h"
#include "engine/table.h"
#include "files/ring_file.h"
#include "layout/layout.h"

namespace shmstate::internal {

class RingRegistry {
 public:
  RingRegistry(const EngineContext& context, const Replicas& replicas, Cursors& cursors, Table& table, AgeMarks& marks);

  /// At start: takes over the rings that have a cursor in the current buffer. Throws `Error`.
  void resume();
  /// Rings that were taken over, but could not be opened for lack of permission: tries again.
  void retry_closed();

  [[nodiscard]] std::size_t size() const noexcept { return rings_.size(); }
  [[nodiscard]] ServedRing& operator[](std::size_t position) noexcept { return *rings_[position]; }
  /// Identifiers of rings that are served, or that have a cursor but could not be opened.
  [[nodiscard]] const std::unordered_set<std::uint64_t>& ids() const noexcept { return ids_; }
  /// Whether a ring holds records that are not merged.
  [[nodiscard]] bool has_records(std::size_t position) const noexcept {
    const Tail& tail = tails_[position];
    const std::uint64_t now = tail.word->load(std::memory_order_acquire);  // pair: ring.tail
    return now != tail.cursor && !rings_[position]->is_quarantined;
  }
  [[nodiscard]] bool has_records() const noexcept;
  /// Whether a ring, or a leftover cursor, must be removed.
  [[nodiscard]] bool has_finished() const noexcept { return has_abandoned_ || !orphans_.empty(); }

  /// Serves a ring. False, and its writer sees that, when it is too large or there are too many.
  [[nodiscard]] bool admit(RingFile file, BackBuffer& back);
  void quarantine(ServedRing& ring, layout::QuarantineReason reason);
  /// Notes in the back buffer that everything before `position` has been merged into it.
  void move_cursor(ServedRing& ring, std::uint64_t position, BackBuffer& back);
  /// After a drain: its head moves when this turn is published.
  void note_drained(std::size_t position);
  /// After a publish: returns the published bytes to the writers.
  void release_heads();
  /// Batches that have already been pushed are merged whatever their size.
  void lift_batch_limits() noexcept;

  /// Erases what writers that are gone owned, a part in each turn, then removes their rings. Returns whether a ring was
  /// removed.
  bool finish(const Turn& turn, BackBuffer& back);
  /// Checks some of the rings: whether their writers are alive and their files whole; and updates their status.
  void inspect_some();

 private:
  /// What every turn reads of every ring: close together, since most rings are idle.
  struct Tail {
    const Shared<std::uint64_t>* word;
    std::uint64_t cursor;
  };

  void resume(std::uint32_t index);
  ServedRing& add(RingFile file, std::uint32_t index, std::uint64_t cursor);
  void remove(std::size_t position);
  [[nodiscard]] bool try_finish(ServedRing& ring, const Turn& turn, BackBuffer& back);
  void drop_orphans(const Turn& turn, BackBuffer& back);
  void drop_cursor(std::uint32_t index, BackBuffer& back);
  void inspect(ServedRing& ring);
  void write_status(const ServedRing& ring);
  [[nodiscard]] const layout::RingCursor& published_cursor(std::uint32_t index) const noexcept {
    static constexpr layout::RingCursor kNone{};  // of a ring that was admitted in this turn
    const std::byte* const buffer = context_.owner.buffer(replicas_.current().buffer);
    const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
    return index < CursorPages::unpack(header.more_cursors).capacity() ? ring_cursor(buffer, index) : kNone;
  }

  EngineContext context_;
  const Replicas& replicas_;
  Cursors& cursors_;
  Table& table_;
  AgeMarks& marks_;
  std::vector<std::unique_ptr<ServedRing>> rings_;
  std::vector<Tail> tails_;            // parallel to `rings_`
  std::vector<ServedRing*> advanced_;  // in this turn: their heads move after the publish
  std::vector<bool> is_index_used_;
  std::unordered_set<std::uint64_t> ids_;
  std::vector<std::uint32_t> closed_;   // indices of rings that may not be opened
  std::vector<std::uint32_t> orphans_;  // indices of cursors whose ring was finished before a crash
  bool has_abandoned_ = false;
  std::size_t next_inspected_ = 0;
};

}  // namespace shmstate::internal
