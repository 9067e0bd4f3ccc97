// An instance that is removed and re-created under a writer: the writer is told, soon and in whatever way it pushes, or
// reattaches by itself if it asked for that.
#include <gtest/gtest.h>

#include <ostream>
#include <thread>
#include <tuple>

#include "harness/process_support.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"
#include "shmstate/writer_c.h"

namespace shmstate::test {
using namespace internal;

namespace fs = std::filesystem;
using namespace std::chrono_literals;

enum class Removal : std::uint8_t { kWhileItRuns, kWhenItIsKilled };

struct Way {
  const char* name;
  WhenFull when_full;
  bool shared;
};
std::ostream& operator<<(std::ostream& out, const Way& way) { return out << way.name; }

namespace {

constexpr std::size_t kSmallRing = 65536;

class Recreated : public testing::TestWithParam<std::tuple<Way, Removal>> {
 protected:
  Recreated() : merger_(start_merger(instance_)) {}

  [[nodiscard]] std::string path() const { return instance_.string(); }
  [[nodiscard]] WriterOptions options(bool reopen = false) const {
    const Way& way = std::get<Way>(GetParam());
    return {.ring_bytes = kSmallRing,
            .when_full = way.when_full,
            .full_timeout = kPatience,
            .shared = way.shared,
            .reopen = reopen};
  }
  void remove() {
    if (std::get<Removal>(GetParam()) == Removal::kWhenItIsKilled) {
      merger_.kill();
      fs::remove_all(instance_);
    } else {
      fs::rename(instance_, directory_ / "away");
      fs::remove_all(directory_ / "away");
      EXPECT_EQ(merger_.wait(), 1) << "it notices";
    }
  }
  void recreate() {
    remove();
    merger_ = start_merger(instance_);
  }
  /// What the first push says that fails.
  [[nodiscard]] static Status first_failure(Writer& writer) {
    Status status = Status::kOk;
    eventually("a push that fails", [&] {
      std::this_thread::sleep_for(1ms);
      status = writer.set("key", 2);
      return status != Status::kOk;
    });
    return status;
  }

  TestDirectory directory_;
  fs::path instance_ = directory_ / "plant";
  Program merger_;
};

// Before the ring is full, and in all modes by the same status.
TEST_P(Recreated, APushSaysSo) {
  Writer writer(path(), options());
  ASSERT_EQ(writer.set("key", 1), Status::kOk);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  recreate();
  EXPECT_EQ(first_failure(writer), Status::kNoInstance);
  EXPECT_LT(writer.counters().pushed, kSmallRing / 24) << "the ring is not full yet";
  EXPECT_EQ(writer.counters().conflated, 0U);
  EXPECT_EQ(writer.set("key", 2), Status::kNoInstance) << "and goes on saying so";
  EXPECT_EQ(writer.flush(0ns), Status::kNoInstance);
  Batch batch = writer.batch();
  batch.set("key", 2);
  EXPECT_EQ(batch.commit(), Status::kNoInstance);
  const WriterStatus status = writer.status();
  EXPECT_TRUE(status.instance_gone);
  EXPECT_EQ(status.ring, Status::kNoInstance);
  EXPECT_EQ(Reader(path()).get<std::int64_t>("key"), std::nullopt);
}

// Also where the ring is full: what is kept for later has nowhere to go.
TEST_P(Recreated, APushIntoAFullRingSaysSo) {
  if (options().when_full == WhenFull::kBlock) GTEST_SKIP() << "it waits";
  Writer writer(path(), options());
  merger_.stop();
  Status status = Status::kOk;
  while (status == Status::kOk && writer.counters().conflated == 0) status = writer.set("key", 1);
  merger_.go_on();
  merger_.kill();
  fs::remove_all(instance_);
  merger_ = start_merger(instance_);
  eventually("what was found", [&] {
    status = writer.set("key", 2);
    return status == Status::kNoInstance;
  });
}

// Whatever its timeout, and however little was pushed.
TEST_P(Recreated, AFlushSaysSoBeforeItSaysTimeout) {
  for (const auto timeout : {0ns, std::chrono::nanoseconds(1ms), std::chrono::nanoseconds(kPatience)}) {
    Writer writer(path(), options());
    ASSERT_EQ(writer.flush(kPatience), Status::kOk);
    recreate();
    const Status pushed = writer.set("key", 1);  // the first one may be accepted
    EXPECT_TRUE(pushed == Status::kOk || pushed == Status::kNoInstance) << describe(pushed);
    EXPECT_EQ(writer.flush(timeout), Status::kNoInstance) << timeout.count();
  }
}

TEST_P(Recreated, AWriterThatAskedForItReattachesAndTellsWhatWasLost) {
  Writer writer(path(), options(true));
  for (int round = 1; round <= 3; ++round) {
    ASSERT_EQ(writer.set("key", round), Status::kOk);
    ASSERT_EQ(writer.flush(kPatience), Status::kOk);
    const WriterCounters before = writer.counters();
    merger_.stop();
    for (int i = 0; i < 10; ++i) ASSERT_EQ(writer.add("sum", 1), Status::kOk);
    const Ticket ticket = writer.ticket();
    if (std::get<Removal>(GetParam()) == Removal::kWhenItIsKilled) {
      recreate();
    } else {
      fs::rename(instance_, directory_ / "away");  // it goes on, merges what there is, and then notices
      merger_.go_on();
      EXPECT_EQ(writer.flush(ticket, kPatience), Status::kOk);
      EXPECT_EQ(merger_.wait(), 1);
      fs::remove_all(directory_ / "away");
      merger_ = start_merger(instance_);
    }
    Reader reader(path());
    int told = 0;
    const auto flush = [&](std::chrono::nanoseconds timeout) {
      const Status status = writer.flush(timeout);
      told += status == Status::kNoInstance ? 1 : 0;
      return status;
    };
    eventually("a push into the new instance", [&] {
      must_be_ok(writer.set("key", 10 * round), "a push while it reattaches");
      static_cast<void>(flush(1ms));
      return reader.get<std::int64_t>("key") == 10 * round;
    });
    static_cast<void>(flush(kPatience));
    EXPECT_EQ(writer.status().reopen_count, static_cast<std::uint64_t>(round));
    EXPECT_EQ(writer.status().ring, Status::kOk);
    EXPECT_TRUE(writer.status().merger_running);
    EXPECT_FALSE(writer.status().instance_gone);
    EXPECT_EQ(writer.flush(kPatience), Status::kOk) << "it was told";
    const WriterCounters after = writer.counters();
    if (!options().shared) {
      EXPECT_EQ(after.applied + after.rejected + after.lost, after.pushed);
      if (std::get<Removal>(GetParam()) == Removal::kWhenItIsKilled) {
        EXPECT_GE(after.lost, before.lost + 10);
        EXPECT_EQ(told, 1) << "once";
        EXPECT_EQ(writer.flush(ticket, 0ns), Status::kNoInstance) << "those";
      }
    }
    EXPECT_EQ(reader.get<std::int64_t>("sum"), std::nullopt) << "it is another instance";
  }
}

// Flush is told, once, that something was lost; what was conflated is not lost.
TEST_P(Recreated, WhatIsConflatedIsCarriedOverToTheNewInstance) {
  if (options().when_full != WhenFull::kConflate) GTEST_SKIP() << "it conflates nothing";
  Writer writer(path(), options(true));
  merger_.stop();
  std::uint64_t pushed = 0;
  for (; writer.counters().conflated < 100; ++pushed) ASSERT_EQ(writer.add("sum", 1), Status::kOk);
  merger_.kill();
  const std::uint64_t merged = writer.counters().applied;
  fs::remove_all(instance_);
  merger_ = start_merger(instance_);
  Status told = Status::kOk;
  eventually("what was conflated", [&] {
    const Status status = writer.flush(100ms);
    if (status != Status::kOk) told = status;
    return Reader(path()).get<std::int64_t>("sum").has_value();
  });
  const auto sum = static_cast<std::uint64_t>(Reader(path()).get<std::int64_t>("sum").value());
  EXPECT_EQ(told, Status::kNoInstance);
  EXPECT_GE(sum, 100U);
  EXPECT_EQ(merged + writer.counters().lost + sum, pushed);
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
}

std::string name_of(const testing::TestParamInfo<Recreated::ParamType>& info) {
  return std::string(std::get<Way>(info.param).name) +
         (std::get<Removal>(info.param) == Removal::kWhileItRuns ? "WhileItRuns" : "WhenItIsKilled");
}
INSTANTIATE_TEST_SUITE_P(All, Recreated,
                         testing::Combine(testing::Values(Way{"Block", WhenFull::kBlock, false},
                                                          Way{"Fail", WhenFull::kFail, false},
                                                          Way{"Conflate", WhenFull::kConflate, false},
                                                          Way{"Shared", WhenFull::kBlock, true}),
                                          testing::Values(Removal::kWhileItRuns, Removal::kWhenItIsKilled)),
                         name_of);

}  // namespace
}  // namespace shmstate::test
