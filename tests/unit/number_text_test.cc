// Text becomes numbers as docs/numbers.md says: each row of its table, and its grammar for whatever else.
#include "support/number_text.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "harness/test_instance.h"

namespace shmstate {
using namespace internal;
namespace {

using test::Random;

// ---- the page

const std::string& page() {
  static const std::string contents = [] {
    std::ostringstream text;
    text << std::ifstream(SHMSTATE_NUMBERS_PAGE).rdbuf();
    return text.str();
  }();
  return contents;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream input(text);
  for (std::string line; std::getline(input, line);) lines.push_back(line);
  return lines;
}

struct Row {
  std::string text;
  std::string untyped;
  std::string number;
  std::string as_float;
};

std::vector<Row> rows() {
  static const std::regex row(R"(\| `(.+)` \| (.+) \| (.+) \| (.+) \|)");
  std::vector<Row> rows;
  for (const std::string& line : lines_of(page())) {
    std::smatch cells;
    if (std::regex_match(line, cells, row)) rows.push_back({cells[1], cells[2], cells[3], cells[4]});
  }
  return rows;
}

/// The expression that the page gives under this name.
std::regex expression(const std::string& name) {
  for (const std::string& line : lines_of(page())) {
    std::istringstream words(line);
    std::string first;
    std::string second;
    if (line.starts_with("    ") && words >> first >> second && first == name) return std::regex(second);
  }
  ADD_FAILURE() << "docs/numbers.md has no expression for " << name;
  return {};
}

// ---- what a reading is, as a cell says it

std::string number_of(const NumberText& read) {
  std::ostringstream text;
  text.precision(17);
  if (read.value.type() == Type::kInt64) {
    text << "integer " << read.value.int64();
  } else if (std::isnan(read.value.float64())) {
    text << "float nan";
  } else {
    text << "float " << read.value.float64();
  }
  return text.str();
}

std::string cell_of(const NumberText& read, const std::string& none) {
  switch (read.kind) {
    case NumberKind::kNone: return none;
    case NumberKind::kInteger:
    case NumberKind::kFloat: return number_of(read);
    case NumberKind::kIntegerOutOfRange:
    case NumberKind::kFloatOutOfRange: return "too large";
  }
  return "?";
}

/// A cell with its float as `number_of` spells it.
std::string spelled(const std::string& cell) {
  if (!cell.starts_with("float ")) return cell;
  return number_of({NumberKind::kFloat, std::strtod(cell.c_str() + 6, nullptr)});
}

TEST(NumberText, EveryRowOfTheTableHolds) {
  const std::vector<Row> table = rows();
  ASSERT_GT(table.size(), 50U);
  for (const Row& row : table) {
    EXPECT_EQ(cell_of(recognise_number(row.text), "text"), spelled(row.untyped)) << row.text;
    EXPECT_EQ(cell_of(read_number(row.text), "no"), spelled(row.number)) << row.text;
    EXPECT_EQ(cell_of(read_float(row.text), "no"), spelled(row.as_float)) << row.text;
  }
}

// ---- the grammar, read independently

bool is_float_zero(const std::string& text) {
  return text.substr(0, text.find_first_of("eE")).find_first_of("123456789") == std::string::npos;
}

NumberText expected_float(const std::string& text) {
  const double value = std::strtod(text.c_str(), nullptr);
  const bool is_word = text.find_first_of("nN") != std::string::npos;
  const bool fits = is_word || (std::isfinite(value) && (value != 0 || is_float_zero(text)));
  return fits ? NumberText{NumberKind::kFloat, value} : NumberText{NumberKind::kFloatOutOfRange, {}};
}

NumberText expected_integer(const std::string& text) {
  const bool is_negative = text.front() == '-';
  const std::string digits = text.substr(text.find_first_not_of("+-"));
  const bool is_hexadecimal = digits.size() > 2 && (digits[1] == 'x' || digits[1] == 'X');
  errno = 0;
  const std::string to_read = (is_negative ? "-" : "") + (is_hexadecimal ? digits.substr(2) : digits);
  const long long value = std::strtoll(to_read.c_str(), nullptr, is_hexadecimal ? 16 : 10);
  return errno == ERANGE ? NumberText{NumberKind::kIntegerOutOfRange, {}} : NumberText{NumberKind::kInteger, value};
}

bool is_same(const NumberText& a, const NumberText& b) {
  if (a.kind != b.kind) return false;
  if (a.kind != NumberKind::kFloat || std::isnan(a.value.float64())) return test::is_same(a.value, b.value);
  return std::bit_cast<std::uint64_t>(a.value.float64()) == std::bit_cast<std::uint64_t>(b.value.float64());
}

struct Grammar {
  std::regex integer = expression("integer");
  std::regex floating = expression("float");
  std::regex any_integer = expression("integer!");
  std::regex any_float = expression("float!");

  void expect(const std::string& text) const {
    NumberText untyped;
    if (std::regex_match(text, floating)) untyped = expected_float(text);
    if (std::regex_match(text, integer)) untyped = expected_integer(text);
    EXPECT_TRUE(is_same(recognise_number(text), untyped)) << '"' << text << "\" without a type";
    NumberText as_float;
    if (std::regex_match(text, any_float)) as_float = expected_float(text);
    EXPECT_TRUE(is_same(read_float(text), as_float)) << '"' << text << "\" as a float";
    const NumberText number = std::regex_match(text, any_integer) ? expected_integer(text) : as_float;
    EXPECT_TRUE(is_same(read_number(text), number)) << '"' << text << "\" as a number";
  }
};

/// A row's text with some bytes changed, or pieces of numbers one after the other.
std::string random_text(Random& random, const std::vector<Row>& table) {
  static constexpr std::string_view kBytes = "0000123456789+--..eExXaAfFinIN_, \n\xC3";
  static constexpr std::array<std::string_view, 20> kPieces{"-",
                                                            "+",
                                                            "0",
                                                            "00",
                                                            "1",
                                                            "7",
                                                            "10",
                                                            "9223372036854775807",
                                                            "9223372036854775808",
                                                            ".",
                                                            ".5",
                                                            "e",
                                                            "E-",
                                                            "e+30",
                                                            "0x",
                                                            "nan",
                                                            "Inf",
                                                            "inity",
                                                            "e308",
                                                            "e-308"};
  std::string text;
  if (random.chance(50)) {
    for (std::size_t i = random.between(1, 5); i > 0; --i) text += kPieces[random.below(kPieces.size())];
    return text;
  }
  text = table[random.below(table.size())].text;
  for (std::size_t i = random.between(1, 3); i > 0; --i) {
    const std::size_t at = random.below(text.size() + 1);
    text.replace(at, random.below(2), random.below(2), kBytes[random.below(kBytes.size())]);
  }
  return text;
}

TEST(NumberText, TheGrammarHoldsForAnyText) {
  const Grammar grammar;
  const std::vector<Row> table = rows();
  Random random(4100);
  grammar.expect("");
  for (int i = 0; i < test::steps(20'000) && !::testing::Test::HasFailure(); ++i) {
    grammar.expect(random_text(random, table));
  }
}

// Nothing of the look of an unquoted number is lost but zeros behind it, a point without digits, and the exponent's.
TEST(NumberText, NoTextWithNeedlessZerosIsANumberWithoutAType) {
  for (const std::string_view number : {"0", "7", "4.10", "0.5", "0e1", "12e45", "9223372036854775808"}) {
    for (const std::string_view sign : {"", "-"}) {
      const std::string text = std::string(sign) + "0" + std::string(number);
      EXPECT_EQ(recognise_number(text).kind, NumberKind::kNone) << text;
      EXPECT_NE(read_number(text).kind, NumberKind::kNone) << text;
    }
  }
}

}  // namespace
}  // namespace shmstate
