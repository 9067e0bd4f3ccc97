// What the ids of a ring mean: where the entries were found that they name. Private to the merger, and only remembered:
// a place that is no longer good is looked for again, by the name in the ring's file. So it may be lost at any time,
// and a merger that starts knows none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "engine/slabs.h"

namespace shmstate::internal {

class RingIds {
 public:
  explicit RingIds(std::uint64_t count_max) : count_max_(count_max) {}

  static constexpr std::uint32_t kNobody = ~std::uint32_t{0};  // more than a ring has room for

  /// A copy of what it takes to look: good until one is remembered.
  class Places {
   public:
    Places(const KnownPlace* places, std::uint64_t count) noexcept : places_(places), count_(count) {}
    /// Never null. What is there may change until it is used.
    [[nodiscard]] const KnownPlace* of(std::uint32_t id) const noexcept {
      return id < count_ ? places_ + id : &kNowhere;
    }

   private:
    const KnownPlace* places_;
    std::uint64_t count_;
  };
  [[nodiscard]] Places places() const noexcept { return {places_.get(), count_}; }
  void remember(std::uint32_t id, const KnownPlace& place) noexcept {
    if (count_ == 0) allocate();
    if (id < count_) *(places_.get() + id) = place;
  }

 private:
  struct Free {
    void operator()(KnownPlace* places) const noexcept { std::free(places); }
  };
  static constexpr KnownPlace kNowhere{};

  // Once an id is used, for all that there can be: these are zeros that take no memory until they are touched, so a
  // writer that chooses high ids gains nothing. Without memory nothing is remembered.
  void allocate() noexcept {
    places_.reset(static_cast<KnownPlace*>(std::calloc(count_max_, sizeof(KnownPlace))));
    if (places_ != nullptr) count_ = count_max_;
  }

  std::uint64_t count_max_;
  std::uint64_t count_ = 0;
  std::unique_ptr<KnownPlace, Free> places_;
};

}  // namespace shmstate::internal
