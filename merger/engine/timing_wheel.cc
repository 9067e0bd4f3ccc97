#include "engine/timing_wheel.h"

#include <algorithm>
#include <limits>

namespace shmstate::internal {

void TimingWheel::ensure(Id id, std::uint64_t time_ns) {
  const std::size_t number = id >> kChunkBits;
  if (number >= chunks_.size()) chunks_.resize(number + 1);
  if (!chunks_[number]) chunks_[number] = std::make_unique<Chunk>();
  constexpr std::uint64_t kRoundUp = (std::uint64_t{1} << kTickBits) - 1;  // never early
  const std::uint64_t tick = (time_ns >> kTickBits) + ((time_ns & kRoundUp) != 0 ? 1 : 0);
  Node& timer = node(id);
  if (timer.list != kUnlinked) {
    if (timer.tick <= tick) return;
    unlink(id);
  }
  link(id, tick);
}

// The level is that of the highest byte in which the time differs from now, so a node moves down as its time comes
// near.
void TimingWheel::link(Id id, std::uint64_t tick) {
  constexpr std::uint64_t kReach = (std::uint64_t{1} << (kLevels * kLevelBits)) - 1;
  tick = std::min(tick, now_ | kReach);
  node(id).tick = tick;
  if (tick <= now_) return push(id, kDueList);
  const auto level = static_cast<std::uint32_t>(std::bit_width(tick ^ now_) - 1) / kLevelBits;
  push(id, level * kBuckets + (static_cast<std::uint32_t>(tick >> (level * kLevelBits)) & (kBuckets - 1)));
}

void TimingWheel::push(Id id, std::uint32_t list) {
  Node& timer = node(id);
  timer.list = static_cast<std::uint16_t>(list);
  timer.previous = kNone;
  timer.next = heads_[list];
  if (timer.next != kNone) node(timer.next).previous = id;
  heads_[list] = id;
  ++linked_count_;
  if (list < kDueList) occupied_[list / kBuckets][list % kBuckets / 64] |= std::uint64_t{1} << list % 64;
}

void TimingWheel::unlink(Id id) {
  Node& timer = node(id);
  const std::uint32_t list = timer.list;
  if (timer.next != kNone) node(timer.next).previous = timer.previous;
  if (timer.previous != kNone) {
    node(timer.previous).next = timer.next;
  } else {
    heads_[list] = timer.next;
    if (timer.next == kNone && list < kDueList) {
      occupied_[list / kBuckets][list % kBuckets / 64] &= ~(std::uint64_t{1} << list % 64);
    }
  }
  timer.list = kUnlinked;
  --linked_count_;
}

// A lower level always comes first: it divides the present bucket of the level above.
TimingWheel::Turn TimingWheel::next_turn() const noexcept {
  for (std::uint32_t level = 0; level < kLevels; ++level) {
    const unsigned shift = level * kLevelBits;
    const auto present = static_cast<std::uint32_t>(now_ >> shift) & (kBuckets - 1);
    for (std::uint32_t bucket = present + 1; bucket < kBuckets;) {
      const std::uint64_t bits = occupied_[level][bucket / 64] >> bucket % 64;
      if (bits == 0) {
        bucket = (bucket / 64 + 1) * 64;
        continue;
      }
      bucket += static_cast<std::uint32_t>(std::countr_zero(bits));
      const std::uint64_t above = now_ >> shift >> kLevelBits << kLevelBits;
      return {.tick = (above | bucket) << shift, .list = level * kBuckets + bucket};
    }
  }
  return {.tick = std::numeric_limits<std::uint64_t>::max(), .list = 0};
}

// Moves on to the next bucket that holds anything, or to the target. Returns whether there is something to do.
bool TimingWheel::turn(std::uint64_t target) {
  active_ = kDueList;  // that bucket is empty now, and will be used again
  const Turn next = next_turn();
  if (next.tick > target) {
    now_ = std::max(now_, target);
    return false;
  }
  now_ = next.tick;  // from here on, no node can be linked into that bucket
  active_ = next.list;
  return true;
}

std::uint64_t TimingWheel::next_due_ns() const noexcept {
  if (linked_count_ == 0) return std::numeric_limits<std::uint64_t>::max();
  if (heads_[kDueList] != kNone || heads_[active_] != kNone) return 0;
  const std::uint64_t tick = next_turn().tick;
  return tick > std::numeric_limits<std::uint64_t>::max() >> kTickBits ? std::numeric_limits<std::uint64_t>::max()
                                                                       : tick << kTickBits;
}

}  // namespace shmstate::internal
