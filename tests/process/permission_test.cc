// Who may do what with the files of an instance whose readers and writers have a group each: real users, real modes.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "files/control.h"
#include "files/ring_file.h"
#include "harness/process_support.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr gid_t kReaders = 64001;
constexpr gid_t kWriters = 64002;

const User kMerger{.uid = 64010, .gid = 64010, .groups = {kReaders, kWriters}};
const User kReader{.uid = 64011, .gid = 64011, .groups = {kReaders}};
const User kWriter{.uid = 64012, .gid = 64012, .groups = {kReaders, kWriters}};
const User kSecondWriter{.uid = 64013, .gid = 64013, .groups = {kReaders, kWriters}};
const User kStranger{.uid = 64014, .gid = 64014, .groups = {}};

/// Whether open(2) succeeds.
bool may_open(const fs::path& path, int flags) { return os::open_file(path, flags | O_NONBLOCK).is_open(); }

struct Rights {
  bool read;
  bool write;
};

void must_have(const fs::path& path, const Rights& rights) {
  must(may_open(path, O_RDONLY) == rights.read, "read of " + path.string());
  must(may_open(path, O_WRONLY) == rights.write, "write of " + path.string());
  must(may_open(path, O_RDWR) == (rights.read && rights.write), "read and write of " + path.string());
}

/// Neither the file's name nor what it leads to can be changed.
void must_not_move(const fs::path& path) {
  must(::unlink(path.c_str()) != 0 && ::rmdir(path.c_str()) != 0, "may remove " + path.string());
  const std::string other = path.string() + "-moved";
  must(::rename(path.c_str(), other.c_str()) != 0, "may rename " + path.string());
  must(::chmod(path.c_str(), 0777) != 0 && ::chown(path.c_str(), ::geteuid(), ::getegid()) != 0,
       "may take " + path.string());
}

void must_not_create_in(const fs::path& directory) {
  const fs::path file = directory / "made-by-the-test";
  must(!may_open(file, O_WRONLY | O_CREAT) && ::mkdir(file.c_str(), 0700) != 0, "may create in " + directory.string());
}

class PermissionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to become other users";
    root_ = directory_ / "root";
    fs::create_directory(root_);
    ASSERT_EQ(::chown(root_.c_str(), kMerger.uid, kMerger.gid), 0);
    instance_ = root_ / "plant";
  }

  [[nodiscard]] Program start(const std::vector<std::string>& options, const User& user = kMerger) const {
    Program merger = launch_merger(instance_, options, {.input = "", .user = user});
    eventually("a merger that serves", [&] {
      must(!merger.has_ended(), "the merger ended: " + merger.output());
      return merger.output().find(" at epoch ") != std::string::npos;
    });
    return merger;
  }
  [[nodiscard]] Program start_with_groups() const {
    return start({"--readers-group", std::to_string(kReaders), "--writers-group", std::to_string(kWriters)});
  }

  static void as(const User& user, const std::function<void()>& body) {
    Child child([&] {
      become(user);
      body();
    });
    EXPECT_EQ(child.verdict(), "") << "as user " << user.uid;
  }

  void expect_modes() const {
    const auto expect = [](const fs::path& path, unsigned mode, gid_t gid) {
      const std::optional<os::FileInfo> info = os::file_info(path);
      ASSERT_TRUE(info) << path;
      EXPECT_EQ(info->mode, mode) << path;
      EXPECT_EQ(info->uid, kMerger.uid) << path;
      EXPECT_EQ(info->gid, gid) << path;
    };
    expect(instance_, 0750, kReaders);
    expect(instance_ / "control", 0640, kReaders);
    expect(instance_ / "snapshot", 0640, kReaders);
    expect(pins_path(instance_), 0660, kReaders);
    expect(instance_ / "merger.lock", 0600, kMerger.gid);
    expect(gate_path(instance_), 0750, kWriters);
    expect(doorbell_path(instance_), 0666, kMerger.gid);
    expect(rings_path(instance_), 03773, kMerger.gid);
  }

  TestDirectory directory_;
  fs::path root_;
  fs::path instance_;
};

/// The nanoseconds since a point in time that a test takes at its beginning; longer than that nothing can be silent.
std::chrono::nanoseconds since(std::uint64_t began_ns) { return std::chrono::nanoseconds(os::now_ns() - began_ns); }

// Everything is right before anybody can see an instance: who tries to attach all the time while one is being made
// waits, and is never refused; then it is let in, and what it sees is as young as it is.
TEST_F(PermissionTest, WhoAttachesWhileAnInstanceIsMadeWaitsAndIsLetIn) {
  constexpr int kInstances = 30;
  Board<std::atomic<int>> readers_in;
  Board<std::atomic<int>> writers_in;
  const std::uint64_t began_ns = os::now_ns();
  const auto path = [&](int i) { return (root_ / ("plant" + std::to_string(i))).string(); };
  const auto attach = [&](const User& user, std::atomic<int>& in, const std::function<void(const std::string&)>& open) {
    become(user);
    while (in < kInstances) {
      try {
        open(path(in));
        ++in;
      } catch (const Error& error) {
        must(error.status() == Status::kNoInstance || error.status() == Status::kNotReady, error.what());
      }
    }
  };
  Child reading([&] {
    attach(kReader, *readers_in, [&](const std::string& instance) {
      Reader reader(instance, {.attach_timeout = 0ns});
      must(reader.age() <= since(began_ns) && reader.epoch() > 0, "too old");
      const InstanceInfo info = inspect(instance);
      must(info.merger_silence <= since(began_ns) && info.age <= since(began_ns) && info.merger_running, "silent");
    });
  });
  Child writing([&] {
    attach(kWriter, *writers_in,
           [&](const std::string& instance) { const Writer writer(instance, {.name = "w", .attach_timeout = 0ns}); });
  });
  for (int i = 0; i < kInstances; ++i) {
    instance_ = path(i);
    const Program merger = start_with_groups();
    eventually("both",
               [&] { return (*readers_in > i || reading.has_ended()) && (*writers_in > i || writing.has_ended()); });
    if (reading.has_ended() || writing.has_ended()) break;
  }
  if (*readers_in < kInstances || *writers_in < kInstances) {  // one has a complaint
    if (!reading.has_ended() && *readers_in < kInstances && writing.has_ended()) reading.kill();
    if (!writing.has_ended() && *writers_in < kInstances && reading.has_ended()) writing.kill();
  }
  EXPECT_EQ(reading.verdict(), "");
  EXPECT_EQ(writing.verdict(), "");
}

class FilesOfAnInstance : public PermissionTest {
 protected:
  void SetUp() override {
    PermissionTest::SetUp();
    if (IsSkipped()) return;
    merger_.emplace(start_with_groups());
    writer_.emplace([this] {
      become(kWriter);
      Writer writer(instance_.string(), {.name = "own"});
      must_be_ok(writer.set("own", 1), "set");
      must_be_ok(writer.flush(kPatience), "flush");
      Writer shared(instance_.string(), {.name = "shared", .shared = true});
      must_be_ok(shared.set("shared", 1), "set");
      must_be_ok(shared.flush(kPatience), "flush");
      ::pause();
    });
    eventually("two rings", [&] { return inspect(instance_.string()).rings.size() == 2; });
    for (const RingInfo& ring : inspect(instance_.string()).rings) {
      rings_.push_back(rings_path(instance_) / ring_name(ring.id));
    }
    rings_.push_back(rings_path(instance_) / shared_ring_name(kWriter.uid));
  }

  [[nodiscard]] std::vector<fs::path> everything() const {
    std::vector<fs::path> all{instance_, instance_ / "control", instance_ / "snapshot", instance_ / "merger.lock"};
    all.insert(all.end(), {gate_path(instance_), doorbell_path(instance_), rings_path(instance_)});
    all.insert(all.end(), rings_.begin(), rings_.end());
    return all;
  }

  std::optional<Program> merger_;
  std::optional<Child> writer_;
  std::vector<fs::path> rings_;
};

// The files of an instance have the documented modes and groups, whatever the umask of merger and writers is.
TEST_F(FilesOfAnInstance, HaveTheirModesAndGroups) {
  expect_modes();
  for (const fs::path& ring : rings_) {
    const std::optional<os::FileInfo> info = os::file_info(ring);
    ASSERT_TRUE(info) << ring;
    EXPECT_EQ(info->mode, 0660U) << ring;
    EXPECT_EQ(info->uid, kWriter.uid) << ring;
    EXPECT_EQ(info->gid, kMerger.gid) << ring;
  }
}

// A reader reads what is published, and can write, create, remove or rename nothing.
TEST_F(FilesOfAnInstance, AreOnlyReadByAReader) {
  as(kReader, [&] {
    must(Reader(instance_.string()).get<std::int64_t>("own") == 1, "not readable");
    must_have(instance_ / "control", {.read = true, .write = false});
    must_have(instance_ / "snapshot", {.read = true, .write = false});
    must_have(pins_path(instance_), {.read = true, .write = true});
    must_have(instance_ / "merger.lock", {.read = false, .write = false});
    must_have(doorbell_path(instance_), {.read = false, .write = false});
    for (const fs::path& ring : rings_) must_have(ring, {.read = false, .write = false});
    for (const fs::path& file : everything()) must_not_move(file);
    must_not_create_in(instance_);
    must_not_create_in(gate_path(instance_));
    must_not_create_in(rings_path(instance_));
    must(!may_open(gate_path(instance_), O_RDONLY | O_DIRECTORY), "the gate can be listed");
  });
}

// A writer reads and writes, and can neither open nor remove the ring of another writer, nor change what the merger
// publishes.
TEST_F(FilesOfAnInstance, KeepASecondWriterOutOfTheFirstOnesRing) {
  as(kSecondWriter, [&] {
    Writer writer(instance_.string(), {.name = "second"});
    must_be_ok(writer.set("second", 2), "set");
    must_be_ok(writer.flush(kPatience), "flush");
    must(Reader(instance_.string()).get<std::int64_t>("second") == 2, "not readable");
    must_have(instance_ / "control", {.read = true, .write = false});
    must_have(instance_ / "snapshot", {.read = true, .write = false});
    must_have(instance_ / "merger.lock", {.read = false, .write = false});
    must_have(doorbell_path(instance_), {.read = true, .write = true});
    for (const fs::path& ring : rings_) must_have(ring, {.read = false, .write = false});
    for (const fs::path& file : everything()) must_not_move(file);
    const fs::path mine = rings_path(instance_) / ring_name(writer.ring_id());
    for (const fs::path& ring : rings_) must(::rename(mine.c_str(), ring.c_str()) != 0, "may replace " + ring.string());
    must_not_create_in(instance_);
    must_not_create_in(gate_path(instance_));
    must(!may_open(rings_path(instance_), O_RDONLY | O_DIRECTORY), "the rings of others can be listed");
    Writer shared(instance_.string(), {.name = "shared", .shared = true});
    must_be_ok(shared.set("shared", 2), "set");
    must_be_ok(shared.flush(kPatience), "flush");
  });
}

// The first writer opens its own rings again.
TEST_F(FilesOfAnInstance, LetAWriterOpenItsOwnRings) {
  as(kWriter, [&] {
    for (const fs::path& ring : rings_) must_have(ring, {.read = true, .write = true});
    Writer shared(instance_.string(), {.name = "shared", .shared = true});
    must_be_ok(shared.set("shared", 3), "set");
    must_be_ok(shared.flush(kPatience), "flush");
  });
}

// A stranger can open nothing, and is told why.
TEST_F(FilesOfAnInstance, ArePrivateToStrangers) {
  as(kStranger, [&] {
    for (const fs::path& file : everything()) {
      must_have(file, {.read = false, .write = false});
      must_not_move(file);
    }
    for (const fs::path& place : {instance_, gate_path(instance_), rings_path(instance_)}) must_not_create_in(place);
    try {
      Reader reader(instance_.string(), {.attach_timeout = 20ms});
    } catch (const Error& error) {
      must(error.status() == Status::kNoPermission, error.what());
      return;
    }
    must(false, "a stranger reads");
  });
}

// Who is in the writers' group only may not even read; who is in the readers' group only is refused as a writer, with
// the gate's name in the message.
TEST_F(FilesOfAnInstance, RefuseAReaderThatWantsToWrite) {
  as(kReader, [&] {
    try {
      const Writer writer(instance_.string(), {.name = "reader"});
    } catch (const Error& error) {
      must(error.status() == Status::kNoPermission, error.what());
      const std::string closed = (instance_ / "writers").string() + ": mode 0750";
      must(std::string(error.what()).find(closed) != std::string::npos, error.what());
      return;
    }
    must(false, "a reader writes");
  });
  as({.uid = kStranger.uid, .gid = kStranger.gid, .groups = {kWriters}}, [&] {
    for (const fs::path& file : everything()) must_have(file, {.read = false, .write = false});
  });
}

class HostileWriter : public FilesOfAnInstance {
 protected:
  /// What a writer that goes on by the rules sees.
  void expect_service(std::int64_t value) const {
    as(kWriter, [&] {
      Writer writer(instance_.string(), {.name = "good"});
      Writer shared(instance_.string(), {.name = "good", .shared = true});
      must_be_ok(writer.set("good", value), "set");
      must_be_ok(shared.set("good/shared", value), "set through a shared ring");
      must_be_ok(writer.flush(kPatience), "flush");
      must_be_ok(shared.flush(kPatience), "flush of a shared ring");
      must(Reader(instance_.string()).get<std::int64_t>("good") == value, "not readable");
    });
  }
};

// Whatever another writer puts beside the rings, and under the names of others, the merger refuses it and others go on.
TEST_F(HostileWriter, PutsAllKindsOfFilesBesideTheRings) {
  as(kSecondWriter, [&] {
    const fs::path rings = rings_path(instance_);
    const auto make = [&](std::uint64_t id) { return rings / ring_name(id); };
    must(::symlink((instance_ / "control").c_str(), make(1).c_str()) == 0, "symlink");
    must(::symlink(rings_.front().c_str(), make(2).c_str()) == 0, "symlink to a ring");
    must(::mkfifo(make(3).c_str(), 0666) == 0, "mkfifo");
    must(::mkdir(make(4).c_str(), 0777) == 0, "mkdir");
    must(::mkdir(make(5).c_str(), 0777) == 0 && ::mkdir((make(5) / "full").c_str(), 0777) == 0, "mkdir");
    must(::link(doorbell_path(instance_).c_str(), make(6).c_str()) == 0, "link of the doorbell");
    must(::mknod(make(7).c_str(), S_IFSOCK | 0666, 0) == 0, "mknod of a socket");
    must(::mknod(make(8).c_str(), S_IFCHR | 0666, makedev(1, 5)) != 0, "a writer makes devices");
    must(os::open_file(make(9), O_WRONLY | O_CREAT, 0000).is_open(), "a file that nobody may open");
    must(os::open_file(make(10), O_WRONLY | O_CREAT, 0666).is_open(), "an empty file");
    for (std::uint64_t i = 100; i < 3000; ++i) {
      must(os::open_file(make(i), O_WRONLY | O_CREAT, 0666).is_open(), "one of many files");
      must(os::open_file(rings / std::to_string(i), O_WRONLY | O_CREAT, 0666).is_open(), "one of many other files");
    }
  });
  expect_service(7);
  EXPECT_FALSE(merger_->has_ended()) << merger_->output();
  const auto only_the_full_directory_is_left = [&] {
    for (const fs::directory_entry& entry : fs::directory_iterator(rings_path(instance_))) {
      const std::string name = entry.path().filename();
      const std::optional<os::FileInfo> info = os::file_info(entry.path());
      if (name != ring_name(5) && info && info->uid == kSecondWriter.uid) return false;
    }
    return true;
  };
  eventually("the removal of what is no ring", only_the_full_directory_is_left);
  merger_->signal(SIGTERM);
  EXPECT_EQ(merger_->wait(), 0) << merger_->output();
  merger_.emplace(start({}));
  expect_service(8);
}

// A ring that its writer does not let the merger open is not taken for none: it keeps its place, and when it is opened
// again, everything that waited in it is merged, once. Others go on meanwhile.
TEST_F(HostileWriter, ClosesItsRingAndNothingOfItIsLost) {
  enum Step : int { kServed = 1, kStopped, kClosed, kRefused, kMerged };
  Board<std::atomic<int>> step;
  const auto reached = [&](Step wanted) { return [&step, wanted] { return *step >= wanted; }; };
  Child closing([&] {
    become(kSecondWriter);
    Writer served(instance_.string(), {.name = "served"});
    must_be_ok(served.add("sum", 1), "add");
    must_be_ok(served.flush(kPatience), "flush");
    *step = kServed;
    eventually("a merger that stopped", reached(kStopped));
    Writer unseen(instance_.string(), {.name = "unseen"});
    for (Writer* const writer : {&served, &unseen}) {
      must_be_ok(writer->add("sum", 10), "add");
      must(::chmod((rings_path(instance_) / ring_name(writer->ring_id())).c_str(), 0600) == 0, "chmod");
    }
    *step = kClosed;
    eventually("a refusal", reached(kRefused));
    for (Writer* const writer : {&served, &unseen}) {
      must(::chmod((rings_path(instance_) / ring_name(writer->ring_id())).c_str(), 0660) == 0, "chmod");
      must_be_ok(writer->flush(kPatience), "flush");
    }
    *step = kMerged;
  });
  eventually("a ring that is served", reached(kServed));
  merger_->signal(SIGTERM);
  EXPECT_EQ(merger_->wait(), 0) << merger_->output();
  *step = kStopped;
  eventually("a closed ring", reached(kClosed));
  for (int i = 0; i < 2; ++i) {
    merger_.emplace(start({}));
    expect_service(8);
    eventually("a report", [&] { return merger_->output().find("Permission denied") != std::string::npos; });
    if (i == 0) merger_->kill();
  }
  *step = kRefused;
  EXPECT_EQ(closing.verdict(), "");
  EXPECT_EQ(Reader(instance_.string()).get<std::int64_t>("sum"), 21);
  eventually("the end of both rings", [&] { return inspect(instance_.string()).rings.size() == 2; });
}

// Who takes the name of another user's shared ring keeps nobody from pushing, and gets nothing of what is pushed.
TEST_F(HostileWriter, TakesTheNameOfAnotherUsersSharedRing) {
  writer_->kill();  // its shared ring goes
  const fs::path name = rings_path(instance_) / shared_ring_name(kWriter.uid);
  eventually("the end of the shared ring", [&] { return !os::file_info(name); });
  std::int64_t value = 1;
  const auto expect_service_despite = [&](const std::function<void()>& take) {
    merger_->stop();  // so that it is there when the victim comes
    as(kSecondWriter, take);
    Child go_on([&] {
      std::this_thread::sleep_for(200ms);
      merger_->go_on();
    });
    expect_service(++value);
    EXPECT_FALSE(merger_->has_ended()) << merger_->output();
    EXPECT_EQ(go_on.verdict(), "");
  };
  const auto expect_removal = [&] {
    eventually("the removal of the wrong name", [&] {
      const std::optional<os::FileInfo> info = os::file_info(name);
      return !info || info->uid == kWriter.uid;
    });
    eventually("no shared ring", [&] { return !os::file_info(name); });
  };
  expect_service_despite([&] { must(::mkfifo(name.c_str(), 0666) == 0, "mkfifo"); });
  expect_removal();
  expect_service_despite([&] { must(::symlink(rings_.front().c_str(), name.c_str()) == 0, "symlink"); });
  expect_removal();
  expect_service_despite([&] {
    Writer writer(instance_.string(), {.name = "thief"});
    must(::link((rings_path(instance_) / ring_name(writer.ring_id())).c_str(), name.c_str()) == 0, "link");
  });
  expect_removal();
  expect_service_despite(
      [&] { must(::mkdir(name.c_str(), 0777) == 0 && ::mkdir((name / "full").c_str(), 0777) == 0, "mkdir"); });
}

// Who may read but not announce reads single keys; snapshots are refused, unless the merger asks in each turn.
TEST_F(PermissionTest, AReaderThatCannotAnnouncePinsReadsAndIsToldWhatItLacks) {
  const Program merger = start_with_groups();
  ASSERT_EQ(::chmod(pins_path(instance_).c_str(), 0640), 0);
  as(kWriter, [&] {
    Writer writer(instance_.string(), {.name = "good"});
    must_be_ok(writer.set("key", 1), "set");
    must_be_ok(writer.flush(kPatience), "flush");
  });
  as(kReader, [&] {
    Reader reader(instance_.string());
    must(reader.get<std::int64_t>("key") == 1, "a value");
    try {
      static_cast<void>(reader.snapshot());
      must(false, "a snapshot");
    } catch (const Error& error) {
      const std::string text = error.what();
      must(error.status() == Status::kNoPermission, text);
      must(text.find(pins_path(instance_).string()) != std::string::npos, text);
      must(text.find("--pins ask") != std::string::npos, text);
    }
  });
}

TEST_F(PermissionTest, WhereTheMergerAsksForPinsAReaderWritesNothing) {
  const Program merger = start(
      {"--readers-group", std::to_string(kReaders), "--writers-group", std::to_string(kWriters), "--pins", "ask"});
  as(kReader, [&] {
    Reader reader(instance_.string());
    const Snapshot snapshot = reader.snapshot();
    must(!snapshot.expired() && !os::file_info(pins_path(instance_)), "a pin without the file");
  });
}

// A reader that pins every buffer for ever delays two publishes by the maximum pin time; writers push on and other
// readers read what is new.
TEST_F(PermissionTest, HostileReaderThatPinsEverythingCostsOnlyTheMaximumPinTime) {
  const Program merger = start({"--readers-group", std::to_string(kReaders), "--writers-group",
                                std::to_string(kWriters), "--pin-time-max", "100ms", "--buffers", "3"});
  Board<std::atomic<bool>> is_pinned;
  const Child hostile([&] {
    become(kReader);
    const os::Fd snapshot = os::open_file(instance_ / "snapshot", O_RDONLY);
    for (std::uint32_t b = 0; b < layout::kBuffersMax; ++b)
      must(os::try_lock(snapshot.get(), kPinByte + b, false), "pin");
    is_pinned->store(true);
    ::pause();
  });
  eventually("the pins", [&] { return is_pinned->load(); });
  as(kWriter, [&] {
    Writer writer(instance_.string(), {.name = "good"});
    Reader reader(instance_.string());
    for (std::int64_t n = 1; n <= 200; ++n) {
      must_be_ok(writer.set("key", n), "set");
      must_be_ok(writer.flush(kPatience), "flush");
      must(reader.get<std::int64_t>("key") == n, "an old value");
    }
  });
  eventually("statistics", [&] { return statistic(instance_, "pins_expired") == 2; });
  EXPECT_EQ(statistic(instance_, "pin_stalls"), 2U);
}

// A merger that starts again without its options keeps the groups, and repairs what somebody changed.
TEST_F(PermissionTest, AreKeptAndRepairedAtTheNextStart) {
  {
    Program merger = start_with_groups();
    merger.signal(SIGTERM);
    ASSERT_EQ(merger.wait(), 0);
  }
  for (const fs::path& file : {instance_ / "control", instance_ / "snapshot", doorbell_path(instance_)}) {
    ASSERT_EQ(::chmod(file.c_str(), 0606), 0);
    ASSERT_EQ(::chown(file.c_str(), kMerger.uid, kStranger.gid), 0);
  }
  ASSERT_EQ(::chmod(gate_path(instance_).c_str(), 0777), 0);
  ASSERT_EQ(::chmod(rings_path(instance_).c_str(), 0777), 0);
  ASSERT_EQ(::chown(rings_path(instance_).c_str(), kMerger.uid, kWriters), 0);
  const Program merger = start({});
  expect_modes();
}

// Groups that are given at a later start are those that count from then on.
TEST_F(PermissionTest, ChangeWhenTheMergerIsStartedWithOtherGroups) {
  {
    Program merger = start({});
    merger.signal(SIGTERM);
    ASSERT_EQ(merger.wait(), 0);
    as(kReader, [&] { must_have(instance_ / "control", {.read = false, .write = false}); });
  }
  const Program merger = start_with_groups();
  expect_modes();
}

// Without groups everything belongs to the merger's own, and `--mode` says what it may do.
TEST_F(PermissionTest, AreThoseOfTheMergersGroupByDefault) {
  const User member{.uid = kWriter.uid, .gid = kMerger.gid, .groups = {}};
  for (const std::string mode : {"0700", "0750", "0755"}) {
    instance_ = root_ / mode;
    const Program merger = start({"--mode", mode});
    as(kMerger, [&] {
      Writer writer(instance_.string());
      must_be_ok(writer.set("key", 1), "set");
      must_be_ok(writer.flush(kPatience), "flush");
    });
    as(member, [&] { must(may_open(instance_ / "control", O_RDONLY) == (mode != "0700"), "reading as a member"); });
    as(member, [&] { must(may_open(doorbell_path(instance_), O_RDWR) == (mode != "0700"), "writing as a member"); });
    as(kStranger,
       [&] { must(may_open(instance_ / "control", O_RDONLY) == (mode == "0755"), "reading as a stranger"); });
    as(kStranger, [&] { must(!may_open(doorbell_path(instance_), O_RDWR), "writing as a stranger"); });
  }
}

// A group that does not exist, that the merger's user may not give files to, or that the mode keeps out is an error
// that says so, and no instance that others could mistake for a good one is left.
TEST_F(PermissionTest, WhoMadeAnotherUsersDirectoryOfInstancesIsNotBelieved) {
  const fs::path root = "/dev/shm/shmstate-" + std::to_string(kReader.uid);
  fs::create_directory(root);
  ASSERT_EQ(::chown(root.c_str(), kStranger.uid, kStranger.gid), 0);
  instance_ = root / "plant";
  {
    const Program merger = start({"--mode", "0755"}, kStranger);
    as(kReader, [&] {
      must(Reader(instance_.string()).epoch() != 0, "a path that is given is believed");
      ::unsetenv("SHMSTATE_ROOT");
      try {
        Reader reader("plant");
        must(false, "a name is believed");
      } catch (const Error& error) {
        must(error.status() == Status::kNoPermission, error.what());
      }
      const std::vector<std::string> listed = list_instances();
      must(std::find(listed.begin(), listed.end(), instance_.string()) == listed.end(), "it is listed");
    });
  }
  fs::remove_all(root);
}

TEST_F(PermissionTest, AreRefusedWhenTheyCannotBeGiven) {
  const auto expect_refusal = [&](int exit_code, const std::vector<std::string>& options,
                                  const std::vector<std::string>& parts) {
    Program merger = launch_merger(instance_, options, {.input = "", .user = kMerger});
    EXPECT_EQ(merger.wait(), exit_code) << merger.output();
    for (const std::string& part : parts) EXPECT_NE(merger.output().find(part), std::string::npos) << merger.output();
    EXPECT_FALSE(fs::exists(instance_ / "control"));
  };
  expect_refusal(2, {"--readers-group", "no-such-group"},
                 {"shmstate: group \"no-such-group\" does not exist", "groupadd"});
  expect_refusal(2, {"--writers-group", "no-such-group"},
                 {"shmstate: group \"no-such-group\" does not exist", "groupadd"});
  const std::string foreign = std::to_string(kStranger.gid);
  expect_refusal(1, {"--readers-group", foreign}, {"to group " + foreign, instance_, "must own it and be a member"});
  expect_refusal(1, {"--writers-group", foreign},
                 {"to group " + foreign, gate_path(instance_), "must own it and be a member"});
  expect_refusal(2, {"--mode", "0700", "--readers-group", std::to_string(kReaders)},
                 {"lets no group in", "--mode 0750"});
}

// A mode that keeps the groups out was given to the directory before it was refused, and stayed when the option was
// gone.
TEST_F(PermissionTest, AModeThatIsRefusedIsNotGivenToTheDirectory) {
  const std::vector<std::string> groups{"--readers-group", std::to_string(kReaders), "--writers-group",
                                        std::to_string(kWriters)};
  std::vector<std::string> with_mode = groups;
  with_mode.insert(with_mode.end(), {"--mode", "0700"});
  EXPECT_EQ(launch_merger(instance_, with_mode, {.input = "", .user = kMerger}).wait(), 2);
  EXPECT_FALSE(fs::exists(instance_));
  const Program merger = start(groups);
  expect_modes();
  EXPECT_NE(merger.output().find("; mode 0750, readers' group 64001, writers' group 64002"), std::string::npos)
      << merger.output();
}

// A directory that somebody made for its user alone is refused with what to do about it.
TEST_F(PermissionTest, ADirectoryThatLetsNoGroupInIsRefusedWithARemedy) {
  fs::create_directory(instance_);
  ASSERT_EQ(::chown(instance_.c_str(), kMerger.uid, kMerger.gid), 0);
  ASSERT_EQ(::chmod(instance_.c_str(), 0700), 0);
  Program merger =
      launch_merger(instance_, {"--readers-group", std::to_string(kReaders)}, {.input = "", .user = kMerger});
  EXPECT_EQ(merger.wait(), 2);
  EXPECT_NE(merger.output().find("lets no group in; start the merger with --mode 0750, or remove the directory"),
            std::string::npos)
      << merger.output();
}

}  // namespace
}  // namespace shmstate::test
