// Which text is a number: the rules by which values get their type.
#pragma once

#include <cstdint>
#include <string_view>

#include "shmstate/value.h"

namespace shmstate {

enum class NumberKind : std::uint8_t {
  kNone,  ///< not a number: text
  kInteger,
  kFloat,
  kIntegerOutOfRange,  ///< written as an integer, but needs more than 64 signed bits
  kFloatOutOfRange,    ///< written as a float, but overflows or underflows 64 bits
};

struct NumberText {
  NumberKind kind = NumberKind::kNone;
  ValueView value;  // of kInteger and kFloat
};

/// What untyped text means: an integer is decimal digits without needless zeros before them, a float has a point or an
/// exponent, too, and both may begin with a minus. Anything else is text, so that `007`, `04.10`, `+49`, `0x1f` and
/// `nan` stay as they are. The grammar, and a table of what becomes what: docs/numbers.md.
[[nodiscard]] NumberText recognise_number(std::string_view text) noexcept;

/// What text means where a number must stand: also leading zeros, a plus, hexadecimal after `0x`, and `nan`, `inf`
/// and `infinity` in any case.
[[nodiscard]] NumberText read_number(std::string_view text) noexcept;

/// As `read_number`, but only floats, and a decimal integer is one.
[[nodiscard]] NumberText read_float(std::string_view text) noexcept;

}  // namespace shmstate
