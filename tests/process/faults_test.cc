// A question that the kernel does not answer is not answered with no: whatever system call fails, nothing is replaced,
// removed or given up for it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "files/control.h"
#include "files/ring_file.h"
#include "harness/process_support.h"
#include "layout/layout.h"
#include "process/faulty_program.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr auto kBootId = "/proc/sys/kernel/random/boot_id";

class Faults : public testing::Test {
 protected:
  [[nodiscard]] std::vector<std::string> merger_arguments() const {
    return {"--instance", instance_, "--memory-limit", "6m", "--feed-bytes", "64k", "--max-rings", "8"};
  }
  [[nodiscard]] Program merger() const { return start_merger(instance_, {"--memory-limit", "6m"}); }
  static void stop(Program& merger) {
    merger.signal(SIGTERM);
    must(merger.wait() == 0, merger.output());
  }
  /// An instance without a merger, in whose ring something waits.
  void leave_something_unmerged(Writer& writer) {
    must_be_ok(writer.add("sum", 1), "add");
    ++pushed_;
  }
  /// What a merger that had all its answers finds: this very instance, and the sum of all that was ever pushed.
  void expect_nothing_lost(Writer& writer) {
    Program healthy = merger();
    EXPECT_EQ(writer.flush(kPatience), Status::kOk);
    EXPECT_EQ(Reader(instance_).get<std::int64_t>("sum"), pushed_);
    stop(healthy);
  }

  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
  std::int64_t pushed_ = 0;
};

/// Lets one call fail, the `at`th of those on files, once. Counted from the boot id on: what comes before is the
/// loading of the program, and its options.
class OneFault {
 public:
  OneFault(std::size_t at, int error_number) : at_(at), error_number_(error_number) {}

  [[nodiscard]] FaultyProgram::Judge judge() {
    return [this](const FileCall& call) {
      has_begun_ = has_begun_ || call.path == kBootId;
      if (!has_begun_ || count_++ != at_) return 0;
      failed_ = describe(call);
      has_happened_ = true;
      return error_number_;
    };
  }
  [[nodiscard]] bool has_happened() const { return has_happened_; }
  [[nodiscard]] std::string text() const {
    return "call " + std::to_string(at_) + ", " + (has_happened_ ? failed_ : "not reached") + ", failed with " +
           std::to_string(error_number_);
  }

 private:
  std::size_t at_;
  int error_number_;
  bool has_begun_ = false;
  std::size_t count_ = 0;
  std::string failed_;
  std::atomic<bool> has_happened_{false};
};

/// Runs a merger until it ends, or serves and is then stopped. Returns its exit code.
int run(FaultyProgram& merger) {
  eventually("an end, or service", [&] { return merger.has_ended() || merger.has_said(" at epoch "); });
  if (!merger.has_ended()) merger.signal(SIGTERM);
  return merger.wait();
}

constexpr int kErrors[] = {ENFILE, EACCES, EIO, ENOMEM};

// Each call that a merger makes while it takes an instance over and gives it back fails once, in every way. It either
// serves what is there, or refuses to; the state and what waits in the ring are there for the next one.
TEST_F(Faults, WhateverCallFailsWhileAMergerResumesNothingIsLost) {
  if (kIsSanitized) GTEST_SKIP() << "the sanitizer makes calls of its own, and ends when they fail";
  Program first = merger();
  Writer writer(instance_, {.name = "w", .ring_bytes = std::size_t{64} << 10});
  leave_something_unmerged(writer);
  must_be_ok(writer.flush(kPatience), "flush");
  stop(first);
  const std::string id = inspect(instance_).id;
  bool was_reached = true;
  for (std::size_t at = 0; was_reached; ++at) {
    was_reached = false;
    for (std::size_t way = 0; way < (is_long_run() ? std::size(kErrors) : 1); ++way) {
      OneFault fault(at, kErrors[(at + way) % std::size(kErrors)]);
      leave_something_unmerged(writer);
      FaultyProgram faulty(SHMSTATE_MERGER, merger_arguments(), fault.judge());
      const int exit_code = run(faulty);
      was_reached = was_reached || fault.has_happened();
      ASSERT_EQ(inspect(instance_).id, id) << fault.text() << ": " << faulty.output();
      ASSERT_TRUE(fs::exists(rings_path(instance_) / ring_name(writer.ring_id()))) << fault.text();
      ASSERT_LE(exit_code, 1) << fault.text() << ": " << faulty.output();
    }
  }
  expect_nothing_lost(writer);
}

// The same while it makes an instance: the next one serves, and nothing is left beside it.
TEST_F(Faults, WhateverCallFailsWhileAnInstanceIsMadeTheNextMergerServesAndNothingIsLeft) {
  if (kIsSanitized) GTEST_SKIP() << "the sanitizer makes calls of its own, and ends when they fail";
  bool was_reached = true;
  for (std::size_t at = 0; was_reached; ++at) {
    OneFault fault(at, kErrors[at % std::size(kErrors)]);
    FaultyProgram faulty(SHMSTATE_MERGER, merger_arguments(), fault.judge());
    run(faulty);
    was_reached = fault.has_happened();
    Program healthy = launch_merger(instance_, {"--memory-limit", "6m", "--remove-at-exit"});
    eventually("service", [&] {
      must(!healthy.has_ended(), fault.text() + ": " + faulty.output() + healthy.output());
      return healthy.output().find(" at epoch ") != std::string::npos;
    });
    stop(healthy);
    ASSERT_TRUE(fs::is_empty(directory_.path())) << fault.text() << ": " << healthy.output();
  }
}

// A running merger that cannot look at its files for a while goes on; so do its readers and writers.
TEST_F(Faults, ARunningMergerThatCannotLookAtItsFilesGoesOn) {
  if (kIsSanitized) GTEST_SKIP() << "the sanitizer makes calls of its own, and ends when they fail";
  std::atomic<int> error{0};
  std::atomic<int> failed{0};
  FaultyProgram faulty(SHMSTATE_MERGER, merger_arguments(), [&](const FileCall& call) {
    const bool is_control = call.number == SYS_newfstatat && call.path == instance_ + "/control";
    if (is_control && error != 0) ++failed;
    return is_control ? error.load() : 0;
  });
  Writer writer(instance_, {.attach_timeout = kPatience});
  for (const int error_number : {ENOMEM, EACCES, EIO}) {
    error = error_number;
    failed = 0;
    eventually("a look at its files", [&] { return failed > 1 || faulty.has_ended(); });
    leave_something_unmerged(writer);
    ASSERT_EQ(writer.flush(kPatience), Status::kOk) << faulty.output();
    ASSERT_FALSE(faulty.has_ended()) << faulty.output();
  }
  EXPECT_EQ(Reader(instance_).get<std::int64_t>("sum"), pushed_);
}

// ---- the boot

/// In a namespace of its own, hides a file or directory of /proc: by an empty directory, or by an empty file.
void hide(const std::string& path) {
  must(::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "unshare");
  const bool is_directory = fs::is_directory(path);
  const int result = is_directory ? ::mount("none", path.c_str(), "tmpfs", 0, nullptr)
                                  : ::mount("/dev/null", path.c_str(), nullptr, MS_BIND, nullptr);
  must(result == 0, "mount");
}

class UnknownBoot : public Faults, public testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to mount";
  }
};

// That the boot cannot be told does not mean that it is another one.
TEST_P(UnknownBoot, KeepsAMergerFromStartingAndReplacesNothing) {
  if (kIsSanitized && GetParam() == "/proc") GTEST_SKIP() << "the sanitizer looks there for the bounds of the stack";
  Program first = merger();
  Writer writer(instance_);
  leave_something_unmerged(writer);
  must_be_ok(writer.flush(kPatience), "flush");
  stop(first);
  leave_something_unmerged(writer);
  const std::string id = inspect(instance_).id;
  Child blind([&] {
    hide(GetParam());
    Program refused(SHMSTATE_MERGER, merger_arguments());
    must(refused.wait() == 1, refused.output());
    must(refused.output().find(std::string("cannot read ") + kBootId) != std::string::npos, refused.output());
    Program beginning(SHMSTATE_MERGER, {"--instance", instance_ + "-new"});
    must(beginning.wait() == 1 && !fs::exists(instance_ + "-new"), beginning.output());
    Program doctor(SHMSTATE_CTL, {"-i", instance_, "doctor"});
    doctor.wait();
    must(doctor.output().find("cannot tell whether the files are of this boot") != std::string::npos, doctor.output());
    must(doctor.output().find("re-create") == std::string::npos, doctor.output());
  });
  EXPECT_EQ(blind.verdict(), "");
  EXPECT_EQ(inspect(instance_).id, id);
  expect_nothing_lost(writer);
}

INSTANTIATE_TEST_SUITE_P(Faults, UnknownBoot, testing::Values("/proc", "/proc/sys", kBootId), [](const auto& hidden) {
  std::string name = hidden.param == kBootId ? "EmptyFile" : hidden.param == "/proc" ? "NoProc" : "NoSys";
  return name;
});

// Who made an instance without knowing its boot left that empty; such files are not taken for those of another one.
TEST_F(Faults, AnInstanceWithoutABootIsNotReplaced) {
  Program first = merger();
  stop(first);
  const os::Fd control = os::open_file(instance_ + "/control", O_RDWR);
  const layout::Id none{};
  must(::pwrite(control.get(), none.data(), none.size(), offsetof(layout::Identity, boot_id)) == sizeof none, "pwrite");
  const std::string id = inspect(instance_).id;
  Program refused = launch_merger(instance_);
  EXPECT_EQ(refused.wait(), 4) << refused.output();
  EXPECT_NE(refused.output().find("does not say of which boot"), std::string::npos) << refused.output();
  EXPECT_EQ(inspect(instance_).id, id);
}

// ---- missing files

// A state whose control file is gone, but whose rings and snapshot are there, was taken for no instance at all.
TEST_F(Faults, AMergerRefusesAnInstanceWithoutItsControl) {
  Program first = merger();
  Writer writer(instance_);
  leave_something_unmerged(writer);
  must_be_ok(writer.flush(kPatience), "flush");
  stop(first);
  leave_something_unmerged(writer);
  const fs::path control = fs::path(instance_) / "control";
  fs::rename(control, directory_ / "control");
  Program refused = launch_merger(instance_);
  EXPECT_EQ(refused.wait(), 4) << refused.output();
  EXPECT_NE(refused.output().find("control is missing; remove the directory"), std::string::npos) << refused.output();
  fs::rename(directory_ / "control", control);
  expect_nothing_lost(writer);
}

// --remove-at-exit means the merger's own files: not those of an instance that has taken their place meanwhile.
TEST_F(Faults, AMergerRemovesNoOtherInstanceThanItsOwnAtItsExit) {
  Program removing = start_merger(instance_, {"--remove-at-exit"});
  removing.stop();
  fs::rename(instance_, directory_ / "moved");
  Program other = merger();
  removing.signal(SIGTERM);
  removing.go_on();
  removing.wait();
  Writer writer(instance_);
  leave_something_unmerged(writer);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(Reader(instance_).get<std::int64_t>("sum"), 1) << removing.output();
}

// Between the files of an instance that goes and those of the one that comes there is no damage: who attaches meanwhile
// waits for the new one.
TEST_F(Faults, WhoAttachesWhileAnInstanceIsRecreatedAllTheTimeIsLetIn) {
  constexpr int kInstances = 30;
  Board<std::atomic<bool>> may_end;
  std::vector<Child> attaching;
  attaching.emplace_back([&] {
    while (!*may_end) Reader reader(instance_, {.attach_timeout = kPatience});
  });
  attaching.emplace_back([&] {
    while (!*may_end) const Writer writer(instance_, {.ring_bytes = kRingBytesMin, .attach_timeout = kPatience});
  });
  for (int i = 0; i < kInstances; ++i) {
    Program removing = start_merger(instance_, {"--memory-limit", "6m", "--remove-at-exit"});
    stop(removing);
  }
  const Program last = merger();
  *may_end = true;
  expect_kept(attaching);
}

}  // namespace
}  // namespace shmstate::test
