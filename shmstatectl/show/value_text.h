// Values as people type them, and as they are shown to people.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "shmstate/value.h"

namespace shmstate::ctl {

/// The value that `text` means, of type `forced`, or else of the type that it looks like, by the rules of
/// support/number_text.h. Throws `UsageError` for a number that does not fit its type, and for what is no number where
/// one is forced.
[[nodiscard]] Value parse_value(std::string_view text, std::optional<Type> forced);
/// The number that `text` means, in any notation; of type `forced`, if any. Throws `UsageError`.
[[nodiscard]] Value parse_number(std::string_view text, std::optional<Type> forced);

/// A number in the shortest form that `parse_value` reads back as the same; bytes as they are.
[[nodiscard]] std::string raw_text(ValueView value);
/// As `raw_text`, but escaped for a terminal.
[[nodiscard]] std::string value_text(ValueView value);

}  // namespace shmstate::ctl
