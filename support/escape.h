// Bytes in text: what a backslash begins.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace shmstate {

/// Takes the escape that `text` begins with, behind its backslash: n, t, r, 0, a backslash, a double quote, or x and
/// exactly two hexadecimal digits. Nothing when it is none of these.
[[nodiscard]] std::optional<char> take_escape(std::string_view& text) noexcept;

/// The beginning of what somebody wrote, for a message: in double quotes, with `take_escape`'s escapes for all that is
/// not printable ASCII, and with ... behind when it is cut.
[[nodiscard]] std::string excerpt(std::string_view bytes);

}  // namespace shmstate
