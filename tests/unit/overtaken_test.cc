// A reader that the merger overtakes while it reads: at every single load of the feed, at every group of a scan.
//
// Built with crash points, of which those of a reader are where the merger takes its turns here.
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "harness/meanwhile.h"
#include "harness/positions.h"
#include "harness/test_instance.h"
#include "shmstate/detail/crash_point.h"
#include "shmstate/watch.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::Meanwhile;
using test::TestInstance;

constexpr std::uint64_t kFeedRecords = 256;
constexpr std::uint64_t kStep = 16;  // in which the merger reserves records to overwrite
constexpr std::int64_t kKeys = 8;

std::string numbered(std::int64_t number, const char* prefix = "k") {
  return std::string(prefix).append(std::to_string(number));
}

/// An instance whose feed is full, so that each record that is appended overwrites another one.
class FullFeed {
 public:
  explicit FullFeed(std::uint32_t buffers = 4)
      : instance_({.buffer_count = buffers, .feed_record_count = kFeedRecords}),
        reader_(instance_.path()),
        writer_(instance_.writer()) {
    for (std::uint64_t i = 0; i < 4 * kFeedRecords / kKeys; ++i) publish();
  }

  [[nodiscard]] Reader& reader() { return reader_; }
  [[nodiscard]] Position at(Epoch epoch) { return test::at_epoch(reader_, epoch); }
  [[nodiscard]] Epoch epoch() { return instance_.engine().epoch(); }
  [[nodiscard]] std::uint64_t reserved() {
    return instance_.owner().heartbeat().feed_reserved.load(std::memory_order_relaxed);
  }
  /// Changes all keys, in one epoch.
  void publish() {
    ++round_;
    for (std::int64_t key = 0; key < kKeys; ++key) ASSERT_EQ(writer_.set(numbered(key), round_), Status::kOk);
    ASSERT_NE(instance_.step(), MergeEngine::Progress::kIdle);
  }

 private:
  TestInstance instance_;
  Reader reader_;
  Writer writer_;
  std::int64_t round_ = 0;
};

// The merger appends at each load in turn of what `changes` reads. What was asked for lies in the middle of the feed,
// so whatever is overwritten at its beginning meanwhile, all of it can be told.
TEST(Overtaken, ChangesThatAreStillInTheFeedAreToldWhateverIsOverwrittenBeforeThem) {
  bool was_reached = true;
  for (int load = 1; was_reached; ++load) {
    FullFeed feed;
    const Epoch asked = feed.epoch() - kFeedRecords / kKeys / 2;
    int loads = 0;
    Changes news;
    {
      const Meanwhile meanwhile(CrashPoint::kFeedRead, [&] {
        if (++loads == load) feed.publish(), feed.publish();
      });
      news = feed.reader().changes(feed.at(asked));
    }
    was_reached = loads >= load;
    ASSERT_FALSE(news.gap) << "overwritten before load " << load;
    ASSERT_EQ(news.gap_reason, GapReason::kNone);
    ASSERT_EQ(news.changes.size(), static_cast<std::size_t>(kKeys));
    ASSERT_LT(news.oldest.epoch, asked) << "overwritten before load " << load;
  }
}

// A reader that asks all the time is never told of a gap, though the merger publishes at one of its loads after the
// other, and each time overwrites the oldest records.
TEST(Overtaken, AReaderThatAsksAllTheTimeMeetsNoGap) {
  FullFeed feed(8);
  Position known = feed.at(feed.epoch());
  int loads = 0;
  const Meanwhile meanwhile(CrashPoint::kFeedRead, [&] {
    if (++loads % 37 == 0) feed.publish();
  });
  for (int i = 0; i < 1'000; ++i) {
    const Changes news = feed.reader().changes(known);
    ASSERT_FALSE(news.gap) << "after epoch " << known.epoch << " of " << news.position.epoch;
    known = news.position;
  }
}

// What was there when it was asked for, and is overwritten on the way, is a gap that says so.
TEST(Overtaken, WhatIsOverwrittenWhileItIsReadIsAGapThatSaysSo) {
  FullFeed feed(8);
  const Epoch asked = feed.epoch() - kFeedRecords / kKeys + kStep / kKeys + 1;
  ASSERT_FALSE(feed.reader().changes(feed.at(asked)).gap);
  int loads = 0;
  const Meanwhile meanwhile(CrashPoint::kFeedRead, [&] {
    if (++loads > 16 && loads < 24) feed.publish();
  });
  const Changes news = feed.reader().changes(feed.at(asked));
  EXPECT_TRUE(news.gap);
  EXPECT_EQ(news.gap_reason, GapReason::kOvertaken);
  EXPECT_TRUE(news.changes.empty());
}

TEST(Overtaken, WhatWasOverwrittenBeforeIsAGapThatSaysSo) {
  FullFeed feed;
  const Changes news = feed.reader().changes(feed.at(feed.epoch() - kFeedRecords / kKeys - 1));
  EXPECT_TRUE(news.gap);
  EXPECT_EQ(news.gap_reason, GapReason::kFellBehind);
}

TEST(Overtaken, AnEpochThatDoesNotExistIsAGapOfAnotherInstance) {
  FullFeed feed;
  const Changes news = feed.reader().changes(feed.at(feed.epoch() + 1));
  EXPECT_TRUE(news.gap);
  EXPECT_EQ(news.gap_reason, GapReason::kRecreated);
}

// ---- a watch that reads more slowly than pins last

/// The state, as who follows a watch knows it.
void follow(std::map<std::string, Value>& known, const WatchBatch& batch) {
  if (batch.complete) known.clear();
  for (const Change& change : batch.changes) {
    if (change.kind == ChangeKind::kSet) {
      known[change.key] = *change.value;
    } else {
      known.erase(change.key);
    }
  }
}

std::map<std::string, Value> state_of(Reader& reader) {
  std::map<std::string, Value> state;
  for (const EntryView& entry : reader.snapshot()) state[std::string(entry.key)] = entry.value.to_value();
  return state;
}

/// Thousands of keys, and a merger that takes buffers back after a millisecond.
class ImpatientMerger {
 public:
  explicit ImpatientMerger(std::uint64_t feed_records) : instance_({.feed_record_count = feed_records}, options()) {
    writer_.emplace(instance_.writer(test::ring_of(std::size_t{8} << 20)));
    for (std::int64_t i = 0; i < kEntries; ++i) EXPECT_EQ(writer_->set(numbered(i), i), Status::kOk);
    instance_.pump();
  }

  [[nodiscard]] std::string path() const { return instance_.path(); }
  [[nodiscard]] std::uint64_t expired_pins() { return instance_.statistic(Stat::kPinsExpired); }
  /// Two publishes and the waiting between them: nobody's pin lasts longer.
  void take_the_buffer_back() {
    for (int i = 0; i < 8; ++i) {
      ++changes_;
      writer_->set(numbered(changes_ * 7 % kEntries), -changes_);
      writer_->erase(numbered(changes_ * 11 % kEntries));
      writer_->set(numbered(changes_, "new"), changes_);  // so that segments split
      instance_.step(10ms);
    }
  }

 private:
  static constexpr std::int64_t kEntries = 5'000;
  static MergeOptions options() {
    MergeOptions options;
    options.pin_time_max = 1ms;
    return options;
  }

  TestInstance instance_;
  std::optional<Writer> writer_;
  std::int64_t changes_ = 0;
};

// A scan that the merger takes the buffer away from goes on in the next one, as often as that happens; together with
// the feed it still delivers one state, and nobody is told of a snapshot that expired.
TEST(Overtaken, AWatchWhoseScanOutlivesTheMaximumPinTimeGoesOn) {
  ImpatientMerger merger(std::uint64_t{1} << 16);
  Reader reader(merger.path());
  Watch watch(merger.path(), "");
  std::map<std::string, Value> known;
  {
    int slabs = 0;
    const Meanwhile meanwhile(CrashPoint::kSlabRead, [&] {
      if (++slabs % 12 == 0) merger.take_the_buffer_back();
    });
    const WatchBatch batch = watch.next(0ns);
    EXPECT_TRUE(batch.complete);
    follow(known, batch);
    EXPECT_GT(merger.expired_pins(), 1U) << "several times within one scan";
  }
  follow(known, watch.next(0ns));
  EXPECT_EQ(known, state_of(reader));
}

// When the feed does not reach back over such a scan, the watch begins again, until its time is over; nothing is
// delivered in part.
TEST(Overtaken, AWatchThatCannotHaveOneStateInTimeDeliversNothingAndTriesAgain) {
  ImpatientMerger merger(64);
  Reader reader(merger.path());
  Watch watch(merger.path(), "");
  {
    int slabs = 0;
    const Meanwhile meanwhile(CrashPoint::kSlabRead, [&] {
      if (++slabs % 12 == 0) merger.take_the_buffer_back();
    });
    const WatchBatch none = watch.next(0ns);
    EXPECT_FALSE(none.complete);
    EXPECT_TRUE(none.changes.empty());
  }
  std::map<std::string, Value> known;
  const WatchBatch batch = watch.next(0ns);
  EXPECT_TRUE(batch.complete);
  follow(known, batch);
  EXPECT_EQ(known, state_of(reader));
}

}  // namespace
}  // namespace shmstate
