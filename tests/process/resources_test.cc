// What runs out: descriptors, locks, places for rings, the memory of a small file system. Each is named and counted,
// nothing that was accepted is lost, and service goes on when there is room again.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

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
#include "harness/process_support.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr rlim_t kManyDescriptors = 1 << 14;

void limit_descriptors(pid_t pid, rlim_t count) {
  const rlimit limit{.rlim_cur = count, .rlim_max = kManyDescriptors};
  must(::prlimit(pid, RLIMIT_NOFILE, &limit, nullptr) == 0, "prlimit");
}

std::size_t open_descriptors(pid_t pid) {
  const fs::directory_iterator begin("/proc/" + std::to_string(pid) + "/fd");
  return static_cast<std::size_t>(std::distance(begin, {}));
}

/// Takes all descriptors of this process but `spare`.
class NoDescriptors {
 public:
  explicit NoDescriptors(std::size_t spare) {
    for (;;) {
      os::Fd fd = os::open_file("/", O_PATH);
      if (!fd.is_open()) break;
      taken_.push_back(std::move(fd));
    }
    must(errno == EMFILE && taken_.size() > spare, "descriptors that do not run out");
    taken_.resize(taken_.size() - spare);
  }

 private:
  std::vector<os::Fd> taken_;
};

WriterOptions small_ring(const std::string& name) {
  WriterOptions options;
  options.name = name;
  options.ring_bytes = std::size_t{64} << 10;
  return options;
}

void must_throw(const std::string& reason, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    must(std::string(error.what()).find(reason) != std::string::npos, "instead of \"" + reason + "\": " + error.what());
    return;
  }
  must(false, "no error, expected: " + reason);
}

bool has_said(const Program& program, const std::string& text) {
  return program.output().find(text) != std::string::npos;
}

void stop(Program& merger) {
  merger.signal(SIGTERM);
  must(merger.wait() == 0, merger.output());
}

class Resources : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to raise limits and to mount";
  }

  [[nodiscard]] std::int64_t sum() const { return Reader(instance_).get<std::int64_t>("sum").value_or(0); }

  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
};

// ---- descriptors

// The limit that a shell begins with, often 1024, was all that a merger had, though it was allowed more.
TEST_F(Resources, AMergerDidNotTakeTheDescriptorsThatItIsAllowed) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit low{.rlim_cur = 256, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  const Program merger = start_merger(instance_);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit limit{};
  ASSERT_EQ(::prlimit(merger.pid(), RLIMIT_NOFILE, nullptr, &limit), 0);
  EXPECT_EQ(limit.rlim_cur, before.rlim_max);
}

// A merger without descriptors serves the rings that it has, names and counts the others, and serves them when there
// are descriptors again. What was pushed before, meanwhile and afterwards adds up.
TEST_F(Resources, AMergerOutOfDescriptorsServesTheOthersAndTheRestLater) {
  if (kIsSanitized) GTEST_SKIP() << "the sanitizer needs descriptors";
  constexpr int kWriters = 20;
  const Program merger = start_merger(instance_);
  Writer early(instance_, small_ring("early"));
  ASSERT_EQ(early.add("sum", 1), Status::kOk);
  ASSERT_EQ(early.flush(kPatience), Status::kOk);

  limit_descriptors(merger.pid(), open_descriptors(merger.pid()) + kWriters / 2);
  std::vector<Writer> writers;
  for (int i = 0; i < kWriters; ++i) {
    writers.emplace_back(instance_, small_ring("late"));
    ASSERT_EQ(writers.back().add("sum", 1), Status::kOk);
  }
  eventually("a report", [&] { return has_said(merger, "Too many open files; raise the limit of open files"); });
  eventually("a count", [&] { return statistic(instance_, "rings_refused") > 0; });
  ASSERT_EQ(early.add("sum", 1), Status::kOk);
  EXPECT_EQ(early.flush(kPatience), Status::kOk);
  EXPECT_LT(sum(), kWriters + 2);

  limit_descriptors(merger.pid(), kManyDescriptors);
  for (Writer& writer : writers) {
    EXPECT_EQ(writer.add("sum", 1), Status::kOk);
    EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  }
  EXPECT_EQ(sum(), 2 * kWriters + 2);
}

// A merger that has fewer descriptors after its restart than it has rings says so and ends; what waits in the rings is
// there for the next one.
TEST_F(Resources, ARestartedMergerWithTooFewDescriptorsForgetsNoRing) {
  if (kIsSanitized) GTEST_SKIP() << "the sanitizer needs descriptors";
  constexpr int kWriters = 20;
  std::vector<Writer> writers;
  {
    Program merger = start_merger(instance_);
    for (int i = 0; i < kWriters; ++i) {
      writers.emplace_back(instance_, small_ring("w"));
      ASSERT_EQ(writers.back().add("sum", 1), Status::kOk);
      ASSERT_EQ(writers.back().flush(kPatience), Status::kOk);
    }
    stop(merger);
  }
  for (Writer& writer : writers) ASSERT_EQ(writer.add("sum", 1), Status::kOk);
  Program poor("/bin/sh", {"-c", R"(ulimit -n 20 && exec "$0" --instance "$1")", SHMSTATE_MERGER, instance_});
  EXPECT_EQ(poor.wait(), 1);
  EXPECT_TRUE(has_said(poor, "Too many open files; raise the limit of open files")) << poor.output();
  const Program merger = start_merger(instance_);
  for (Writer& writer : writers) EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(sum(), 2 * kWriters);
}

// A reader or writer without descriptors says so, leaves nothing behind, and attaches when there are some again.
TEST_F(Resources, AReaderOrWriterOutOfDescriptorsSaysSo) {
  if (kIsSanitized) GTEST_SKIP() << "the sanitizer needs descriptors";
  const Program merger = start_merger(instance_);
  Child attaching([&] {
    limit_descriptors(::getpid(), 64);
    WriterOptions shared = small_ring("shared");
    shared.shared = true;
    const Writer keeps_the_shared_ring(instance_, shared);
    const std::vector<std::function<void()>> attach{[&] { Reader reader(instance_); },
                                                    [&] { const Writer writer(instance_, small_ring("w")); },
                                                    [&] { const Writer writer(instance_, shared); }};
    for (const auto& open : attach) {
      for (const std::size_t spare : {0, 1}) {
        const NoDescriptors none(spare);
        must_throw("Too many open files; raise the limit of open files", open);
      }
      open();
    }
  });
  EXPECT_EQ(attaching.verdict(), "");
}

// ---- lines of the log

// How many events the log left out was told only when another one followed.
TEST_F(Resources, TheNumberOfSuppressedEventsWasNotTold) {
  const Program merger = start_merger(instance_);
  for (int i = 10; i < 50; ++i) {
    std::ofstream(rings_path(instance_) / ("00000000000000" + std::to_string(i))) << "not a ring";
  }
  const Writer makes_the_merger_look(instance_, small_ring("w"));
  eventually("a report", [&] { return has_said(merger, "more events are not shown"); });
}

// New rings are found all the same, and the log says once that it takes a search.
TEST_F(Resources, AMergerThatTheKernelTellsNothingSaysSoOnceAndServes) {
  for (const auto* limit : {"max_inotify_instances", "max_inotify_watches"}) {
    const auto deny_inotify = [limit] {  // as user of a namespace of its own
      if (::unshare(CLONE_NEWUSER) != 0) ::_exit(77);
      const os::Fd file = os::open_file(fs::path("/proc/sys/user") / limit, O_WRONLY);
      if (!file.is_open() || ::write(file.get(), "0", 1) != 1) ::_exit(77);
    };
    Program merger = launch_merger(instance_, {}, {.setup = deny_inotify});
    eventually("a start",
               [&] { return merger.has_ended() || merger.output().find(" at epoch ") != std::string::npos; });
    if (merger.has_ended() && merger.wait() == 77) GTEST_SKIP() << "no user namespaces here";
    for (int i = 0; i < 3; ++i) {
      Writer writer(instance_);
      EXPECT_EQ(writer.set("k", i), Status::kOk);
      EXPECT_EQ(writer.flush(kPatience), Status::kOk);
    }
    merger.signal(SIGTERM);
    EXPECT_EQ(merger.wait(), 0);
    const std::string log = merger.output();
    const std::size_t told = log.find("the kernel does not tell of new rings");
    EXPECT_NE(told, std::string::npos) << log;
    EXPECT_EQ(log.find("the kernel does not tell", told + 1), std::string::npos) << log;
  }
}

// ---- locks

/// From now on, the kernel has no lock for this process and those that it starts.
void refuse_locks() {
  sock_filter filter[]{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[1])),  // of fcntl: its command
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, F_OFD_SETLK, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOLCK),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = std::size(filter), .filter = filter};
  must(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  must(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
}

// Where the kernel has no more locks, attaching, pinning and pushing through a shared ring fail with a system error, a
// merger does not start, and point reads and the other rings go on.
TEST_F(Resources, WithoutLocksEverybodySaysSo) {
  Program merger = start_merger(instance_);
  Child without([&] {
    WriterOptions shared = small_ring("shared");
    shared.shared = true;
    Writer through_shared_ring(instance_, shared);
    Writer own(instance_, small_ring("own"));
    Reader reader(instance_);
    refuse_locks();
    must_throw("No locks available", [&] { const Writer writer(instance_, small_ring("w")); });
    must_throw("No locks available", [&] { const Writer writer(instance_, shared); });
    must_throw("system error", [&] { static_cast<void>(reader.snapshot()); });
    must(through_shared_ring.add("sum", 1) == Status::kSystem, "pushed without a lock");
    must_be_ok(own.add("sum", 1), "add");
    must_be_ok(own.flush(kPatience), "flush");
    must(reader.get<std::int64_t>("sum") == 1, "not readable");
  });
  EXPECT_EQ(without.verdict(), "");
  stop(merger);
  Child starting([&] {
    refuse_locks();
    Program refused = launch_merger(instance_);
    must(refused.wait() == 1 && has_said(refused, "No locks available"), refused.output());
  });
  EXPECT_EQ(starting.verdict(), "");
  const Program next = start_merger(instance_);
  EXPECT_EQ(sum(), 1);
}

// ---- places for rings

// 4,096 rings are served at once; one more is refused, says so, and is served when a place becomes free.
TEST_F(Resources, TheLargestNumberOfRingsAndOneMore) {
  constexpr int kRings = 4096;
  const Program merger = start_merger(instance_, {"--max-rings", std::to_string(kRings)});
  limit_descriptors(merger.pid(), kManyDescriptors);
  Child writing([&] {
    limit_descriptors(::getpid(), kManyDescriptors);
    std::vector<Writer> writers;
    for (int i = 0; i < kRings; ++i) {
      writers.emplace_back(instance_, small_ring("w"));
      must_be_ok(writers.back().add("sum", 1), "add");
    }
    for (Writer& writer : writers) must_be_ok(writer.flush(kPatience), "flush");
    Writer more(instance_, small_ring("more"));
    must_be_ok(more.add("sum", 1), "add");
    eventually("a refusal", [&] { return more.flush(1ms) == Status::kRingRefused; });
    must_be_ok(more.add("sum", 1), "add to a refused ring");
    eventually("the statistics", [&] { return statistic(instance_, "rings_refused") > 0; });
    must(statistic(instance_, "rings_refused") == 1, "one is refused, and counted once");
    must(statistic(instance_, "rings_live") == kRings, "all others are served");
    writers.clear();
    eventually("service", [&] { return more.flush(1s) == Status::kOk; });
  });
  EXPECT_EQ(writing.verdict(), "");
  EXPECT_TRUE(has_said(merger, "refused: too many rings")) << merger.output();
  EXPECT_EQ(sum(), kRings + 2);
}

// ---- memory

// Whatever the first thing is that finds no room while an instance is made (a directory, a file, the memory of control
// or doorbell), the merger names it, leaves nothing in the way, and works when there is room.
TEST_F(Resources, NoRoomForAnyPartOfAnInstance) {
  const SmallFilesystem small(directory_ / "mount", "size=1m,nr_inodes=2");
  const std::string instance = small / "plant";
  const std::vector<std::string> smallest{"--memory-limit", "6m", "--feed-bytes", "1k", "--max-rings", "1"};
  const auto serves_with = [&](const std::string& room) {
    small.remount(room);
    Program merger = launch_merger(instance, smallest);
    eventually("an end, or service", [&] { return merger.has_ended() || has_said(merger, " at epoch "); });
    if (!merger.has_ended()) {
      stop(merger);
      return true;
    }
    must(merger.wait() == 1 && has_said(merger, "shmstate: "), merger.output());
    must(has_said(merger, "No space left on device") || has_said(merger, "no memory for an empty table"),
         merger.output());
    must(has_said(merger, "; make the file system larger"), merger.output());
    return false;
  };
  int inodes = 1;
  while (!serves_with("size=4m,nr_inodes=" + std::to_string(++inodes))) ASSERT_LT(inodes, 20);
  EXPECT_GE(inodes, 8) << "of the file system, the instance, its 4 files and 2 directories";
  fs::remove_all(instance);
  int pages = 0;
  while (!serves_with("nr_inodes=100,size=" + std::to_string(++pages * 4) + "k")) {
    ASSERT_LT(pages, 1024);
    if (pages == 20) pages = 1000;  // nothing but the pages of the buffers is larger
  }
  EXPECT_GT(pages, 6) << "of control, feed and doorbell";
}

// A merger that finds what another one left half-made on a full file system says so again: it was killed by SIGBUS,
// reading a page of `control` for which there was no room.
TEST_F(Resources, ASecondStartOnAFullFileSystemSaysWhyInsteadOfDying) {
  const SmallFilesystem small(directory_ / "mount", "size=1m");
  const std::string instance = small / "plant";
  small.fill(0);
  for (int start = 0; start < 3; ++start) {
    Program merger = launch_merger(instance, {"--memory-limit", "6m"});
    EXPECT_EQ(merger.wait(), 1) << merger.output();
    EXPECT_TRUE(has_said(merger, "control: cannot commit")) << merger.output();
    EXPECT_TRUE(has_said(merger, "No space left on device; make the file system larger")) << merger.output();
  }
  small.make_room();
  const Program merger = start_merger(instance, {"--memory-limit", "6m", "--feed-bytes", "64k"});
}

// On a /dev/shm of 64 MiB, as containers have it, an instance with default options starts and serves; when it is full,
// the merger names the limit, another writer can still attach, and erasing makes room. What was accepted adds up.
TEST_F(Resources, TheSmallFileSystemOfAContainer) {
  const SmallFilesystem small(directory_ / "mount", "size=64m");
  const std::string instance = small / "plant";
  Program merger(SHMSTATE_MERGER, {"--instance", instance});
  Writer first(instance, {.name = "first", .attach_timeout = kPatience});
  ASSERT_EQ(first.add("sum", 1), Status::kOk);
  const std::string value(1000, 'v');
  int pushed = 0;
  while (first.flush(kPatience) == Status::kOk) {
    for (int i = 0; i < 100; ++i) ASSERT_EQ(first.set("key/" + std::to_string(pushed++), value), Status::kOk);
  }
  EXPECT_GT(first.rejected(Status::kNoMemory), 0U) << "rejected for another reason than memory";
  EXPECT_EQ(Reader(instance).snapshot().size() + first.counters().rejected, static_cast<std::uint64_t>(pushed) + 1);
  EXPECT_TRUE(has_said(merger, "the file system or the memory limit has no room for more pages")) << merger.output();
  EXPECT_GT(pushed, 10'000) << "full so soon";

  Writer second(instance, {.name = "second"});
  EXPECT_EQ(second.add("sum", 1), Status::kOk);
  for (int i = 0; i < pushed / 2; ++i) EXPECT_EQ(second.erase("key/" + std::to_string(i)), Status::kOk);
  EXPECT_EQ(second.flush(kPatience), Status::kOk);
  EXPECT_EQ(second.add("sum", 1), Status::kOk);
  EXPECT_EQ(second.set("after", value), Status::kOk);
  EXPECT_EQ(second.flush(kPatience), Status::kOk);
  EXPECT_EQ(Reader(instance).get<std::int64_t>("sum"), 3);
  stop(merger);
}

}  // namespace
}  // namespace shmstate::test
