// Timers for entries: a hierarchical timing wheel (Varghese and Lauck 1987) with a node for each slot that needs one.
//
// A node means "examine this slot then", not "expire it": the entry may have been refreshed, replaced or erased since,
// so a later time needs no change here, and the caller examines the entry itself. Private to the merger, and rebuilt
// from the entries at start. Every operation is O(1), even with a million nodes, and `advance` does bounded work.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "layout/layout.h"
#include "shmstate/detail/buffer_place.h"

namespace shmstate::internal {

class TimingWheel {
 public:
  /// Names a slot: half its place, since no slot has a single unit.
  using Id = std::uint32_t;
  [[nodiscard]] static constexpr Id id_of(Place place) noexcept { return place.unit / 2; }
  /// The slot begins there, or one unit further.
  [[nodiscard]] static constexpr Place place_of(Id id) noexcept { return {.unit = id * 2}; }

  TimingWheel() { heads_.fill(kNone); }

  /// Sets the time; nothing earlier is due.
  void start_from(std::uint64_t now_ns) noexcept { now_ = now_ns >> kTickBits; }

  /// Ensures that the slot is examined at `time_ns` or earlier.
  void ensure(Id id, std::uint64_t time_ns);

  /// Calls `examine(id)` for what has become due, in at most `budget` steps of work; the rest stays due.
  template <typename Examine>
  void advance(std::uint64_t now_ns, std::size_t budget, Examine&& examine) {
    const std::uint64_t target = now_ns >> kTickBits;
    for (; budget > 0; --budget) {
      if (const Id due = heads_[kDueList]; due != kNone) {
        unlink(due);
        examine(due);
      } else if (const Id first = heads_[active_]; first != kNone) {
        unlink(first);
        if (active_ < kBuckets) {
          examine(first);
        } else {
          link(first, node(first).tick);
        }
      } else if (!turn(target)) {
        return;
      }
    }
  }

  /// The earliest time at which `advance` may have something to do; the largest number when there is nothing.
  [[nodiscard]] std::uint64_t next_due_ns() const noexcept;

 private:
  static_assert(layout::kSlotUnitsMin >= 2);
  static constexpr unsigned kChunkBits = 9;  // of four pages
  static constexpr unsigned kTickBits = 20;  // 1.05 ms
  static constexpr unsigned kLevelBits = 8;
  static constexpr std::uint32_t kBuckets = 1U << kLevelBits;
  static constexpr std::uint32_t kLevels = 5;  // 36 years; what is later is examined after that
  static constexpr std::uint32_t kDueList = kLevels * kBuckets;
  static constexpr Id kNone = ~Id{0};
  static constexpr std::uint16_t kUnlinked = 0xffff;

  struct Node {
    std::uint64_t tick = 0;
    Id next = kNone;
    Id previous = kNone;
    std::uint16_t list = kUnlinked;
  };
  using Chunk = std::array<Node, std::size_t{1} << kChunkBits>;
  struct Turn {
    std::uint64_t tick;  // the beginning of the next bucket that holds anything
    std::uint32_t list;
  };

  [[nodiscard]] Node& node(Id id) noexcept { return (*chunks_[id >> kChunkBits])[id & ((1U << kChunkBits) - 1)]; }
  void link(Id id, std::uint64_t tick);
  void push(Id id, std::uint32_t list);
  void unlink(Id id);
  [[nodiscard]] bool turn(std::uint64_t target);
  [[nodiscard]] Turn next_turn() const noexcept;

  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::array<Id, kDueList + 1> heads_{};
  std::array<std::array<std::uint64_t, kBuckets / 64>, kLevels> occupied_{};
  std::uint32_t active_ = kDueList;  // the bucket whose time has come: being examined, or moved to lower levels
  std::uint64_t linked_count_ = 0;
  std::uint64_t now_ = 0;  // ticks; everything at or before it is due
};

}  // namespace shmstate::internal
