// The simulation's course: episodes, schedules, who acts in the middle of what, deaths, and what must hold at the end.
#include "simulation/simulation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "harness/explored.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace shmstate::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr std::size_t kSchedulesOfAnEpisode = 64;
constexpr int kStepsMax = 1000;  // within which the merger must have come to rest
constexpr std::uint64_t kNever = ~std::uint64_t{0};
constexpr std::size_t kConflater = 3;  // that producer

Simulation* running = nullptr;

bool holds_files_in_locals(CrashPoint point) noexcept {
  switch (point) {
    case CrashPoint::kRingOpened:
    case CrashPoint::kVerdictWritten:
    case CrashPoint::kDirectoryMade:
    case CrashPoint::kInstanceLocked:
    case CrashPoint::kPinsReady:
    case CrashPoint::kDoorbellReady:
    case CrashPoint::kFilesMapped:
    case CrashPoint::kTableResumed:
    case CrashPoint::kRingResumed:
    case CrashPoint::kOrphanFound: return true;
    default: return false;
  }
}

}  // namespace

// ---- an episode

Simulation::Simulation(std::uint64_t seed) : SimulatedKernel(~seed), dice_(seed) {
  running = this;
  crash_hook = at_crash_point;
  files_.memory_limit_bytes = std::uint64_t{32} << 20;
  files_.buffer_count = dice_.chance(60) ? 2 : static_cast<std::uint32_t>(dice_.between(3, 4));
  files_.ring_count_max = kRingsMax;
  files_.feed_record_count = kFeedRecords;
  is_growing_ = dice_.chance(5);
  merge_.pin_time_max = dice_.chance(50) ? nanoseconds::zero() : nanoseconds(5ms);
  merge_.tombstone_time = nanoseconds(kTombstoneNs);
  constexpr std::array kKinds{Producer::Kind::kPlain,      Producer::Kind::kPlain,  Producer::Kind::kBlocking,
                              Producer::Kind::kConflating, Producer::Kind::kShared, Producer::Kind::kShared,
                              Producer::Kind::kPlain};
  for (std::size_t i = 0; i < producers_.size(); ++i) producers_[i].kind = kKinds[i];
}

Simulation::~Simulation() {
  crash_hook = nullptr;
  running = nullptr;
}

std::string Simulation::run_episode() {
  points_left_ = kNever;
  history_.push_back({});
  start_merger();
  if (!failure_.empty()) return failure_;
  control_.emplace(path(), 0ns);
  for (std::size_t i = 0; i < kKeyCount; ++i) hashes_[i] = hash_key(keys()[i], control_->geometry().hash_seed);
  for (int i = 0; i < 2; ++i) readers_.push_back(std::make_unique<Reader>(path()));
  watch_.emplace(path(), "key/");
  for (std::size_t i = 0; i < kSchedulesOfAnEpisode && failure_.empty(); ++i) run_schedule();
  if (failure_.empty()) settle();
  pins_.clear();
  for (Producer& producer : producers_) producer.end();
  engine_.reset();
  owner_.reset();
  return failure_.empty() ? "" : failure_ + "; before that: " + last_acts();
}

// Each schedule has other habits ("swarm testing": Groce et al. 2012): what it never does, what it does all the time.
void Simulation::draw_weights() {
  static constexpr std::array<std::uint64_t, 4> kWeights{0, 1, 3, 9};
  for (std::uint64_t& weight : weights_) weight = kWeights[dice_.below(kWeights.size())];
  const auto weight_of = [this](Act act) -> std::uint64_t& { return weights_[static_cast<std::size_t>(act)]; };
  weight_of(Act::kStep) = dice_.between(4, 20);
  weight_of(Act::kPush) = dice_.between(1, 12);
  weight_of(Act::kGrow) = is_growing_ ? 3 : 0;
  weight_of(Act::kFlood) = dice_.chance(10) ? 2 : 0;
  weight_of(Act::kKillMerger) = dice_.chance(10) ? 1 : 0;
  weight_of(Act::kClose) = dice_.chance(20) ? 1 : 0;
  weight_of(Act::kUnpin) += 1;
  weight_of(Act::kOpen) = dice_.between(1, 2);
  deadliness_ = dice_.chance(70) ? 0 : dice_.between(1, 20);
  points_apart_ = std::uint64_t{1} << dice_.between(4, 9);
  points_left_ = dice_.between(1, points_apart_);
}

std::string Simulation::last_acts() const {
  static constexpr std::array<std::string_view, kActs + 1> kNames{
      "step", "push",  "batch",   "flood", "grow", "open",  "close",       "read",      "read_many", "pin",
      "look", "unpin", "changes", "watch", "wait", "flush", "kill_merger", "pass_time", "(death)"};
  std::string text;
  for (std::size_t i = trace_.size() - std::min<std::size_t>(trace_.size(), 60); i < trace_.size(); ++i) {
    text.append(kNames[static_cast<std::size_t>(trace_[i])]).append(" ");
  }
  return text;
}

void Simulation::run_schedule() {
  trace_.clear();
  draw_weights();
  for (std::uint64_t n = dice_.between(10, 30); n > 0 && failure_.empty(); --n) act();
  points_left_ = kNever;
  come_to_rest();
  ++schedules_;
}

void Simulation::act() {
  pass_time(dice_.between(1, 20) * 1000);
  std::uint64_t total = 0;
  for (const std::uint64_t weight : weights_) total += weight;
  std::uint64_t drawn = dice_.below(total);
  std::size_t act = 0;
  while (drawn >= weights_[act]) drawn -= weights_[act++];
  act_as(static_cast<Act>(act));
}

void Simulation::act_as(Act act) {
  trace_.push_back(act);
  const auto with = [this](bool is_open, void (Simulation::*what)(Producer&)) {
    if (Producer* const producer = idle_producer(is_open)) (this->*what)(*producer);
  };
  switch (act) {
    case Act::kStep: return step_merger();
    case Act::kPush: return with(true, &Simulation::push);
    case Act::kBatch: return with(true, &Simulation::push_batch);
    case Act::kFlood: return with(true, &Simulation::flood);
    case Act::kGrow: return with(true, &Simulation::grow);
    case Act::kOpen: return with(false, &Simulation::open);
    case Act::kClose: return with(true, &Simulation::close);
    case Act::kFlush: return with(true, &Simulation::flush);
    case Act::kRead: return read_one();
    case Act::kReadMany: return read_many();
    case Act::kPin: return pin();
    case Act::kLookAtPin:
      if (!pins_.empty() && !is_looking_) look_at(pins_[dice_.below(pins_.size())]);
      return;
    case Act::kUnpin:
      if (!pins_.empty() && !is_looking_) {
        look_at(pins_.front());
        pins_.erase(pins_.begin());
      }
      return;
    case Act::kChanges: return look_at_changes();
    case Act::kWatch: return watch();
    case Act::kWait: return wait();
    case Act::kKillMerger:
      if (is_merger_busy() || !engine_) return;
      ++deaths_;
      return bury_merger();
    case Act::kPassTime: return pass_time(std::uint64_t{1'000} << dice_.below(20));
    case Act::kCount: return;
  }
}

// ---- in the middle of something

void Simulation::at_crash_point(CrashPoint point) noexcept(false) {
  if (running != nullptr && !running->frames_.empty()) running->pass(point);
}

void Simulation::pass(CrashPoint point) {
  if (!failure_.empty()) return;
  observe(point);
  if (point == CrashPoint::kLineCopied && dice_.below(64) != 0) return;  // there are thousands
  if (point == CrashPoint::kValueCopied && dice_.below(8) != 0) return;
  if (point == CrashPoint::kSlabRead && dice_.below(64) != 0) return;
  if (--points_left_ != 0) return;
  points_left_ = dice_.between(1, points_apart_);
  if (frames_.size() < kDepthMax) {
    for (std::uint64_t n = dice_.below(4); n > 0 && failure_.empty(); --n) act();
  }
  Frame& frame = *frames_.back();
  const bool can_be_undone = !is_starting_ || holds_files_in_locals(point);
  if (!failure_.empty() || !frame.may_die || !can_be_undone || !dice_.chance(deadliness_)) return;
  trace_.push_back(Act::kCount);
  ++deaths_;
  if (holds_files_in_locals(point)) throw Death();
  std::longjmp(frame.death, 1);
}

void Simulation::act_meanwhile() noexcept {
  if (frames_.size() < kDepthMax && failure_.empty()) act();
  pass_time(500'000);
}

// A merger that is in the middle of something may owe a wake.
void Simulation::was_not_woken() noexcept {
  if (is_merger_busy() || !engine_ || engine_->has_work()) return;
  fail("a sleeper was not woken");
}

void Simulation::observe(CrashPoint point) {
  switch (point) {
    case CrashPoint::kTailMoved: return accept(*frames_.back()->producer);
    case CrashPoint::kCursorStored: return set_back_cursors();
    case CrashPoint::kStampWritten:
    case CrashPoint::kHeadMoved: return check_heads();
    case CrashPoint::kEpochWritten: return check_publish();
    case CrashPoint::kBufferCaughtUp: return check_catch_up();
    default: return;
  }
}

// ---- the end of a schedule, and of an episode

// Everything that was pushed to a ring that is served is published, whoever died on the way.
void Simulation::come_to_rest() {
  while (!engine_ && failure_.empty()) start_merger();
  pins_.clear();
  const auto is_behind = [](const auto& log) { return log.second.is_served && !log.second.is_merged(); };
  for (int i = 0; failure_.empty() && (std::any_of(logs_.begin(), logs_.end(), is_behind) || engine_->has_work());
       ++i) {
    if (i == kStepsMax) return fail("what was pushed is never merged");
    pass_time(10'000'000);
    step_merger();
  }
  look_at_all(reader().snapshot(), now());
}

// Everybody ends; what is left is the state, and nothing else.
void Simulation::settle() {
  for (Producer& producer : producers_) close(producer);
  Producer& conflating = producers_[kConflater];
  Status status = conflating.writer ? Status::kTimeout : Status::kOk;
  for (int i = 0; i < kStepsMax && status != Status::kOk && failure_.empty(); ++i) {
    perform(&conflating, false, [&] { status = conflating.writer->flush(0ns); });
    pass_time(101'000'000);
    step_merger();
  }
  expect(status == Status::kOk, "a flush of a writer that conflates");
  conflating.end();
  conflating.ring.reset();
  for (int i = 0; i < kStepsMax && failure_.empty() && !(logs_.empty() && !engine_->has_work()); ++i) {
    pass_time(101'000'000);
    step_merger();
  }
  if (failure_.empty()) check_rest();
}

void Simulation::check_rest() {
  expect(logs_.empty(), "a ring is never finished");
  std::error_code error;
  const fs::path instance = path();
  expect(fs::directory_iterator(rings_path(instance), error) == fs::directory_iterator(),
         "a ring's file is left behind");
  for (const Known& known : now().keys) expect(known.owner == 0, "an ephemeral key is left behind");
  const Producer& conflating = producers_[kConflater];
  const auto number = [this](std::size_t key) { return static_cast<std::int64_t>(now().keys[key].content.bits); };
  expect(number(kSum) == conflating.sum, "the sum of a writer that conflates");
  expect(number(kLast) == conflating.last, "the last word of a writer that conflates");
  watch();
  look_at_all(reader().snapshot(), now());
}

void Simulation::fail(const std::string& what) noexcept {
  if (failure_.empty()) failure_ = what + " (epoch " + std::to_string(history_.back().epoch) + ")";
}

// ---- the test

namespace {

int episodes_wanted() {
  constexpr int kEpisodes = 100;
  return steps(kEpisodes) * (steps(1) > 1 ? 3 : 1);
}

// In every schedule: each writer's mutations are merged exactly once, in their order, batches whole; epochs grow by
// one; cursors and state belong together; pinned snapshots do not change; the feed tells everything or a gap; times to
// live and owners are kept; who sleeps is woken; and at the end no file is left behind.
TEST(Simulation, EveryScheduleKeepsEveryPromise) {
#ifdef __SANITIZE_ADDRESS__
  __lsan_disable();  // who dies leaves its memory to the kernel
#endif
  const bool is_replay = std::getenv("SHMSTATE_TEST_SEED") != nullptr;
  const int episodes = is_replay ? 1 : episodes_wanted();
  std::uint64_t schedules = 0;
  std::uint64_t deaths = 0;
  for (int i = 0; i < episodes; ++i) {
    const std::uint64_t seed = test_seed() + static_cast<std::uint64_t>(i);
    Simulation simulation(seed);
    const std::string failure = simulation.run_episode();
    ASSERT_EQ(failure, "") << "schedule " << simulation.schedules() << " of the episode; SHMSTATE_TEST_SEED=" << seed;
    schedules += simulation.schedules();
    deaths += simulation.deaths();
  }
  explored(schedules, "schedules of the simulation");
  explored(deaths, "deaths in the simulation");
#ifdef __SANITIZE_ADDRESS__
  __lsan_enable();
#endif
}

}  // namespace
}  // namespace shmstate::test
