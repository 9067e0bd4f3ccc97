// What a fork leaves to whom: what was opened before it stays the parent's, and a child disturbs nobody.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <thread>

#include "files/control.h"
#include "files/ring_file.h"
#include "harness/process_support.h"
#include "shmstate/reader.h"
#include "shmstate/reader_c.h"
#include "shmstate/watch.h"
#include "shmstate/writer.h"
#include "shmstate/writer_c.h"

namespace shmstate::test {
using namespace internal;
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class Fork : public testing::Test {
 protected:
  Fork() : merger_(start_merger(instance_, {"--buffers", "2"})) {}

  [[nodiscard]] std::string path() const { return instance_.string(); }
  [[nodiscard]] std::int64_t number(const std::string& key) const {
    return Reader(path()).get<std::int64_t>(key).value_or(-1);
  }
  /// Publishes often enough that every buffer that nobody pins is overwritten.
  static void publish_often(Writer& writer) {
    for (int i = 0; i < 10; ++i) {
      ASSERT_EQ(writer.set("turn", i), Status::kOk);
      ASSERT_EQ(writer.flush(kPatience), Status::kOk);
    }
  }
  [[nodiscard]] std::size_t ring_files() const {
    return static_cast<std::size_t>(std::distance(fs::directory_iterator(rings_path(instance_)), {}));
  }

  TestDirectory directory_;
  fs::path instance_ = directory_ / "plant";
  Program merger_;
};

std::string verdict_of(const std::function<void()>& body) { return Child(body).verdict(); }

Status status_of(const std::function<void()>& action) {
  try {
    action();
    return Status::kOk;
  } catch (const Error& error) {
    return error.status();
  }
}

/// The descriptors that this process has open.
std::vector<int> open_descriptors() {
  std::vector<int> descriptors;
  for (int fd = 0; fd < 256; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) descriptors.push_back(fd);
  }
  return descriptors;
}

// ---- what is the parent's

// A child lets a snapshot go that it has inherited, in each way there is; the parent's goes on being pinned.
TEST_F(Fork, AChildDoesNotTakeAwayItsParentsPin) {
  Writer writer(path());
  publish_often(writer);
  Reader reader(path());
  std::optional<Snapshot> snapshot = reader.snapshot();
  const std::int64_t turn = snapshot->get<std::int64_t>("turn").value();
  EXPECT_EQ(verdict_of([&] { snapshot.reset(); }), "");
  EXPECT_EQ(verdict_of([&] { *snapshot = reader.snapshot(); }), "");
  EXPECT_EQ(verdict_of([&] { static_cast<void>(reader.changes({})); }), "");
  EXPECT_EQ(verdict_of([&] {
              Reader gone = std::move(reader);
              const Snapshot let_go = std::move(*snapshot);
            }),
            "");
  EXPECT_EQ(writer.set("turn", 99), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(writer.set("turn", 100), Status::kOk);
  EXPECT_EQ(writer.flush(100ms), Status::kTimeout) << "with two buffers, a pin stalls what comes next";
  EXPECT_FALSE(snapshot->expired());
  EXPECT_EQ(snapshot->get<std::int64_t>("turn"), turn);
  snapshot.reset();
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
}

// While no merger makes room, a child has what its parent keeps in mind, and ends.
TEST_F(Fork, AChildPushesNothingOfWhatItsParentConflates) {
  Writer writer(path(), {.ring_bytes = 65536, .when_full = WhenFull::kConflate});
  merger_.stop();
  for (int i = 0; i < 5000; ++i) ASSERT_EQ(writer.add("sum", 1), Status::kOk);
  ASSERT_GT(writer.counters().conflated, 0U);
  Child heir([&] { const Writer gone = std::move(writer); });
  merger_.go_on();
  EXPECT_EQ(heir.verdict(), "");
  eventually("what the ring held", [&] { return number("sum") >= 2730; });
  EXPECT_EQ(number("sum"), 2730) << "and nothing of the child's";
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(writer.add("sum", 1), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(number("sum"), 6000);
}

// One ring that three processes push through, two of which come from a fork in the middle of it.
TEST_F(Fork, AChildCannotPushThroughItsParentsSharedRing) {
  constexpr int kPushes = 5000;
  const auto push_all = [&](Writer& writer) {
    for (int i = 0; i < kPushes; ++i) must_be_ok(writer.add("sum", 1), "a push");
    must_be_ok(writer.flush(kPatience), "its flush");
  };
  Child other([&] {
    Writer writer(path(), {.shared = true});
    push_all(writer);
  });
  Writer writer(path(), {.shared = true});
  std::thread pushing([&] { push_all(writer); });
  Child child([&] {
    for (int i = 0; i < kPushes; ++i) must(writer.add("sum", 1) == Status::kForked, "a push of the child");
    writer = Writer(path(), {.shared = true});
    push_all(writer);
  });
  pushing.join();
  EXPECT_EQ(other.verdict(), "");
  EXPECT_EQ(child.verdict(), "");
  EXPECT_EQ(number("sum"), 3 * kPushes);
}

// In a child, everything that writes says so and changes nothing, through each function there is.
TEST_F(Fork, InAChildAWriterAndItsBatchSayForked) {
  for (const WhenFull when_full : {WhenFull::kBlock, WhenFull::kFail, WhenFull::kConflate}) {
    Writer writer(path(), {.when_full = when_full});
    ASSERT_EQ(writer.set("key", 1), Status::kOk);
    ASSERT_EQ(writer.flush(kPatience), Status::kOk);
    const Ticket ticket = writer.ticket();
    Batch batch = writer.batch();
    batch.set("in batch", 1);
    EXPECT_EQ(verdict_of([&] {
                Key key("key");
                must(writer.set("key", 2) == Status::kForked, "set");
                must(writer.set("key", 2, {.ttl = 1s}) == Status::kForked, "set with options");
                must(writer.set(key, 2) == Status::kForked, "set of a bound key");
                must(writer.add("key", 2) == Status::kForked, "add");
                must(writer.erase("key") == Status::kForked, "erase");
                must(writer.flush(0ns) == Status::kForked, "flush");
                must(writer.flush(ticket, kPatience) == Status::kForked, "flush of a ticket");
                must(writer.status().ring == Status::kForked, "status");
                must(batch.set("in batch", 2) == Status::kForked, "set in a batch");
                must(batch.set(key, 2) == Status::kForked, "set of a bound key in a batch");
                must(batch.commit() == Status::kForked, "commit");
                must(writer.ticket() == ticket, "the ticket");
                writer = Writer(path());
                must_be_ok(writer.set("child", 1), "a writer of the child's own");
                must_be_ok(writer.flush(kPatience), "its flush");
              }),
              "");
    EXPECT_EQ(batch.commit(), Status::kOk);
    EXPECT_EQ(writer.flush(kPatience), Status::kOk);
    EXPECT_EQ(writer.counters().failed, 0U);
    EXPECT_EQ(number("key"), 1);
    EXPECT_EQ(number("in batch"), 1);
    EXPECT_EQ(number("child"), 1);
  }
}

TEST_F(Fork, InAChildASnapshotSaysForked) {
  Writer writer(path());
  publish_often(writer);
  Reader reader(path());
  const Snapshot snapshot = reader.snapshot();
  auto place = snapshot.begin();
  EXPECT_EQ(verdict_of([&] {
              must(snapshot.expired(), "it is none any more");
              must(status_of([&] { static_cast<void>(snapshot.find("turn")); }) == Status::kForked, "find");
              must(status_of([&] { static_cast<void>(snapshot.size()); }) == Status::kForked, "size");
              must(status_of([&] { static_cast<void>(snapshot.begin()); }) == Status::kForked, "begin");
              must(status_of([&] { ++place; }) == Status::kForked, "going on");
              const Snapshot mine = reader.snapshot();
              must(mine.get<std::int64_t>("turn") == 9, "a snapshot of the child's own");
              must(!mine.expired(), "which lasts");
            }),
            "");
  EXPECT_EQ(snapshot.get<std::int64_t>("turn"), 9);
}

TEST_F(Fork, InAChildTheCApiSaysForked) {
  shmstate_writer* writer = nullptr;
  shmstate_reader* reader = nullptr;
  shmstate_snapshot* snapshot = nullptr;
  ASSERT_EQ(shmstate_writer_open(path().c_str(), nullptr, &writer), SHMSTATE_OK);
  ASSERT_EQ(shmstate_writer_set_int64(writer, "key", SHMSTATE_TEXT, 1, nullptr), SHMSTATE_OK);
  ASSERT_EQ(shmstate_writer_flush(writer, std::chrono::nanoseconds(kPatience).count()), SHMSTATE_OK);
  ASSERT_EQ(shmstate_reader_open(path().c_str(), nullptr, &reader), SHMSTATE_OK);
  ASSERT_EQ(shmstate_snapshot_open(reader, &snapshot), SHMSTATE_OK);
  EXPECT_EQ(verdict_of([&] {
              std::int64_t value = 0;
              std::uint64_t count = 0;
              must(shmstate_writer_set_int64(writer, "key", SHMSTATE_TEXT, 2, nullptr) == SHMSTATE_FORKED, "set");
              must(shmstate_writer_flush(writer, 0) == SHMSTATE_FORKED, "flush");
              must(shmstate_snapshot_check(snapshot) == SHMSTATE_FORKED, "check");
              must(shmstate_snapshot_get_entry_count(snapshot, &count) == SHMSTATE_FORKED, "count");
              must(shmstate_reader_get_int64(reader, "key", SHMSTATE_TEXT, &value) == SHMSTATE_OK && value == 1, "get");
              shmstate_snapshot_close(snapshot);
              shmstate_reader_close(reader);
              shmstate_writer_close(writer);
            }),
            "");
  EXPECT_EQ(shmstate_snapshot_check(snapshot), SHMSTATE_OK);
  shmstate_snapshot_close(snapshot);
  shmstate_reader_close(reader);
  shmstate_writer_close(writer);
}

// ---- what goes on

TEST_F(Fork, InAChildAReaderGoesOn) {
  Writer writer(path());
  publish_often(writer);
  Reader reader(path());
  Key key("turn");
  ASSERT_EQ(reader.get<std::int64_t>(key), 9);
  const Position position = reader.position();
  EXPECT_EQ(verdict_of([&] {
              must(reader.get<std::int64_t>("turn") == 9, "a point read");
              must(reader.get<std::int64_t>(key) == 9, "a bound key");
              must(reader.get<Value>("turn") == Value(std::int64_t{9}), "a value of any type");
              must(reader.position() == position, "the position");
              must(reader.wait(position, 1ms) == position, "a wait");
              must(!reader.changes(position).gap, "the changes since then");
              must(reader.status().merger_running && reader.status().reattach_count == 0, "the status");
            }),
            "");
  EXPECT_EQ(
      verdict_of([&] {
        Child grandchild([&] { must(reader.get<std::int64_t>("turn") == 9, "a child's child, the child did not"); });
        must(grandchild.verdict().empty(), "the grandchild");
        const Snapshot mine = reader.snapshot();
        Child another([&] {
          must(mine.expired(), "the child's snapshot");
          must(reader.snapshot().get<std::int64_t>("turn") == 9, "a child's child, after the child");
        });
        must(another.verdict().empty(), "the other grandchild");
        must(!mine.expired(), "the child's pin");
      }),
      "");
  publish_often(writer);
  EXPECT_EQ(reader.get<std::int64_t>("turn"), 9);
}

// It delivers to parent and child whatever comes, to each once; the descriptor of the one does not wake the other.
TEST_F(Fork, InAChildAWatchGoesOnAndTakesNothingFromItsParent) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the sanitizer knows of no threads in a child of a process with threads";
#endif
  Writer writer(path());
  Watch watch(path(), "news");
  const int fd = watch.fd();
  ASSERT_TRUE(watch.next(0ns).complete);
  const auto is_readable = [](int descriptor, std::chrono::milliseconds timeout) {
    pollfd event{.fd = descriptor, .events = POLLIN, .revents = 0};
    return ::poll(&event, 1, static_cast<int>(timeout.count())) == 1 && (event.revents & POLLIN) != 0;
  };
  Board<std::atomic<int>> step;
  Child child([&] {
    must(::fcntl(fd, F_GETFD) < 0, "the parent's descriptor is closed");
    const int mine = watch.fd();
    *step = 1;
    eventually("the first news", [&] { return is_readable(mine, 100ms) && !watch.next(0ns).changes.empty(); });
    for (int i = 0; i < 20; ++i) static_cast<void>(watch.next(1ms));
    *step = 2;
  });
  eventually("the child's watch", [&] { return *step == 1; });
  ASSERT_EQ(writer.set("news", 1), Status::kOk);
  eventually("the child's news", [&] { return *step == 2; });
  EXPECT_EQ(child.verdict(), "");
  EXPECT_TRUE(is_readable(fd, kPatience));
  const WatchBatch batch = watch.next(kPatience);
  ASSERT_EQ(batch.changes.size(), 1U);
  EXPECT_FALSE(batch.complete);
  EXPECT_EQ(verdict_of([&] { const Watch gone = std::move(watch); }), "")
      << "nobody waits for a thread that is not there";
}

// A child that may not attach any more is told why, and goes on trying.
TEST_F(Fork, InAChildAReaderThatCannotAttachSaysWhy) {
  Writer writer(path());
  publish_often(writer);
  Reader reader(path());
  ASSERT_EQ(reader.get<std::int64_t>("turn"), 9);
  EXPECT_EQ(verdict_of([&] {
              fs::rename(instance_, directory_ / "away");
              std::int64_t value = 0;
              must(reader.read("turn", value) == Status::kNoInstance, "a number");
              std::string text;
              must(reader.read("turn", text) == Status::kNoInstance, "a text");
              must(reader.epoch() == 0 && reader.wait({}, 1ms) == Position{}, "the position");
              must(reader.age() == std::chrono::nanoseconds::max(), "the age");
              must(!reader.merger_running() && reader.status().instance_gone, "the status");
              must(status_of([&] { static_cast<void>(reader.snapshot()); }) == Status::kNoInstance, "a snapshot");
              must(status_of([&] { static_cast<void>(reader.changes({})); }) == Status::kNoInstance, "changes");
              fs::rename(directory_ / "away", instance_);
              eventually("the instance", [&] { return reader.read("turn", value) == Status::kOk; });
              must(value == 9, "its value");
            }),
            "");
  EXPECT_EQ(reader.get<std::int64_t>("turn"), 9);
}

// ---- descriptors and locks

TEST_F(Fork, AChildHasNoneOfItsParentsFilesOpen) {
  std::vector<int> parents;
  const std::vector<int> before = open_descriptors();
  Writer writer(path());
  Writer shared(path(), {.shared = true});
  Reader reader(path());
  const Snapshot snapshot = reader.snapshot();
  Watch watch(path(), "");
  static_cast<void>(watch.fd());
  for (const int fd : open_descriptors()) {
    if (std::find(before.begin(), before.end(), fd) == before.end()) parents.push_back(fd);
  }
  ASSERT_GE(parents.size(), 8U);
  Child child([&] {
    for (const int fd : parents) must(::fcntl(fd, F_GETFD) < 0, "a descriptor of the parent's");
    // Numbers that are free are taken by others; letting the parent's handles go must not close those.
    std::vector<os::Fd> mine;
    for (int i = 0; i < 32; ++i) mine.push_back(os::open_file("/dev/null", O_RDONLY));
    {
      const Writer gone = std::move(writer);
      const Writer gone_too = std::move(shared);
      const Watch gone_watch = std::move(watch);
      const Snapshot gone_snapshot = std::move(const_cast<Snapshot&>(snapshot));
      Reader gone_reader = std::move(reader);
    }
    for (const os::Fd& fd : mine) must(::fcntl(fd.get(), F_GETFD) >= 0, "a file of the child's own");
  });
  EXPECT_EQ(child.verdict(), "");
  EXPECT_EQ(writer.set("key", 1), Status::kOk);
  EXPECT_EQ(shared.set("shared key", 1), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(shared.flush(kPatience), Status::kOk);
}

// A pusher that dies with the lock of a shared ring frees it, whatever children it has.
TEST_F(Fork, AChildDoesNotKeepTheLockOfASharedRing) {
  Board<std::atomic<int>> heir_pid;
  Child holder([&] {
    const Writer writer(path(), {.shared = true});
    const RingFile ring =
        RingFile::open_shared(rings_path(instance_), {.data_bytes = 4 << 20,
                                                      .flags = layout::kRingShared,
                                                      .name = "holder",
                                                      .instance_id = Control(instance_, 0ns).geometry().instance_id});
    must(os::try_lock(ring.fd(), kPusherByte, true), "the lock");
    const pid_t heir = ::fork();
    if (heir == 0) {
      for (;;) ::pause();
    }
    *heir_pid = heir;
    for (;;) ::pause();
  });
  eventually("the heir", [&] { return *heir_pid != 0; });
  holder.kill();
  Writer writer(path(), {.full_timeout = kPatience, .shared = true});
  EXPECT_EQ(writer.set("key", 1), Status::kOk);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  ::kill(*heir_pid, SIGKILL);
}

// ---- other ways to get a child

// Threads read and push without a pause while another one forks; the children end as children do.
TEST_F(Fork, AProcessWithManyThreadsForksInTheMiddleOfWhatTheyDo) {
  std::atomic<bool> is_over{false};
  std::vector<std::thread> threads;
  std::vector<std::int64_t> pushed(3, 0);
  Writer shared(path(), {.shared = true});
  for (std::size_t i = 0; i < pushed.size(); ++i) {
    threads.emplace_back([&, i] {
      Writer writer(path(), {.when_full = i == 0 ? WhenFull::kConflate : WhenFull::kBlock, .full_timeout = kPatience});
      while (!is_over) pushed[i] += writer.add("sum", 1) == Status::kOk ? 1 : 0;
      EXPECT_EQ(writer.flush(kPatience), Status::kOk);
    });
  }
  threads.emplace_back([&] {
    Reader reader(path());
    while (!is_over) EXPECT_GE(reader.snapshot().size(), 0U);
  });
  Reader reader(path());
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(verdict_of([&] {
                must(shared.set("shared", 1) == Status::kForked, "the writer");
                static_cast<void>(reader.get<std::int64_t>("sum"));
                must(reader.snapshot().epoch() > 0, "the reader");
              }),
              "");
  }
  is_over = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(number("sum"), pushed[0] + pushed[1] + pushed[2]);
}

// clone(2) without the C library: nothing runs in the child before its code does.
TEST_F(Fork, AChildThatTheCLibraryKnowsNothingOfIsNoticedToo) {
  Writer writer(path());
  publish_often(writer);
  Reader reader(path());
  const Snapshot snapshot = reader.snapshot();
  const auto child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool is_right = writer.set("turn", 1) == Status::kForked && snapshot.expired() &&
                          reader.get<std::int64_t>("turn") == 9 && reader.snapshot().epoch() == snapshot.epoch();
    ::_exit(is_right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_FALSE(snapshot.expired());
  EXPECT_EQ(snapshot.get<std::int64_t>("turn"), 9);
}

// A child that shares the memory until it becomes another program does not make its parent one that was forked.
TEST_F(Fork, StartingAProgramDisturbsNobody) {
  Writer writer(path());
  publish_often(writer);
  Reader reader(path());
  const Snapshot snapshot = reader.snapshot();
  for (int i = 0; i < 5; ++i) {
    std::string program = "/bin/true";
    char* const arguments[] = {program.data(), nullptr};
    pid_t child = 0;
    ASSERT_EQ(::posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, nullptr), 0);
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(std::system("exit 0"), 0);
    EXPECT_FALSE(snapshot.expired());
    EXPECT_EQ(reader.get<std::int64_t>("turn"), 9);
  }
  EXPECT_EQ(writer.add("turn", 1), Status::kOk);
  EXPECT_EQ(reader.status().reattach_count, 0U);
}

}  // namespace
}  // namespace shmstate::test
