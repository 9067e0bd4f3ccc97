#include "support/number_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>

namespace shmstate {
namespace {

constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }

struct Signed {
  bool negative = false;
  std::string_view magnitude;
};

Signed split_sign(std::string_view text) {
  const bool has_sign = text.starts_with('-') || text.starts_with('+');
  return {text.starts_with('-'), text.substr(has_sign ? 1 : 0)};
}

NumberText make_integer(bool negative, std::uint64_t magnitude) {
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (magnitude > kMax + (negative ? 1 : 0)) return {NumberKind::kIntegerOutOfRange, {}};
  return {NumberKind::kInteger, static_cast<std::int64_t>(negative ? 0 - magnitude : magnitude)};
}

NumberText parse_integer(bool negative, std::string_view digits, int base) {
  const char* end = digits.data() + digits.size();
  std::uint64_t magnitude = 0;
  const auto [stop, error] = std::from_chars(digits.data(), end, magnitude, base);
  if (stop != end || error == std::errc::invalid_argument) return {};
  if (error == std::errc::result_out_of_range) return {NumberKind::kIntegerOutOfRange, {}};
  return make_integer(negative, magnitude);
}

NumberText parse_float(bool negative, std::string_view digits) {
  const char* end = digits.data() + digits.size();
  double magnitude = 0;
  const auto [stop, error] = std::from_chars(digits.data(), end, magnitude);
  if (stop != end || error == std::errc::invalid_argument) return {};
  if (error == std::errc::result_out_of_range) return {NumberKind::kFloatOutOfRange, {}};
  return {NumberKind::kFloat, negative ? -magnitude : magnitude};
}

bool is_word(std::string_view text, std::string_view lower_case) {
  return std::ranges::equal(text, lower_case, [](char c, char lower) { return (c | 0x20) == lower; });
}

NumberText parse_float_word(bool negative, std::string_view word) {
  double magnitude = 0;
  if (is_word(word, "nan")) {
    magnitude = std::numeric_limits<double>::quiet_NaN();
  } else if (is_word(word, "inf") || is_word(word, "infinity")) {
    magnitude = std::numeric_limits<double>::infinity();
  } else {
    return {};
  }
  return {NumberKind::kFloat, std::copysign(magnitude, negative ? -1.0 : 1.0)};
}

bool has_needless_zeros(std::string_view magnitude) {
  return magnitude.size() > 1 && magnitude[0] == '0' && is_digit(magnitude[1]);
}

}  // namespace

NumberText recognise_number(std::string_view text) noexcept {
  const bool negative = text.starts_with('-');
  const std::string_view magnitude = text.substr(negative ? 1 : 0);
  if (magnitude.empty() || !(is_digit(magnitude.front()) || magnitude.front() == '.')) return {};
  if (has_needless_zeros(magnitude)) return {};
  const NumberText integer = parse_integer(negative, magnitude, 10);
  return integer.kind == NumberKind::kNone ? parse_float(negative, magnitude) : integer;
}

NumberText read_number(std::string_view text) noexcept {
  const auto [negative, magnitude] = split_sign(text);
  if (magnitude.starts_with("0x") || magnitude.starts_with("0X")) {
    return parse_integer(negative, magnitude.substr(2), 16);
  }
  const NumberText integer = parse_integer(negative, magnitude, 10);
  return integer.kind == NumberKind::kNone ? read_float(text) : integer;
}

NumberText read_float(std::string_view text) noexcept {
  const auto [negative, magnitude] = split_sign(text);
  if (magnitude.empty()) return {};
  if (is_digit(magnitude.front()) || magnitude.front() == '.') return parse_float(negative, magnitude);
  return parse_float_word(negative, magnitude);
}

}  // namespace shmstate
