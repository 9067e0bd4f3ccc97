#include "show/value_text.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

#include "show/text.h"
#include "support/number_text.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

NumberText read_as(std::string_view text, Type type) {
  if (type == Type::kFloat64) return read_float(text);
  const NumberText number = read_number(text);
  const bool is_integer = number.kind == NumberKind::kInteger || number.kind == NumberKind::kIntegerOutOfRange;
  return is_integer ? number : NumberText{};
}

Value value_of(const NumberText& number, std::string_view text, std::string_view wanted) {
  switch (number.kind) {
    case NumberKind::kInteger:
    case NumberKind::kFloat: return number.value.to_value();
    case NumberKind::kNone: break;
    case NumberKind::kIntegerOutOfRange:
    case NumberKind::kFloatOutOfRange:
      throw UsageError(fmt::format("value {} does not fit 64 bits; choose another --type", in_quotes(text)));
  }
  throw UsageError(
      fmt::format("value {} is no {}; write one that is, or choose another --type", in_quotes(text), wanted));
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
  if (forced == Type::kBytes) return std::string(text);
  if (forced) return parse_number(text, forced);
  const NumberText number = recognise_number(text);
  return number.kind == NumberKind::kNone ? std::string(text) : value_of(number, text, "number");
}

Value parse_number(std::string_view text, std::optional<Type> forced) {
  const NumberText number = forced ? read_as(text, *forced) : read_number(text);
  return value_of(number, text, forced ? type_name(*forced) : "number");
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
