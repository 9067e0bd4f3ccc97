// Text for terminals: foreign bytes made harmless, durations and sizes made readable, cells set in columns.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "support/units.h"

namespace shmstate::ctl {

/// The size of the UTF-8 sequence that `bytes` begins with (1 to 4), or 0 when it begins with none.
[[nodiscard]] std::size_t utf8_sequence_bytes(std::string_view bytes) noexcept;
/// The character that such a sequence means.
[[nodiscard]] char32_t code_point(std::string_view sequence) noexcept;
[[nodiscard]] bool is_utf8(std::string_view bytes) noexcept;

/// `bytes` with everything escaped that a terminal could act upon: control characters, characters that turn the
/// direction of text, and what is not UTF-8, as \n, \t, \r or \xNN; a backslash becomes two.
[[nodiscard]] std::string escaped(std::string_view bytes);
/// The bytes that `escaped` made `text` of; nothing when a backslash begins no escape.
[[nodiscard]] std::optional<std::string> unescaped(std::string_view text);
/// As `escaped`, but backslashes stay: for messages, whose parts may be escaped already.
[[nodiscard]] std::string printable(std::string_view message);
/// As `escaped`, in double quotes, for messages.
[[nodiscard]] std::string in_quotes(std::string_view bytes);

/// For example "340 ns", "4.2 s" or "3 min 5 s".
[[nodiscard]] std::string format_duration(std::chrono::nanoseconds duration);
/// For example "512 B" or "12.0 MiB".
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);
/// For example "950", "12.3k" or "4.20M".
[[nodiscard]] std::string format_rate(double per_s);
/// A whole number of 0 or more.
[[nodiscard]] std::optional<std::uint64_t> parse_version(std::string_view text);
/// A whole number of 1 or more.
[[nodiscard]] std::optional<std::uint64_t> parse_count(std::string_view text);

/// The number of characters, for text that is UTF-8.
[[nodiscard]] std::size_t character_count(std::string_view utf8) noexcept;
/// `cell` with spaces behind it, to `width` characters, and two more that part it from the next cell.
[[nodiscard]] std::string padded(std::string cell, std::size_t width);

inline constexpr std::size_t kColumnWidthMax = 48;  // a wider cell pushes the rest of its line to the right

/// Rows of cells as lines, each column as wide as its widest cell, but at most `width_max`. The last column is not
/// padded.
[[nodiscard]] std::string format_columns(const std::vector<std::vector<std::string>>& rows,
                                         std::size_t width_max = kColumnWidthMax);

}  // namespace shmstate::ctl
