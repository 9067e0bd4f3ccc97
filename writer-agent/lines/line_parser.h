// The line protocol: from the bytes of one line to a command, or to the reason why it is none.
//
//   set KEY VALUE     add KEY N     del KEY     begin / commit / abort     flush     KEY=VALUE     # comment
//
// and behind VALUE: ttl=DURATION version=N ephemeral; behind the KEY of del: version=N.
//
// A pure function of its input: any bytes are fine, nothing is allocated, and what it returns points into the line or
// into the scratch space. docs/agent.md is the reference for people.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shmstate/value.h"
#include "shmstate/writer.h"

namespace shmstate::agent {

enum class Verb : std::uint8_t { kNothing, kSet, kAdd, kErase, kBegin, kCommit, kAbort, kFlush };

struct Command {
  Verb verb = Verb::kNothing;
  std::string_view key;
  ValueView value;     // of kSet and kAdd
  SetOptions options;  // of kSet; of kErase its version only
};

enum class FixedType : std::uint8_t { kText, kInteger, kFloat };

/// The types that keys get by how they begin, whatever their values look like.
class TypeRules {
 public:
  void add(std::string prefix, FixedType type);
  /// That of the longest prefix which fits, or nothing.
  [[nodiscard]] const FixedType* find(std::string_view key) const noexcept;

 private:
  struct Rule {
    std::string prefix;
    FixedType type;
  };
  std::vector<Rule> rules_;  // the longest prefix first
};

/// What is decided about the lines of a source beforehand.
struct LineRules {
  TypeRules types;
  SetOptions defaults;  ///< for what a line does not say itself
};

enum class LineError : std::uint8_t {
  kNone = 0,
  kUnknownCommand,
  kKeyMissing,
  kKeyEmpty,
  kKeyTooLong,
  kEqualsAfterKey,
  kValueMissing,
  kValueTooBig,
  kNotInteger,
  kNotNumber,
  kIntegerOutOfRange,
  kFloatOutOfRange,
  kStrayQuote,
  kOpenQuote,
  kTextAfterQuote,
  kBadEscape,
  kTrailingText,
  kTimeToLive,
  kVersion,
  kOptionTwice,
  kOptionElsewhere,
  kNotToAdd,
  kTypeIsFixed,
  kFixedAsText,
  kLineTooLong,
  kUtf16,
};

/// What is wrong with the line, and what to do about it.
[[nodiscard]] std::string_view describe(LineError error) noexcept;

/// A line with every byte of the longest key and the longest value escaped, and room for the command, options and
/// blanks.
inline constexpr std::size_t kLineBytesMax = 4 * (kKeyBytesMax + kValueBytesMax) + 256;

/// Where keys and values that contain escapes are put together. Reused for every line.
class Scratch {
 public:
  Scratch() : bytes_(std::make_unique_for_overwrite<char[]>(kKeyBytesMax + kValueBytesMax)) {}
  [[nodiscard]] char* key() noexcept { return bytes_.get(); }
  [[nodiscard]] char* value() noexcept { return bytes_.get() + kKeyBytesMax; }

 private:
  std::unique_ptr<char[]> bytes_;
};

struct ParsedLine {
  LineError error = LineError::kNone;
  Command command;  // of verb kNothing for an empty line, a comment, and an error
};

/// Parses a line without its newline. The views in the result live as long as `line`, and until `scratch` is used
/// again.
[[nodiscard]] ParsedLine parse_line(std::string_view line, Scratch& scratch, const LineRules& rules) noexcept;

/// The value of `ttl=`, and of `version=`; nothing when it is none.
[[nodiscard]] std::optional<std::chrono::nanoseconds> parse_time_to_live(std::string_view text) noexcept;
[[nodiscard]] std::optional<std::uint64_t> parse_version(std::string_view text) noexcept;

}  // namespace shmstate::agent
