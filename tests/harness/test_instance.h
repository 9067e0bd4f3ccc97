// An instance inside the test's own process: its directory, the owner of its files, and a merge engine that moves only
// when the test says so, at the time that the test says. Random tests take their seed from SHMSTATE_TEST_SEED.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "engine/instance_owner.h"
#include "engine/merge_engine.h"
#include "files/control.h"
#include "files/mapping.h"
#include "files/os.h"
#include "files/ring_file.h"
#include "layout/statistics.h"
#include "protocol/publish.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;

/// The seed of this run, printed once.
inline std::uint64_t test_seed() {
  static const std::uint64_t seed = [] {
    const char* const given = std::getenv("SHMSTATE_TEST_SEED");
    const std::uint64_t chosen = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::printf("SHMSTATE_TEST_SEED=%llu\n", static_cast<unsigned long long>(chosen));
    return chosen;
  }();
  return seed;
}

inline bool is_set(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && std::string_view(value) != "0";
}

/// Ten times as many steps when SHMSTATE_TEST_LONG is set; fewer when SHMSTATE_TEST_EMULATED is, and under
/// ThreadSanitizer, which keeps a vector clock for each word that is accessed atomically, and here that is all of them.
inline int steps(int count) {
#ifdef __SANITIZE_THREAD__
  count = (count + 4) / 5;
#endif
  if (is_set("SHMSTATE_TEST_EMULATED")) count = (count + 9) / 10;
  return is_set("SHMSTATE_TEST_LONG") ? 10 * count : count;
}

/// Random choices that the seed and a number of the test's own determine.
class Random {
 public:
  explicit Random(std::uint64_t stream) : engine_(test_seed() * 0x9e37'79b9'7f4a'7c15 + stream) {}

  [[nodiscard]] std::uint64_t word() { return engine_(); }
  /// 0 to `count` - 1.
  [[nodiscard]] std::size_t below(std::size_t count) { return static_cast<std::size_t>(engine_() % count); }
  [[nodiscard]] std::size_t between(std::size_t first, std::size_t last) { return first + below(last - first + 1); }
  [[nodiscard]] bool chance(std::size_t percent) { return below(100) < percent; }
  [[nodiscard]] std::string bytes(std::size_t count) {
    std::string text(count, '\0');
    for (char& c : text) c = static_cast<char>(engine_());
    return text;
  }

 private:
  std::mt19937_64 engine_;
};

/// A directory under /dev/shm that is removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = "/dev/shm/shmstate-test-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) os::throw_errno("cannot create " + name, errno);
    path_ = name;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

class TestInstance {
 public:
  explicit TestInstance(const InstanceOptions& files = {}, const MergeOptions& merge = never_expire())
      : files_(files), merge_(merge) {
    if (files_.memory_limit_bytes == 0) files_.memory_limit_bytes = std::uint64_t{1} << 30;
    start();
  }

  [[nodiscard]] static MergeOptions never_expire() { return {.pin_time_max = std::chrono::nanoseconds::zero()}; }

  [[nodiscard]] std::string path() const { return (directory_.path() / "plant").string(); }
  [[nodiscard]] InstanceOwner& owner() { return *owner_; }
  [[nodiscard]] MergeEngine& engine() { return *engine_; }
  [[nodiscard]] const std::vector<MergeEvent>& events() const { return events_; }
  [[nodiscard]] std::size_t count_events(MergeEvent::Kind kind) const {
    return static_cast<std::size_t>(
        std::count_if(events_.begin(), events_.end(), [kind](const MergeEvent& event) { return event.kind == kind; }));
  }

  [[nodiscard]] Writer writer(const WriterOptions& options = {}) const { return Writer(path(), options); }
  [[nodiscard]] Reader reader() const { return Reader(path()); }

  /// One step of the engine, `later` after the previous one.
  MergeEngine::Progress step(std::chrono::nanoseconds later = std::chrono::milliseconds(1)) {
    now_ns_ += static_cast<std::uint64_t>(later.count());
    return engine_->step(now_ns_);
  }
  /// Steps until everything that was pushed is published. A stall is a failure: the test holds a snapshot.
  void pump() {
    for (int i = 0; i < 1'000'000; ++i) {
      const MergeEngine::Progress progress = step();
      ASSERT_NE(progress, MergeEngine::Progress::kStalled) << "a snapshot is held";
      if (progress == MergeEngine::Progress::kIdle && !engine_->has_work()) return;
    }
    FAIL() << "the engine never becomes idle";
  }
  /// Enough slow rounds for the engine to notice writers that are gone.
  void pass_rounds(int rounds = 4) {
    for (int i = 0; i < rounds; ++i) step(std::chrono::milliseconds(100));
    pump();
  }

  /// After a step: whether the claimed buffer, if there is one, is what the current one is, to the last byte. Only its
  /// epoch is the next one.
  [[nodiscard]] bool is_caught_up() {
    const Version current = current_version(owner_->publication());
    const std::uint32_t back = engine_->back_buffer();
    if (back == current.buffer || !is_being_written(owner_->publication(), back)) return true;
    const std::byte* const from = owner_->buffer(current.buffer);
    const std::byte* const to = owner_->buffer(back);
    const auto& header = *reinterpret_cast<const layout::BufferHeader*>(from);
    constexpr std::size_t kEpoch = offsetof(layout::BufferHeader, epoch);
    constexpr std::size_t kBehind = kEpoch + sizeof header.epoch;
    return std::memcmp(from, to, kEpoch) == 0 &&
           std::memcmp(from + kBehind, to + kBehind, header.page_count * layout::kPageBytes - kBehind) == 0;
  }

  [[nodiscard]] std::uint64_t statistic(Stat stat) {
    engine_->write_statistics();
    return owner_->statistic(stat).load(std::memory_order_relaxed);
  }

  /// Time goes by without a merger.
  void pass(std::chrono::nanoseconds time) { now_ns_ += static_cast<std::uint64_t>(time.count()); }
  void stop() {
    engine_.reset();
    owner_.reset();
  }
  void start() {
    owner_.emplace(path(), files_);
    engine_.emplace(
        *owner_, merge_, [this](const MergeEvent& event) { events_.push_back(event); }, now_ns_,
        [this] { return now_ns_; });
  }
  /// As a merger that ends between two steps and is started again.
  void restart() {
    stop();
    start();
  }

  void restart(const MergeOptions& merge) {
    merge_ = merge;
    restart();
  }

  /// Replaces the random hash seed of an instance that is still empty, so that a test's seed determines everything.
  void fix_hash_seed(std::uint64_t seed) {
    ASSERT_EQ(engine_->table().entry_count(), 0U);
    stop();
    const os::Fd fd = os::open_file(path() + "/control", O_RDWR);
    ASSERT_EQ(::pwrite(fd.get(), &seed, sizeof seed, offsetof(layout::Identity, hash_seed)), ssize_t{sizeof seed});
    start();
  }

  /// The file of a writer's ring, as the engine or a hostile writer has it.
  [[nodiscard]] RingFile open_ring(const Writer& writer) {
    std::optional<RingFile> file =
        RingFile::open(owner_->rings_path(), writer.ring_id(), owner_->geometry().instance_id);
    if (!file) throw Error(Status::kNotFound, "shmstate: the ring's file is gone");
    return std::move(*file);
  }
  [[nodiscard]] bool has_ring_file(std::uint64_t id) const {
    return std::filesystem::exists(rings_path(path()) / ring_name(id));
  }

 private:
  TemporaryDirectory directory_;
  InstanceOptions files_;
  MergeOptions merge_;
  std::uint64_t now_ns_ = os::now_ns();
  std::vector<MergeEvent> events_;
  std::optional<InstanceOwner> owner_;
  std::optional<MergeEngine> engine_;
};

/// Steps an instance's engine in a thread of its own for as long as it lives.
class EngineThread {
 public:
  explicit EngineThread(TestInstance& instance)
      : thread_([this, &engine = instance.engine()] {
          while (!stop_.load(std::memory_order_relaxed)) {
            if (engine.step(os::now_ns()) != MergeEngine::Progress::kWorked) std::this_thread::yield();
          }
        }) {}
  EngineThread(const EngineThread&) = delete;
  EngineThread& operator=(const EngineThread&) = delete;
  ~EngineThread() {
    stop_.store(true, std::memory_order_relaxed);
    thread_.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

/// Options of a writer with a ring of this size.
[[nodiscard]] inline WriterOptions ring_of(std::size_t bytes, WhenFull when_full = WhenFull::kFail) {
  WriterOptions options;
  options.ring_bytes = bytes;
  options.when_full = when_full;
  return options;
}

/// The status of the `Error` that `action` throws, and its text; kOk when it throws none.
template <typename Action>
[[nodiscard]] std::pair<Status, std::string> error_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.status(), error.what()};
  }
  return {Status::kOk, ""};
}

/// Equal, where a NaN equals itself.
[[nodiscard]] inline bool is_same(ValueView a, ValueView b) noexcept {
  if (a.type() == Type::kFloat64 && b.type() == Type::kFloat64 && a.float64() != a.float64()) {
    return b.float64() != b.float64();
  }
  return a == b;
}

}  // namespace shmstate::test

namespace shmstate {

inline void PrintTo(Status status, std::ostream* out) { *out << describe(status); }  // NOLINT: GoogleTest's name

}  // namespace shmstate
