// The mark with which some programs begin a text, to say in which encoding they wrote it.
#pragma once

#include <string_view>

namespace shmstate {

inline constexpr std::string_view kUtf16Problem = "the text is UTF-16 or UTF-32, as its first bytes say; write UTF-8";

/// Whether a text begins with the mark of UTF-16 or UTF-32, which nothing here reads.
[[nodiscard]] constexpr bool has_utf16_mark(std::string_view text) noexcept {
  return text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF") ||
         text.starts_with(std::string_view("\0\0\xFE\xFF", 4));
}

/// A text without the mark of UTF-8 that it may begin with.
[[nodiscard]] constexpr std::string_view without_utf8_mark(std::string_view text) noexcept {
  constexpr std::string_view kMark = "\xEF\xBB\xBF";
  return text.substr(text.starts_with(kMark) ? kMark.size() : 0);
}

}  // namespace shmstate
