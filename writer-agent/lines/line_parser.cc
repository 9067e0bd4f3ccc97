#include "lines/line_parser.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "support/byte_order_mark.h"
#include "support/escape.h"
#include "support/number_text.h"
#include "support/units.h"

namespace shmstate::agent {
namespace {

/// How the bytes of a value become a typed value.
enum class Typing : std::uint8_t { kRecognise, kBytes, kInteger, kFloat, kNumber };
enum class Operands : std::uint8_t { kNone, kKey, kKeyValue };

struct CommandSpec {
  std::string_view name;
  Verb verb;
  Operands operands = Operands::kNone;
  Typing typing = Typing::kRecognise;
};

constexpr CommandSpec kSet{"set", Verb::kSet, Operands::kKeyValue, Typing::kRecognise};

constexpr std::array kCommands{
    kSet,
    CommandSpec{"add", Verb::kAdd, Operands::kKeyValue, Typing::kNumber},
    CommandSpec{"del", Verb::kErase, Operands::kKey},
    CommandSpec{"begin", Verb::kBegin},
    CommandSpec{"commit", Verb::kCommit},
    CommandSpec{"abort", Verb::kAbort},
    CommandSpec{"flush", Verb::kFlush},
    CommandSpec{"set:s", Verb::kSet, Operands::kKeyValue, Typing::kBytes},
    CommandSpec{"set:i", Verb::kSet, Operands::kKeyValue, Typing::kInteger},
    CommandSpec{"set:f", Verb::kSet, Operands::kKeyValue, Typing::kFloat},
    CommandSpec{"add:i", Verb::kAdd, Operands::kKeyValue, Typing::kInteger},
    CommandSpec{"add:f", Verb::kAdd, Operands::kKeyValue, Typing::kFloat},
};

const CommandSpec* find_command(std::string_view name) {
  for (const CommandSpec& spec : kCommands) {
    if (spec.name == name) return &spec;
  }
  return nullptr;
}

constexpr bool is_blank(char c) { return c == ' ' || c == '\t'; }

/// A bounded place for an operand that contains escapes, and the error when it does not fit.
struct OperandSpace {
  char* bytes;
  std::size_t size;
  LineError too_big;
};

struct Operand {
  std::string_view bytes;
  bool quoted = false;
};

/// Walks over the line from left to right. The first thing that is wrong sticks in `error()`.
class Cursor {
 public:
  explicit Cursor(std::string_view line) : at_(line.data()), end_(line.data() + line.size()) {}

  [[nodiscard]] LineError error() const { return error_; }
  [[nodiscard]] bool at_end() const { return at_ == end_; }
  [[nodiscard]] bool at(char c) const { return at_ != end_ && *at_ == c; }

  void skip_blanks() {
    while (at_ != end_ && is_blank(*at_)) ++at_;
  }
  void skip_one() { ++at_; }

  /// A word that ends before a blank, a quote, or `=`.
  std::string_view take_word() {
    return take_while([](char c) { return !is_blank(c) && c != '"' && c != '='; });
  }

  Operand take_key(OperandSpace space) {
    if (at('"')) return {take_quoted(space), true};
    const std::string_view key = take_word();
    if (at('"')) return fail(LineError::kStrayQuote);
    if (key.size() > space.size) return fail(space.too_big);
    return {key, false};
  }

  Operand take_value(OperandSpace space) {
    if (at('"')) return {take_quoted(space), true};
    const std::string_view value = take_while([](char c) { return !is_blank(c) && c != '"'; });
    if (at('"')) return fail(LineError::kStrayQuote);
    if (value.size() > space.size) return fail(space.too_big);
    return {value, false};
  }

  /// The word up to a blank.
  std::string_view take_option() {
    return take_while([](char c) { return !is_blank(c); });
  }

  Operand fail(LineError error) {
    if (error_ == LineError::kNone) error_ = error;
    return {};
  }

 private:
  template <typename Predicate>
  std::string_view take_while(Predicate belongs) {
    const char* const first = at_;
    while (at_ != end_ && belongs(*at_)) ++at_;
    return {first, static_cast<std::size_t>(at_ - first)};
  }

  std::string_view take_quoted(OperandSpace space) {
    skip_one();
    const std::string_view plain = take_while([](char c) { return c != '"' && c != '\\'; });
    if (plain.size() > space.size) return fail(space.too_big).bytes;
    const std::string_view bytes = at('\\') ? take_escaped(plain, space) : plain;
    if (error_ != LineError::kNone) return {};
    if (at_end()) return fail(LineError::kOpenQuote).bytes;
    skip_one();
    if (!at_end() && !is_blank(*at_) && !at('=')) return fail(LineError::kTextAfterQuote).bytes;
    return bytes;
  }

  std::string_view take_escaped(std::string_view plain, OperandSpace space) {
    std::size_t used = plain.copy(space.bytes, plain.size());
    while (at_ != end_ && *at_ != '"') {
      const std::optional<char> byte = *at_ == '\\' ? take_escape() : *at_++;
      if (!byte) return fail(LineError::kBadEscape).bytes;
      if (used == space.size) return fail(space.too_big).bytes;
      space.bytes[used++] = *byte;
    }
    return {space.bytes, used};
  }

  std::optional<char> take_escape() {
    skip_one();
    std::string_view rest(at_, static_cast<std::size_t>(end_ - at_));
    const std::optional<char> byte = shmstate::take_escape(rest);
    at_ = rest.data();
    return byte;
  }

  const char* at_;
  const char* end_;
  LineError error_ = LineError::kNone;
};

OperandSpace key_space(Scratch& scratch) { return {scratch.key(), kKeyBytesMax, LineError::kKeyTooLong}; }
OperandSpace value_space(Scratch& scratch) { return {scratch.value(), kValueBytesMax, LineError::kValueTooBig}; }

LineError error_of(NumberKind kind, LineError not_a_number) {
  switch (kind) {
    case NumberKind::kIntegerOutOfRange: return LineError::kIntegerOutOfRange;
    case NumberKind::kFloatOutOfRange: return LineError::kFloatOutOfRange;
    case NumberKind::kNone: return not_a_number;
    default: return LineError::kNone;
  }
}

NumberText number_of(std::string_view text, Typing typing) {
  switch (typing) {
    case Typing::kRecognise: return recognise_number(text);
    case Typing::kFloat: return read_float(text);
    default: return read_number(text);
  }
}

Typing typing_of(FixedType fixed) {
  switch (fixed) {
    case FixedType::kInteger: return Typing::kInteger;
    case FixedType::kFloat: return Typing::kFloat;
    default: return Typing::kBytes;
  }
}

/// How a value is typed whose key has a fixed type.
LineError fix_typing(FixedType fixed, Verb verb, Typing& typing) {
  if (verb == Verb::kAdd && fixed == FixedType::kText) return LineError::kFixedAsText;
  const Typing wanted = typing_of(fixed);
  const bool is_free = typing == Typing::kRecognise || typing == Typing::kNumber;
  if (!is_free && typing != wanted) return LineError::kTypeIsFixed;
  typing = wanted;
  return LineError::kNone;
}

bool is_nan(const ValueView& value) { return value.type() == Type::kFloat64 && std::isnan(value.float64()); }

/// Gives the value its type; on an error, `value` is left alone.
LineError type_value(const Operand& operand, Typing typing, ValueView& value) {
  const std::string_view text = operand.bytes;
  if (typing == Typing::kBytes || (typing == Typing::kRecognise && operand.quoted)) {
    value = text;
    return LineError::kNone;
  }
  const NumberText number = number_of(text, typing);
  if (typing == Typing::kRecognise && number.kind == NumberKind::kNone) {
    value = text;
    return LineError::kNone;
  }
  if (typing == Typing::kInteger && number.kind == NumberKind::kFloat) return LineError::kNotInteger;
  const LineError error =
      error_of(number.kind, typing == Typing::kInteger ? LineError::kNotInteger : LineError::kNotNumber);
  if (error == LineError::kNone) value = number.value;
  return error;
}

ParsedLine finish(Cursor& cursor, const Command& command) {
  cursor.skip_blanks();
  if (cursor.error() == LineError::kNone && !cursor.at_end()) cursor.fail(LineError::kTrailingText);
  if (cursor.error() != LineError::kNone) return {cursor.error(), {}};
  return {LineError::kNone, command};
}

/// Which options a line gave itself.
struct Given {
  bool time_to_live = false;
  bool version = false;
  bool ephemeral = false;
};

LineError take_time_to_live(std::string_view text, Given& given, SetOptions& options) {
  const auto duration = parse_time_to_live(text);
  if (!duration) return LineError::kTimeToLive;
  options.ttl = *duration;
  return std::exchange(given.time_to_live, true) ? LineError::kOptionTwice : LineError::kNone;
}

LineError take_version(std::string_view text, Given& given, SetOptions& options) {
  options.version = parse_version(text);
  if (!options.version) return LineError::kVersion;
  return std::exchange(given.version, true) ? LineError::kOptionTwice : LineError::kNone;
}

LineError take_option(std::string_view word, Verb verb, Given& given, SetOptions& options) {
  constexpr std::string_view kTimeToLive = "ttl=";
  constexpr std::string_view kVersion = "version=";
  const bool is_version = word.starts_with(kVersion);
  const bool is_known = is_version || word.starts_with(kTimeToLive) || word == "ephemeral";
  if (!is_known) return LineError::kTrailingText;
  if (verb == Verb::kAdd || (verb == Verb::kErase && !is_version)) return LineError::kOptionElsewhere;
  if (is_version) return take_version(word.substr(kVersion.size()), given, options);
  if (word.starts_with(kTimeToLive)) return take_time_to_live(word.substr(kTimeToLive.size()), given, options);
  options.ephemeral = true;
  return std::exchange(given.ephemeral, true) ? LineError::kOptionTwice : LineError::kNone;
}

/// What stands behind the last operand, and what the source gives beside it.
void take_options(Cursor& cursor, const SetOptions& defaults, Command& command) {
  if (command.verb == Verb::kSet) command.options = defaults;
  if (command.verb == Verb::kErase) command.options.version = defaults.version;
  Given given;
  for (cursor.skip_blanks(); !cursor.at_end() && cursor.error() == LineError::kNone; cursor.skip_blanks()) {
    cursor.fail(take_option(cursor.take_option(), command.verb, given, command.options));
  }
}

ParsedLine parse_value(Cursor& cursor, Command command, Typing typing, Scratch& scratch, const LineRules& rules) {
  const Operand operand = cursor.take_value(value_space(scratch));
  if (const FixedType* const fixed = rules.types.find(command.key); fixed != nullptr) {
    cursor.fail(fix_typing(*fixed, command.verb, typing));
  }
  if (cursor.error() == LineError::kNone) cursor.fail(type_value(operand, typing, command.value));
  if (command.verb == Verb::kAdd && is_nan(command.value)) cursor.fail(LineError::kNotToAdd);
  take_options(cursor, rules.defaults, command);
  return finish(cursor, command);
}

ParsedLine parse_operands(Cursor& cursor, const CommandSpec& spec, Scratch& scratch, const LineRules& rules) {
  Command command{.verb = spec.verb, .key = {}, .value = {}, .options = {}};
  cursor.skip_blanks();
  if (spec.operands == Operands::kNone) return finish(cursor, command);
  if (cursor.at_end()) return {LineError::kKeyMissing, {}};
  command.key = cursor.take_key(key_space(scratch)).bytes;
  if (cursor.error() != LineError::kNone) return {cursor.error(), {}};
  if (cursor.at('=')) return {LineError::kEqualsAfterKey, {}};
  if (command.key.empty()) return {LineError::kKeyEmpty, {}};
  if (spec.operands == Operands::kKey) {
    take_options(cursor, rules.defaults, command);
    return finish(cursor, command);
  }
  cursor.skip_blanks();
  if (cursor.at_end()) return {LineError::kValueMissing, {}};
  return parse_value(cursor, command, spec.typing, scratch, rules);
}

ParsedLine parse_short_form(Cursor& cursor, std::string_view key, Scratch& scratch, const LineRules& rules) {
  if (!cursor.at('=')) return {LineError::kUnknownCommand, {}};
  if (key.empty()) return {LineError::kKeyEmpty, {}};
  if (key.size() > kKeyBytesMax) return {LineError::kKeyTooLong, {}};
  cursor.skip_one();
  return parse_value(cursor, {.verb = kSet.verb, .key = key, .value = {}, .options = {}}, kSet.typing, scratch, rules);
}

ParsedLine parse_quoted_short_form(Cursor& cursor, Scratch& scratch, const LineRules& rules) {
  const Operand key = cursor.take_key(key_space(scratch));
  if (cursor.error() != LineError::kNone) return {cursor.error(), {}};
  return parse_short_form(cursor, key.bytes, scratch, rules);
}

}  // namespace

void TypeRules::add(std::string prefix, FixedType type) {
  const auto is_shorter = [&](const Rule& rule) { return rule.prefix.size() <= prefix.size(); };
  const auto at = std::ranges::find_if(rules_, is_shorter);
  rules_.insert(at, {std::move(prefix), type});
}

const FixedType* TypeRules::find(std::string_view key) const noexcept {
  for (const Rule& rule : rules_) {
    if (key.starts_with(rule.prefix)) return &rule.type;
  }
  return nullptr;
}

std::optional<std::chrono::nanoseconds> parse_time_to_live(std::string_view text) noexcept {
  const auto duration = parse_duration(text);
  return duration >= std::chrono::milliseconds(1) ? duration : std::nullopt;
}

std::optional<std::uint64_t> parse_version(std::string_view text) noexcept {
  std::uint64_t version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(version) : std::nullopt;
}

ParsedLine parse_line(std::string_view line, Scratch& scratch, const LineRules& rules) noexcept {
  Cursor cursor{line};
  cursor.skip_blanks();
  if (cursor.at_end() || cursor.at('#')) return {};
  if (cursor.at('"')) return parse_quoted_short_form(cursor, scratch, rules);
  const std::string_view word = cursor.take_word();
  if (cursor.at('=')) return parse_short_form(cursor, word, scratch, rules);
  if (cursor.at('"')) return {LineError::kStrayQuote, {}};
  const CommandSpec* spec = find_command(word);
  if (spec == nullptr) return {LineError::kUnknownCommand, {}};
  return parse_operands(cursor, *spec, scratch, rules);
}

std::string_view describe(LineError error) noexcept {
  switch (error) {
    case LineError::kNone: return "ok";
    case LineError::kUnknownCommand:
      return "unknown command; use set, add, del, begin, commit, abort, flush, or KEY=VALUE without blanks around =";
    case LineError::kKeyMissing: return "the key is missing";
    case LineError::kKeyEmpty: return "the key is empty; a key has at least 1 byte";
    case LineError::kKeyTooLong: return "the key is too long; a key has at most 4096 bytes";
    case LineError::kEqualsAfterKey:
      return "= after the key; write KEY=VALUE without a command, or quote a key that contains =";
    case LineError::kValueMissing: return "the value is missing; write \"\" for empty text";
    case LineError::kValueTooBig: return "the value is too big; a value has at most 1 MiB";
    case LineError::kNotInteger: return "the value is not an integer";
    case LineError::kNotNumber: return "the value is not a number";
    case LineError::kIntegerOutOfRange:
      return "the integer does not fit 64 signed bits; set:s keeps it as text, set:f and add:f take it as a float";
    case LineError::kFloatOutOfRange: return "the float does not fit 64 bits; set:s keeps it as text";
    case LineError::kStrayQuote:
      return "a double quote in an unquoted word; quote the whole key or value, with \\\" for the quote";
    case LineError::kOpenQuote: return "the closing double quote is missing";
    case LineError::kTextAfterQuote: return "text follows a closing double quote without a blank";
    case LineError::kBadEscape: return "unknown escape; use \\n \\t \\r \\0 \\\\ \\\" or \\xHH";
    case LineError::kTrailingText:
      return "text after the end of the command; quote a key or value that contains blanks; only ttl=, version= and "
             "ephemeral may follow a value";
    case LineError::kTimeToLive: return "ttl= wants a duration of at least 1 ms, such as 250ms, 5s or 1h";
    case LineError::kVersion: return "version= wants a whole number of at most 64 bits";
    case LineError::kOptionTwice: return "an option is given twice";
    case LineError::kOptionElsewhere:
      return "ttl= and ephemeral belong to set, version= to set and del; add changes none of them";
    case LineError::kNotToAdd: return "what is no number (nan) cannot be added; set takes it";
    case LineError::kTypeIsFixed: return "the type of this key is fixed, and is another one";
    case LineError::kFixedAsText: return "the type of this key is fixed as text, to which nothing can be added";
    case LineError::kLineTooLong: return "the line is too long";
    case LineError::kUtf16: return kUtf16Problem;
  }
  return "unknown error";
}

}  // namespace shmstate::agent
