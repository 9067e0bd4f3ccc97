// Rows of docs/failure-modes.md that no other test shows: participants that fork, die with a pin or lie to the merger,
// and files that are gone or of another boot.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "files/control.h"
#include "files/mapping.h"
#include "files/ring_file.h"
#include "harness/process_support.h"
#include "layout/layout.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/watch.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

class Failures : public testing::Test {
 protected:
  [[nodiscard]] fs::path ring_of(const Writer& writer) const {
    return rings_path(instance_) / ring_name(writer.ring_id());
  }
  [[nodiscard]] std::optional<std::int64_t> number(const std::string& key) const {
    return Reader(instance_).get<std::int64_t>(key);
  }
  static void add_and_flush(Writer& writer, const std::string& key) {
    must_be_ok(writer.add(key, 1), "add");
    must_be_ok(writer.flush(kPatience), "flush");
  }
  static void stop(Program& merger) {
    merger.signal(SIGTERM);
    must(merger.wait() == 0, merger.output());
  }

  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
};

template <typename T>
void overwrite(const fs::path& path, std::size_t offset, const T& value) {
  const os::Fd file = os::open_file(path, O_RDWR);
  must(::pwrite(file.get(), &value, sizeof value, static_cast<off_t>(offset)) == ssize_t{sizeof value}, "pwrite");
}

// ---- participants

// The pin of a reader that is killed is gone with it, also where pins are respected for ever.
TEST_F(Failures, APinEndsWithItsReader) {
  const Program merger = start_merger(instance_, {"--buffers", "2", "--pin-time-max", "0s"});
  Board<std::atomic<bool>> holds;
  Child reader([&] {
    Reader pinning(instance_);
    const Snapshot snapshot = pinning.snapshot();
    *holds = true;
    for (;;) ::pause();
  });
  eventually("a pin", [&] { return holds->load(); });
  Writer writer(instance_);
  eventually("a stall", [&] {
    must_be_ok(writer.add("sum", 1), "add");
    return statistic(instance_, "pin_stalls") == 1;
  });
  EXPECT_EQ(writer.flush(100ms), Status::kTimeout);
  reader.kill();
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
}

// Nor would what such a process prints get into the files of an instance.
TEST_F(Failures, AProcessWithoutStandardStreamsOpensNoFileAsOne) {
  const Program merger = start_merger(instance_);
  Child writing([&] {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) ::close(fd);
    Writer writer(instance_);
    Reader reader(instance_);
    Watch watch(instance_, "");
    must_be_ok(writer.set("key", 1), "set");
    must_be_ok(writer.flush(kPatience), "flush");
    must(reader.get<std::int64_t>("key") == 1 && watch.fd() > STDERR_FILENO, "read");
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) must(::fcntl(fd, F_GETFD) < 0, "standard stream is open");
  });
  EXPECT_EQ(writing.verdict(), "");
}

// Only what truncated files cause is survived, or explained.
TEST_F(Failures, ABusErrorThatIsSentEndsTheMerger) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the sanitizer ends it first";
#endif
  Program merger = start_merger(instance_);
  merger.signal(SIGBUS);
  EXPECT_EQ(merger.wait(), 128 + SIGBUS);
}

TEST_F(Failures, AReaderByARelativePathSurvivesAChangeOfDirectory) {
  const Program merger = start_merger(instance_);
  Child moving([&] {
    const fs::path instance = instance_;
    fs::current_path(instance.parent_path());
    Reader reader("./" + instance.filename().string());
    fs::current_path("/");
    must(reader.path() == instance_, reader.path());
  });
  EXPECT_EQ(moving.verdict(), "");
}

// An instance that appears while somebody waits for it without an end.
TEST_F(Failures, WaitingForAnInstanceMayTakeForEver) {
  Child waiting([&] { Reader reader(instance_, {.attach_timeout = std::chrono::nanoseconds::max()}); });
  std::this_thread::sleep_for(50ms);
  const Program merger = start_merger(instance_);
  EXPECT_EQ(waiting.verdict(), "");
}

TEST_F(Failures, AMergerWithoutStandardStreamsDoesNotLogIntoItsFiles) {
  Program shell("/bin/sh",
                {"-c", "exec \"$0\" --instance \"$1\" --memory-limit 64m <&- >&- 2>&-", SHMSTATE_MERGER, instance_});
  Writer writer(instance_, {.attach_timeout = kPatience});
  shell.signal(SIGHUP);
  must_be_ok(writer.set("key", 1), "set");
  must_be_ok(writer.flush(kPatience), "flush");
  shell.signal(SIGTERM);
  EXPECT_EQ(shell.wait(), 0);
  const Program next = start_merger(instance_);
  EXPECT_EQ(Reader(instance_).get<std::int64_t>("key"), 1);
}

// A child has its parent's files closed from its beginning: the ring goes with the parent, and with it the ephemeral
// keys, however long the child lives.
TEST_F(Failures, ARingGoesWithItsWriterWhateverChildrenThatHas) {
  const Program merger = start_merger(instance_);
  std::optional<Writer> writer(std::in_place, instance_);
  ASSERT_EQ(writer->set("state", "up", {.ephemeral = true}), Status::kOk);
  ASSERT_EQ(writer->flush(kPatience), Status::kOk);
  const Child heir([] {
    for (;;) ::pause();
  });
  writer.reset();
  eventually("the end of the key", [&] { return !Reader(instance_).get<std::string>("state"); });
  eventually("the removal of the ring", [&] { return fs::is_empty(rings_path(instance_)); });
}

// A writer that removed its ring's file is served until the merger ends; the next one does not find that ring, and
// serves the others as ever.
TEST_F(Failures, ARemovedRingIsServedUntilTheMergerEnds) {
  Program merger = start_merger(instance_);
  Writer removed(instance_, {.name = "removed"});
  Writer other(instance_, {.name = "other"});
  add_and_flush(removed, "removed");
  fs::remove(ring_of(removed));
  add_and_flush(removed, "removed");
  add_and_flush(other, "other");
  stop(merger);
  merger = start_merger(instance_);
  EXPECT_EQ(removed.add("removed", 1), Status::kOk);
  EXPECT_EQ(removed.flush(200ms), Status::kTimeout);
  add_and_flush(other, "other");
  EXPECT_EQ(number("removed"), 2);
  EXPECT_EQ(number("other"), 2);
  eventually("one live ring", [&] { return statistic(instance_, "rings_live") == 1; });
}

// Whatever a hostile writer stores in the doorbell, all rings are found and everything is merged.
TEST_F(Failures, ALyingDoorbellOnlyDelays) {
  const Program merger = start_merger(instance_);
  const os::Fd file = os::open_file(doorbell_path(instance_), O_RDWR);
  const Mapping mapping(file, Access::kReadWrite, 0, sizeof(layout::Doorbell), "doorbell");
  auto& doorbell = *reinterpret_cast<layout::Doorbell*>(mapping.data());
  std::uint32_t registrations = doorbell.registrations.load(std::memory_order_relaxed);
  Writer early(instance_, {.name = "early"});
  for (const std::uint32_t lie : {registrations, 0U, 0xffff'ffffU}) {
    Writer late(instance_, {.name = "late"});
    doorbell.registrations.store(lie, std::memory_order_relaxed);
    doorbell.wakes.store(lie, std::memory_order_relaxed);
    add_and_flush(late, "sum");
    add_and_flush(early, "sum");
  }
  EXPECT_EQ(number("sum"), 6);
}

// An agent whose ring was quarantined ends with an error that says so as soon as it has pushed something more.
TEST_F(Failures, AnAgentWithoutItsRingEnds) {
  const Program merger = start_merger(instance_);
  const fs::path fifo = directory_ / "fifo";
  Program agent(SHMSTATE_AGENT, {"-i", instance_, "--fifo", fifo});
  const auto ring = [&] { return fs::directory_iterator(rings_path(instance_)); };
  eventually("a ring", [&] { return ring() != fs::directory_iterator() && fs::exists(fifo); });
  overwrite(ring()->path(), offsetof(layout::RingHeader, tail), std::uint64_t{1} << 60);
  eventually("a quarantine", [&] { return statistic(instance_, "rings_quarantined") == 1; });
  std::ofstream(fifo) << "set key 1\n";
  EXPECT_EQ(agent.wait(), 1) << agent.output();
  EXPECT_NE(agent.output().find("quarantined"), std::string::npos) << agent.output();
}

// A merger whose private memory runs out ends with an error, and the next one goes on exactly where it was.
TEST_F(Failures, AMergerWithoutPrivateMemoryLosesNothing) {
  if (kIsSanitized) GTEST_SKIP() << "the sanitizer needs memory";
  constexpr int kKeys = 400'000;
  Program merger = start_merger(instance_, {"--memory-limit", "512m"});
  Writer writer(instance_, {.name = "w", .ring_bytes = std::size_t{64} << 20});
  add_and_flush(writer, "sum");
  const rlimit nothing_more{.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};  // less than it has
  must(::prlimit(merger.pid(), RLIMIT_AS, &nothing_more, nullptr) == 0, "prlimit");
  for (int i = 0; i < kKeys; ++i) {  // an ephemeral key costs private memory
    Batch batch = writer.batch();
    batch.set("key/" + std::to_string(i), i, {.ephemeral = true});
    batch.add("sum", 1);
    ASSERT_EQ(batch.commit(), Status::kOk);
  }
  EXPECT_EQ(merger.wait(), 1) << merger.output();
  EXPECT_NE(merger.output().find("no memory is left for this process"), std::string::npos) << merger.output();
  merger = start_merger(instance_);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(number("sum"), kKeys + 1);
  EXPECT_EQ(Reader(instance_).snapshot().size(), std::size_t{kKeys} + 1);
}

// ---- files

// Without a doorbell no writer attaches, and who is attached goes on; a merger that starts makes a new one.
TEST_F(Failures, ARemovedDoorbellComesBackWithTheNextMerger) {
  Program merger = start_merger(instance_);
  Writer writer(instance_);
  fs::remove(doorbell_path(instance_));
  add_and_flush(writer, "sum");
  EXPECT_THROW(Writer{instance_}, Error);
  stop(merger);
  merger = start_merger(instance_);
  add_and_flush(writer, "sum");
  Writer another(instance_);
  add_and_flush(another, "sum");
  EXPECT_EQ(number("sum"), 3);
}

// A merger refuses an instance without its snapshot, names it and says what to do; without the directory it
// creates an empty one.
TEST_F(Failures, AMergerRefusesAnInstanceWithoutItsSnapshot) {
  Program merger = start_merger(instance_);
  stop(merger);
  fs::remove(fs::path(instance_) / "snapshot");
  Program refused = launch_merger(instance_);
  EXPECT_EQ(refused.wait(), 4);
  EXPECT_NE(refused.output().find(instance_ + "): snapshot is missing; remove the directory"), std::string::npos)
      << refused.output();
  fs::remove_all(instance_);
  const Program next = start_merger(instance_);
}

// Files of another boot are no state: the merger begins with an empty one, and readers of the old one reattach.
TEST_F(Failures, FilesOfAnotherBootAreReplaced) {
  Program merger = start_merger(instance_);
  Writer writer(instance_);
  add_and_flush(writer, "sum");
  Reader reader(instance_);
  stop(merger);
  overwrite(fs::path(instance_) / "control", offsetof(layout::Identity, boot_id), layout::Id{1, 2, 3});
  merger = start_merger(instance_);
  EXPECT_EQ(number("sum"), std::nullopt);
  EXPECT_EQ(writer.add("sum", 1), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kNoInstance);
  Writer next_writer(instance_);
  add_and_flush(next_writer, "new");
  eventually("the new instance", [&] {
    static_cast<void>(reader.age());
    return reader.get<std::int64_t>("new") == 1;
  });
  EXPECT_EQ(reader.status().reattach_count, 1U);
}

// When the directory is removed while no merger runs, a writer that waits is told, and readers keep what they have
// until there is a new instance.
TEST_F(Failures, ADirectoryThatIsRemovedWithoutAMergerIsNoticed) {
  Program merger = start_merger(instance_);
  Writer writer(instance_);
  add_and_flush(writer, "sum");
  Reader reader(instance_);
  stop(merger);
  fs::remove_all(instance_);
  EXPECT_EQ(writer.add("sum", 1), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kNoInstance);
  eventually("a reader that knows", [&] { return reader.status().instance_gone; });
  EXPECT_EQ(reader.get<std::int64_t>("sum"), 1);
  merger = start_merger(instance_);
  Writer next_writer(instance_);
  add_and_flush(next_writer, "new");
  eventually("the new instance", [&] { return reader.status().reattach_count == 1; });
  EXPECT_EQ(reader.get<std::int64_t>("new"), 1);
}

}  // namespace
}  // namespace shmstate::test
