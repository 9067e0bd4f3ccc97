#include "support/units.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <system_error>

#include "support/escape.h"

namespace shmstate {
namespace {

using std::chrono::nanoseconds;

constexpr std::string_view kBlanks = " \t";

std::string_view trimmed(std::string_view text) noexcept {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

constexpr bool is_letter(char c) noexcept { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

struct Amount {
  std::string_view number;
  std::string_view unit;
};

/// The letters at the end are the unit, also of a hexadecimal number.
Amount split(std::string_view text) noexcept {
  text = trimmed(text);
  std::size_t digits = text.size();
  while (digits > 0 && is_letter(text[digits - 1])) --digits;
  return {trimmed(text.substr(0, digits)), text.substr(digits)};
}

bool take_hexadecimal_mark(std::string_view& number) noexcept {
  if (!number.starts_with("0x") && !number.starts_with("0X")) return false;
  number.remove_prefix(2);
  return true;
}

template <class Number, class Notation>
std::optional<Number> parse_all(std::string_view text, Notation notation) noexcept {
  Number number{};
  if (text.starts_with('-')) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, notation);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

std::optional<double> parse_number(std::string_view text) noexcept {
  text.remove_prefix(text.starts_with('+') ? 1 : 0);
  const auto notation = take_hexadecimal_mark(text) ? std::chars_format::hex : std::chars_format::general;
  const auto number = parse_all<double>(text, notation);
  return number && std::isfinite(*number) ? number : std::nullopt;
}

std::optional<std::uint64_t> parse_whole_number(std::string_view text) noexcept {
  text.remove_prefix(text.starts_with('+') ? 1 : 0);
  return parse_all<std::uint64_t>(text, take_hexadecimal_mark(text) ? 16 : 10);
}

struct DurationUnit {
  std::string_view name;
  double ns;
};
constexpr std::array<DurationUnit, 7> kDurationUnits = {
    {{"", 1e9}, {"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}}};
constexpr double kLongestNs = 1e18;  // some thirty years; sums of a few still fit

constexpr char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

/// The power of two that a unit of size is: k, kb, ki, kib, and so on.
std::optional<unsigned> shift_of(std::string_view unit) noexcept {
  if (unit.empty() || (unit.size() == 1 && lower(unit[0]) == 'b')) return 0;
  const std::size_t power = std::string_view("kmgtpe").find(lower(unit[0]));
  unit.remove_prefix(1);
  if (!unit.empty() && lower(unit[0]) == 'i') unit.remove_prefix(1);
  if (!unit.empty() && lower(unit[0]) == 'b') unit.remove_prefix(1);
  if (power == std::string_view::npos || !unit.empty()) return std::nullopt;
  return static_cast<unsigned>(10 * (power + 1));
}

std::optional<std::uint64_t> whole_bytes(double bytes) noexcept {
  constexpr double kTooMany = 0x1p64;
  if (bytes >= kTooMany || bytes != std::floor(bytes)) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

bool is_negative(std::string_view text) noexcept { return trimmed(text).starts_with('-'); }

}  // namespace

std::optional<nanoseconds> parse_duration(std::string_view text) noexcept {
  const Amount amount = split(text);
  const auto* const unit = std::find_if(kDurationUnits.begin(), kDurationUnits.end(),
                                        [&](const DurationUnit& known) { return known.name == amount.unit; });
  const std::optional<double> number = parse_number(amount.number);
  if (unit == kDurationUnits.end() || !number || *number * unit->ns > kLongestNs) return std::nullopt;
  const nanoseconds duration(std::llround(*number * unit->ns));
  const bool is_lost = *number > 0 && duration == nanoseconds::zero();
  return is_lost ? std::nullopt : std::optional(duration);
}

std::optional<std::uint64_t> parse_size(std::string_view text) noexcept {
  const Amount amount = split(text);
  const std::optional<unsigned> shift = shift_of(amount.unit);
  if (!shift) return std::nullopt;
  if (const std::optional<std::uint64_t> count = parse_whole_number(amount.number)) {
    return *count <= std::numeric_limits<std::uint64_t>::max() >> *shift ? std::optional(*count << *shift)
                                                                         : std::nullopt;
  }
  const std::optional<double> number = parse_number(amount.number);
  return number ? whole_bytes(std::ldexp(*number, static_cast<int>(*shift))) : std::nullopt;
}

std::string duration_problem(std::string_view text) {
  if (is_negative(text)) return "must not be negative";
  return excerpt(text) + " is not a duration; write for example 250ms or 2s";
}

std::string size_problem(std::string_view text) {
  if (is_negative(text)) return "must not be negative";
  return excerpt(text) + " is not a size; write for example 64k or 512m";
}

std::string duration_text(nanoseconds duration) {
  std::int64_t count = duration.count();
  std::size_t unit = 0;
  constexpr std::array<std::string_view, 4> kUnits = {"ns", "us", "ms", "s"};
  for (; (count == 0 || count % 1000 == 0) && unit + 1 < kUnits.size(); ++unit) count /= 1000;
  return std::to_string(count).append(kUnits[unit]);
}

std::string size_text(std::uint64_t bytes) {
  constexpr std::string_view kUnits = "kmgtpe";
  const auto power = bytes == 0 ? 0 : std::min<std::size_t>(std::countr_zero(bytes) / 10, kUnits.size());
  const std::string number = std::to_string(bytes >> (10 * power));
  return power == 0 ? number : number + kUnits[power - 1];
}

}  // namespace shmstate
