// What others do to the merger's files: nobody who may only read or write an instance can keep its merger from serving.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "files/control.h"
#include "harness/process_support.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr uid_t kSomebody = 65533;

class Hostile : public ::testing::Test {
 protected:
  TestDirectory directory_;
  fs::path instance_ = directory_ / "plant";
};

// A lock that needs read permission only must not look like another merger.
TEST_F(Hostile, ReaderThatLocksControlDoesNotKeepAMergerFromStarting) {
  { Program merger = start_merger(instance_); }
  const os::Fd control = os::open_file(instance_ / "control", O_RDONLY);
  ASSERT_TRUE(os::try_lock(control.get(), kLifeByte, false));
  const Program merger = start_merger(instance_);
  EXPECT_TRUE(Reader(instance_.string()).merger_running());
}

// The word that announces pins, truncated and grown all the time, kills neither merger nor readers: what they read
// under a pin is whole, or they are told that it expired.
TEST_F(Hostile, PinsFileThatIsTruncatedAllTheTimeKillsNobody) {
  Program merger = start_merger(instance_);
  Writer writer(instance_.string(), {.name = "w"});
  must_be_ok(writer.set("a", 0), "set");
  must_be_ok(writer.set("b", 0), "set");
  must_be_ok(writer.flush(kPatience), "flush");
  Board<std::atomic<bool>> stop;
  std::vector<Child> readers;
  readers.emplace_back([&] {
    Reader reader(instance_.string());
    for (int i = 0; i < 2'000; ++i) {
      try {
        const Snapshot snapshot = reader.snapshot();
        const auto a = snapshot.get<std::int64_t>("a");
        must(a == snapshot.get<std::int64_t>("b"), "torn");
      } catch (const Error& error) {
        must(error.status() == Status::kExpired || error.status() == Status::kSystem, error.what());
      }
    }
  });
  Child truncater([&] {
    for (unsigned i = 0; !stop->load(); ++i) {
      must(::truncate(pins_path(instance_).c_str(), off_t{4096} * (i % 3)) == 0, "cannot truncate");
      std::this_thread::sleep_for(1ms);
    }
  });
  Child changing([&] {
    Writer changer(instance_.string(), {.name = "c"});
    for (std::int64_t n = 1; !stop->load(); ++n) {
      Batch batch = changer.batch();
      batch.set("a", n);
      batch.set("b", n);
      must_be_ok(batch.commit(), "commit");
      must_be_ok(changer.flush(kPatience), "flush");
    }
  });
  expect_kept(readers);
  stop->store(true);
  EXPECT_EQ(truncater.verdict(), "");
  EXPECT_EQ(changing.verdict(), "");
  EXPECT_FALSE(merger.has_ended()) << merger.output();
  eventually("a whole file", [&] { return fs::file_size(pins_path(instance_)) == 4096; });
}

// A doorbell that is truncated and grown all the time delays mutations, but kills neither merger nor writers, and the
// merger makes it whole again.
TEST_F(Hostile, DoorbellThatIsTruncatedAllTheTimeKillsNobody) {
  Program merger = start_merger(instance_);
  const fs::path doorbell = doorbell_path(instance_);
  Board<std::atomic<bool>> stop;
  std::vector<Child> writers;
  for (int i = 0; i < 2; ++i) {
    writers.emplace_back([this, i] {
      for (int opened = 0; opened < 5; ++opened) {
        Writer writer(instance_.string(), {.name = "w"});
        for (int pushed = 0; pushed < 20; ++pushed) {  // each finds the merger asleep
          must_be_ok(writer.add("sum/" + std::to_string(i), 1), "add");
          must_be_ok(writer.flush(kPatience), "flush");
        }
      }
    });
  }
  Child truncater([&] {
    for (unsigned i = 0; !stop->load(); ++i) {
      must(::truncate(doorbell.c_str(), off_t{4096} * (i % 3)) == 0, "cannot truncate");
      std::this_thread::sleep_for(1ms);
    }
  });
  expect_kept(writers);
  stop->store(true);
  EXPECT_EQ(truncater.verdict(), "");
  EXPECT_FALSE(merger.has_ended()) << merger.output();
  Reader reader(instance_.string());
  EXPECT_EQ(reader.get<std::int64_t>("sum/0"), 100);
  EXPECT_EQ(reader.get<std::int64_t>("sum/1"), 100);
  eventually("a whole doorbell", [&] { return fs::file_size(doorbell) == 4096; });
  merger.signal(SIGTERM);
  EXPECT_EQ(merger.wait(), 0) << merger.output();
}

// The modes are those that were asked for, whatever the umask of the merger is.
TEST_F(Hostile, UmaskOfTheMergerTakesNoRightsFromTheGroup) {
  const mode_t before = ::umask(077);
  const Program merger = start_merger(instance_, {"--mode", "0750"});
  ::umask(before);
  const auto mode = [this](const char* name) {
    struct stat info {};
    EXPECT_EQ(::stat((instance_ / name).c_str(), &info), 0);
    return info.st_mode & 07777;
  };
  EXPECT_EQ(mode("control"), 0640U);
  EXPECT_EQ(mode("snapshot"), 0640U);
  EXPECT_EQ(mode("writers/doorbell"), 0666U);
  EXPECT_EQ(mode("writers/rings"), 03773U);
  EXPECT_EQ(mode("merger.lock"), 0600U);
}

// A writer that locks the merger out of its ring loses the ring, and hinders nobody.
TEST_F(Hostile, RingThatTheMergerMayNotOpenDoesNotKeepItFromStarting) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root, to run a merger as another user";
  const ProgramSettings as_somebody{.input = "", .user = User{.uid = kSomebody, .gid = kSomebody}};
  fs::create_directory(instance_);
  ASSERT_EQ(::chown(instance_.c_str(), kSomebody, kSomebody), 0);
  const auto serves = [](const Program& merger) { return merger.output().find(" at epoch ") != std::string::npos; };
  std::optional<Writer> writer;
  {
    const Program merger = launch_merger(instance_, {}, as_somebody);
    eventually("a merger", [&] { return serves(merger); });
    writer.emplace(instance_.string(), WriterOptions{.name = "hostile"});
    ASSERT_EQ(writer->set("key", 1), Status::kOk);
    ASSERT_EQ(writer->flush(kPatience), Status::kOk);
  }
  for (const fs::directory_entry& ring : fs::directory_iterator(rings_path(instance_))) {
    ASSERT_EQ(::chown(ring.path().c_str(), 0, 0), 0);
    ASSERT_EQ(::chmod(ring.path().c_str(), 0600), 0);
  }
  const Program merger = launch_merger(instance_, {}, as_somebody);
  eventually("a merger again", [&] { return serves(merger); });
  EXPECT_EQ(Reader(instance_.string()).get<std::int64_t>("key"), 1);
  EXPECT_FALSE(fs::is_empty(rings_path(instance_))) << "what it holds may still be let in";
  Writer another(instance_.string(), WriterOptions{.name = "another"});
  EXPECT_EQ(another.set("key", 2), Status::kOk);
  EXPECT_EQ(another.flush(kPatience), Status::kOk);
}

// A writer whose instance is removed while no merger runs learns it when it waits.
TEST_F(Hostile, WriterOfARemovedInstanceIsTold) {
  { const Program merger = start_merger(instance_); }
  Writer writer(instance_.string(), {.name = "w"});
  ASSERT_EQ(writer.set("key", 1), Status::kOk);
  fs::remove_all(instance_);
  EXPECT_EQ(writer.flush(kPatience), Status::kNoInstance);
}

}  // namespace
}  // namespace shmstate::test
