// The change feed against the list of all states: nobody misses a change without being told.
#include <gtest/gtest.h>
#include <poll.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "files/control.h"
#include "files/snapshot_file.h"
#include "harness/positions.h"
#include "harness/test_instance.h"
#include "protocol/publish.h"
#include "shmstate/inspect.h"
#include "shmstate/watch.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::Random;
using test::ring_of;
using test::TestInstance;

constexpr std::size_t kRingBytes = std::size_t{1} << 20;

struct Seen {
  Value value;
  Epoch changed_epoch = 0;
  bool operator==(const Seen&) const = default;
};
using State = std::map<std::string, Seen>;

State state_of(Reader& reader, Epoch& epoch) {
  State state;
  const Snapshot snapshot = reader.snapshot();
  epoch = snapshot.epoch();
  for (const EntryView& entry : snapshot) {
    state[std::string(entry.key)] = {.value = entry.value.to_value(), .changed_epoch = entry.changed_epoch};
  }
  return state;
}

SetOptions with_ttl(std::chrono::nanoseconds ttl) {
  SetOptions options;
  options.ttl = ttl;
  return options;
}

SetOptions ephemeral() {
  SetOptions options;
  options.ephemeral = true;
  return options;
}

/// A key says by its first letter how it ends: erased (also with a version), expired, or with its owner.
ChangeKind end_of(const std::string& key) {
  switch (key[0]) {
    case 't': return ChangeKind::kExpired;
    case 'o': return ChangeKind::kOwnerGone;
    default: return ChangeKind::kErased;
  }
}

/// An instance that changes at random, with the state of every epoch and the last epoch that touched each key.
class History {
 public:
  History(Random& random, std::uint64_t feed_record_count)
      : random_(random), instance_({.ring_count_max = 16, .feed_record_count = feed_record_count}, options()) {
    instance_.fix_hash_seed(random.word());
    reader_.emplace(instance_.path());
    writer_.emplace(instance_.writer(ring_of(kRingBytes)));
    owner_.emplace(instance_.writer(ring_of(kRingBytes)));
    step(1ms);
  }

  [[nodiscard]] TestInstance& instance() { return instance_; }
  [[nodiscard]] Reader& reader() { return *reader_; }
  [[nodiscard]] Epoch epoch() const { return states_.rbegin()->first; }
  [[nodiscard]] const std::map<Epoch, State>& states() const { return states_; }
  [[nodiscard]] const std::map<std::string, Epoch>& touched() const { return touched_; }

  /// A step of the engine with some mutations; now and then growth, an owner that goes, a restart.
  void turn() {
    for (std::size_t i = random_.below(12); i > 0; --i) mutate();
    if (turns_++ == 20) grow(1'500);
    if (random_.chance(5)) grow(random_.between(200, 700));
    if (random_.chance(4)) owner_.emplace(instance_.writer(ring_of(kRingBytes)));
    if (random_.chance(3)) instance_.restart();
    step(random_.chance(20) ? 150ms : 3ms);
  }

 private:
  static MergeOptions options() {
    MergeOptions options = TestInstance::never_expire();
    options.tombstone_time = 50ms;
    return options;
  }

  void step(std::chrono::nanoseconds later) {
    instance_.step(later);
    Epoch epoch = 0;
    State state = state_of(*reader_, epoch);
    const State before = states_.empty() ? State() : states_.rbegin()->second;
    for (const std::string& key : pending_) touched_[key] = epoch;
    for (const auto& [key, seen] : before) {
      if (!state.contains(key)) touched_[key] = epoch;
    }
    pending_.clear();
    states_[epoch] = std::move(state);
  }

  void mutate() {
    const std::string number = std::to_string(random_.below(40));
    const std::string tail = random_.chance(10) ? std::string(random_.between(20, 300), 'x') : "";
    const auto value = static_cast<std::int64_t>(random_.below(5));
    std::string key;
    switch (random_.below(7)) {
      case 0: writer_->erase(key = "plain/" + number + tail); break;
      case 1: writer_->erase(key = "plain/" + number + tail, random_.below(50)); break;
      case 2: writer_->set(key = "plain/" + number + tail, value, {.version = random_.below(50)}); break;
      case 3: writer_->add(key = "plain/" + number + tail, value); break;
      case 4: writer_->set(key = "ttl/" + number + tail, value, with_ttl(1ms * random_.between(1, 40))); break;
      case 5: owner_->set(key = "owned/" + number + tail, value, ephemeral()); break;
      default: writer_->set(key = "plain/" + number + tail, random_.bytes(random_.below(100))); break;
    }
    pending_.push_back(std::move(key));
  }

  void grow(std::size_t keys) {
    for (std::size_t i = keys; i > 0; --i) {
      const std::string key = "plain/grow/" + std::to_string(grown_++);
      writer_->set(key, static_cast<std::int64_t>(i));
      pending_.push_back(key);
    }
  }

  Random& random_;
  TestInstance instance_;
  std::optional<Reader> reader_;
  std::optional<Writer> writer_;
  std::optional<Writer> owner_;
  std::map<Epoch, State> states_;
  std::map<std::string, Epoch> touched_;
  std::vector<std::string> pending_;
  std::size_t grown_ = 0;
  std::size_t turns_ = 0;
};

/// What `news` tells about keys that changed after `since` must be true, complete and in order.
void check_changes(const History& history, Epoch since, const Changes& news) {
  const State& now = history.states().at(history.epoch());
  ASSERT_EQ(news.position.epoch, history.epoch());
  ASSERT_TRUE(std::is_sorted(news.changes.begin(), news.changes.end(),
                             [](const Change& a, const Change& b) { return a.epoch < b.epoch; }));
  std::map<std::string, const Change*> told;
  for (const Change& change : news.changes) {
    ASSERT_TRUE(told.emplace(change.key, &change).second) << change.key << " twice";
    ASSERT_GT(change.epoch, since);
    const auto exists = now.find(change.key);
    if (exists == now.end()) {
      ASSERT_EQ(change.kind, end_of(change.key)) << change.key;
      ASSERT_FALSE(change.value);
      ASSERT_GT(history.touched().at(change.key), since) << change.key;
    } else {
      ASSERT_EQ(change.kind, ChangeKind::kSet) << change.key;
      ASSERT_EQ(change.epoch, exists->second.changed_epoch);
      ASSERT_EQ(change.value, exists->second.value);
    }
  }
  for (const auto& [key, seen] : now) {
    ASSERT_TRUE(seen.changed_epoch <= since || told.contains(key)) << key << " is missing";
  }
  for (auto state = history.states().lower_bound(since); state != history.states().end(); ++state) {
    for (const auto& [key, seen] : state->second) {
      const auto exists = now.find(key);
      if (exists == now.end() || exists->second.value != seen.value) {
        ASSERT_TRUE(told.contains(key)) << key << " is missing, in epoch " << state->first << " it was another";
      }
    }
  }
}

void check_some(Random& random, History& history, bool may_gap) {
  for (int i = 0; i < 4; ++i) {
    auto since = history.states().begin();
    const std::size_t count = history.states().size();
    std::advance(since,
                 random.chance(60) ? count - 1 - random.below(std::min<std::size_t>(count, 6)) : random.below(count));
    const Changes news = history.reader().changes(test::at_epoch(history.reader(), since->first));
    ASSERT_EQ(news.position.epoch, history.epoch());
    if (!news.gap) {
      check_changes(history, since->first, news);
    } else {
      ASSERT_TRUE(may_gap);
      ASSERT_TRUE(news.changes.empty());
      ASSERT_LT(since->first, history.epoch());
    }
    if (testing::Test::HasFatalFailure()) return;
  }
}

/// Follows a watch; what it delivers must always add up to the state at the epoch it names.
class Follower {
 public:
  Follower(History& history, std::string prefix)
      : history_(history), prefix_(std::move(prefix)), watch_(history.reader().path(), prefix_) {}

  /// From now on, another watch follows from where this one stopped.
  void hand_over() { watch_ = Watch(history_.reader().path(), prefix_, position_); }

  void check() {
    const WatchBatch batch = watch_.next(0ns);
    ASSERT_GE(batch.position, position_);
    ASSERT_EQ(batch.complete, position_ == Position{} || batch.gap_reason != GapReason::kNone);
    position_ = batch.position;
    complete_ += batch.complete ? 1 : 0;
    if (batch.complete) mirror_.clear();
    ASSERT_TRUE(std::is_sorted(batch.changes.begin(), batch.changes.end(),
                               [](const Change& a, const Change& b) { return a.epoch < b.epoch; }));
    for (const Change& change : batch.changes) {
      if (change.kind == ChangeKind::kSet) {
        mirror_[change.key] = {.value = change.value.value(), .changed_epoch = change.epoch};
      } else {
        mirror_.erase(change.key);
      }
    }
    State wanted = history_.states().at(position_.epoch);
    std::erase_if(wanted, [this](const auto& entry) { return !entry.first.starts_with(prefix_); });
    ASSERT_TRUE(mirror_ == wanted) << "prefix " << prefix_ << ", epoch " << position_.epoch;
  }
  [[nodiscard]] int complete() const { return complete_; }

 private:
  History& history_;
  std::string prefix_;
  Watch watch_;
  Position position_;
  State mirror_;
  int complete_ = 0;
};

// A watch that is opened at the position of the last batch of another one delivers what that would have delivered next:
// exactly the changes since, or the complete state where the feed does not reach back.
TEST(Feed, AWatchContinuesExactlyWhereAnotherStopped) {
  int gaps = 0;
  for (int run = 0; run < std::max(2, test::steps(4)); ++run) {  // one of each size
    SCOPED_TRACE("run " + std::to_string(run));
    const bool is_large = run % 2 == 0;
    Random random(400 + static_cast<std::uint64_t>(run));
    History history(random, is_large ? std::uint64_t{1} << 18 : 256);
    Follower all(history, "");
    Follower some(history, "plain/1");
    for (int i = 0; i < 100; ++i) {
      history.turn();
      if (random.chance(50)) all.check();
      if (random.chance(20)) some.check();
      if (random.chance(50)) all.hand_over();
      if (random.chance(50)) some.hand_over();
      if (HasFatalFailure()) return;
    }
    EXPECT_TRUE(all.complete() == 1 || !is_large);
    gaps += all.complete() - 1;
  }
  EXPECT_GT(gaps, 0);
}

// For any epoch, the feed gives exactly the keys that changed since, in their latest state; across growth, restarts and
// every way to be erased.
TEST(Feed, GivesExactlyWhatChangedSinceAnyEpoch) {
  for (int run = 0; run < test::steps(3); ++run) {
    SCOPED_TRACE("run " + std::to_string(run));
    Random random(100 + static_cast<std::uint64_t>(run));
    History history(random, std::uint64_t{1} << 18);
    Follower all(history, "");
    Follower some(history, "plain/1");
    for (int i = 0; i < 120; ++i) {
      history.turn();
      check_some(random, history, false);
      if (random.chance(50)) all.check();
      if (random.chance(10)) some.check();
      if (HasFatalFailure()) return;
    }
    EXPECT_GT(history.instance().engine().table().segments().segment_count(), 1U);
    EXPECT_EQ(all.complete(), 1);
  }
}

// A feed that is too small for what happens leads to a gap or to the exact changes, never to a hole; a watch starts
// over with the complete state.
TEST(Feed, TinyFeedLeadsToGapsAndNeverToHoles) {
  int gaps = 0;
  for (int run = 0; run < test::steps(6); ++run) {
    SCOPED_TRACE("run " + std::to_string(run));
    Random random(200 + static_cast<std::uint64_t>(run));
    History history(random, run % 2 == 0 ? 64 : 256);
    Follower all(history, "");
    for (int i = 0; i < 150; ++i) {
      history.turn();
      check_some(random, history, true);
      if (random.chance(50)) all.check();
      if (HasFatalFailure()) return;
    }
    gaps += all.complete() - 1;
  }
  EXPECT_GT(gaps, 0);
}

std::map<std::string, double> taken(ChangeSampler& sampler) {
  std::map<std::string, double> counts;
  for (const KeyCount& change : sampler.take()) counts[change.key] += change.count;
  return counts;
}

// A sampler counts in how many publishes each key was set or erased since it was asked before.
TEST(Feed, ASamplerCountsThePublishesThatChangedAKey) {
  using Counts = std::map<std::string, double>;
  TestInstance instance;
  Writer writer = instance.writer();
  writer.set("before", 1);
  instance.pump();
  ChangeSampler sampler(instance.path());
  EXPECT_EQ(taken(sampler), Counts()) << "it begins here";
  for (int i = 0; i < 10; ++i) {
    writer.set("hot", i);
    if (i == 5) writer.set("cold", i);
    instance.pump();
  }
  writer.erase("before");
  instance.pump();
  EXPECT_EQ(taken(sampler), (Counts{{"before", 1}, {"cold", 1}, {"hot", 10}}));
  EXPECT_EQ(taken(sampler), Counts());
}

// Of more than it looks at, it takes a sample, and scales up what it saw.
TEST(Feed, ASamplerScalesUpItsSample) {
  constexpr int kKeys = 200;
  constexpr int kPublishes = 500;
  TestInstance instance({.feed_record_count = std::uint64_t{1} << 18});
  Writer writer = instance.writer(ring_of(kRingBytes));
  ChangeSampler sampler(instance.path());
  EXPECT_TRUE(taken(sampler).empty());
  for (int i = 0; i < kPublishes; ++i) {
    for (int key = 0; key < kKeys; ++key) writer.set("key/" + std::to_string(key), i);
    instance.pump();
  }
  const std::map<std::string, double> counts = taken(sampler);
  EXPECT_EQ(counts.size(), std::size_t{kKeys});
  double sum = 0;
  for (const auto& [key, count] : counts) sum += count;
  EXPECT_NEAR(sum, kKeys * kPublishes, 1);
}

// `oldest` is a position that can be asked for, whatever was asked.
TEST(Feed, OldestPositionCanBeAskedFor) {
  Random random(300);
  History history(random, 256);
  for (int i = 0; i < 200; ++i) {
    history.turn();
    for (const Epoch since : {Epoch{0}, history.epoch() - 1, history.epoch()}) {
      const Changes news = history.reader().changes(test::at_epoch(history.reader(), since));
      ASSERT_FALSE(history.reader().changes(news.oldest).gap)
          << "asked for " << since << " of " << history.epoch() << ", told that " << news.oldest.epoch << " can be had";
    }
  }
}

/// The number of records in the feed, as the current snapshot says it.
std::uint64_t feed_end(const Control& control, const SnapshotFile& snapshot) {
  for (;;) {
    const Version version = current_version(control.publication());
    const std::uint64_t end = snapshot.buffer(version.buffer).feed_end();
    if (is_intact(control.publication(), version)) return end;
  }
}

// A merger at full load, and a reader that asks again and again for what changed since it asked before: whatever it is
// told of a gap is true, so the feed was overwritten that far.
TEST(Feed, UnderLoadAReaderThatKeepsUpMeetsNoGap) {
  constexpr std::uint64_t kRecords = std::uint64_t{1} << 14;
  constexpr std::int64_t kKeys = 2'000;
  TestInstance instance({.feed_record_count = kRecords});
  const Control control(instance.path(), 0ns);
  const SnapshotFile snapshot(control);
  Reader reader(instance.path());
  Position known = reader.position();
  const auto begin = [&] {
    const std::uint64_t reserved = control.heartbeat().feed_reserved.load(std::memory_order_acquire);
    return reserved > kRecords ? reserved - kRecords : 0;
  };
  const std::jthread writing([&instance](const std::stop_token& stop) {
    Writer writer = instance.writer(ring_of(kRingBytesMin, WhenFull::kBlock));  // small turns: nearly all is appended
    for (std::int64_t i = 0; !stop.stop_requested(); ++i) writer.set("key/" + std::to_string(i % kKeys), i);
  });
  const test::EngineThread merging(instance);
  std::uint64_t known_end = 0;  // at most what the feed held at `known`
  for (int calls = 0; calls < test::steps(50'000) || begin() < kRecords; ++calls) {
    const std::uint64_t end = feed_end(control, snapshot);
    const Changes news = reader.changes(known);
    if (news.gap) {
      ASSERT_GT(begin(), known_end) << "call " << calls << ", epoch " << news.position.epoch << " after "
                                    << known.epoch;
    }
    ASSERT_EQ(news.gap, news.gap_reason != GapReason::kNone);
    known = news.position;
    known_end = end;
  }
}

bool becomes_readable(int fd, std::chrono::milliseconds patience) {
  pollfd poll_fd{.fd = fd, .events = POLLIN, .revents = 0};
  return ::poll(&poll_fd, 1, static_cast<int>(patience.count())) == 1;
}

// A watch's descriptor becomes readable when there is something to look at, again and again.
TEST(Feed, DescriptorOfAWatchPollsReadable) {
  TestInstance instance;
  Writer writer = instance.writer();
  instance.pump();
  Watch watch(instance.path(), "");
  ASSERT_TRUE(watch.next(0ns).complete);
  const int fd = watch.fd();
  for (std::int64_t i = 0; i < 5; ++i) {
    writer.set("key", i);
    instance.pump();
    ASSERT_TRUE(becomes_readable(fd, 30s));
    std::optional<Value> value;
    for (int tries = 0; tries < 1000 && !value; ++tries) {
      for (const Change& change : watch.next(0ns).changes) value = change.value;
    }
    ASSERT_EQ(value, std::optional<Value>(i));
  }
  while (becomes_readable(fd, 300ms)) static_cast<void>(watch.next(0ns));  // late news of the last publish
  EXPECT_FALSE(becomes_readable(fd, 0ms));
}

}  // namespace
}  // namespace shmstate
