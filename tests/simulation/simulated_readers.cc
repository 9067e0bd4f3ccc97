// The readers of the simulation: whatever they get, at any time, is what the oracle knows.
#include <array>
#include <set>
#include <string>
#include <vector>

#include "harness/positions.h"
#include "simulation/simulation.h"

namespace shmstate::test {
using namespace std::chrono_literals;

void Simulation::read_one() {
  const std::size_t key = dice_.below(kKeyCount);
  const std::optional<Value> value = reader().get<Value>(keys()[key]);
  const Known& known = now().keys[key];
  expect(value.has_value() == known.is_entry, "a point read finds what is not, or not what is", key);
  if (value && known.is_entry) expect(known.content.is(ValueView(*value)), "a point read's value", key);
}

void Simulation::read_many() {
  std::array<std::string_view, 4> wanted;
  std::array<std::size_t, 4> chosen{};
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] = keys()[chosen[i] = dice_.below(kKeyCount)];
  std::vector<std::optional<Value>> values;
  expect(reader().get_many(wanted, values).epoch == history_.back().epoch, "the epoch of several keys");
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const Known& known = now().keys[chosen[i]];
    const bool is_right =
        known.is_entry == values[i].has_value() && (!known.is_entry || known.content.is(ValueView(*values[i])));
    expect(is_right, "several keys", chosen[i]);
  }
}

void Simulation::pin() {
  if (pins_.size() == 3 || is_looking_) return;
  pins_.push_back({.snapshot = reader().snapshot(), .state = now()});
  expect(pins_.back().snapshot.epoch() == history_.back().epoch, "a snapshot of an old epoch");
}

void Simulation::look_at(Pin& pin) {
  if (pin.snapshot.expired()) {
    return expect(merge_.pin_time_max != nanoseconds::zero(), "a pin was overridden that must not be");
  }
  is_looking_ = true;
  look_at_all(pin.snapshot, pin.state);
  is_looking_ = false;
}

void Simulation::look_at_all(const Snapshot& snapshot, const State& state) {
  std::uint64_t count = 0;
  std::uint64_t size = 0;
  Status status = Status::kOk;
  read([&] {
    try {
      for (const EntryView& entry : snapshot) {
        ++count;
        const std::optional<std::size_t> key = index_of(entry.key);
        if (!key) return fail("a snapshot with a key that nobody pushed");
        if (*key == kGrowing) continue;
        const Known& known = state.keys[*key];
        expect(known.is_entry && known.content.is(entry.value) && known.version == entry.version &&
                   known.expiry_ns == entry.expiry_ns && (known.owner != 0) == entry.ephemeral,
               "an entry of a snapshot changed", *key);
      }
      size = snapshot.size();
    } catch (const Error& error) {
      status = error.status();
    }
  });
  if (status == Status::kExpired && merge_.pin_time_max != nanoseconds::zero()) return;
  expect(status == Status::kOk, "a snapshot that cannot be read");
  expect(count == state.entry_count() && count == size, "the number of entries in a snapshot");
}

const Past* Simulation::past_of(Epoch epoch) const {
  for (const Past& past : history_) {
    if (past.epoch == epoch) return &past;
  }
  return nullptr;
}

// The feed tells each key that is different, in its latest state, or why not: then it was overwritten that far before
// it could be read. Others act at each load of it.
void Simulation::look_at_changes() {
  if (is_asking_) return;
  const Past* const asked = past_of(asked_epoch_);
  const std::optional<Past> since = asked != nullptr ? std::optional(*asked) : std::nullopt;
  const Epoch before = history_.back().epoch;
  Changes news;
  is_asking_ = true;
  read([&] { news = readers_.front()->changes(test::at_epoch(*readers_.front(), asked_epoch_)); });
  is_asking_ = false;
  if (!failure_.empty()) return;
  expect(news.position.epoch >= before && news.position.epoch <= history_.back().epoch, "changes up to an old epoch");
  expect(news.gap == (news.gap_reason != GapReason::kNone), "a gap without a reason, or a reason without a gap");
  const Past* const latest = past_of(news.position.epoch);
  asked_epoch_ = dice_.chance(70) ? news.position.epoch : history_[dice_.below(history_.size())].epoch;
  if (!since || latest == nullptr) return;
  if (news.gap) {
    const std::uint64_t reserved = control_->heartbeat().feed_reserved.load(std::memory_order_relaxed);
    expect(news.gap_reason == GapReason::kFellBehind || news.gap_reason == GapReason::kOvertaken, "the wrong reason");
    const bool may_expire = merge_.pin_time_max != nanoseconds::zero() && news.gap_reason == GapReason::kOvertaken;
    return expect(reserved >= kFeedRecords + since->feed_end || may_expire, "a gap where the feed reaches back");
  }
  std::set<std::size_t> told;
  for (const Change& change : news.changes) {
    const std::optional<std::size_t> key = index_of(change.key);
    if (!key) return fail("a change of a key that nobody pushed");
    if (*key == kGrowing) continue;
    const Known& known = latest->state.keys[*key];
    expect(told.insert(*key).second, "a key is told twice", *key);
    expect((change.kind == ChangeKind::kSet) == known.is_entry, "the kind of a change", *key);
    if (known.is_entry && change.value) expect(known.content.is(ValueView(*change.value)), "a changed value", *key);
    expect(change.epoch > since->epoch && change.epoch <= latest->epoch, "the epoch of a change", *key);
  }
  for (std::size_t key = 0; key < kKeyCount; ++key) {
    const Known& before_it = since->state.keys[key];
    const Known& after = latest->state.keys[key];
    const bool is_different = before_it.is_entry != after.is_entry || (after.is_entry && before_it != after);
    expect(!is_different || told.contains(key), "a change that is not told", key);
  }
}

// Who follows all changes has the state.
void Simulation::watch() {
  if (is_watching_) return;
  WatchBatch batch;
  is_watching_ = true;
  read([&] { batch = watch_->next(0ns); });
  is_watching_ = false;
  if (!failure_.empty()) return;
  expect(batch.position.epoch >= watched_epoch_, "a watch that goes back");
  watched_epoch_ = batch.position.epoch;
  if (batch.complete) watched_.clear();
  for (const Change& change : batch.changes) {
    if (change.kind == ChangeKind::kSet) {
      watched_[change.key] = *change.value;
    } else {
      watched_.erase(change.key);
    }
  }
  has_watched_ = has_watched_ || batch.complete;
  const Past* const past = past_of(batch.position.epoch);
  if (past == nullptr || !has_watched_) return;
  for (std::size_t key = 0; key < kKeyCount; ++key) {
    const Known& known = past->state.keys[key];
    const auto found = watched_.find(keys()[key]);
    expect(known.is_entry == (found != watched_.end()), "a watch missed something", key);
    if (known.is_entry && found != watched_.end()) expect(known.content.is(ValueView(found->second)), "a watch", key);
  }
}

void Simulation::wait() {
  if (frames_.size() + 1 >= kDepthMax) return;
  Reader& waiting = reader();
  const Position before = waiting.position();
  expect(before.epoch == history_.back().epoch, "a reader's epoch");
  const Position after = waiting.wait(before, nanoseconds(dice_.below(4) * 1'000'000));
  expect(after >= before && after.epoch == history_.back().epoch, "the epoch after waiting");
}

}  // namespace shmstate::test
