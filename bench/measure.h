// Clocks, distributions, and the processes that measure.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "harness/board.h"

namespace shmstate::bench {

/// Where the parties of a measurement run: who is measured has a core for itself; mergers and servers have the other.
inline constexpr int kMeasuredCore = 0;
inline constexpr int kServerCore = 1;
void pin_to_core(int core);
void pin_process(pid_t pid, int core);

/// A measurement that cannot be believed, or could not be made.
class Failed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
inline void must(bool holds, const std::string& otherwise) {
  if (!holds) throw Failed(otherwise);
}

// ---- time

/// The processor's time stamp: the same on all cores, and cheaper to read than a clock.
[[nodiscard]] inline std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
  unsigned core = 0;
  return __rdtscp(&core);
#else
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
}
[[nodiscard]] double ns_per_tick();
/// What two readings with nothing between them are apart, at best.
[[nodiscard]] std::uint64_t tick_overhead();

/// Tells the processor that this is a spinning loop.
inline void relax() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Stopwatch {
 public:
  [[nodiscard]] double ns() const noexcept {
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// ---- results

using Figures = std::map<std::string, double>;

/// Durations of single operations, in ticks, without what reading the time stamp costs.
class Durations {
 public:
  explicit Durations(std::size_t expected) { ticks_.reserve(expected); }
  void add(std::uint64_t duration_ticks) {
    ticks_.push_back(duration_ticks > overhead_ ? duration_ticks - overhead_ : 0);
  }
  [[nodiscard]] std::size_t size() const noexcept { return ticks_.size(); }
  /// p50, p90, p99, p99.9 and max, in ns, each name behind `prefix`.
  [[nodiscard]] Figures percentiles(const std::string& prefix = "");

 private:
  std::uint64_t overhead_ = tick_overhead();
  std::vector<std::uint64_t> ticks_;
};

// ---- processes

/// A party of a measurement, on a core of its own choice: a process, or a thread for contenders that live in one
/// process. Processes are killed with their parent.
class Party {
 public:
  enum class Kind : std::uint8_t { kProcess, kThread };
  Party(Kind kind, int core, std::function<Figures()> body);
  Party(Party&& other) noexcept;
  Party(const Party&) = delete;
  Party& operator=(const Party&) = delete;
  Party& operator=(Party&&) = delete;
  ~Party();

  /// Waits for its end and returns what its body returned. Throws `Failed` with what went wrong there.
  Figures wait();

 private:
  struct Outcome;
  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  void start_process(int core, const std::function<Figures()>& body);

  pid_t pid_ = 0;
  std::unique_ptr<std::FILE, Close> pipe_;
  std::thread thread_;
  std::shared_ptr<Outcome> outcome_;
};

/// Runs `body` in a process of its own on the measured core.
Figures measure_apart(const std::function<Figures()>& body);

/// A program that serves a contender, on the server's core; killed with its parent.
class Server {
 public:
  Server(const std::vector<std::string>& command, const std::filesystem::path& log);
  /// A fork of this process that runs `body` until it is killed.
  explicit Server(const std::function<void()>& body);
  Server(Server&& other) noexcept;
  Server& operator=(Server&& other) noexcept;
  Server(const Server&) = delete;
  ~Server();

  void pause() const;
  void resume() const;
  [[nodiscard]] bool has_ended();
  /// Processor time that it has used, in ns.
  [[nodiscard]] double cpu_ns() const;
  [[nodiscard]] pid_t pid() const noexcept { return pid_; }

 private:
  void end() noexcept;
  pid_t pid_ = 0;
};

/// Waits until `condition` holds, for a minute at most.
void wait_until(const std::string& what, const std::function<bool()>& condition);

using test::Board;
using test::map_shared;
using test::unmap_shared;

}  // namespace shmstate::bench
