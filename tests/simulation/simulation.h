// Merger, writers and readers of one instance in one thread, under a simulated clock, in an order that a seed decides.
//
// Everybody is the production code, on real files and locks. What a seed decides: who acts next, how much time passes,
// whether others act while somebody is in the middle of something (at any of its crash points, or asleep), and whether
// it dies there. An oracle replays what was accepted in the order in which the merger takes it, and is compared with
// what is in shared memory at each publish, and with what readers get at any time.
//
// An episode is one instance and the schedules that follow each other in it. A failure prints the seed of its episode;
// SHMSTATE_TEST_SEED=n runs exactly that episode.
#pragma once

#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "harness/test_instance.h"
#include "shmstate/detail/buffer_view.h"
#include "shmstate/detail/crash_point.h"
#include "shmstate/watch.h"
#include "simulation/simulated_kernel.h"
#include "simulation/simulation_oracle.h"

namespace shmstate::test {
using namespace internal;

using std::chrono::nanoseconds;

inline constexpr std::size_t kRingsMax = 6;  // one less than writers may ask for at times
inline constexpr std::uint64_t kTombstoneNs = 50'000'000;
inline constexpr std::uint64_t kFeedRecords = 64;
inline constexpr std::size_t kDepthMax = 3;  // somebody acts while somebody acts while somebody acts
inline constexpr std::size_t kSum = 12;      // a conflating writer's own keys: what it added,
inline constexpr std::size_t kLast = 13;     // and what it set last
inline constexpr std::size_t kCommonKeys = kSum;

/// Thrown where somebody dies whose local variables hold files. Elsewhere it dies as a process does: nothing runs.
struct Death {};

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
  template <typename To>
  Status push_one(Producer& producer, To& to, const Pushed& pushed);
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

}  // namespace shmstate::test
