// The hash of keys: XXH3 (64 bits) by Yann Collet, seeded with random bits of the instance, so that nobody outside can
// prepare collisions. How its bits are used is part of the layout.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <string_view>

#include "layout/layout.h"

namespace shmstate::internal {

[[nodiscard]] inline std::uint64_t hash_key(std::string_view key, std::uint64_t seed) noexcept {
  return XXH3_64bits_withSeed(key.data(), key.size(), seed);
}

/// The directory entry: as many low bits as the directory is deep.
[[nodiscard]] constexpr std::uint32_t directory_index(std::uint64_t hash, unsigned depth) noexcept {
  return static_cast<std::uint32_t>(hash & ((std::uint64_t{1} << depth) - 1));
}
/// The group where a key's search begins: bits 24 to 55, scaled.
[[nodiscard]] constexpr std::uint32_t home_group(std::uint64_t hash) noexcept {
  return static_cast<std::uint32_t>((((hash >> 24) & 0xffff'ffff) * layout::kSegmentGroups) >> 32);
}
/// Bits 56 to 63; zero means a free slot and is moved to 1.
[[nodiscard]] constexpr std::uint8_t tag_of(std::uint64_t hash) noexcept {
  const auto tag = static_cast<std::uint8_t>(hash >> 56);
  return tag == 0 ? 1 : tag;
}

}  // namespace shmstate::internal
