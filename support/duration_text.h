// Durations as people write them.
#pragma once

#include <chrono>
#include <optional>
#include <string_view>

namespace shmstate {

/// A number with a unit ("250ms", "1.5s", "2 min"); without one it means seconds. Nothing when it is neither, and for
/// what is not zero, but rounds to zero nanoseconds.
[[nodiscard]] std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text) noexcept;

}  // namespace shmstate
