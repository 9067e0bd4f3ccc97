// The hash of keys: XXH3 (64 bits) by Yann Collet, seeded with random bits of the instance, so that nobody outside can
// prepare collisions. How its bits are used: buffer_place.h.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <string_view>

#include "shmstate/detail/buffer_place.h"

namespace shmstate::internal {

[[nodiscard]] inline std::uint64_t hash_key(std::string_view key, std::uint64_t seed) noexcept {
  return XXH3_64bits_withSeed(key.data(), key.size(), seed);
}

}  // namespace shmstate::internal
