// A segment of the table in its page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/layout.h"

namespace shmstate {

/// Where things are in a segment. `Byte` is `std::byte` for the merger and `const std::byte` for all others.
template <typename Byte>
class SegmentIn {
 public:
  SegmentIn() noexcept = default;
  SegmentIn(Byte* buffer, std::uint64_t page) noexcept
      : page_(buffer + page * layout::kPageBytes), origin_(layout::segment_origin(page)) {}

  /// How many low bits of the hash its keys share.
  [[nodiscard]] auto& depth() const noexcept { return at<std::uint64_t>(0); }
  [[nodiscard]] auto& group(std::uint64_t group) const noexcept {
    return at<layout::TagGroup>(layout::kSegmentGroupsOffset + group * sizeof(layout::TagGroup));
  }
  [[nodiscard]] auto& slot(std::uint64_t slot) const noexcept {
    return at<layout::Slot>(layout::kSegmentSlotsOffset + slot * sizeof(layout::Slot));
  }

 private:
  template <typename T>
  [[nodiscard]] auto& at(std::uint64_t offset) const noexcept {
    using Field = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    return *reinterpret_cast<Field*>(page_ + (origin_ + offset) % layout::kPageBytes);
  }

  Byte* page_ = nullptr;
  std::uint64_t origin_ = 0;
};

using Segment = SegmentIn<const std::byte>;
using MutableSegment = SegmentIn<std::byte>;

}  // namespace shmstate
