// Durations and sizes as people write them: one grammar for all programs, docs/numbers.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace shmstate {

/// A number with a unit ("250ms", "1.5s", "2 min"); without one it means seconds. Nothing when it is neither, is longer
/// than 1e18 ns, or is not zero, but rounds to zero nanoseconds: zero often means never.
[[nodiscard]] std::optional<std::chrono::nanoseconds> parse_duration(std::string_view text) noexcept;

/// A number of bytes, or of a unit that is a power of 1,024 ("64k", "64 KiB", "1.5g"). Nothing when it is neither, is
/// not a whole number of bytes, or does not fit 64 bits.
[[nodiscard]] std::optional<std::uint64_t> parse_size(std::string_view text) noexcept;

/// Why `parse_duration`, or `parse_size`, has nothing: what all programs say behind the name of the option.
[[nodiscard]] std::string duration_problem(std::string_view text);
[[nodiscard]] std::string size_problem(std::string_view text);

/// A duration in the largest unit, up to seconds, that leaves it whole: "50us", "60s".
[[nodiscard]] std::string duration_text(std::chrono::nanoseconds duration);
/// A size in the largest unit that leaves it whole: "64k", "1g", "1000".
[[nodiscard]] std::string size_text(std::uint64_t bytes);

}  // namespace shmstate
