// Which text is a number: the rules by which untyped values get their type.
#pragma once

#include <cstdint>
#include <string_view>

#include "shmstate/value.h"

namespace shmstate::agent {

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

/// Integers are decimal (leading zeros mean nothing) or hexadecimal after `0x`; floats have a point or an exponent, or
/// are `inf` or `nan` as the common languages print them. All may have a sign.
[[nodiscard]] NumberText recognise_number(std::string_view text) noexcept;

/// As `recognise_number`, but a decimal integer is a float, too.
[[nodiscard]] NumberText recognise_float(std::string_view text) noexcept;

}  // namespace shmstate::agent
