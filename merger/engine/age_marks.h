// How current the snapshot is. At one instant, a mark is set at the tail of every ring; once every ring has been
// published up to its mark, the snapshot holds all that had been pushed at that instant.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "engine/served_ring.h"
#include "protocol/invariant.h"

namespace shmstate::internal {

class AgeMarks {
 public:
  /// Every ring has been merged up to its mark.
  [[nodiscard]] bool are_reached() const noexcept { return rings_behind_ == 0; }
  /// When the marks were set.
  [[nodiscard]] std::uint64_t set_ns() const noexcept { return set_ns_; }

  /// Begins to set marks; only when the earlier ones are reached.
  void start(std::uint64_t now_ns) noexcept {
    SHMSTATE_INVARIANT(are_reached());
    set_ns_ = now_ns;
  }
  void set(ServedRing& ring) noexcept {
    SHMSTATE_INVARIANT(!ring.is_behind_mark);
    ring.age_mark = ring.consumer.tail();
    ring.is_behind_mark = ring.age_mark > ring.consumer.cursor();
    if (ring.is_behind_mark) ++rings_behind_;
  }
  /// After the ring's cursor moved.
  void update(ServedRing& ring) noexcept {
    if (ring.consumer.cursor() >= ring.age_mark) drop(ring);
  }
  /// The ring is not merged up to its mark: it holds nothing more, is quarantined, or is removed.
  void drop(ServedRing& ring) noexcept {
    if (!std::exchange(ring.is_behind_mark, false)) return;
    SHMSTATE_INVARIANT(rings_behind_ > 0);
    --rings_behind_;
  }

 private:
  std::uint64_t set_ns_ = 0;
  std::size_t rings_behind_ = 0;
};

}  // namespace shmstate::internal
