// The records of the change feed: one for each key that changed in an epoch.
#pragma once

#include <cstdint>

namespace shmstate::internal {

enum class FeedKind : std::uint8_t {
  kChanged = 1,  // body: a packed Place; 2 is no kind any more
  kErased = 3,   // detail: EraseReason; body: bytes of the key, which follows
  kKey = 4,      // body: 8 bytes of the key
};

enum class EraseReason : std::uint8_t { kErase = 0, kExpiry = 1, kOwnerGone = 2 };

struct FeedHead {
  std::uint64_t epoch = 0;
  FeedKind kind = FeedKind::kChanged;
  std::uint8_t detail = 0;

  [[nodiscard]] static constexpr FeedHead unpack(std::uint64_t word) noexcept {
    return {
        .epoch = word >> 12, .kind = static_cast<FeedKind>(word >> 8 & 0xf), .detail = static_cast<std::uint8_t>(word)};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept {
    return epoch << 12 | static_cast<std::uint64_t>(kind) << 8 | detail;
  }
};

}  // namespace shmstate::internal
