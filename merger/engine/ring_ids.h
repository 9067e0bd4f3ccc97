// What the ids of a ring mean: where the entries were found that they name. Private to the merger, and only remembered:
// a place that is no longer good is looked for again, by the name in the ring's file. So it may be lost at any time, and
// a merger that starts knows none.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/segments.h"

namespace shmstate::internal {

class RingIds {
 public:
  explicit RingIds(std::uint64_t count_max) : count_max_(count_max) {}

  /// Never null; what is there may change until the next look.
  [[nodiscard]] const KnownPlace* place_of(std::uint32_t id) const noexcept {
    if (id >= known_end_) return &kNowhere;
    const Chunk* const chunk = chunks_[id / kChunkIds].get();
    return chunk != nullptr ? chunk->data() + id % kChunkIds : &kNowhere;
  }
  void remember(std::uint32_t id, const KnownPlace& place) {
    if (id >= count_max_) return;
    const std::size_t index = id / kChunkIds;
    if (index >= chunks_.size()) {
      chunks_.resize(index + 1);
      known_end_ = chunks_.size() * kChunkIds;
    }
    if (chunks_[index] == nullptr) chunks_[index] = std::make_unique<Chunk>();
    (*chunks_[index])[id % kChunkIds] = place;
  }

 private:
  static constexpr std::size_t kChunkIds = 8192;  // made when one of them is used: a writer may choose any id
  using Chunk = std::array<KnownPlace, kChunkIds>;
  static constexpr KnownPlace kNowhere{};

  std::uint64_t count_max_;
  std::uint64_t known_end_ = 0;
  std::vector<std::unique_ptr<Chunk>> chunks_;
};

}  // namespace shmstate::internal
