// Keys for which the hash was chosen first. XXH3 of 8 bytes is a bijection, and each of its steps can be undone: so
// whoever can read the seed of an instance can do this.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "layout/hash.h"

namespace shmstate::test {

class ChosenKeys {
 public:
  explicit ChosenKeys(std::uint64_t seed)
      : flipped_(undo_mix(internal::hash_key({"\0\0\0\0\0\0\0\0", kKeyBytes}, seed))) {}

  /// The key of 8 bytes that has this hash.
  [[nodiscard]] std::string with_hash(std::uint64_t hash) const {
    const std::uint64_t word = std::rotl(undo_mix(hash) ^ flipped_, 32);  // the first four bytes are the high half
    std::string key(kKeyBytes, '\0');
    std::memcpy(key.data(), &word, kKeyBytes);
    return key;
  }

 private:
  static constexpr std::size_t kKeyBytes = 8;

  // Of XXH3_rrmxmx, step by step from the last.
  [[nodiscard]] static std::uint64_t undo_mix(std::uint64_t hash) noexcept {
    constexpr std::uint64_t kPrime = 0x9fb2'1c65'1e98'df25;
    hash ^= hash >> 28 ^ hash >> 56;
    hash *= inverse_of(kPrime);
    hash ^= (hash >> 35) + kKeyBytes;
    hash *= inverse_of(kPrime);
    // x + rotl(x, 49) + rotl(x, 24), over GF(2), is the identity when it is applied 64 times.
    for (int i = 0; i < 63; ++i) hash ^= std::rotl(hash, 49) ^ std::rotl(hash, 24);
    return hash;
  }
  // Newton's method, modulo a power of two.
  [[nodiscard]] static constexpr std::uint64_t inverse_of(std::uint64_t odd) noexcept {
    std::uint64_t inverse = odd;
    for (int i = 0; i < 6; ++i) inverse *= 2 - odd * inverse;
    return inverse;
  }

  std::uint64_t flipped_;
};

}  // namespace shmstate::test
