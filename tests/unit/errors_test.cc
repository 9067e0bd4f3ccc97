// The errors of an instance: docs/operations.md lists exactly the rows of files/errors.h, each with its status.
#include "files/errors.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "shmstate/status.h"

namespace shmstate {
using namespace internal;
namespace {

using Rows = std::set<std::pair<std::string, std::string>>;  // message, status

Rows rows_of_the_table() {
  Rows rows;
#define SHMSTATE_ROW(name, status, why, remedy) \
  rows.emplace(std::string("instance …: ") + (why) + (*(remedy) == '\0' ? "" : "; ") + (remedy), "k" #status);
  SHMSTATE_INSTANCE_ERRORS(SHMSTATE_ROW)
#undef SHMSTATE_ROW
  return rows;
}

Rows rows_of_the_page() {
  constexpr std::string_view kBegin = "| `shmstate: ";
  constexpr std::string_view kBetween = "` | `k";
  Rows rows;
  std::ifstream page(SHMSTATE_OPERATIONS_PAGE);
  for (std::string line; std::getline(page, line);) {
    const std::size_t end = line.find(kBetween);
    if (!line.starts_with(std::string(kBegin) + "instance …: ") || end == std::string::npos) continue;
    const std::size_t status = end + kBetween.size() - 1;
    rows.emplace(line.substr(kBegin.size(), end - kBegin.size()), line.substr(status, line.find('`', status) - status));
  }
  return rows;
}

TEST(InstanceErrors, OperationsListsExactlyTheRowsOfTheTable) {
  const Rows table = rows_of_the_table();
  const Rows page = rows_of_the_page();
  EXPECT_EQ(table.size(), static_cast<std::size_t>(InstanceError::kCount));
  for (const auto& [message, status] : table) {
    EXPECT_TRUE(page.contains({message, status})) << "not in docs/operations.md: " << message << ", " << status;
  }
  for (const auto& [message, status] : page) {
    EXPECT_TRUE(table.contains({message, status})) << "not in files/errors.h: " << message << ", " << status;
  }
}

TEST(InstanceErrors, AnErrorNamesInstanceReasonAndRemedyWithItsDetails) {
  const Error error = error_of(InstanceError::kOtherLayout, "/run/shmstate/plant", {"2.0", "1.1"});
  EXPECT_EQ(error.status(), Status::kVersionMismatch);
  EXPECT_STREQ(error.what(),
               "shmstate: instance \"plant\" (/run/shmstate/plant): has layout 2.0, this program reads layout 1.1; "
               "install the same shmstate version for merger, writers and readers");
}

TEST(InstanceErrors, ADetailMayContainAnEllipsis) {
  EXPECT_EQ(text_of(InstanceError::kClosed, "/x/plant", {"a … b", "c"}),
            "shmstate: instance \"plant\" (/x/plant): permission denied for a … b; c");
}

TEST(InstanceErrors, WithoutARemedyNothingFollowsTheReason) {
  EXPECT_EQ(text_of(InstanceError::kRefused, "/x/plant", {"/x/plant/control"}),
            "shmstate: instance \"plant\" (/x/plant): permission denied for /x/plant/control");
}

}  // namespace
}  // namespace shmstate
