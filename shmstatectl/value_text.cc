#include "shmstatectl/value_text.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <system_error>

#include "shmstatectl/text.h"
#include "shmstatectl/usage.h"

namespace shmstate::ctl {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool looks_like_integer(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  const bool plain = !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  return plain && (text[0] != '0' || text.size() == 1);
}

// Decimal only, and not the words "inf" and "nan": those are more often text.
bool looks_like_float(std::string_view text) {
  const std::string_view digits = text.substr(text.starts_with('-') ? 1 : 0);
  if (digits.empty() || !(is_digit(digits[0]) || digits[0] == '.')) return false;
  if (digits.find_first_of(".eE") == std::string_view::npos) return false;
  double ignored = 0;
  return std::from_chars(text.data(), text.data() + text.size(), ignored).ptr == text.data() + text.size();
}

template <typename T>
T parse_as(std::string_view text, std::string_view type) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range && end == text.data() + text.size())
    throw UsageError(fmt::format("value {} does not fit {}; choose another --type", in_quotes(text), type));
  if (error != std::errc() || end != text.data() + text.size())
    throw UsageError(fmt::format("value {} is no {}; write a number or choose another --type", in_quotes(text), type));
  return value;
}

Type recognised_type(std::string_view text) {
  if (looks_like_integer(text)) return Type::kInt64;
  return looks_like_float(text) ? Type::kFloat64 : Type::kBytes;
}

std::string float_text(double value) {
  std::array<char, 32> buffer;
  char* const end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr;
  std::string text(buffer.data(), end);
  if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
  return text;
}

}  // namespace

Value parse_value(std::string_view text, std::optional<Type> forced) {
  switch (forced.value_or(recognised_type(text))) {
    case Type::kInt64: return parse_as<std::int64_t>(text, "int64");
    case Type::kFloat64: return parse_as<double>(text, "float64");
    default: return std::string(text);
  }
}

Value parse_number(std::string_view text, std::optional<Type> forced) {
  Value value = parse_value(text, forced);
  if (std::holds_alternative<std::string>(value))
    throw UsageError(fmt::format("{} is no number; add takes an integer or a float", in_quotes(text)));
  return value;
}

std::string raw_text(ValueView value) {
  switch (value.type()) {
    case Type::kInt64: return std::to_string(value.int64());
    case Type::kFloat64: return float_text(value.float64());
    case Type::kBytes: return std::string(value.bytes());
    case Type::kNone: break;
  }
  return {};
}

std::string value_text(ValueView value) { return escaped(raw_text(value)); }

}  // namespace shmstate::ctl
