// A place in the history of an instance: what a program keeps in order to continue from there.
#pragma once

#include <array>
#include <compare>
#include <cstdint>

namespace shmstate {

/// The number of a publish. It only grows, also across restarts of the merger, until the instance is re-created.
using Epoch = std::uint64_t;

/// What an instance is told apart by from all others, also from one re-created at the same path.
using InstanceId = std::array<std::uint8_t, 16>;

/// After the publish `epoch` of one instance. By default nowhere: before all that any instance publishes. Plain data,
/// which may be stored and sent.
struct Position {
  InstanceId instance{};  ///< all zeros: nowhere
  Epoch epoch = 0;

  [[nodiscard]] friend constexpr bool operator==(const Position&, const Position&) noexcept = default;
  /// Positions of different instances are unordered, but for nowhere, which is before all others.
  [[nodiscard]] friend constexpr std::partial_ordering operator<=>(const Position& a, const Position& b) noexcept {
    if (a.instance == b.instance) return a.epoch <=> b.epoch;
    if (a == Position{}) return std::partial_ordering::less;
    return b == Position{} ? std::partial_ordering::greater : std::partial_ordering::unordered;
  }
};

}  // namespace shmstate
