// Whoever dies or stands still, at whatever step: every accepted mutation counts exactly once, batches stay whole,
// epochs only grow for a reader that lives through it, and nothing is left behind.
//
// A merger and a writer run as processes of their own, built with crash points. A plan says which point kills whoever
// comes to it, or stops it, and at which occurrence; the harness restarts the victim and goes on. A new writer goes
// on from what its predecessor's ring brought into the snapshot, so that a repeated or a lost mutation shows in the
// sums.
//
// The merger's clock runs faster than ours, so that its slow rounds come soon.
#include "shmstate/detail/crash_point.h"

#include <gtest/gtest.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/instance_owner.h"
#include "engine/merge_engine.h"
#include "files/ring_file.h"
#include "harness/chosen_keys.h"
#include "harness/explored.h"
#include "harness/process_support.h"
#include "harness/test_instance.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::size_t kPoints = static_cast<std::size_t>(CrashPoint::kCount);
constexpr std::array<std::string_view, kPoints> kPointNames{
#define SHMSTATE_NAME(name) #name,
    SHMSTATE_CRASH_POINTS(SHMSTATE_NAME)
#undef SHMSTATE_NAME
};
constexpr std::uint64_t kClockSpeed = 64;
constexpr int kKilled = 128 + SIGKILL;

/// Send `signal` to whoever comes to `point` for the `occurrence`-th time since the plan was armed.
struct Plan {
  CrashPoint point;
  std::uint64_t occurrence;
  int signal = SIGKILL;  // or SIGSTOP
};

std::string describe(const std::vector<Plan>& plans) {
  std::string text = plans.empty() ? "nobody died" : "killed (or stopped) at:";
  for (const Plan& plan : plans) {
    text += ' ';
    text += kPointNames[static_cast<std::size_t>(plan.point)];
    text += '#' + std::to_string(plan.occurrence);
  }
  return text;
}

/// What harness, merger and writer share.
struct Notes {
  std::atomic<std::uint32_t> armed_point{kPoints};
  std::atomic<std::uint64_t> occurrences_left{0};
  std::atomic<int> armed_signal{SIGKILL};
  std::atomic<pid_t> stopped{0};
  std::array<std::atomic<std::uint64_t>, kPoints> passed{};
  std::atomic<std::int64_t> accepted_round{0};
  std::atomic<std::int64_t> accepted_shared_round{0};
  std::atomic<bool> merger_may_end{false};
};

Notes* notes = nullptr;  // of the ordeal in this process and its children

void suffer_as_planned(CrashPoint point) noexcept {
  notes->passed[static_cast<std::size_t>(point)].fetch_add(1, std::memory_order_relaxed);
  if (notes->armed_point.load() != static_cast<std::uint32_t>(point)) return;
  if (notes->occurrences_left.fetch_sub(1) != 1) return;
  notes->armed_point.store(kPoints);
  const int signal = notes->armed_signal.load();
  if (signal == SIGSTOP) notes->stopped.store(::getpid());
  ::kill(::getpid(), signal);
}

// ---- the merger

void merge_until_told(const std::string& instance) {
  crash_hook = suffer_as_planned;
  const auto fast_clock = [] { return os::now_ns() * kClockSpeed; };
  InstanceOwner owner(instance, {.memory_limit_bytes = std::uint64_t{32} << 20, .feed_record_count = 1024});
  MergeEngine engine(owner, {}, nullptr, fast_clock());
  while (!notes->merger_may_end.load()) {
    if (engine.step(fast_clock()) == MergeEngine::Progress::kIdle) std::this_thread::sleep_for(10us);
  }
}

// ---- the writer: in each round, pushes that may be repeated, then a batch that may not

constexpr std::int64_t kRounds = 24;
constexpr std::int64_t kRoundsOfAHandle = 10;
constexpr std::int64_t kKeysOfARound = 100;  // that stay, so that the table grows
constexpr std::int64_t kTrail = 8;           // a round's long value is erased so many rounds later
constexpr std::int64_t kBystanderPushes = 20;
constexpr std::int64_t kBigBatch = 150;    // more than the merger takes as one group
constexpr std::uint64_t kCrowd = 750;      // keys whose hashes begin alike: more than a segment takes
constexpr std::size_t kOtherWriters = 32;  // more than have a cursor beside the header

std::string growing(std::int64_t round, std::int64_t k) {
  return "growing/" + std::to_string(round) + '/' + std::to_string(k);
}
std::string trail(std::int64_t round) { return "trail/" + std::to_string(round); }
std::string trail_value(std::int64_t round) {
  std::string value;
  value.assign(static_cast<std::size_t>(round * 631 % 7000 + 100), static_cast<char>('a' + round % 26));
  return value;
}

std::string changing_value(std::int64_t round) {
  std::string value;
  return value.assign(static_cast<std::size_t>(round * 97 % 900), 'c');
}

/// A ring of garbage and a file that is no ring, both without a living owner.
void leave_rubbish(const std::string& instance, const Control& control) {
  const fs::path rings = rings_path(instance);
  const RingFile ring = RingFile::create(
      rings,
      {.data_bytes = kRingBytesMin, .flags = 0, .name = "rubbish", .instance_id = control.geometry().instance_id});
  must(os::commit(ring.fd(), layout::kRingHeaderBytes, 4096) == 0, "commit");
  std::memset(ring.at(0), 0xff, 64);
  ring.header().tail.store(64, std::memory_order_release);
  std::uint64_t id = 0;
  os::random_bytes(&id, sizeof id);
  static_cast<void>(os::open_file(rings / ring_name(id), O_RDWR | O_CREAT, 0600));
}

void push_repeatable(Writer& writer, std::int64_t round) {
  for (std::int64_t k = 0; k < kKeysOfARound; ++k) {
    must_be_ok(writer.set(growing(round, k), round * 1000 + k), "growing");
  }
  must_be_ok(writer.set(trail(round), trail_value(round)), "trail");
  must_be_ok(writer.erase(trail(round - kTrail)), "erase");
  must_be_ok(writer.set("fleeting/" + std::to_string(round), round, {.ttl = 1ms}), "ttl");
  must_be_ok(writer.set("alive/" + std::to_string(round % 5), round, {.ephemeral = true}), "ephemeral");
  must_be_ok(writer.set("changing", changing_value(round)), "changing");
  must_be_ok(writer.set("versioned", round, {.version = static_cast<std::uint64_t>(round)}), "versioned");
}

// They come, and go again two rounds later: so nodes of the directory are made, segments are merged, and the directory
// is halved.
void push_crowd(Writer& writer, std::uint64_t hash_seed, std::int64_t round) {
  const ChosenKeys chosen(hash_seed);
  for (std::uint64_t i = 0; i < kCrowd; ++i) {
    const std::string key = chosen.with_hash(i << 24 | 0x12'3456);
    if (round % 12 == 8) must_be_ok(writer.set(key, round), "crowd");
    if (round % 12 == 10) must_be_ok(writer.erase(key), "crowd");
  }
}

/// So many writers at once that their cursors need more room.
void be_many(const std::string& instance) {
  std::vector<Writer> others;
  for (std::size_t i = 0; i < kOtherWriters; ++i)
    others.emplace_back(instance, WriterOptions{.ring_bytes = kRingBytesMin});
  must_be_ok(others.back().set("others", 1), "others");
  must_be_ok(others.back().flush(kPatience), "flush");
}

/// Bound keys, which are pushed by ids, of one writer after the other.
struct Bound {
  explicit Bound(const std::string& prefix) : round(prefix + "round"), count(prefix + "count"), sum(prefix + "sum") {
    for (std::int64_t k = 0; k < kBigBatch; ++k) big.emplace_back(prefix + "big/" + std::to_string(k));
  }

  Key round;
  Key count;
  Key sum;
  std::vector<Key> big;
};

void push_once(Writer& writer, Bound& keys, std::int64_t round) {
  Batch batch = writer.batch();
  must_be_ok(batch.set(keys.round, round), "round");
  must_be_ok(batch.add(keys.count, 1), "count");
  must_be_ok(batch.add(keys.sum, round), "sum");
  if (round % 4 == 0) {
    for (Key& key : keys.big) must_be_ok(batch.set(key, round), "big");
  }
  must_be_ok(batch.commit(), "commit");
}

/// What a writer also reads, so that it dies or stands still with a pin, too.
void read_all(Reader& reader, Position& known) {
  known = reader.changes(known).position;
  const Snapshot snapshot = reader.snapshot();
  try {
    for (auto entry = snapshot.begin(); entry != snapshot.end();) ++entry;
  } catch (const Error& error) {  // who stood still for too long
    must(error.status() == Status::kExpired, error.what());
  }
}

void write_rounds(const std::string& instance, std::int64_t round, std::int64_t shared_round) {
  crash_hook = suffer_as_planned;
  const Control control(instance, kPatience);
  leave_rubbish(instance, control);
  Reader reader(instance);
  Position known;
  Bound keys("");
  Bound shared_keys("shared/");
  if (round == 0) be_many(instance);
  while (round < kRounds || shared_round < kRounds) {
    Writer writer(instance, {.ring_bytes = kRingBytesMin, .full_timeout = kPatience});
    Writer shared(instance, {.ring_bytes = kRingBytesMin, .full_timeout = kPatience, .shared = true});
    const Writer also_shared(instance, {.ring_bytes = kRingBytesMin, .shared = true});
    for (std::int64_t n = 0; n < kRoundsOfAHandle; ++n) {
      if (round < kRounds) {
        push_repeatable(writer, ++round);
        push_crowd(writer, control.geometry().hash_seed, round);
        push_once(writer, keys, round);
        notes->accepted_round.store(round);
      }
      if (shared_round < kRounds) {
        push_once(shared, shared_keys, ++shared_round);
        notes->accepted_shared_round.store(shared_round);
      }
    }
    must_be_ok(writer.flush(kPatience), "flush");
    must_be_ok(shared.flush(kPatience), "flush");
    read_all(reader, known);
  }
}

/// Somebody who has nothing to do with whoever is stopped.
void push_as_a_bystander(const std::string& instance, bool merger_runs) {
  Writer writer(instance, {.ring_bytes = kRingBytesMin, .when_full = WhenFull::kFail});
  for (std::int64_t n = 0; n < kBystanderPushes; ++n) must_be_ok(writer.add("bystander", 1), "a bystander's push");
  if (merger_runs) must_be_ok(writer.flush(kPatience), "a bystander's flush");
}

// ---- the reader's view

std::int64_t number(const Snapshot& snapshot, const std::string& key) {
  return snapshot.get<std::int64_t>(key).value_or(0);
}

void check_batches(const Snapshot& snapshot, const std::string& prefix) {
  const std::int64_t round = number(snapshot, prefix + "round");
  must(number(snapshot, prefix + "count") == round, prefix + "count is not the number of the round");
  must(number(snapshot, prefix + "sum") == round * (round + 1) / 2, prefix + "sum is not that of all rounds");
  for (std::int64_t k = 0; k < kBigBatch; ++k) {
    must(number(snapshot, prefix + "big/" + std::to_string(k)) == round / 4 * 4, "a batch is split");
  }
}

void check_round(const Snapshot& snapshot, std::int64_t round, std::int64_t last) {
  for (std::int64_t k = 0; k < kKeysOfARound; ++k) {
    must(number(snapshot, growing(round, k)) == round * 1000 + k, growing(round, k) + " is wrong");
  }
  if (round > last + 1 - kTrail) {
    must(snapshot.get<std::string>(trail(round)) == trail_value(round), trail(round) + " is wrong");
  } else if (round <= last - kTrail) {  // between the two, the next round has begun or not
    must(!snapshot.get<std::string>(trail(round)), trail(round) + " was erased");
  }
}

class Witness {
 public:
  /// Looks at what is current; does nothing while there is no instance.
  void look(const std::string& instance) {
    try {
      if (!reader_) reader_.emplace(instance, ReaderOptions{.attach_timeout = 0ns});
    } catch (const Error&) {
      return;
    }
    try {
      check(reader_->snapshot());
    } catch (const Error& error) {  // a reader that stands still with a pin shortens all other pins on its buffer
      must(error.status() == Status::kExpired, error.what());
    }
  }
  [[nodiscard]] bool sees_instance() const noexcept { return reader_.has_value(); }
  [[nodiscard]] Reader& reader() { return *reader_; }

 private:
  void check(const Snapshot& snapshot) {
    must(snapshot.epoch() >= epoch_, "an epoch went back");
    if (snapshot.epoch() == epoch_) return;
    epoch_ = snapshot.epoch();
    check_batches(snapshot, "");
    check_batches(snapshot, "shared/");
    const std::int64_t last = number(snapshot, "round");
    if (last > 0) check_round(snapshot, static_cast<std::int64_t>(epoch_) % last + 1, last);
  }

  std::optional<Reader> reader_;
  std::uint64_t epoch_ = 0;
};

// ---- an ordeal: all rounds, with the deaths that are planned

std::set<std::string> files_in(const fs::path& directory) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    names.insert(entry->path().filename());
  }
  return names;
}

class Ordeal {
 public:
  explicit Ordeal(std::vector<Plan> plans) : plans_(std::move(plans)), instance_((directory_ / "plant").string()) {
    notes = &*notes_;
  }

  /// Lets merger and writer do all rounds, dying as planned. Throws `Broken` with the plan.
  void go() {
    try {
      arm();
      eventually("the end of all rounds", [this] { return turn(); });
      check_end();
    } catch (const std::exception& error) {
      throw Broken(std::string(error.what()) + "; " + test::describe(plans_));
    }
  }
  [[nodiscard]] std::uint64_t passed(std::size_t point) const { return notes_->passed[point].load(); }
  /// How many of the planned deaths came.
  [[nodiscard]] std::size_t deaths() const noexcept { return deaths_; }
  [[nodiscard]] std::size_t stops() const noexcept { return stops_; }

 private:
  void arm() {
    if (next_plan_ == plans_.size()) return;
    const Plan& plan = plans_[next_plan_++];
    notes_->occurrences_left.store(plan.occurrence);
    notes_->armed_signal.store(plan.signal);
    notes_->armed_point.store(static_cast<std::uint32_t>(plan.point));
  }

  // One look at everybody. True when all is done.
  bool turn() {
    if (!merger_ || has_died(*merger_)) merger_.emplace([this] { merge_until_told(instance_); });
    witness_.look(instance_);
    look_after_stopped();
    if (writer_) {
      if (!writer_->has_ended()) return false;
      if (!has_died(*writer_)) return true;
      writer_.reset();
    }
    if (!is_drained()) return false;
    const Snapshot snapshot = witness_.reader().snapshot();
    const std::int64_t round = number(snapshot, "round");
    const std::int64_t shared_round = number(snapshot, "shared/round");
    must(round >= notes_->accepted_round.load(), "an accepted batch is lost");
    must(shared_round >= notes_->accepted_shared_round.load(), "an accepted batch of the shared ring is lost");
    writer_.emplace([=, this] { write_rounds(instance_, round, shared_round); });
    return false;
  }

  // While somebody stands still, in the middle of whatever it was doing, the others go on.
  void look_after_stopped() {
    const pid_t stopped = notes_->stopped.exchange(0);
    if (stopped == 0) return;
    int status = 0;
    must(::waitpid(stopped, &status, WUNTRACED) == stopped && WIFSTOPPED(status), "it ended instead of stopping");
    const bool is_merger = stopped == merger_->pid();
    if (witness_.sees_instance()) {
      Child bystander([=, this] { push_as_a_bystander(instance_, !is_merger); });
      const std::string verdict = bystander.verdict();
      must(verdict.empty(), "a bystander is disturbed: " + verdict);
      bystander_pushes_ += kBystanderPushes;
      witness_.look(instance_);
      must(witness_.reader().get<std::int64_t>("round").value_or(0) <= kRounds, "a point read");
    }
    must(::kill(stopped, SIGCONT) == 0, "SIGCONT");
    ++stops_;
    arm();
  }

  bool has_died(Child& child) {
    if (!child.has_ended()) return false;
    const int exit_code = child.wait();
    if (exit_code == 0) return false;
    if (exit_code != kKilled) throw Broken("a process ended by itself: " + child.verdict());
    ++deaths_;
    arm();
    return true;
  }

  /// Whether the instance exists and no ring is left of a writer before.
  bool is_drained() { return witness_.sees_instance() && files_in(rings_path(instance_)).empty(); }

  void check_end() {
    const auto rests = [this] {
      look_after_stopped();
      if (has_died(*merger_)) merger_.emplace([this] { merge_until_told(instance_); });
      const Snapshot snapshot = witness_.reader().snapshot();
      return is_drained() && snapshot.size() == expected_entries();
    };
    eventually("a state without what was fleeting or owned, and no ring left", rests);
    witness_.look(instance_);
    const Snapshot snapshot = witness_.reader().snapshot();
    must(number(snapshot, "round") == kRounds && number(snapshot, "shared/round") == kRounds, "rounds are missing");
    for (std::int64_t round = 1; round <= kRounds; ++round) check_round(snapshot, round, kRounds);
    must(number(snapshot, "versioned") == kRounds, "versioned is wrong");
    must(snapshot.get<std::string>("changing") == changing_value(kRounds), "changing is wrong");
    must(number(snapshot, "bystander") == bystander_pushes_, "pushes of bystanders are lost or repeated");
    next_plan_ = plans_.size();
    notes_->armed_point.store(kPoints);
    notes_->merger_may_end.store(true);
    eventually("the end of the merger", [this] {
      look_after_stopped();
      return merger_->has_ended();
    });
    if (merger_->wait() == kKilled) merger_.emplace([this] { merge_until_told(instance_); });
    must(merger_->verdict().empty(), "the merger did not end well");
    must(files_in(instance_) == std::set<std::string>{"control", "merger.lock", "pins", "snapshot", "writers"},
         "a file is left behind");
  }
  [[nodiscard]] std::size_t expected_entries() const {
    const std::int64_t of_bystanders = bystander_pushes_ > 0 ? 1 : 0;
    return static_cast<std::size_t>(kRounds * kKeysOfARound + kTrail + 3 + 2 * (3 + kBigBatch) + of_bystanders);
  }

  TestDirectory directory_;
  Board<Notes> notes_;
  std::vector<Plan> plans_;
  std::string instance_;
  std::size_t next_plan_ = 0;
  std::size_t deaths_ = 0;
  std::size_t stops_ = 0;
  std::int64_t bystander_pushes_ = 0;
  Witness witness_;
  std::optional<Child> merger_;
  std::optional<Child> writer_;
};

/// What must have happened before a point can be reached at all.
std::vector<Plan> prelude_of(CrashPoint point) {
  switch (point) {
    case CrashPoint::kFilesMapped:
    case CrashPoint::kTableResumed: return {{CrashPoint::kAnnounced, 1}};
    case CrashPoint::kRingResumed: return {{CrashPoint::kEpochWritten, 6}};
    case CrashPoint::kOrphanFound:
    case CrashPoint::kOrphanDropped: return {{CrashPoint::kRingRemoved, 1}};
    default: return {};
  }
}

std::vector<Plan> with_prelude(const Plan& plan) {
  std::vector<Plan> plans = prelude_of(plan.point);
  plans.push_back(plan);
  return plans;
}

/// How often each point is passed when nobody dies but in its prelude.
std::array<std::uint64_t, kPoints> count_passages() {
  std::array<std::uint64_t, kPoints> counts{};
  for (std::size_t p = 0; p < kPoints; ++p) {
    const std::vector<Plan> prelude = prelude_of(static_cast<CrashPoint>(p));
    if (!prelude.empty() || p == 0) {
      Ordeal ordeal(prelude);
      ordeal.go();
      for (std::size_t q = 0; q < kPoints; ++q) {
        if (p == 0 || counts[q] == 0) counts[q] = ordeal.passed(q);
      }
    }
  }
  return counts;
}

const std::array<std::uint64_t, kPoints>& passages() {
  static const std::array<std::uint64_t, kPoints> counts = count_passages();
  return counts;
}

TEST(CrashPoints, AreAllReachedByTheWorkload) {
  for (std::size_t p = 0; p < kPoints; ++p) EXPECT_GT(passages()[p], 0U) << kPointNames[p];
}

TEST(CrashPoints, KillAtEachOneEarlyAndLate) {
  std::size_t deaths = 0;
  for (std::size_t p = 0; p < kPoints; ++p) {
    const std::uint64_t count = passages()[p];
    for (const std::uint64_t occurrence : std::set<std::uint64_t>{1, 2, count / 2, count}) {
      if (occurrence == 0 || occurrence > count) continue;
      Ordeal ordeal(with_prelude({static_cast<CrashPoint>(p), occurrence}));
      ASSERT_NO_THROW(ordeal.go());
      deaths += ordeal.deaths();
      if (occurrence > 1) continue;
      EXPECT_EQ(ordeal.deaths(), prelude_of(static_cast<CrashPoint>(p)).size() + 1) << kPointNames[p];
    }
  }
  explored(kPoints, "crash points");
  explored(deaths, "deaths at crash points");
}

TEST(CrashPoints, StopAtEachOneDisturbsNobodyElse) {
  for (std::size_t p = 0; p < kPoints; ++p) {
    Ordeal ordeal(with_prelude({static_cast<CrashPoint>(p), 1, SIGSTOP}));
    ASSERT_NO_THROW(ordeal.go());
    EXPECT_EQ(ordeal.stops(), 1U) << kPointNames[p];
  }
  explored(kPoints, "stops at crash points");
}

TEST(CrashPoints, KillAtRandomOnesAgainAndAgain) {
  constexpr int kDeathsWanted = 2000;
  constexpr std::size_t kPlansOfAnOrdeal = 12;
  Random random(1);
  const auto deaths_wanted = static_cast<std::size_t>(steps(kDeathsWanted));
  std::size_t deaths = 0;
  while (deaths < deaths_wanted) {
    std::vector<Plan> plans;
    while (plans.size() < kPlansOfAnOrdeal) {
      const std::size_t point = random.below(kPoints);
      plans.push_back({static_cast<CrashPoint>(point), 1 + random.below(passages()[point] / 4 + 1),
                       random.chance(90) ? SIGKILL : SIGSTOP});
    }
    Ordeal ordeal(plans);
    ASSERT_NO_THROW(ordeal.go());
    deaths += ordeal.deaths();
  }
  explored(deaths, "deaths at crash points");
}

}  // namespace
}  // namespace shmstate::test
