// The merge engine and the files of rings: how it finds, finishes and resumes them, whoever else is among them.
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "protocol/publish.h"
#include "unit/engine_support.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::error_of;
using test::kSmallRing;
using test::published_cursors;
using test::Random;
using test::ring_of;
using test::TestInstance;
using Kind = MergeEvent::Kind;
using Progress = MergeEngine::Progress;

// Whatever lies in the directory of rings, nothing of it is followed, waited for or served; what has a ring's name is
// reported once, and all that can be removed is removed.
TEST(EngineTest, FilesThatAreNoRingsAreRefusedAndRemoved) {
  TestInstance instance;
  const std::filesystem::path rings = instance.owner().rings_path();
  std::filesystem::create_directory(rings / ring_name(1));
  std::filesystem::create_symlink("/dev/zero", rings / ring_name(2));
  std::ofstream(rings / ring_name(3)) << "not a ring";
  ASSERT_EQ(::mkfifo((rings / ring_name(4)).c_str(), 0666), 0);
  std::filesystem::create_hard_link(doorbell_path(instance.path()), rings / ring_name(5));
  std::filesystem::create_directories(rings / ring_name(6) / "not empty");
  std::filesystem::create_symlink(rings / ring_name(3), rings / ring_name(7));
  std::ofstream(rings / "README") << "not even a name";
  std::ofstream(rings / shared_ring_name(::geteuid())) << "not a shared ring";
  std::filesystem::create_directory(rings / shared_ring_name(1234567));
  instance.restart();
  Writer writer = instance.writer();
  writer.set("k", 1);
  instance.pass_rounds(30);
  EXPECT_EQ(instance.reader().get<std::int64_t>("k"), 1);
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 1U);
  EXPECT_EQ(instance.count_events(Kind::kRingRefused), 7U);
  std::set<std::string> left;
  for (const auto& entry : std::filesystem::directory_iterator(rings)) left.insert(entry.path().filename());
  EXPECT_EQ(left, (std::set<std::string>{ring_name(6), ring_name(writer.ring_id())}));
}

// A flood of files costs a bounded number of them a turn, and a bounded number of reports; rings are served in between.
TEST(EngineTest, AFloodOfFilesIsLookedAtInPieces) {
  constexpr std::size_t kFiles = 2000;
  TestInstance instance;
  Writer before = instance.writer();
  instance.pump();
  const std::filesystem::path rings = instance.owner().rings_path();
  for (std::size_t i = 1; i <= kFiles; ++i) std::ofstream(rings / ring_name(i)) << "not a ring";
  Writer after = instance.writer();
  after.set("after", 1);
  Reader reader = instance.reader();
  for (std::int64_t turn = 1; turn <= 10; ++turn) {
    before.add("before", 1);
    instance.step(0ns);
    EXPECT_EQ(reader.get<std::int64_t>("before"), turn);
    const std::filesystem::directory_iterator begin(rings);
    EXPECT_GE(static_cast<std::size_t>(std::distance(begin, {})), kFiles - 64 * static_cast<std::size_t>(turn))
        << "32 that the kernel told of, and 32 of the directory";
  }
  for (std::size_t i = 0; i < kFiles; ++i) instance.step(0ns);
  EXPECT_EQ(reader.get<std::int64_t>("after"), 1);
  EXPECT_EQ(instance.statistic(Stat::kRingsRefused), kFiles);
  EXPECT_EQ(instance.count_events(Kind::kRingRefused), 64U);
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 2U);
}

/// Files with names of rings, made by one user, which no other can remove.
void flood_rings(const std::filesystem::path& rings, std::size_t count, uid_t user) {
  for (std::size_t i = 1; i <= count; ++i) {
    const std::filesystem::path path = rings / ring_name(i);
    const os::Fd file = os::open_file(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    ASSERT_TRUE(file.is_open());
    if (user == ::geteuid()) continue;
    ASSERT_EQ(::fchown(file.get(), user, static_cast<gid_t>(-1)), 0);
  }
}

/// Steps until everything that a writer pushed is readable, while it waits for that; returns the entries of the
/// directory of rings that were read meanwhile.
std::uint64_t names_read_until_merged(TestInstance& instance, Writer& writer) {
  const std::uint64_t before = instance.engine().names_read();
  Status status = Status::kTimeout;
  for (int turns = 0; turns < 10'000 && status != Status::kOk; ++turns) {
    instance.step();
    status = writer.flush(2ms);
  }
  EXPECT_EQ(status, Status::kOk);
  return instance.engine().names_read() - before;
}

// Whoever filled the directory of rings, with however many names: a new ring of somebody else is served after a
// bounded number of them, which is far less than there are.
TEST(EngineTest, ANewRingIsServedAfterABoundedNumberOfNamesWhoeverMadeTheOthers) {
  constexpr uid_t kFlooder = 65'534;
  constexpr std::uint64_t kNamesMax = 4'000;
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make files of somebody else";
  TestInstance instance;
  instance.pump();
  for (const std::size_t files : {std::size_t{10'000}, std::size_t{40'000}}) {  // more than the kernel keeps messages
    for (const auto& left : std::filesystem::directory_iterator(instance.owner().rings_path())) {
      std::filesystem::remove(left);
    }
    ASSERT_NO_FATAL_FAILURE(flood_rings(instance.owner().rings_path(), files, kFlooder));
    for (int i = 0; i < 3; ++i) instance.step(1s);  // a search has begun, which does not meet what comes later
    Writer writer = instance.writer();
    writer.add("new", 1);
    EXPECT_LT(names_read_until_merged(instance, writer), kNamesMax) << "of " << files;
  }
}

// Also of the same user, once the kernel has told of those that were made before.
TEST(EngineTest, ANewRingOfTheUserWhoFloodedIsServedAfterABoundedNumberOfNamesToo) {
  constexpr std::size_t kFiles = 30'000;
  TestInstance instance;
  instance.pump();
  ASSERT_NO_FATAL_FAILURE(flood_rings(instance.owner().rings_path(), kFiles, ::geteuid()));
  for (int i = 0; i < 3; ++i) instance.step(1s);  // a search has begun, which does not meet what comes later
  Writer writer = instance.writer();
  writer.add("new", 1);
  EXPECT_LT(names_read_until_merged(instance, writer), kFiles / 3);
}

// A ring that was refused since there was no place gets the next one that is free, although nobody can find it among
// all those names.
TEST(EngineTest, ARefusedRingIsFoundInAFloodWhenThereIsAPlaceForIt) {
  constexpr uid_t kFlooder = 65'534;
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make files of somebody else";
  TestInstance instance({.ring_count_max = 1});
  std::optional<Writer> first(instance.writer());
  instance.pump();
  Writer second = instance.writer();
  second.add("second", 1);
  instance.pump();
  ASSERT_EQ(second.flush(0ns), Status::kRingRefused);
  ASSERT_NO_FATAL_FAILURE(flood_rings(instance.owner().rings_path(), 10'000, kFlooder));
  first.reset();
  for (int i = 0; i < 3; ++i) instance.step(100ms);
  EXPECT_LT(names_read_until_merged(instance, second), 4'000U);
}

// Somebody keeps so many messages of the kernel coming that it has no room for another. Who waits touches its ring
// again and again, and the merger makes room in each turn.
TEST(EngineTest, ARingIsServedThoughSomebodyTouchesFilesAllTheTime) {
  TestInstance instance;
  instance.pump();
  std::array<std::filesystem::path, 2> files;
  std::vector<os::Fd> held;  // so that the merger does not remove them
  for (std::size_t i = 0; i < files.size(); ++i) {
    files[i] = instance.owner().rings_path() / ring_name(i + 1);
    held.push_back(os::open_file(files[i], O_RDWR | O_CREAT, 0600));
    ASSERT_TRUE(os::try_lock(held.back().get(), kLifeByte, true));
  }
  const auto touch = [&files](int count) {
    for (int i = 0; i < count; ++i) {  // one after the other: two messages that are equal are one
      ASSERT_EQ(::utimensat(AT_FDCWD, files[static_cast<std::size_t>(i) % 2].c_str(), nullptr, 0), 0);
    }
  };
  touch(20'000);
  Writer writer = instance.writer();
  writer.add("k", 1);
  Status status = Status::kTimeout;
  int turns = 0;
  for (; turns < 1'000 && status != Status::kOk; ++turns) {
    touch(2'000);
    instance.step(1us);
    status = writer.flush(2ms);
  }
  EXPECT_EQ(status, Status::kOk);
#ifndef __SANITIZE_THREAD__  // whose turns are so slow that one may suffice
  EXPECT_GT(turns, 1);
#endif
}

// Where the kernel has no more to tell with, the directory is searched whenever somebody rings.
TEST(EngineTest, WithoutNewsOfTheKernelNewRingsAreFoundBySearching) {
  std::vector<os::Fd> instances;
  while (instances.size() < 500) {
    os::Fd one(::inotify_init1(IN_CLOEXEC));
    if (!one.is_open()) break;
    instances.push_back(std::move(one));
  }
  if (instances.size() == 500) GTEST_SKIP() << "a user may have very many inotify instances here";
  TestInstance instance;
  instance.pump();
  Writer writer = instance.writer();
  writer.add("k", 1);
  instance.step(1us);
  EXPECT_EQ(instance.reader().get<std::int64_t>("k"), 1);
}

// A ring that finishes while the directory is read in pieces is not taken for a broken one.
TEST(EngineTest, ARingThatFinishesDuringALookIsNotRefused) {
  TestInstance instance;
  std::vector<Writer> writers;
  for (int i = 0; i < 100; ++i) writers.push_back(instance.writer(ring_of(kSmallRing)));
  instance.step();
  for (int i = 0; i < 10; ++i) {
    instance.step(100ms);
    writers.clear();
  }
  instance.pass_rounds(20);
  EXPECT_EQ(instance.count_events(Kind::kRingRefused), 0U);
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 0U);
}

TEST(EngineTest, RingFilesVanishAfterTheirWriterIsGoneAndEverythingOfItIsPublished) {
  TestInstance instance;
  Reader reader = instance.reader();
  std::vector<std::uint64_t> ids;
  {
    std::vector<Writer> writers;
    for (int i = 0; i < 10; ++i) {
      writers.push_back(instance.writer());
      ids.push_back(writers.back().ring_id());
      writers.back().add("sum", i);
    }
    EXPECT_TRUE(instance.has_ring_file(ids.front()));
  }
  instance.pass_rounds();
  for (const std::uint64_t id : ids) EXPECT_FALSE(instance.has_ring_file(id));
  EXPECT_EQ(reader.get<std::int64_t>("sum"), 45);
  EXPECT_TRUE(published_cursors(instance).empty());
  EXPECT_EQ(instance.count_events(Kind::kRingFinished), 10U);
}

TEST(EngineTest, ARingIsNotRemovedBeforeItIsDrainedHoweverLongItsWriterIsGone) {
  TestInstance instance;
  Reader reader = instance.reader();
  std::optional<Writer> writer = instance.writer();
  const std::uint64_t id = writer->ring_id();
  writer->set("k", 1);
  instance.pump();
  std::optional<Snapshot> pinned = reader.snapshot();
  writer->set("k", 2);
  instance.step();
  writer->set("k", 3);
  writer.reset();
  for (int i = 0; i < 50; ++i) ASSERT_EQ(instance.step(100ms), Progress::kStalled);
  EXPECT_TRUE(instance.has_ring_file(id));
  pinned.reset();
  instance.pass_rounds();
  EXPECT_EQ(reader.get<std::int64_t>("k"), 3);
  EXPECT_FALSE(instance.has_ring_file(id));
}

TEST(EngineTest, BeyondTheMaximumNumberOfRingsAWriterIsRefusedAndServedWhenAnotherEnds) {
  TestInstance instance({.ring_count_max = 2});
  Reader reader = instance.reader();
  std::optional<Writer> first = instance.writer();
  Writer second = instance.writer();
  Writer third = instance.writer();
  first->set("first", 1);
  second.set("second", 2);
  third.set("third", 3);
  instance.pump();
  const auto refused = std::count_if(instance.events().begin(), instance.events().end(),
                                     [](const MergeEvent& event) { return event.kind == Kind::kRingRefused; });
  ASSERT_EQ(refused, 1);
  EXPECT_EQ(instance.statistic(Stat::kRingsLive), 2U);
  EXPECT_EQ(reader.snapshot().size(), 2U);
  // Whichever came too late: which of the files is found first is nobody's promise.
  std::vector<Writer*> writers{&*first, &second, &third};
  const auto is_refused = [](Writer* writer) { return writer->flush(0ns) == Status::kRingRefused; };
  ASSERT_EQ(std::count_if(writers.begin(), writers.end(), is_refused), 1);
  if (is_refused(&*first)) std::swap(*first, second);
  first.reset();
  instance.pass_rounds();
  EXPECT_EQ(reader.snapshot().size(), 3U) << "what was pushed while it was refused is not lost";
  EXPECT_EQ(second.flush(0ns), Status::kOk);
  EXPECT_EQ(third.flush(0ns), Status::kOk);
}

TEST(EngineTest, ARefusedRingIsCountedOnce) {
  TestInstance instance({.ring_count_max = 1});
  const Writer first = instance.writer();
  instance.pump();
  const Writer second = instance.writer();
  for (int i = 0; i < 100; ++i) instance.step(100ms);
  EXPECT_EQ(instance.statistic(Stat::kRingsRefused), 1U);
  EXPECT_EQ(instance.count_events(Kind::kRingRefused), 1U) << "each is a line in the log";
}

// ---- crashes between two steps

TEST(EngineTest, CursorsOfRingsWhoseFilesAreGoneAreDroppedAtResume) {
  TestInstance instance({.ring_count_max = 2});
  std::optional<Writer> gone = instance.writer();
  Writer other = instance.writer();
  gone->set("gone", 1);
  instance.pump();
  const std::uint64_t id = gone->ring_id();
  gone.reset();
  instance.stop();  // as if it had died between removing the file and dropping the cursor
  std::filesystem::remove(rings_path(instance.path()) / ring_name(id));
  instance.start();
  instance.pump();
  const std::vector<layout::RingCursor> cursors = published_cursors(instance);
  ASSERT_EQ(cursors.size(), 1U);
  EXPECT_EQ(cursors[0].ring_id, other.ring_id());
  Writer next = instance.writer();
  next.set("next", 1);
  instance.pump();
  EXPECT_EQ(next.flush(0ns), Status::kOk) << "the place is free again";
  EXPECT_EQ(instance.reader().get<std::int64_t>("gone"), 1);
}

TEST(EngineTest, PlacesOfRingsWhoseFilesAreGoneAreFreedOnceAPinAllowsIt) {
  TestInstance instance({.ring_count_max = 1});
  Reader reader = instance.reader();
  std::optional<Writer> gone = instance.writer();
  gone->set("gone", 1);
  instance.pump();
  std::optional<Snapshot> pinned = reader.snapshot();
  gone->set("gone", 2);
  instance.step();  // publishes into the last buffer that is not pinned
  const std::uint64_t id = gone->ring_id();
  gone.reset();
  instance.stop();
  std::filesystem::remove(rings_path(instance.path()) / ring_name(id));
  instance.start();
  pinned.reset();
  instance.pass_rounds(20);
  EXPECT_TRUE(published_cursors(instance).empty());
  Writer next = instance.writer();
  next.set("next", 1);
  instance.pass_rounds(20);
  EXPECT_EQ(next.flush(0ns), Status::kOk);
}

// Takes back what a step wrote into a ring's header after its publish: the merger was killed just before it.
class CrashBeforeHeadsMove {
 public:
  explicit CrashBeforeHeadsMove(RingFile ring)
      : ring_(std::move(ring)),
        head_(header().head.load(std::memory_order_relaxed)),
        applied_count_(header().applied_count.load(std::memory_order_relaxed)) {
    for (std::size_t i = 0; i < layout::kRejectCount; ++i) {
      rejected_[i] = header().rejected[i].load(std::memory_order_relaxed);
    }
  }
  void forget() const {
    header().head.store(head_, std::memory_order_relaxed);
    header().applied_count.store(applied_count_, std::memory_order_relaxed);
    for (std::size_t i = 0; i < layout::kRejectCount; ++i) {
      header().rejected[i].store(rejected_[i], std::memory_order_relaxed);
    }
  }

 private:
  [[nodiscard]] layout::RingHeader& header() const { return ring_.header(); }

  RingFile ring_;
  std::uint64_t head_;
  std::uint64_t applied_count_;
  std::array<std::uint64_t, layout::kRejectCount> rejected_{};
};

TEST(EngineTest, AFullRingWhoseHeadWasNotMovedBeforeACrashGoesOnAfterResume) {
  TestInstance instance;
  Writer writer = instance.writer(ring_of(kSmallRing));
  instance.pump();
  std::int64_t pushed = 0;
  while (writer.add("sum", 1) == Status::kOk) ++pushed;
  const CrashBeforeHeadsMove crash(instance.open_ring(writer));
  for (int i = 0; i < 10; ++i) instance.step();  // all of it is published
  instance.stop();
  crash.forget();
  ASSERT_EQ(writer.add("sum", 1), Status::kRingFull);
  instance.start();
  EXPECT_EQ(writer.add("sum", 1), Status::kOk);
  instance.pump();
  EXPECT_EQ(instance.reader().get<std::int64_t>("sum"), pushed + 1) << "neither lost nor applied twice";
}

TEST(EngineTest, CountersOfAWriterAreRightAfterACrashBeforeTheHeadsMoved) {
  TestInstance instance;
  Writer writer = instance.writer();
  instance.pump();
  const CrashBeforeHeadsMove crash(instance.open_ring(writer));
  writer.set("text", "x");
  writer.add("text", 1);
  instance.step();
  instance.stop();
  crash.forget();
  instance.start();
  instance.pump();
  EXPECT_EQ(writer.counters().applied, 1U);
  EXPECT_EQ(writer.counters().rejected, 1U);
  EXPECT_EQ(writer.rejected(Status::kWrongType), 1U);
  EXPECT_EQ(writer.flush(0ns), Status::kRejected);
}

TEST(EngineTest, NothingIsLostOrAppliedTwiceOverManyRestarts) {
  TestInstance instance({.buffer_count = 3});
  Reader reader = instance.reader();
  std::vector<Writer> writers;
  for (int i = 0; i < 3; ++i) {
    writers.push_back(instance.writer(ring_of(kSmallRing)));
  }
  Random random(32);
  std::int64_t pushed = 0;
  for (int i = 0; i < test::steps(1'000); ++i) {
    for (Writer& writer : writers) {
      for (std::size_t n = random.below(300); n > 0; --n) pushed += writer.add("sum", 1) == Status::kOk ? 1 : 0;
    }
    std::vector<CrashBeforeHeadsMove> crashes;
    for (const Writer& writer : writers) crashes.emplace_back(instance.open_ring(writer));
    for (std::size_t n = random.below(4); n > 0; --n) instance.step();
    if (random.chance(70)) continue;
    instance.stop();
    if (random.chance(50)) {
      for (const CrashBeforeHeadsMove& crash : crashes) crash.forget();
    }
    instance.start();
  }
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("sum"), pushed);
}

TEST(EngineTest, ADamagedCurrentBufferIsRefusedAtResumeAndNotServed) {
  using Damage = void (*)(layout::BufferHeader&);
  const Damage damages[] = {
      [](layout::BufferHeader& header) { header.page_count = 0; },
      [](layout::BufferHeader& header) { header.page_count = ~std::uint64_t{0}; },
      [](layout::BufferHeader& header) { header.directory = ~std::uint64_t{0}; },
      [](layout::BufferHeader& header) { header.directory = 0; },
      [](layout::BufferHeader& header) { header.directory += 1; },
      [](layout::BufferHeader& header) { header.entry_count += 1; },
  };
  for (const Damage damage : damages) {
    TestInstance instance;
    Writer writer = instance.writer();
    writer.set("k", 1);
    instance.pump();
    const Version version = current_version(instance.owner().publication());
    damage(*reinterpret_cast<layout::BufferHeader*>(instance.owner().buffer(version.buffer)));
    instance.stop();
    EXPECT_EQ(error_of([&] { instance.start(); }).first, Status::kDamaged) << "damage " << &damage - damages;
  }
}

}  // namespace
}  // namespace shmstate
