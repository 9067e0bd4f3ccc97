// How large a batch the merger takes, for programs that would rather know before they push it.
#pragma once

#include <cstdint>

namespace shmstate {

/// So many bytes for each mutation that a batch might have: `shmstate-merger --batch-max`, docs/operations.md.
inline constexpr std::uint64_t kBytesPerMutationOfBatch = 512;

/// `bytes` are those in the ring; `count_max` is what `Writer::batch_max` says. One mutation alone is never too much.
[[nodiscard]] constexpr bool fits_batch(std::uint64_t count, std::uint64_t bytes, std::uint64_t count_max) noexcept {
  return count <= 1 || (count <= count_max && bytes / kBytesPerMutationOfBatch <= count_max);
}

}  // namespace shmstate
