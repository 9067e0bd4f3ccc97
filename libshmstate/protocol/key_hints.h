// What a bound key remembers of an instance, for the reader.
#pragma once

#include "layout/hash.h"
#include "shmstate/detail/buffer_view.h"
#include "shmstate/key.h"

namespace shmstate::internal {

class KeyHints {
 public:
  /// Forgets what belongs to another instance, and makes sure that the hash is known.
  static HashedKey hashed(Key& key, const layout::Id& instance_id, std::uint64_t seed) noexcept {
    if (key.instance_id_ != instance_id) {
      key.instance_id_ = instance_id;
      key.hash_ = hash_key(key.bytes_, seed);
      key.place_ = 0;
    }
    return {.bytes = key.bytes_, .hash = key.hash_};
  }
  static void set_place(Key& key, const Place& at) noexcept { key.place_ = at.pack(); }
  [[nodiscard]] static Place location(const Key& key) noexcept { return Place::unpack(key.place_); }
};

}  // namespace shmstate::internal
