// Which buffer is current, and whether what was read from it was whole: the reader's half of the publish protocol,
// which protocol/publish.h explains. Templates for the same reason.
#pragma once

#include <atomic>
#include <cstdint>

#include "shmstate/detail/buffer_layout.h"

namespace shmstate::internal {

/// One buffer at one epoch.
struct Version {
  std::uint64_t epoch = 0;
  std::uint32_t buffer = 0;

  [[nodiscard]] static constexpr Version unpack(std::uint64_t word) noexcept {
    return {.epoch = word >> layout::kBufferBits,
            .buffer = static_cast<std::uint32_t>(word & (layout::kBuffersMax - 1))};
  }
  [[nodiscard]] constexpr std::uint64_t pack() const noexcept { return epoch << layout::kBufferBits | buffer; }
};

template <typename P>
[[nodiscard]] Version current_version(const P& publication) noexcept {
  return Version::unpack(publication.epoch_word.load(std::memory_order_acquire));  // pair: epoch_word
}

/// True when everything loaded (with acquire) from a buffer since `current_version` belongs to that epoch; by its
/// stamp.
template <typename Stamp>
[[nodiscard]] bool is_stamp_of(const Stamp& stamp, std::uint64_t epoch) noexcept {
  return stamp.load(std::memory_order_relaxed) == epoch;  // pair: stamp
}
template <typename P>
[[nodiscard]] bool is_intact(const P& publication, Version version) noexcept {
  return is_stamp_of(publication.stamps[version.buffer], version.epoch);
}

/// True until the merger reclaims a buffer that is pinned. That it looks for pins makes no difference to who has one.
template <typename P>
[[nodiscard]] bool is_kept(const P& publication, Version pinned) noexcept {
  return (publication.stamps[pinned.buffer].load(std::memory_order_relaxed) & ~layout::kClaimed) == pinned.epoch;
}

}  // namespace shmstate::internal
