// What a bound key knows of the rings that it is pushed to, for the writer.
#pragma once

#include <cstdint>

#include "shmstate/key.h"

namespace shmstate::internal {

class KeyIds {
 public:
  /// Whether it has an id in this ring.
  [[nodiscard]] static bool is_named(const Key& key, std::uint64_t ring_id) noexcept {
    return key.named_in_ == ring_id;
  }
  [[nodiscard]] static std::uint32_t id(const Key& key) noexcept { return key.id_; }
  /// Whether it gets an id now: at its second push to a ring that has one for it.
  [[nodiscard]] static bool wants_id(Key& key, std::uint64_t ring_id) noexcept {
    if (key.unnamed_in_ == ring_id) return false;
    if (key.pushed_to_ == ring_id) return true;
    key.pushed_to_ = ring_id;
    return false;
  }
  static void set_id(Key& key, std::uint64_t ring_id, std::uint32_t id) noexcept {
    key.id_ = id;
    key.named_in_ = ring_id;
  }
  static void set_unnamed(Key& key, std::uint64_t ring_id) noexcept { key.unnamed_in_ = ring_id; }
};

}  // namespace shmstate::internal
