// Merger, writers and readers of one instance in one thread, under a simulated clock, in an order that a seed decides.
//
// Everybody is the production code, on real files and locks. What a seed decides: who acts next, how much time passes,
// whether others act while somebody is in the middle of something (at any of its crash points, or asleep), and whether
// it dies there. An oracle replays what was accepted in the order in which the merger takes it, and is compared with
// what is in shared memory at each publish, and with what readers get at any time.
//
// An episode is one instance and the schedules that follow each other in it. A failure prints the seed of its episode;
// SHMSTATE_TEST_SEED=n runs exactly that episode.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "harness/explored.h"
#include "harness/positions.h"
#include "harness/test_instance.h"
#include "protocol/crash_point.h"
#include "shmstate/watch.h"
#include "simulation/simulated_kernel.h"
#include "simulation/simulation_oracle.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace shmstate::test {
using namespace internal;
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using std::chrono::nanoseconds;

constexpr std::size_t kRingsMax = 6;  // one less than writers may ask for at times
constexpr std::uint64_t kTombstoneNs = 50'000'000;
constexpr std::uint64_t kLateNs = 3 << 20;  // so late a time to live may end: a tick of the timing wheel and its edges
constexpr std::uint64_t kFeedRecords = 64;
constexpr std::uint64_t kGrownMax = 4000;  // entries: several segments, far below the memory limit
constexpr std::size_t kHistoryMax = 64;
constexpr std::size_t kDepthMax = 3;  // somebody acts while somebody acts while somebody acts
constexpr std::size_t kSchedulesOfAnEpisode = 64;
constexpr int kStepsMax = 1000;  // within which the merger must have come to rest
constexpr std::uint64_t kNever = ~std::uint64_t{0};
constexpr std::size_t kSum = 12;   // a conflating writer's own keys: what it added,
constexpr std::size_t kLast = 13;  // and what it set last
constexpr std::size_t kCommonKeys = kSum;
constexpr std::size_t kConflater = 3;  // that producer

/// Thrown where somebody dies whose local variables hold files. Elsewhere it dies as a process does: nothing runs.
struct Death {};

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

/// A writer's process. Its handle is gone when it is not there or dead.
struct Producer {
  enum class Kind : std::uint8_t { kPlain, kBlocking, kConflating, kShared };

  void end() {
    batch.reset();
    writer.reset();
  }

  Kind kind = Kind::kPlain;
  std::optional<Writer> writer;
  std::optional<Batch> batch;    // here, since a death in the middle of a push skips destructors
  std::optional<RingFile> ring;  // as the harness sees it
  std::vector<Key> bound{keys().begin(), keys().end()};
  std::vector<Pushed> intended;  // by the push under way
  bool was_accepted = false;
  bool is_busy = false;
  std::int64_t sum = 0;   // conflating
  std::int64_t last = 0;  // conflating
};

struct Pin {
  Snapshot snapshot;
  State state;
};

/// An epoch that readers may still know of.
struct Past {
  Epoch epoch = 0;
  std::uint64_t feed_end = 0;
  State state;
};

class Simulation final : public SimulatedKernel {
 public:
  explicit Simulation(std::uint64_t seed);
  Simulation(const Simulation&) = delete;
  Simulation& operator=(const Simulation&) = delete;
  ~Simulation() override;

  /// Returns what went wrong, if anything did.
  std::string run_episode();
  [[nodiscard]] std::uint64_t schedules() const noexcept { return schedules_; }
  [[nodiscard]] std::uint64_t deaths() const noexcept { return deaths_; }

 private:
  enum class Act : std::uint8_t {
    kStep,
    kPush,
    kBatch,
    kFlood,
    kGrow,
    kOpen,
    kClose,
    kRead,
    kReadMany,
    kPin,
    kLookAtPin,
    kUnpin,
    kChanges,
    kWatch,
    kWait,
    kFlush,
    kKillMerger,
    kPassTime,
    kCount
  };
  static constexpr std::size_t kActs = static_cast<std::size_t>(Act::kCount);
  /// Somebody in the middle of something.
  struct Frame {
    Producer* producer;  // none: the merger, or a reader
    bool is_reader;
    bool may_die;
    std::jmp_buf death;
  };

  [[nodiscard]] std::string path() const { return (directory_.path() / "plant").string(); }
  void run_schedule();
  void draw_weights();
  [[nodiscard]] std::string last_acts() const;
  void act();
  void act_as(Act act);
  void act_meanwhile() noexcept override;
  [[nodiscard]] std::uint64_t death_count() const noexcept override { return deaths_; }
  void was_not_woken() noexcept override;
  static void at_crash_point(CrashPoint point) noexcept(false);
  void pass(CrashPoint point);
  void observe(CrashPoint point);
  template <typename Body>
  bool perform(Producer* producer, bool may_die, Body&& body) {
    return perform({.producer = producer, .is_reader = false, .may_die = may_die, .death = {}}, body);
  }
  template <typename Body>
  void read(Body&& body) {
    perform({.producer = nullptr, .is_reader = true, .may_die = false, .death = {}}, body);
  }
  template <typename Body>
  bool perform(Frame frame, Body& body);

  // The merger
  void step_merger();
  void start_merger();
  void bury_merger();
  [[nodiscard]] bool is_merger_busy() const noexcept;
  void set_back_cursors();
  void check_publish();
  void check_catch_up();
  [[nodiscard]] const std::byte* current_buffer();
  [[nodiscard]] std::uint64_t current_pages();
  void check_rings(const layout::RingCursor* cursors);
  void check_entry(std::size_t key, const BufferView& view, const layout::RingCursor* cursors);
  [[nodiscard]] bool may_be_erased(const Known& known) const;
  [[nodiscard]] bool must_be_erased(const Known& known) const;
  void check_heads();

  // Writers
  Producer* idle_producer(bool open);
  void open(Producer& producer);
  void close(Producer& producer);
  void accept(Producer& producer);
  void push(Producer& producer);
  void push_batch(Producer& producer);
  void commit_intended(Producer& producer);
  void push_conflated(Producer& producer);
  void flood(Producer& producer);
  void grow(Producer& producer);
  void flush(Producer& producer);
  [[nodiscard]] Pushed random_mutation(const Producer& producer);
  Status push_one(Producer& producer, const Pushed& pushed);
  static Status add_to(Batch& batch, const Pushed& pushed);
  void check_push(Producer& producer, Status status, bool lived);

  // Readers
  [[nodiscard]] const State& now() const { return history_.back().state; }
  [[nodiscard]] const Past* past_of(Epoch epoch) const;
  Reader& reader() { return *readers_[dice_.below(readers_.size())]; }
  void read_one();
  void read_many();
  void pin();
  void look_at(Pin& pin);
  void look_at_all(const Snapshot& snapshot, const State& state);
  void look_at_changes();
  void watch();
  void wait();

  void come_to_rest();
  void settle();
  void check_rest();
  void fail(const std::string& what) noexcept;
  void expect(bool holds, const char* otherwise) noexcept {
    if (!holds) fail(otherwise);
  }
  void expect(bool holds, const char* otherwise, std::size_t key) {
    if (!holds) fail(std::string(otherwise) + ": " + (key < kKeyCount ? keys()[key].substr(0, 8) : "growing"));
  }

  Dice dice_;
  std::string failure_;
  std::vector<Act> trace_;
  TemporaryDirectory directory_;
  InstanceOptions files_;
  MergeOptions merge_;
  std::optional<InstanceOwner> owner_;
  std::optional<MergeEngine> engine_;
  std::uint64_t step_ns_ = 0;
  std::uint64_t alike_pages_ = ~std::uint64_t{0};  // of the buffers; the dead may have left anything behind them
  bool is_starting_ = false;

  std::array<Producer, 7> producers_;
  std::map<std::uint64_t, RingLog> logs_;  // by ring id
  std::set<std::uint64_t> finished_;
  State back_;
  std::deque<Past> history_;
  bool is_growing_ = false;  // so that segments split
  std::uint64_t grown_pushed_ = 0;
  std::uint64_t last_version_ = 0;
  std::map<std::size_t, std::uint64_t> ring_of_index_;

  std::optional<Control> control_;
  std::array<std::uint64_t, kKeyCount> hashes_{};
  std::vector<std::unique_ptr<Reader>> readers_;
  std::optional<Watch> watch_;
  std::map<std::string, Value> watched_;
  Epoch watched_epoch_ = 0;
  bool has_watched_ = false;  // a complete state
  bool is_watching_ = false;
  bool is_asking_ = false;   // for changes
  bool is_looking_ = false;  // at a pin
  std::vector<Pin> pins_;
  Epoch asked_epoch_ = 0;

  std::vector<Frame*> frames_;
  std::array<std::uint64_t, kActs> weights_{};
  std::uint64_t deadliness_ = 0;  // percent of the interruptions that kill
  std::uint64_t points_left_ = 1;
  std::uint64_t points_apart_ = 1;
  std::uint64_t schedules_ = 0;
  std::uint64_t deaths_ = 0;
};

Simulation* running = nullptr;

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

// False when it died on the way.
template <typename Body>
[[gnu::noinline]] bool Simulation::perform(Frame frame, Body& body) {
  frames_.push_back(&frame);
  bool lived = false;
  if (setjmp(frame.death) == 0) {
    try {
      body();
      lived = true;
    } catch (const Death&) {
    } catch (const std::exception& error) {
      fail(error.what());
      lived = true;
    }
  }
  frames_.pop_back();
  return lived;
}

void Simulation::at_crash_point(CrashPoint point) noexcept(false) {
  if (running != nullptr && !running->frames_.empty()) running->pass(point);
}

void Simulation::pass(CrashPoint point) {
  if (!failure_.empty()) return;
  observe(point);
  if (point == CrashPoint::kLineCopied && dice_.below(64) != 0) return;  // there are thousands
  if (point == CrashPoint::kValueCopied && dice_.below(8) != 0) return;
  if (point == CrashPoint::kGroupRead && dice_.below(64) != 0) return;
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

// ---- the merger

bool Simulation::is_merger_busy() const noexcept {
  return std::any_of(frames_.begin(), frames_.end(),
                     [](const Frame* frame) { return frame->producer == nullptr && !frame->is_reader; });
}

void Simulation::step_merger() {
  if (is_merger_busy()) return;
  if (!engine_) return start_merger();
  static constexpr std::array<std::uint64_t, 6> kLater{10'000, 60'000, 1'000'000, 1'000'000, 20'000'000, 101'000'000};
  pass_time(kLater[dice_.below(kLater.size())]);
  step_ns_ = now_ns();
  if (!perform(nullptr, true, [this] { static_cast<void>(engine_->step(step_ns_)); })) bury_merger();
}

void Simulation::start_merger() {
  is_starting_ = true;
  step_ns_ = now_ns();
  const bool lived = perform(nullptr, engine_.has_value() || history_.size() > 1, [this] {
    owner_.emplace(path(), files_);
    const auto on_event = [this](const MergeEvent& event) {
      if (event.kind == MergeEvent::Kind::kRingQuarantined) fail("a ring was quarantined: " + event.detail);
    };
    engine_.emplace(*owner_, merge_, on_event, step_ns_, [this] {
      pass_time(dice_.below(8) * 100'000);  // turns are cut short at times
      return now_ns();
    });
  });
  is_starting_ = false;
  if (!lived) bury_merger();
}

void Simulation::bury_merger() {
  if (owner_) alike_pages_ = current_pages();
  engine_.reset();
  owner_.reset();
  back_ = now();
  for (auto& [id, log] : logs_) log.forget();
}

// The merger has taken something from a ring.
void Simulation::set_back_cursors() {
  const auto* const cursors = ring_cursors(owner_->buffer(engine_->back_buffer()));
  for (std::size_t i = 0; i < kRingsMax; ++i) {
    const std::uint64_t id = cursors[i].ring_id;
    const auto log = logs_.find(id);
    if (id == 0 || log == logs_.end() || cursors[i].cursor == log->second.back.cursor) continue;
    const Applying how{.ring_id = id, .now_ns = step_ns_, .tombstone_ns = kTombstoneNs};
    expect(log->second.replay_to(cursors[i].cursor, back_, how),
           "a cursor within a batch, or where nothing was pushed");
  }
}

void Simulation::check_publish() {
  const Version version = current_version(owner_->publication());
  expect(version.epoch == history_.back().epoch + 1, "epochs do not grow by one");
  const std::byte* const buffer = owner_->buffer(version.buffer);
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
  const auto* const cursors = ring_cursors(buffer);
  expect(header.epoch == version.epoch, "a buffer with another epoch than its stamp");
  check_rings(cursors);
  const BufferView view(buffer, owner_->geometry().pages_max());
  for (std::size_t key = 0; key < kKeyCount; ++key) check_entry(key, view, cursors);
  expect(header.entry_count == back_.entry_count(), "the number of entries");
  expect(header.tombstone_count == back_.tombstone_count(), "the number of tombstones");
  history_.push_back({.epoch = version.epoch, .feed_end = header.feed_end, .state = back_});
  if (history_.size() > kHistoryMax) history_.pop_front();
}

const std::byte* Simulation::current_buffer() { return owner_->buffer(current_version(owner_->publication()).buffer); }

std::uint64_t Simulation::current_pages() {
  return reinterpret_cast<const layout::BufferHeader*>(current_buffer())->page_count;
}

// To the last byte.
void Simulation::check_catch_up() {
  const std::uint64_t bytes = std::min(alike_pages_, current_pages()) * layout::kPageBytes;
  expect(std::memcmp(current_buffer(), owner_->buffer(engine_->back_buffer()), bytes) == 0,
         "a claimed buffer that is not the current one");
}

void Simulation::check_rings(const layout::RingCursor* cursors) {
  ring_of_index_.clear();
  for (std::size_t i = 0; i < kRingsMax; ++i) {
    if (cursors[i].ring_id == 0) continue;
    ring_of_index_[i] = cursors[i].ring_id;
    if (finished_.contains(cursors[i].ring_id)) return fail("a cursor of a ring that was finished");
    RingLog& log = logs_[cursors[i].ring_id];  // the merger may find a ring before its maker knows its name
    log.is_served = true;
    expect(cursors[i].cursor == log.back.cursor, "state and cursor do not belong together");
    expect(cursors[i].applied_count == log.back.applied_count, "the number of applied mutations");
    for (std::size_t reason = 0; reason < layout::kRejectCount; ++reason) {
      expect(cursors[i].rejected[reason] == log.back.rejected[reason], "the number of rejected mutations");
    }
    log.publish();
  }
  std::erase_if(logs_, [this](const auto& log) {
    const std::uint64_t id = log.first;
    const RingLog& ring = log.second;
    const bool is_held = std::any_of(ring_of_index_.begin(), ring_of_index_.end(),
                                     [id](const auto& place) { return place.second == id; });
    if (is_held || !ring.is_served) return false;
    expect(ring.is_merged(), "a ring was finished before all it held was merged");
    const bool is_open = std::any_of(producers_.begin(), producers_.end(), [id](const Producer& producer) {
      return producer.writer && producer.writer->ring_id() == id;
    });
    expect(!is_open, "a ring was finished while its writer lives");
    finished_.insert(id);
    return true;
  });
}

bool Simulation::may_be_erased(const Known& known) const {
  if (known.expiry_ns != 0 && known.expiry_ns <= step_ns_) return true;
  if (known.owner == 0) return false;
  return std::none_of(producers_.begin(), producers_.end(), [&](const Producer& producer) {
    return producer.writer && producer.writer->ring_id() == known.owner;
  });
}

bool Simulation::must_be_erased(const Known& known) const {
  if (known.expiry_ns != 0 && known.expiry_ns + kLateNs <= step_ns_) return true;
  return known.owner != 0 && !logs_.contains(known.owner);
}

void Simulation::check_entry(std::size_t key, const BufferView& view, const layout::RingCursor* cursors) {
  Known& expected = back_.keys[key];
  Place at;
  SlotHead head;
  const BufferView::Found found = view.find({.bytes = keys()[key], .hash = hashes_[key]}, at, head);
  expect(found != BufferView::Found::kDamaged, "a damaged entry", key);
  if (found != BufferView::Found::kYes) {
    expect(!expected.exists() || may_be_erased(expected), "an entry is missing", key);
    expected = {};
    return;
  }
  expect(!must_be_erased(expected), "an entry outlived its time or its owner", key);
  const layout::Slot& slot = view.segment(at.page).slots[at.slot];
  const std::uint64_t owner = head.owner == 0 ? 0 : cursors[head.owner - 1].ring_id;
  expect(expected.exists(), "an entry that should not be", key);
  expect(expected.is_tombstone == (head.type == kTombstone), "an erasure", key);
  expect(expected.owner == owner, "an owner", key);
  expect(expected.expiry_ns == (head.has(SlotHead::kHasExpiry) ? slot.words[head.expiry_word()] : 0), "an expiry", key);
  expect(expected.version == (head.has(SlotHead::kHasVersion) ? slot.words[head.version_word()] : 0), "a version", key);
  if (expected.is_tombstone || head.type != expected.content.type) {
    return expect(expected.is_tombstone, "the type of a value", key);
  }
  const std::uint64_t* const words = view.value_words(slot, head);
  ValueView value = static_cast<std::int64_t>(*words);
  if (head.type == Type::kFloat64) value = std::bit_cast<double>(*words);
  if (head.type == Type::kBytes) value = std::string_view(reinterpret_cast<const char*>(words), head.value_bytes);
  expect(expected.content.is(value), "a value", key);
}

// What a writer may overwrite, the current snapshot holds.
void Simulation::check_heads() {
  for (const Producer& producer : producers_) {
    if (!producer.ring) continue;
    const auto log = logs_.find(producer.ring->id());
    if (log == logs_.end()) continue;
    expect(producer.ring->header().head.load(std::memory_order_relaxed) <= log->second.published.cursor,
           "a head moved before the publish");
  }
}

// ---- writers

Producer* Simulation::idle_producer(bool open) {
  const std::size_t first = dice_.below(producers_.size());
  for (std::size_t i = 0; i < producers_.size(); ++i) {
    Producer& producer = producers_[(first + i) % producers_.size()];
    if (producer.writer.has_value() == open && !producer.is_busy) return &producer;
  }
  return nullptr;
}

void Simulation::open(Producer& producer) {
  if (logs_.size() > 2 * kRingsMax) return;
  WriterOptions options = ring_of(kRingBytesMin, WhenFull::kFail);
  options.name = "simulated";
  options.full_timeout = 2ms;
  options.shared = producer.kind == Producer::Kind::kShared;
  if (producer.kind == Producer::Kind::kConflating) options.when_full = WhenFull::kConflate;
  if (producer.kind == Producer::Kind::kBlocking) options.when_full = WhenFull::kBlock;
  producer.is_busy = true;
  perform(&producer, false, [&] {
    producer.writer.emplace(path(), options);
    const fs::path rings = rings_path(path());
    producer.ring = RingFile::open(rings, producer.writer->ring_id(), control_->geometry().instance_id);
    expect(producer.ring.has_value(), "a new ring's file is gone");
    logs_.try_emplace(producer.writer->ring_id());
  });
  producer.is_busy = false;
}

void Simulation::close(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating) return;  // until the end of the schedule: it must not lose anything
  producer.end();
  producer.ring.reset();
}

// The tail has moved: what lies before it will be merged, whatever happens to its writer.
void Simulation::accept(Producer& producer) {
  const RingFile& ring = *producer.ring;
  RingLog& log = logs_.at(ring.id());
  const std::uint64_t tail = ring.header().tail.load(std::memory_order_acquire);
  std::vector<Pushed> seen;
  while (log.accepted_end < tail) {
    RecordView record;
    if (!parse_record(ring.at(log.accepted_end), tail - log.accepted_end, record)) return fail("a malformed record");
    const Mutation mutation = record.mutation();
    const std::optional<std::size_t> key = index_of(mutation.key);
    if (!key) return fail("a key that nobody pushed");
    seen.push_back(Pushed::of(mutation, *key));
    log.accepted_end += record.bytes;
    log.accepted.push_back(
        {.pushed = seen.back(), .end = log.accepted_end, .is_followed = (record.flags & kBatchContinues) != 0});
  }
  expect(producer.kind == Producer::Kind::kConflating || seen == producer.intended,
         "what was pushed is not in the ring");
  producer.was_accepted = true;
}

Pushed Simulation::random_mutation(const Producer& producer) {
  static constexpr std::array kOperations{Operation::kSet, Operation::kSet, Operation::kSet, Operation::kErase,
                                          Operation::kAdd, Operation::kAdd, Operation::kMax, Operation::kMin};
  Pushed pushed;
  pushed.operation = kOperations[dice_.below(kOperations.size())];
  pushed.key = dice_.below(kCommonKeys);
  const bool is_set = pushed.operation == Operation::kSet;
  const auto number = static_cast<std::int64_t>(dice_.below(100)) - 50;
  Value value = number;
  if (dice_.chance(15)) value = static_cast<double>(number);
  if (dice_.chance(3)) value = std::copysign(std::numeric_limits<double>::infinity(), static_cast<double>(number));
  if (is_set && dice_.chance(1)) value = std::numeric_limits<double>::quiet_NaN();
  if (is_set && dice_.chance(20)) value = Content{Type::kBytes, dice_.word(), dice_.below(200)}.to_value();
  if (pushed.operation != Operation::kErase) pushed.content = Content::of(ValueView(value));
  if (is_set && dice_.chance(20)) {
    pushed.flags |= kWithTtl;
    pushed.ttl_ns = dice_.between(1, 40) * 1'000'000;
  }
  if (is_set && producer.kind != Producer::Kind::kShared && dice_.chance(20)) pushed.flags |= kEphemeral;
  if ((is_set || pushed.operation == Operation::kErase) && dice_.chance(20)) {
    pushed.flags |= kWithVersion;
    pushed.version = std::max<std::uint64_t>(++last_version_, 8) - dice_.below(8);
  }
  return pushed;
}

Status Simulation::push_one(Producer& producer, const Pushed& pushed) {
  Writer& writer = *producer.writer;
  const std::string& key = keys()[pushed.key];
  Key& bound = producer.bound[pushed.key];
  const Value value = pushed.content.to_value();
  const bool is_bound = dice_.chance(40);
  const SetOptions options{.ttl = nanoseconds(pushed.ttl_ns),
                           .ephemeral = pushed.has(kEphemeral),
                           .version = pushed.has(kWithVersion) ? std::optional(pushed.version) : std::nullopt};
  switch (pushed.operation) {
    case Operation::kSet:
      if (pushed.flags != 0) return writer.set(key, value, options);
      return is_bound ? writer.set(bound, value) : writer.set(key, value);
    case Operation::kErase: return pushed.has(kWithVersion) ? writer.erase(key, pushed.version) : writer.erase(key);
    case Operation::kAdd: return is_bound ? writer.add(bound, value) : writer.add(key, value);
    case Operation::kMax: return is_bound ? writer.max(bound, value) : writer.max(key, value);
    case Operation::kMin: return is_bound ? writer.min(bound, value) : writer.min(key, value);
  }
  return Status::kOk;
}

Status Simulation::add_to(Batch& batch, const Pushed& pushed) {
  if (pushed.key == kGrowing) return batch.set(growing_key(pushed.content.bits), pushed.content.to_value());
  const std::string& key = keys()[pushed.key];
  const Value value = pushed.content.to_value();
  const SetOptions options{.ttl = nanoseconds(pushed.ttl_ns),
                           .ephemeral = pushed.has(kEphemeral),
                           .version = pushed.has(kWithVersion) ? std::optional(pushed.version) : std::nullopt};
  switch (pushed.operation) {
    case Operation::kSet: return batch.set(key, value, options);
    case Operation::kErase: return pushed.has(kWithVersion) ? batch.erase(key, pushed.version) : batch.erase(key);
    case Operation::kAdd: return batch.add(key, value);
    case Operation::kMax: return batch.max(key, value);
    case Operation::kMin: return batch.min(key, value);
  }
  return Status::kOk;
}

// Accepted or not, and nothing between; a writer that died is gone.
void Simulation::check_push(Producer& producer, Status status, bool lived) {
  producer.is_busy = false;
  if (!lived) {
    producer.end();
    producer.ring.reset();
    return;
  }
  if (producer.kind == Producer::Kind::kConflating) return;
  expect((status == Status::kOk) == producer.was_accepted, "a push that lies about whether it was accepted");
  expect(status == Status::kOk || status == Status::kRingFull || status == Status::kTimeout ||
             status == Status::kRingRefused,
         "a push that fails for no good reason");
}

void Simulation::push(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating) return push_conflated(producer);
  const Pushed pushed = random_mutation(producer);
  producer.intended = {pushed};
  producer.was_accepted = false;
  producer.is_busy = true;
  Status status = Status::kOk;
  const bool lived = perform(&producer, true, [&] { status = push_one(producer, pushed); });
  check_push(producer, status, lived);
}

void Simulation::push_conflated(Producer& producer) {
  producer.is_busy = true;
  perform(&producer, false, [&] {
    for (std::uint64_t n = dice_.between(1, 20); n > 0; --n) {
      producer.batch.reset();
      Batch& batch = producer.batch.emplace(producer.writer->batch());
      const auto delta = static_cast<std::int64_t>(dice_.below(10));
      expect(batch.add(keys()[kSum], delta) == Status::kOk, "an add to a batch");
      expect(batch.set(keys()[kLast], producer.last + 1) == Status::kOk, "a set in a batch");
      const Status status = batch.commit();
      if (status == Status::kRingRefused) return;
      expect(status == Status::kOk, "a push of a writer that conflates");
      producer.sum += delta;
      ++producer.last;
    }
  });
  producer.is_busy = false;
}

void Simulation::push_batch(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating) return push_conflated(producer);
  producer.intended.clear();
  const std::uint64_t count = dice_.chance(10) ? dice_.between(60, 140) : dice_.between(2, 6);
  while (producer.intended.size() < count) producer.intended.push_back(random_mutation(producer));
  commit_intended(producer);
}

void Simulation::commit_intended(Producer& producer) {
  producer.was_accepted = false;
  producer.is_busy = true;
  Status status = Status::kOk;
  const bool lived = perform(&producer, true, [&] {
    producer.batch.reset();
    Batch& batch = producer.batch.emplace(producer.writer->batch());
    for (const Pushed& pushed : producer.intended) expect(add_to(batch, pushed) == Status::kOk, "an add to a batch");
    status = batch.commit();
  });
  check_push(producer, status, lived);
}

void Simulation::flood(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating) return push_conflated(producer);
  for (std::uint64_t n = dice_.between(1, 10); n > 0 && producer.writer && failure_.empty(); --n) {
    const Content content{Type::kBytes, dice_.word(), dice_.between(1'000, 14'000)};
    Pushed pushed;
    pushed.key = dice_.below(kCommonKeys);
    pushed.content = content;
    producer.intended = {pushed};
    producer.was_accepted = false;
    producer.is_busy = true;
    Status status = Status::kOk;
    const bool lived = perform(&producer, true, [&] { status = push_one(producer, pushed); });
    check_push(producer, status, lived);
  }
}

void Simulation::grow(Producer& producer) {
  if (producer.kind == Producer::Kind::kConflating || grown_pushed_ > kGrownMax) return push(producer);
  producer.intended.clear();
  for (std::uint64_t n = dice_.between(10, 200); n > 0; --n) {
    Pushed& pushed = producer.intended.emplace_back();
    pushed.key = kGrowing;
    pushed.content = {Type::kInt64, grown_pushed_++, 0};
  }
  commit_intended(producer);
}

void Simulation::flush(Producer& producer) {
  producer.is_busy = true;
  Status status = Status::kOk;
  Ticket ticket = 0;
  const std::uint64_t id = producer.writer->ring_id();
  const bool lived = perform(&producer, false, [&] {
    ticket = producer.writer->ticket();
    status = producer.writer->flush(ticket, nanoseconds(dice_.below(4) * 1'000'000));
  });
  producer.is_busy = false;
  const bool is_merged = status != Status::kTimeout && status != Status::kRingRefused;
  if (!lived || !is_merged) return;
  const auto log = logs_.find(id);
  expect(log != logs_.end() && log->second.published.cursor >= ticket, "a flush that returned too early");
}

// ---- readers

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
