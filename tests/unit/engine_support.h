// What tests of the merge engine share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "harness/test_instance.h"
#include "layout/layout.h"
#include "protocol/publish.h"

namespace shmstate::test {

inline constexpr std::size_t kSmallRing = kRingBytesMin;

[[nodiscard]] inline std::string numbered(std::string_view prefix, std::size_t number) {
  return std::string(prefix) + std::to_string(number);
}

[[nodiscard]] inline std::vector<layout::RingCursor> published_cursors(TestInstance& instance) {
  InstanceOwner& owner = instance.owner();
  const Version version = current_version(owner.publication());
  const std::byte* const buffer = owner.buffer(version.buffer);
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
  std::vector<layout::RingCursor> used;
  for (std::uint32_t i = 0; i < CursorPages::unpack(header.more_cursors).capacity(); ++i) {
    if (ring_cursor(buffer, i).ring_id != 0) used.push_back(ring_cursor(buffer, i));
  }
  return used;
}

}  // namespace shmstate::test
