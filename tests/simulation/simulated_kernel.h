// What a simulated process gets from the kernel and the C library instead of the real things: a clock that moves only
// when the simulation says so, sleep during which the others act, and random bytes that the seed determines. Files,
// mappings and locks are the real ones: they are deterministic as long as one thread does everything.
//
// simulated_kernel.cc defines clock_gettime, nanosleep, getrandom and syscall (for futexes) in front of the C
// library's; without a `SimulatedKernel` they do what they always do.
#pragma once

#include <cstdint>
#include <vector>

namespace shmstate::test {

/// A small random generator (splitmix64: Steele, Lea, Flood 2014), since a schedule asks it thousands of times.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t word() noexcept {
    std::uint64_t z = state_ += 0x9e37'79b9'7f4a'7c15;
    z = (z ^ z >> 30) * 0xbf58'476d'1ce4'e5b9;
    z = (z ^ z >> 27) * 0x94d0'49bb'1331'11eb;
    return z ^ z >> 31;
  }
  /// 0 to `count` - 1.
  std::uint64_t below(std::uint64_t count) noexcept { return word() % count; }
  std::uint64_t between(std::uint64_t first, std::uint64_t last) noexcept { return first + below(last - first + 1); }
  bool chance(std::uint64_t percent) noexcept { return below(100) < percent; }

 private:
  std::uint64_t state_;
};

/// In force from its construction to its destruction, in this process; one at a time.
class SimulatedKernel {
 public:
  explicit SimulatedKernel(std::uint64_t seed);
  SimulatedKernel(const SimulatedKernel&) = delete;
  SimulatedKernel& operator=(const SimulatedKernel&) = delete;
  virtual ~SimulatedKernel();

  [[nodiscard]] std::uint64_t now_ns() const noexcept { return now_ns_; }
  void pass_time(std::uint64_t ns) noexcept { now_ns_ += ns; }

  // What the definitions in front of the C library's call.

  /// Looking at the clock takes a moment, so who polls it comes to an end.
  std::uint64_t read_clock() noexcept { return now_ns_ += kLookNs; }
  void fill_random(void* data, std::size_t bytes) noexcept;
  /// Returns whether the sleeper was woken, or need not sleep.
  bool wait(const std::uint32_t* word, std::uint32_t expected, std::uint64_t timeout_ns) noexcept;
  /// Wakes who sleeps on a word at the same place of a page, since a word of a file is mapped at several addresses; not
  /// those whose word is the same as before: it is that of another file.
  void wake(const std::uint32_t* word) noexcept;
  void sleep(std::uint64_t ns) noexcept;

 protected:
  /// Somebody sleeps: lets somebody else act, and time pass.
  virtual void act_meanwhile() noexcept = 0;
  /// Who sleeps meanwhile may have to sleep on: whoever was to wake it is dead.
  [[nodiscard]] virtual std::uint64_t death_count() const noexcept = 0;
  /// Somebody slept until its timeout, although the word had changed and nobody died.
  virtual void was_not_woken() noexcept = 0;

 private:
  static constexpr std::uint64_t kLookNs = 500;
  struct Sleeper {
    const std::uint32_t* word;
    std::uint32_t expected;
    bool is_woken;
  };

  std::uint64_t now_ns_ = 1'000'000'000'000;
  Dice random_;
  std::vector<Sleeper> sleepers_;  // one in the other's sleep
};

}  // namespace shmstate::test
