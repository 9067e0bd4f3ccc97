// The log of the services: what the journal gets, and that a message is one line.
#include "support/log.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <string>

namespace shmstate {
namespace {

/// What `action` writes to standard error, where the journal reads it, or not.
std::string written_by(const std::function<void()>& action, bool journal_reads) {
  testing::internal::CaptureStderr();
  struct stat info {};
  ::fstat(STDERR_FILENO, &info);
  const std::string stream = fmt::format("{}:{}", info.st_dev, journal_reads ? info.st_ino : info.st_ino + 1);
  ::setenv("JOURNAL_STREAM", stream.c_str(), 1);
  action();
  ::unsetenv("JOURNAL_STREAM");
  return testing::internal::GetCapturedStderr();
}

TEST(Log, LinesForTheJournalBeginWithTheirPriority) {
  const auto action = [] {
    set_up_log("test", "shmstate: %v", "debug");
    log_debug("a");
    log_info("b");
    log_warning("c");
    log_error("d");
    print_error("e");
  };
  EXPECT_EQ(written_by(action, true), "<7>a\n<6>b\n<4>c\n<3>d\n<3>e\n");
}

TEST(Log, LinesForOthersHaveThePatternAndNoPriority) {
  const auto action = [] {
    set_up_log("test", "shmstate: %v", "info");
    log_debug("hidden");
    log_warning("shown");
    print_error("as it stands");
  };
  EXPECT_EQ(written_by(action, false), "shmstate: shown\nas it stands\n");
}

TEST(Log, NamesThatOthersChoseCannotForgeLines) {
  const auto action = [] {
    set_up_log("test", "%v", "info");
    log_info("ring of {}: served", "evil\n<0>forged\x1b[2J\x7f");
  };
  EXPECT_EQ(written_by(action, true), "<6>ring of evil?<0>forged?[2J?: served\n");
}

}  // namespace
}  // namespace shmstate
