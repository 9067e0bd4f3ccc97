// Which entries are ephemeral, by the ring that owns them: every place where one was, and how many still are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/back_buffer.h"
#include "engine/slabs.h"
#include "protocol/invariant.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/buffer_slot.h"

namespace shmstate::internal {

class Owners {
 public:
  explicit Owners(std::size_t ring_count_max) : rings_(ring_count_max) {}

  /// An owner is the index of a ring + 1; zero is nobody.
  [[nodiscard]] bool is_possible(std::uint64_t owner) const noexcept { return owner <= rings_.size(); }

  /// An entry of the owner lies there.
  void add(std::uint64_t owner, Place place) {
    Ring& ring = rings_[owner - 1];
    ring.places.push_back(place);
    ++ring.live_count;
  }
  /// Drops places that entries have left, once they outnumber those in use.
  void tidy(const BackBuffer& back, const Slabs& slabs, std::uint64_t owner) {
    Ring& ring = rings_[owner - 1];
    if (ring.places.size() <= 2 * ring.live_count + 64) return;
    std::sort(ring.places.begin(), ring.places.end());
    ring.places.erase(std::unique(ring.places.begin(), ring.places.end()), ring.places.end());
    std::erase_if(ring.places, [&](Place place) { return owner_at(back, slabs, place) != owner; });
  }
  /// An entry of the owner is gone, has another owner, or lies elsewhere.
  void remove(std::uint64_t owner) {
    Ring& ring = rings_[owner - 1];
    SHMSTATE_INVARIANT(ring.live_count > 0);
    --ring.live_count;
  }
  /// Removes from the list a place where an entry of the ring was, and returns it; nothing when there is none.
  [[nodiscard]] std::optional<Place> take(std::uint32_t ring_index) {
    std::vector<Place>& places = rings_[ring_index].places;
    if (places.empty()) return std::nullopt;
    const Place place = places.back();
    places.pop_back();
    return place;
  }
  [[nodiscard]] bool has_places(std::uint32_t ring_index) const noexcept { return !rings_[ring_index].places.empty(); }

  /// The owner of the entry at a place; zero when there is none.
  [[nodiscard]] static std::uint64_t owner_at(const BackBuffer& back, const Slabs& slabs, Place place) noexcept {
    return slabs.holds(place) ? SlotHead::unpack(back.at<layout::Slot>(place.offset())->head).owner() : 0;
  }

 private:
  struct Ring {
    std::vector<Place> places;
    std::size_t live_count = 0;
  };
  std::vector<Ring> rings_;
};

}  // namespace shmstate::internal
