// What cannot be opened, read or stored: each failure has its status, names the path, the reason and the remedy, and
// changes nothing.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "files/control.h"
#include "harness/process_support.h"
#include "layout/layout.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr uid_t kNobody = 65534;

/// What a message must contain: the path, the reason, the remedy.
using Parts = std::vector<std::string>;

void must_contain(const std::string& message, const Parts& parts) {
  must(message.find("shmstate: ") != std::string::npos, "not in the form of a message: " + message);
  for (const std::string& part : parts) {
    if (message.find(part) == std::string::npos) throw Broken('"' + part + "\" is missing in: " + message);
  }
}

void must_throw(Status status, const Parts& parts, const std::function<void()>& open) {
  try {
    open();
  } catch (const Error& error) {
    must(error.status() == status, "status \"" + std::string(describe(error.status())) + "\": " + error.what());
    must_contain(error.what(), parts);
    return;
  }
  must(false, "no error, expected: " + std::string(describe(status)));
}

void open_reader(const std::string& instance) { Reader reader(instance, {.attach_timeout = 20ms}); }
void open_writer(const std::string& instance) { const Writer writer(instance, {.name = "w", .attach_timeout = 20ms}); }
void open_inspect(const std::string& instance) { static_cast<void>(inspect(instance)); }

void everybody_must_throw(const std::string& instance, Status status, const Parts& parts) {
  for (const auto open : {open_reader, open_writer, open_inspect}) must_throw(status, parts, [&] { open(instance); });
}

constexpr int kMayPass = 1;  // exit codes of a merger: what another start may not meet again
constexpr int kNoUse = 4;    // and a state that no start can use

void merger_must_refuse(const std::string& instance, int expected_code, const Parts& parts,
                        const ProgramSettings& settings = {}) {
  Program merger = launch_merger(instance, {}, settings);
  eventually("a refusal", [&] {
    must(merger.output().find(" at epoch ") == std::string::npos, "the merger serves: " + merger.output());
    return merger.has_ended();
  });
  const int exit_code = merger.wait();
  must(exit_code == expected_code, "exit code " + std::to_string(exit_code) + ": " + merger.output());
  must_contain(merger.output(), parts);
}

std::string contents(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Everything of an instance: names, modes and bytes, but for its merger's signs of life.
std::map<std::string, std::string> everything_of(const fs::path& instance) {
  std::map<std::string, std::string> all;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(instance)) {
    std::string bytes = entry.is_regular_file() ? contents(entry.path()) : "";
    if (entry.path().filename() == "control" && bytes.size() >= sizeof(layout::ControlHeader)) {
      bytes.erase(offsetof(layout::ControlHeader, heartbeat), sizeof(layout::Heartbeat));
    }
    all[entry.path()] = std::to_string(static_cast<unsigned>(entry.status().permissions())) + bytes;
  }
  return all;
}

template <typename T>
void patch(const fs::path& file, std::size_t offset, T value) {
  std::fstream out(file, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(offset));
  out.write(reinterpret_cast<const char*>(&value), sizeof value);
  must(out.good(), "cannot patch " + file.string());
}

class BadInput : public testing::Test {
 protected:
  /// An instance whose merger has ended, with one key.
  void leave_instance() {
    Program merger = start_merger(instance_, {"--memory-limit", "12m", "--feed-bytes", "64k"});
    {
      Writer writer(instance_);
      must_be_ok(writer.set("key", 42), "set");
      must_be_ok(writer.flush(kPatience), "flush");
    }
    eventually("the removal of the ring", [&] { return fs::is_empty(rings_path(instance_)); });
    merger.signal(SIGTERM);
    ASSERT_EQ(merger.wait(), 0) << merger.output();
  }
  /// Damages a file, expects that this is noticed and changes nothing, and that it all works again when undone.
  void damage_and_undo(const fs::path& file, const std::function<void()>& damage,
                       const std::function<void()>& expect_noticed) {
    const std::string intact = contents(file);
    damage();
    const auto before = everything_of(instance_);
    expect_noticed();
    EXPECT_TRUE(everything_of(instance_) == before) << "something was changed";
    std::ofstream(file, std::ios::binary | std::ios::trunc) << intact;
    const Program merger = start_merger(instance_);
    EXPECT_EQ(Reader(instance_).get<std::int64_t>("key"), 42);
  }
  template <typename T>
  void patch_control_and_undo(std::size_t offset, T value, Status status, const Parts& parts) {
    leave_instance();
    damage_and_undo(
        control(), [&] { patch(control(), offset, value); },
        [&] {
          everybody_must_throw(instance_, status, parts);
          merger_must_refuse(instance_, kNoUse, parts);
        });
  }
  [[nodiscard]] fs::path control() const { return fs::path(instance_) / "control"; }
  [[nodiscard]] fs::path snapshot() const { return fs::path(instance_) / "snapshot"; }

  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
};

// An instance that does not exist is reported as such, and looking for it does not create it.
TEST_F(BadInput, UnknownInstance) {
  everybody_must_throw(instance_, Status::kNoInstance, {instance_, "does not exist", "start its merger"});
  EXPECT_TRUE(fs::is_empty(directory_.path()));
  Program ctl(SHMSTATE_CTL, {"-i", instance_, "get", "key"});
  EXPECT_EQ(ctl.wait(), 3) << ctl.output();
  must_contain(ctl.output(), {instance_, "does not exist", "start its merger"});
}

// A name that cannot be one is an invalid argument.
TEST_F(BadInput, ImpossibleName) {
  for (const std::string& name : {std::string(), std::string(".hidden"), std::string(201, 'n')}) {
    everybody_must_throw(name, Status::kInvalidArgument, {'"' + name + '"', "1 to 200 characters"});
  }
}

// The last part of a path is a name, too: what begins with a dot is served, found and listed by nobody.
TEST_F(BadInput, ImpossibleNameAtTheEndOfAPath) {
  const std::string hidden = directory_ / ".hidden";
  const std::string long_name = directory_ / std::string(201, 'n');
  for (const std::string& path : {hidden, hidden + "/", long_name, std::string("/")}) {
    everybody_must_throw(path, Status::kInvalidArgument, {'"' + path + '"', "does not begin with a dot"});
    Program merger(SHMSTATE_MERGER, {"--instance", path});
    EXPECT_EQ(merger.wait(), 2) << path << ": " << merger.output();
    Program ctl(SHMSTATE_CTL, {"-i", path, "status"});
    EXPECT_EQ(ctl.wait(), 2) << path << ": " << ctl.output();
  }
  EXPECT_TRUE(fs::is_empty(directory_.path()));
  { const Program merger = start_merger(instance_); }
  fs::copy(instance_, hidden, fs::copy_options::recursive);
  Program list("/usr/bin/env", {"SHMSTATE_ROOT=" + directory_.path().string(), SHMSTATE_CTL, "instances"});
  EXPECT_EQ(list.wait(), 0);
  EXPECT_EQ(list.output().find("hidden"), std::string::npos) << list.output();
}

// A ring size that cannot be is an invalid argument, and no ring is created.
TEST_F(BadInput, ImpossibleRingSize) {
  const Program merger = start_merger(instance_);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{65535}, (std::size_t{1} << 30) + 1, SIZE_MAX}) {
    must_throw(Status::kInvalidArgument, {"64 KiB to 1 GiB", std::to_string(bytes)},
               [&] { const Writer writer(instance_, {.name = "w", .ring_bytes = bytes}); });
  }
  EXPECT_TRUE(fs::is_empty(rings_path(instance_)));
}

class Permission : public BadInput {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  }
  void as_user(gid_t gid, const std::function<void()>& body) {
    Child child([&] {
      become({.uid = kNobody, .gid = gid});
      body();
    });
    EXPECT_EQ(child.verdict(), "");
  }
};

// Who is not of the instance's group can neither read nor write, and is told what to do.
TEST_F(Permission, StrangersAreRefused) {
  for (const std::string mode : {"0700", "0750"}) {
    const std::string instance = directory_ / mode;
    const Program merger = start_merger(instance, {"--mode", mode});
    as_user(kNobody, [&] {
      everybody_must_throw(instance, Status::kNoPermission,
                           {instance, "permission denied", "mode " + mode, "--readers-group"});
    });
    EXPECT_TRUE(fs::is_empty(rings_path(instance)));
  }
}

// Another user of the instance's group reads and writes, but cannot touch what only the merger may change.
TEST_F(Permission, MembersReadAndWrite) {
  const Program merger = start_merger(instance_, {"--mode", "0750"});
  as_user(::getegid(), [&] {
    Writer writer(instance_);
    must_be_ok(writer.set("key", 42), "set");
    must_be_ok(writer.flush(kPatience), "flush");
    must(Reader(instance_).get<std::int64_t>("key") == 42, "not readable");
    for (const fs::path& path : {fs::path(instance_), control(), snapshot()}) {
      must(::access(path.c_str(), W_OK) != 0, "may write " + path.string());
    }
  });
}

// Where everybody may read, a stranger reads, and is refused as a writer.
TEST_F(Permission, StrangersReadWhatEverybodyMayRead) {
  const Program merger = start_merger(instance_, {"--mode", "0755"});
  as_user(kNobody, [&] {
    must(Reader(instance_).get<std::int64_t>("key") == std::nullopt, "a value from nowhere");
    must_throw(Status::kNoPermission, {instance_, "permission denied", "/writers: mode 0750", "--writers-group"},
               [&] { open_writer(instance_); });
  });
}

// A merger that may not create its directory says so.
TEST_F(Permission, MergerInADirectoryThatIsNotItsOwn) {
  merger_must_refuse(instance_, kMayPass, {instance_, "Permission denied", "; "},
                     {.input = "", .user = User{.uid = kNobody, .gid = kNobody}});
  EXPECT_FALSE(fs::exists(instance_));
}

// Another major version of the layout is refused by everybody, with both versions in the message.
TEST_F(BadInput, OtherLayoutVersion) {
  patch_control_and_undo(offsetof(layout::Identity, layout_major), std::uint32_t{99}, Status::kVersionMismatch,
                         {instance_, "99." + std::to_string(layout::kLayoutMinor),
                          std::to_string(layout::kLayoutMajor) + ".", "install the same"});
}

// A required feature that this build does not know is refused by everybody, and named as the reason.
TEST_F(BadInput, UnknownRequiredFeature) {
  patch_control_and_undo(offsetof(layout::Identity, required_features), std::uint64_t{1} << 40,
                         Status::kVersionMismatch, {instance_, "feature", "install the same"});
}

// An optional feature that this build does not know is no reason to refuse.
TEST_F(BadInput, UnknownOptionalFeatureIsIgnored) {
  leave_instance();
  patch(control(), offsetof(layout::Identity, optional_features), std::uint64_t{1} << 40);
  const Program merger = start_merger(instance_);
  EXPECT_EQ(Reader(instance_).get<std::int64_t>("key"), 42);
}

// A control file of something else is not touched.
TEST_F(BadInput, WrongMagic) {
  patch_control_and_undo(offsetof(layout::Identity, magic), std::uint64_t{0x1234}, Status::kDamaged,
                         {instance_, "not a shmstate file", "remove"});
}

// A control file that describes what cannot be is damaged.
TEST_F(BadInput, ImpossibleGeometry) {
  patch_control_and_undo(offsetof(layout::Identity, buffer_stride), std::uint64_t{1} << 60, Status::kDamaged,
                         {instance_, "impossible layout", "remove the directory"});
}

// A control file that lacks its end is damaged.
TEST_F(BadInput, TruncatedControl) {
  leave_instance();
  const Parts parts{instance_, "control is truncated", "remove the directory"};
  damage_and_undo(
      control(), [&] { fs::resize_file(control(), 4096); },
      [&] {
        everybody_must_throw(instance_, Status::kDamaged, parts);
        merger_must_refuse(instance_, kNoUse, parts);
      });
}

// A control file that ends within its first lines, but with the magic of a complete instance, is damaged, too: it is no
// half-created instance that may be thrown away.
TEST_F(BadInput, ControlTruncatedWithinItsHeaderIsNotThrownAway) {
  leave_instance();
  const Parts parts{instance_, "truncated", "remove the directory"};
  damage_and_undo(
      control(), [&] { fs::resize_file(control(), 100); },
      [&] {
        everybody_must_throw(instance_, Status::kDamaged, parts);
        merger_must_refuse(instance_, kNoUse, parts);
      });
}

// A snapshot file that lacks its end is damaged.
TEST_F(BadInput, TruncatedSnapshot) {
  leave_instance();
  const Parts parts{instance_, "snapshot is truncated", "remove the directory"};
  damage_and_undo(
      snapshot(), [&] { fs::resize_file(snapshot(), fs::file_size(snapshot()) / 2); },
      [&] {
        must_throw(Status::kDamaged, parts, [&] { open_reader(instance_); });
        must_throw(Status::kDamaged, parts, [&] { static_cast<void>(inspect(instance_)); });
        merger_must_refuse(instance_, kNoUse, parts);
      });
}

// A snapshot of senseless bytes ends nobody: reads report damage or find nothing, and the merger refuses it.
TEST_F(BadInput, SenselessSnapshot) {
  leave_instance();
  const auto fill = [&](const std::function<char()>& next) {
    std::string bytes(fs::file_size(snapshot()), '\0');
    std::generate(bytes.begin(), bytes.end(), next);
    std::ofstream(snapshot(), std::ios::binary | std::ios::in | std::ios::out) << bytes;
  };
  std::minstd_rand random(1);
  const std::vector<std::function<char()>> patterns{[] { return '\xff'; }, [] { return '\1'; },
                                                    [&] { return static_cast<char>(random() >> 8); }};
  for (const auto& pattern : patterns) {
    damage_and_undo(
        snapshot(), [&] { fill(pattern); },
        [&] {
          Child child([&] {
            must_throw(Status::kDamaged, {instance_}, [&] {
              Reader reader(instance_);  // may notice already
              Value value;
              const Status status = reader.read("key", value);
              must(status == Status::kDamaged || status == Status::kNotFound, describe(status));
              for (const auto& entry : reader.snapshot()) static_cast<void>(entry);
            });
            open_inspect(instance_);
          });
          EXPECT_EQ(child.verdict(), "");
          merger_must_refuse(instance_, kNoUse, {instance_, "the current buffer", "remove the directory"});
        });
    Program merger = start_merger(instance_);
    merger.signal(SIGTERM);
    ASSERT_EQ(merger.wait(), 0);
  }
}

// What a merger left that died while it created the instance is not ready for anybody, and the next merger begins
// again.
TEST_F(BadInput, HalfCreatedInstance) {
  const std::vector<std::function<void()>> ends{
      [&] { patch(control(), offsetof(layout::Identity, magic), std::uint64_t{0}); },
      [&] { fs::resize_file(control(), 0); },
      [&] { fs::remove(snapshot()), patch(control(), offsetof(layout::Identity, magic), std::uint64_t{0}); },
  };
  for (const auto& end : ends) {
    leave_instance();
    end();
    everybody_must_throw(instance_, Status::kNotReady, {instance_, "has not finished", "start its merger"});
    Program merger = start_merger(instance_);
    EXPECT_EQ(Reader(instance_).snapshot().size(), 0U);
    Writer writer(instance_);
    EXPECT_EQ(writer.set("key", 1), Status::kOk);
    EXPECT_EQ(writer.flush(kPatience), Status::kOk);
    merger.kill();
    fs::remove_all(instance_);
  }
}

struct Option {
  std::vector<std::string> arguments;
  std::string named;  // in the message
};

// An option that makes no sense is refused by name and with the exit code of a mistake, before anything is created:
// units that know the code do not try again.
TEST_F(BadInput, InvalidOptionsOfTheMerger) {
  const std::vector<Option> options{
      {{"--buffers", "1"}, "buffers"},
      {{"--buffers", "9"}, "buffers"},
      {{"--buffers", "-2"}, "buffers"},
      {{"--buffers", "two"}, "buffers"},
      {{"--memory-limit", "1m"}, "memory-limit"},
      {{"--memory-limit", "4m", "--buffers", "4"}, "memory limit"},
      {{"--memory-limit", "much"}, "memory-limit"},
      {{"--memory-limit", "-64m"}, "memory-limit"},
      {{"--max-rings", "0"}, "rings"},
      {{"--max-rings", "4097"}, "rings"},
      {{"--feed-bytes", "1000"}, "feed"},
      {{"--feed-bytes", "0"}, "feed"},
      {{"--mode", "0777"}, "mode"},
      {{"--mode", "rwx"}, "mode"},
      {{"--publish-interval", "5"}, "publish-interval"},
      {{"--publish-interval", "-5ms"}, "publish-interval"},
      {{"--pin-time-max", "forever"}, "pin-time-max"},
      {{"--spin-time", "5parsecs"}, "spin-time"},
      {{"--max-entries", "-1"}, "max-entries"},
      {{"--max-ring-bytes", "-1k"}, "max-ring-bytes"},
      {{"--log-level", "loud"}, "log-level"},
      {{"--no-such-option"}, "no-such-option"},
  };
  for (const auto& [arguments, named] : options) {
    Program merger = launch_merger(instance_, arguments);
    EXPECT_EQ(merger.wait(), 2) << named;
    EXPECT_NE(merger.output().find(named), std::string::npos) << arguments.back() << ": " << merger.output();
    EXPECT_FALSE(fs::exists(instance_)) << arguments.front() << ' ' << arguments.back();
  }
  Program merger(SHMSTATE_MERGER, {});
  EXPECT_EQ(merger.wait(), 2);
  EXPECT_NE(merger.output().find("--instance is required"), std::string::npos) << merger.output();
}

// ---- the configuration file

class ConfigurationFile : public BadInput {
 protected:
  [[nodiscard]] fs::path path() const { return directory_ / "plant.conf"; }
  void write(const std::string& text) const { std::ofstream(path()) << text; }
  [[nodiscard]] Program check(const std::vector<std::string>& options = {}) const {
    std::vector<std::string> arguments{"--instance", instance_, "--config", path(), "--check"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return {SHMSTATE_MERGER, arguments};
  }
  /// The merger, with a variable of its environment.
  [[nodiscard]] Program check_with(const std::string& variable, const ProgramSettings& settings = {}) const {
    return {"/usr/bin/env", {variable, SHMSTATE_MERGER, "--check", "--instance", instance_}, settings};
  }
};

// A mistake in the file was told without the file and the line, sometimes without the reason, or taken for a value.
TEST_F(ConfigurationFile, AMistakeIsToldWithItsLineAndReason) {
  const std::vector<std::pair<std::string, std::string>> mistakes{
      {"buffers = 3\nmemory-limt = 512m\n", ":2: unknown option \"memory-limt\""},
      {"\n[section]\nbuffers = 3\n", ":2: there are no sections"},
      {"publish-interval = -1ms\n", ":1: --publish-interval: must not be negative"},
      {"max-entries = -1\n", ":1: --max-entries: must not be negative"},
      {"# rings\n\nmax-rings = 0\n", ":3: --max-rings: Value 0 not in range 1 to 4096"},
      {"feed-bytes = 3m\n", ":1: --feed-bytes: must be a power of two"},
      {"memory-limit = 1\n", ":1: --memory-limit: must be at least 2 MiB for each buffer"},
      {"buffers = two\n", ":1: --buffers: Value two not in range 2 to 8"},
      {"buffers = 2\nbuffers = 3\n", ":2: \"buffers\" is given twice, in line 1, too"},
      {"instance = other\n", ":1: \"instance\" cannot be given in a file"},
  };
  for (const auto& [text, told] : mistakes) {
    write(text);
    Program merger(SHMSTATE_MERGER, {"--instance", instance_, "--config", path()});
    EXPECT_EQ(merger.wait(), 2) << text;
    must_contain(merger.output(), {path().string() + told});
    EXPECT_FALSE(fs::exists(instance_)) << text;
  }
}

// CLI11 cut a value at a # within quotes, and split one with a blank.
TEST_F(ConfigurationFile, InQuotesEverythingStandsForItself) {
  const std::vector<std::pair<std::string, std::string>> groups{{R"("no #1 here")", "no #1 here"},
                                                                {R"('no #1 "here"')", "no #1 \"here\""},
                                                                {R"("#")", "#"},
                                                                {R"("no;#" # a comment)", "no;#"},
                                                                {"no#comment", "no#comment"},
                                                                {"no-group # a comment", "no-group"},
                                                                {R"("no = such [group]")", "no = such [group]"}};
  for (const auto& [written, read] : groups) {
    write("readers-group = " + written + "\n");
    Program merger = check();
    EXPECT_EQ(merger.wait(), 2) << written;
    must_contain(merger.output(), {read});
    EXPECT_EQ(merger.output().find("a comment"), std::string::npos) << merger.output();
  }
  write("memory-limit = \"512m\" # half\nbuffers='3'\n;x\n remove-at-exit # yes\n");
  EXPECT_EQ(check().wait(), 0);
}

TEST_F(ConfigurationFile, AQuoteThatDoesNotFitIsAMistake) {
  for (const auto& [text, told] :
       std::vector<std::pair<std::string, std::string>>{{"\nmode = \"0750\n", ":2: the closing quote is missing"},
                                                        {"mode = \"0750\"0\n", ":1: text follows the closing quote"},
                                                        {"mode = '0750\"\n", ":1: the closing quote is missing"}}) {
    write(text);
    Program merger = check();
    EXPECT_EQ(merger.wait(), 2) << text;
    must_contain(merger.output(), {path().string() + told});
  }
}

// An editor's byte order mark became part of the first option's name.
TEST_F(ConfigurationFile, MayBeginWithTheByteOrderMarkOfUtf8Only) {
  write(
      "\xEF\xBB\xBF"
      "buffers = 9\n");
  Program marked = check();
  EXPECT_EQ(marked.wait(), 2);
  must_contain(marked.output(), {":1: --buffers: Value 9 not in range"});
  for (const std::string& mark : {std::string("\xFF\xFE"), std::string("\xFE\xFF")}) {
    write(mark + std::string("b\0", 2));
    Program wide = check();
    EXPECT_EQ(wide.wait(), 2);
    must_contain(wide.output(), {":1: the text is UTF-16"});
  }
}

// A mistake in the environment is told with the variable, one on the command line as it was given there.
TEST_F(ConfigurationFile, AMistakeElsewhereIsNotBlamedOnTheFile) {
  Program merger = check_with("SHMSTATE_BUFFERS=two");
  EXPECT_EQ(merger.wait(), 2);
  must_contain(merger.output(), {"shmstate: $SHMSTATE_BUFFERS: --buffers: Value two"});
  write("buffers = 3\n");
  Program other = check({"--buffers", "9"});
  EXPECT_EQ(other.wait(), 2);
  must_contain(other.output(), {"shmstate: --buffers: Value 9"});
}

// A file in a directory that the merger may not enter counted as none, and it served with defaults.
TEST_F(ConfigurationFile, OneThatCannotBeReachedIsNotTakenForAMissingOne) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become another user";
  const fs::path closed = directory_ / "closed";
  fs::create_directory(closed);
  ASSERT_EQ(::chmod(closed.c_str(), 0700), 0);
  const std::string variable = "SHMSTATE_CONFIG=" + (closed / "plant.conf").string();
  Program stranger = check_with(variable, {.input = "", .user = User{.uid = kNobody, .gid = kNobody}});
  EXPECT_EQ(stranger.wait(), 2) << stranger.output();
  must_contain(stranger.output(), {"cannot read " + (closed / "plant.conf").string() + ": Permission denied"});
  EXPECT_EQ(check_with(variable).wait(), 0) << "it is missing, which is allowed";
  EXPECT_EQ(check_with("SHMSTATE_CONFIG=" + closed.string()).wait(), 2) << "it is a directory";
}

// --check reads everything, and touches nothing.
TEST_F(ConfigurationFile, IsCheckedWithoutAStart) {
  write("buffers = 3 # or more\nmax-rings = 17\npublish-interval = 2ms\nremove-at-exit = true\n");
  Program good = check();
  EXPECT_EQ(good.wait(), 0);
  EXPECT_EQ(good.output(), "");
  EXPECT_EQ(check({"--readers-group", "no-such-group"}).wait(), 2);
  EXPECT_EQ(check({"--buffers", "4", "--memory-limit", "6m"}).wait(), 2);
  EXPECT_FALSE(fs::exists(instance_));
}

// What no start could serve, or every user would run into, does not pass: each value beside the memory and the other
// options that there are.
TEST_F(ConfigurationFile, WhatCannotServeIsToldBeforehand) {
  const std::vector<std::pair<std::string, std::string>> mistakes{
      {"memory-limit = 99999g\n", "at most 64 TiB"},
      {"memory-limit = 60000g\n", "do not fit"},
      {"feed-bytes = 16384g\n", "do not fit"},
      {"feed-bytes = 67108864g\n", "at most 64 TiB"},
      {"max-ring-bytes = 1k\n", ":1: --max-ring-bytes: must be at least 64k"},
      {"max-ring-bytes = 0\n", ":1: --max-ring-bytes: must be at least 64k"},
      {"max-entries = 0\n", ":1: --max-entries: 0 would refuse every key"},
      {"spin-time = 10s\n", ":1: --spin-time: must be at most 1s"},
      {"publish-interval = 10s\n", ":1: --publish-interval: must be at most 1s"},
      {"pin-time-max = 1us\n", ":1: --pin-time-max: must be at least 1ms"},
      {"mode = 0700\nreaders-group = 0\n", "mode 0700 lets no group in"},
      {"buffers = 8\nmemory-limit = 15m\n", "at least 2 MiB for each buffer"},
  };
  for (const auto& [text, told] : mistakes) {
    write(text);
    Program merger = check();
    EXPECT_EQ(merger.wait(), 2) << text;
    must_contain(merger.output(), {told});
  }
  for (const std::string text : {"max-entries = 1\n", "max-ring-bytes = 64k\n", "spin-time = 1s\n",
                                 "pin-time-max = 0s\n", "mode = 0700\n", "publish-interval = 0ms\n"}) {
    write(text);
    Program merger = check();
    EXPECT_EQ(merger.wait(), 0) << text << merger.output();
  }
  EXPECT_FALSE(fs::exists(instance_));
}

// A place where no instance can be made, and one that is there but lets no group in.
TEST_F(ConfigurationFile, APlaceThatCannotServeIsToldBeforehand) {
  write("");
  for (const fs::path& nowhere : {directory_ / "no" / "such" / "plant", path() / "plant"}) {
    Program merger(SHMSTATE_MERGER, {"--instance", nowhere, "--check"});
    EXPECT_EQ(merger.wait(), 2) << nowhere;
    must_contain(merger.output(), {nowhere.string() + " cannot be made"});
  }
  Program below(SHMSTATE_MERGER, {"--instance", directory_ / "new" / "plant", "--check"});
  EXPECT_EQ(below.wait(), 0) << below.output();
  fs::create_directory(instance_);
  ASSERT_EQ(::chmod(instance_.c_str(), 0700), 0);
  Program kept = check({"--readers-group", "0"});
  EXPECT_EQ(kept.wait(), 2) << kept.output();
  must_contain(kept.output(), {instance_ + " has mode 0700, which lets no group in"});
  EXPECT_EQ(check({"--readers-group", "0", "--mode", "0750"}).wait(), 0);
}

// --check knows what the unit will say: its environment, what an administrator added to it, its user.
class UnitOfAnInstance : public ConfigurationFile {
 protected:
  void SetUp() override {
    if (::geteuid() != 0 || kIsSanitized)
      GTEST_SKIP() << "needs root, to mount; and no sanitizer, which looks into /etc";
    ASSERT_TRUE(::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    is_ours_ = fs::create_directory("/etc/shmstate");
    ASSERT_EQ(::mount("none", "/etc/shmstate", "tmpfs", 0, "mode=0755"), 0);
    fs::create_directories(units() / "shmstate-merger@plant.service.d");
    unit("shmstate-merger@.service",
         "[Service]\nEnvironment=SHMSTATE_CONFIG=/etc/shmstate/%i.conf\n"
         "Environment=SHMSTATE_READERS_GROUP=0 \"SHMSTATE_WRITERS_GROUP=0\"\nUser=root\n");
  }
  void TearDown() override {
    ::umount2("/etc/shmstate", MNT_DETACH);
    if (is_ours_) fs::remove("/etc/shmstate");
  }
  [[nodiscard]] fs::path units() const { return directory_ / "units"; }
  void unit(const std::string& name, const std::string& text) const { std::ofstream(units() / name) << text; }
  static void configure(const std::string& text) { std::ofstream("/etc/shmstate/plant.conf") << text; }
  [[nodiscard]] Program check_unit(const std::vector<std::string>& more = {}) const {
    std::vector<std::string> words{"SYSTEMD_UNIT_PATH=" + units().string(), "SHMSTATE_MODE=0700", SHMSTATE_MERGER,
                                   "--check"};
    words.insert(words.end(), more.begin(), more.end());
    return {"/usr/bin/env", words};
  }
  void expect_refused(const std::string& why) const {
    for (const std::vector<std::string>& asked :
         {std::vector<std::string>{"-i", "plant", "--config", "/etc/shmstate/plant.conf"},
          std::vector<std::string>{"-i", "/run/shmstate/plant"}}) {
      Program merger = check_unit(asked);
      EXPECT_EQ(merger.wait(), 2) << asked.back();
      must_contain(merger.output(), {why});
    }
  }

  bool is_ours_ = false;
};

TEST_F(UnitOfAnInstance, IsKnownToCheck) {
  configure("mode = 0700\n");
  expect_refused("mode 0700 lets no group in, but groups are given");
  configure("mode = 0750\n");
  Program good = check_unit({"-i", "plant", "--config", "/etc/shmstate/plant.conf"});
  EXPECT_EQ(good.wait(), 0) << good.output();
  EXPECT_FALSE(fs::exists("/run/shmstate/plant"));
  Program other = check_unit({"-i", instance_, "--mode", "0700"});
  EXPECT_EQ(other.wait(), 0) << "no unit serves that one: " << other.output();
}

TEST_F(UnitOfAnInstance, IsKnownWithWhatIsAddedToIt) {
  configure("");
  unit("shmstate-merger@plant.service.d/override.conf", "[Service]\nEnvironment=\\\n SHMSTATE_MAX_ENTRIES=0\n");
  expect_refused("$SHMSTATE_MAX_ENTRIES: --max-entries: 0 would refuse every key");
  unit("shmstate-merger@plant.service.d/override.conf", "[Service]\nEnvironment=\nUser=daemon\n");
  Program no_groups = check_unit({"-i", "/run/shmstate/plant", "--mode", "0700"});
  EXPECT_EQ(no_groups.wait(), 0) << "without an environment, nothing gives groups: " << no_groups.output();
}

TEST_F(UnitOfAnInstance, HasAUserWhoMustBeAMemberOfTheGroups) {
  configure("");
  unit("shmstate-merger@plant.service.d/10-user.conf", "[Service]\nUser=daemon\n");
  expect_refused("the merger's user daemon is no member of group root");
  unit("shmstate-merger@plant.service.d/20-groups.conf", "[Service]\nSupplementaryGroups=root\n");
  Program good = check_unit({"-i", "/run/shmstate/plant"});
  EXPECT_EQ(good.wait(), 0) << good.output();
}

// What an existing instance does not follow was told at a reload, and never at a start.
TEST_F(ConfigurationFile, WhatAnInstanceDoesNotFollowIsToldAtItsStart) {
  leave_instance();
  const std::vector<std::string> as_made{"--memory-limit", "12m", "--feed-bytes", "64k"};
  Program same = start_merger(instance_, as_made);
  same.signal(SIGTERM);
  EXPECT_EQ(same.wait(), 0);
  EXPECT_EQ(same.output().find("stays"), std::string::npos) << same.output();
  const Program other =
      start_merger(instance_, {"--memory-limit", "1g", "--feed-bytes", "1m", "--buffers", "2", "--max-rings", "17"});
  eventually("warnings", [&] { return other.output().find("--memory-limit stays") != std::string::npos; });
  must_contain("shmstate: " + other.output(),
               {R"(--memory-limit stays "12m"; for "1g", make a new instance)", R"(--feed-bytes stays "64k"; for "1m")",
                R"(--buffers stays "3"; for "2")", R"(--max-rings stays "1024"; for "17")"});
}

// What the next start would refuse was "applied" by a reload; what stays was told without its value.
TEST_F(ConfigurationFile, AReloadRefusesWhatAStartRefuses) {
  write("spin-time = 100us\n");
  const Program merger = start_merger(instance_, {"--config", path(), "--feed-bytes", "64k"});
  write("max-rings = 0\n");
  merger.signal(SIGHUP);
  eventually("a refusal", [&] {
    return merger.output().find("plant.conf:1: --max-rings: Value 0") != std::string::npos &&
           merger.output().find("the configuration stays as it was") != std::string::npos;
  });
  write("max-rings = 17\n");
  merger.signal(SIGHUP);
  eventually("a warning", [&] {
    return merger.output().find(R"(--max-rings stays "1024"; for "17", make a new instance)") != std::string::npos;
  });
}

// ---- little memory

class LittleMemory : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to mount a small file system";
  }

  static std::string key(int index) { return "key/" + std::to_string(index); }
  static std::string value(int index) { return std::to_string(index) + std::string(1000, 'v'); }

  /// Sets new keys until the merger has refused some; returns how many were pushed.
  static int fill_until_rejected(Writer& writer) {
    int pushed = 0;
    Status flushed = Status::kOk;
    while (flushed == Status::kOk) {
      for (int i = 0; i < 100; ++i, ++pushed) must_be_ok(writer.set(key(pushed), value(pushed)), "set");
      flushed = writer.flush(kPatience);
    }
    must(flushed == Status::kRejected, describe(flushed));
    return pushed;
  }
  /// Every one of the keys is there with its value, or is not there at all and was counted as rejected.
  static void expect_all_or_rejected(const std::string& instance, const Writer& writer, int pushed) {
    Reader reader(instance);
    int missing = 0;
    for (int i = 0; i < pushed; ++i) {
      const auto found = reader.get<std::string>(key(i));
      if (found) {
        EXPECT_EQ(*found, value(i)) << key(i);
      } else {
        ++missing;
      }
    }
    EXPECT_GT(missing, 0);
    EXPECT_EQ(writer.rejected(Status::kNoMemory), static_cast<std::uint64_t>(missing));
    EXPECT_EQ(writer.counters().rejected, static_cast<std::uint64_t>(missing));
    EXPECT_EQ(reader.snapshot().size(), static_cast<std::size_t>(pushed - missing));
    EXPECT_GT(reader.snapshot().size(), 0U);
  }
  static void expect_all(const std::string& instance, int pushed) {
    Reader reader(instance);
    for (int i = 0; i < pushed; ++i) EXPECT_EQ(reader.get<std::string>(key(i)), value(i)) << key(i);
  }
  static void push_all_again(Writer& writer, int pushed) {
    for (int i = 0; i < pushed; ++i) must_be_ok(writer.set(key(i), value(i)), "set");
    must_be_ok(writer.flush(kPatience), "flush");
  }

  TestDirectory directory_;
};

// Where there is no room for an instance, the merger says so, and works once there is.
TEST_F(LittleMemory, NoRoomToCreate) {
  const SmallFilesystem small(directory_ / "mount", "size=1m");
  const std::string instance = small / "plant";
  merger_must_refuse(instance, kMayPass, {instance, "No space left on device", "make the file system larger"});
  merger_must_refuse(instance, kMayPass, {instance, "No space left on device", "make the file system larger"});
  small.remount("size=32m");
  const Program merger = start_merger(instance);
  Writer writer(instance);
  EXPECT_EQ(writer.set("key", 1), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
}

// When the file system is full, growth is refused and counted, what is there stays readable and writable, and when room
// is made, everything goes on.
TEST_F(LittleMemory, GrowthInAFullFileSystem) {
  const SmallFilesystem small(directory_ / "mount", "size=32m");
  const std::string instance = small / "plant";
  Program merger = start_merger(instance, {"--memory-limit", "1g"});
  Writer writer(instance, {.name = "w", .ring_bytes = std::size_t{256} << 10, .full_timeout = kPatience});
  ASSERT_EQ(writer.set(key(0), value(0)), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  small.fill(std::uint64_t{4} << 20);

  const int pushed = fill_until_rejected(writer);
  expect_all_or_rejected(instance, writer, pushed);
  ASSERT_EQ(writer.add("count", 1), Status::kOk);
  ASSERT_EQ(writer.set(key(0), value(0)), Status::kOk);
  static_cast<void>(writer.flush(kPatience));
  EXPECT_EQ(Reader(instance).get<std::string>(key(0)), value(0));
  eventually("the count of failures", [&] { return statistic(instance, "commit_failures") > 0; });
  EXPECT_FALSE(merger.has_ended()) << merger.output();

  small.make_room();
  push_all_again(writer, pushed);
  expect_all(instance, pushed);
  EXPECT_FALSE(merger.has_ended()) << merger.output();
}

// When the file system has no room for another ring, attaching fails with what is missing, and leaves nothing behind.
TEST_F(LittleMemory, NoRoomForARing) {
  const SmallFilesystem small(directory_ / "mount", "size=32m");
  const std::string instance = small / "plant";
  const Program merger = start_merger(instance);
  Writer early(instance, {.name = "early", .when_full = WhenFull::kFail});
  ASSERT_EQ(early.set("key", 1), Status::kOk);
  ASSERT_EQ(early.flush(kPatience), Status::kOk);
  small.fill(0);
  must_throw(Status::kNoMemory, {instance, "no memory for a ring", "make the file system larger"},
             [&] { open_writer(instance); });
  std::string big(300'000, 'b');  // more than the first part of the ring that was committed
  EXPECT_EQ(early.set("big", big), Status::kNoMemory);
  EXPECT_EQ(early.counters().failed, 1U);
  EXPECT_EQ(early.set("key", 2), Status::kOk);
  EXPECT_EQ(early.flush(kPatience), Status::kNoMemory) << "the first failure is reported";
  EXPECT_EQ(Reader(instance).get<std::int64_t>("key"), 2);

  small.make_room();
  EXPECT_EQ(early.set("big", big), Status::kOk);
  EXPECT_EQ(early.flush(kPatience), Status::kOk);
  open_writer(instance);
  EXPECT_EQ(Reader(instance).get<std::string>("big"), big);
}

class MemoryLimit : public LittleMemory {
 protected:
  void SetUp() override {}
};

// The memory limit refuses growth just as a full file system does, and erasing makes room again.
TEST_F(MemoryLimit, RefusesGrowthUntilSomethingIsErased) {
  const std::string instance = directory_ / "plant";
  const Program merger = start_merger(instance, {"--memory-limit", "8m"});
  Writer writer(instance, {.name = "w", .full_timeout = kPatience});
  const int pushed = fill_until_rejected(writer);
  expect_all_or_rejected(instance, writer, pushed);
  for (int i = 0; i < pushed; ++i) ASSERT_EQ(writer.erase(key(i)), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(Reader(instance).snapshot().size(), 0U);
  push_all_again(writer, pushed / 2);
  expect_all(instance, pushed / 2);
}

}  // namespace
}  // namespace shmstate::test
