// Durations and sizes are read as docs/numbers.md says.
#include "support/units.h"

#include <gtest/gtest.h>

#include <fstream>
#include <initializer_list>
#include <limits>
#include <regex>
#include <string>
#include <vector>

namespace shmstate {
namespace {

using namespace std::chrono_literals;

struct UnitRow {
  std::string text;
  std::string duration;
  std::string size;
};

std::vector<UnitRow> unit_rows() {
  static const std::regex row(R"(\| `([^`|]+)` \| (no|\d+ ns) \| (no|\d+) \|)");
  std::vector<UnitRow> rows;
  std::ifstream page(SHMSTATE_NUMBERS_PAGE);
  for (std::string line; std::getline(page, line);) {
    std::smatch cells;
    if (std::regex_match(line, cells, row)) rows.push_back({cells[1], cells[2], cells[3]});
  }
  return rows;
}

TEST(Units, EveryRowOfTheTableHolds) {
  const std::vector<UnitRow> table = unit_rows();
  ASSERT_GT(table.size(), 40U);
  for (const UnitRow& row : table) {
    const auto duration = parse_duration(row.text);
    EXPECT_EQ(duration ? std::to_string(duration->count()) + " ns" : "no", row.duration) << row.text;
    const auto size = parse_size(row.text);
    EXPECT_EQ(size ? std::to_string(*size) : "no", row.size) << row.text;
  }
}

TEST(Units, WhatIsEmptyIsNeither) {
  for (const char* text : {"", " ", "\t"}) {
    EXPECT_EQ(parse_duration(text), std::nullopt);
    EXPECT_EQ(parse_size(text), std::nullopt);
  }
}

TEST(Units, WhatIsPrintedIsReadBack) {
  for (const std::chrono::nanoseconds duration : std::initializer_list<std::chrono::nanoseconds>{
           0ns, 1ns, 999ns, 1us, 1ms, 1500us, 1s, 60s, 1h + 1ns, 1'000'000'000s}) {
    EXPECT_EQ(parse_duration(duration_text(duration)), duration) << duration_text(duration);
  }
  for (const std::uint64_t size :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1000}, std::uint64_t{1024}, std::uint64_t{3} << 20,
        std::uint64_t{1} << 63, std::numeric_limits<std::uint64_t>::max()}) {
    EXPECT_EQ(parse_size(size_text(size)), size) << size_text(size);
  }
  EXPECT_EQ(duration_text(50us), "50us");
  EXPECT_EQ(duration_text(60s), "60s");
  EXPECT_EQ(size_text(std::uint64_t{4} << 20), "4m");
}

TEST(Units, AMistakeIsNamed) {
  EXPECT_EQ(duration_problem("-5ms"), "must not be negative");
  EXPECT_EQ(duration_problem("soon"), "\"soon\" is not a duration; write for example 250ms or 2s");
  EXPECT_EQ(size_problem("-1k"), "must not be negative");
  EXPECT_EQ(size_problem("much"), "\"much\" is not a size; write for example 64k or 512m");
}

}  // namespace
}  // namespace shmstate
