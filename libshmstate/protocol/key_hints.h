// What a bound key remembers, for the libraries.
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
      key.remember(0);
      key.uses_left_ = 0;
    }
    return {.bytes = key.bytes_, .hash = key.hash_};
  }
  [[nodiscard]] static std::uint64_t place(const Key& key) noexcept { return key.place_; }
  static void set_place(Key& key, const Place& at) noexcept { key.remember(at.pack()); }
  [[nodiscard]] static Place location(const Key& key) noexcept { return Place::unpack(key.place_); }
  /// True at the first use and then now and then: time to look where the key is.
  [[nodiscard]] static bool must_look(Key& key) noexcept {
    constexpr std::int32_t kUsesPerLook = 4096;
    if (--key.uses_left_ >= 0) return false;
    key.uses_left_ = kUsesPerLook;
    return true;
  }
};

}  // namespace shmstate::internal
