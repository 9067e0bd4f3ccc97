// Whatever happens in a directory: each file that has had the name is found, in order, or counted.
#include "inputs/file_succession.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace shmstate::agent {
namespace {

const FileSuccession::Clock::time_point kNow{};

std::vector<std::string> names_of(FileSuccession& succession) {
  std::vector<std::string> names;
  for (const SucceedingFile& file : succession.files()) names.push_back(file.name);
  return names;
}

TEST(FileSuccession, ARenamedFileIsFoundUnderItsNewName) {
  FileSuccession succession("log");
  succession.appeared("log", kNow);
  succession.moved_from("log", 7);
  succession.moved_to("log.1", 7, kNow);
  succession.appeared("log", kNow);
  EXPECT_EQ(names_of(succession), (std::vector<std::string>{"log.1", "log"}));
  EXPECT_EQ(succession.take_missed(), 0U);
}

TEST(FileSuccession, AFileThatLeavesTheDirectoryIsMissed) {
  FileSuccession succession("log");
  succession.appeared("log", kNow);
  succession.moved_from("log", 7);
  succession.forget_departed();
  EXPECT_TRUE(succession.files().empty());
  EXPECT_EQ(succession.take_missed(), 1U);
  EXPECT_EQ(succession.take_missed(), 0U);
}

TEST(FileSuccession, AnOpenFileNeedsNoName) {
  FileSuccession succession("log");
  succession.appeared("log", kNow);
  succession.files().front().fd = open_file("/dev/null", O_RDONLY);
  succession.deleted("log");
  succession.start_anew("log");
  EXPECT_EQ(succession.files().size(), 1U);
  EXPECT_TRUE(succession.files().front().was_touched);
  EXPECT_EQ(succession.take_missed(), 0U);
}

/// A directory with a few names, whose every change is told to a succession.
class Directory {
 public:
  explicit Directory(std::uint64_t seed) : random_(seed) {}

  void change(FileSuccession& succession) {
    const std::string from = name();
    const std::string to = name();
    switch (random_() % 4) {
      case 0: create(from, succession); break;
      case 1: remove(from, succession); break;
      case 2: leave(from, succession); break;
      default: rename(from, to, succession);
    }
  }

  void expect_found_or_missed(FileSuccession& succession) {
    std::vector<std::string> names;
    for (const int file : had_the_name_) {
      for (const auto& [name, other] : files_) {
        if (other == file) names.push_back(name);
      }
    }
    ASSERT_EQ(names_of(succession), names);
    missed_ += succession.take_missed();
    ASSERT_EQ(missed_, had_the_name_.size() - names.size());
  }

 private:
  std::string name() { return std::vector<std::string>{"log", "log.1", "log.2", "other"}[random_() % 4]; }

  void create(const std::string& name, FileSuccession& succession) {
    if (files_.contains(name)) return;
    give(name, next_file_++);
    succession.appeared(name, kNow);
  }
  void remove(const std::string& name, FileSuccession& succession) {
    if (files_.erase(name) > 0) succession.deleted(name);
  }
  void leave(const std::string& name, FileSuccession& succession) {
    if (files_.erase(name) == 0) return;
    succession.moved_from(name, ++cookie_);
    succession.forget_departed();
  }
  void rename(const std::string& from, const std::string& to, FileSuccession& succession) {
    if (from == to || !files_.contains(from)) return;
    const int file = files_[from];
    files_.erase(from);
    give(to, file);
    succession.moved_from(from, ++cookie_);
    succession.moved_to(to, cookie_, kNow);
  }
  void give(const std::string& name, int file) {
    files_[name] = file;
    const bool is_known = std::ranges::find(had_the_name_, file) != had_the_name_.end();
    if (name == "log" && !is_known) had_the_name_.push_back(file);
  }

  std::mt19937_64 random_;
  std::map<std::string, int> files_;
  std::vector<int> had_the_name_;
  int next_file_ = 0;
  std::uint32_t cookie_ = 0;
  std::uint64_t missed_ = 0;
};

TEST(FileSuccession, EachFileThatHasHadTheNameIsFoundOrMissed) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    Directory directory(seed);
    FileSuccession succession("log");
    for (int i = 0; i < 100; ++i) {
      directory.change(succession);
      directory.expect_found_or_missed(succession);
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace shmstate::agent
