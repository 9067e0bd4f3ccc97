// What the machine can do at best, measured in the same run.
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <random>

#include "experiments.h"

namespace shmstate::bench {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kBandwidthBytes = std::size_t{128} << 20;
constexpr std::size_t kStages = 48;

struct alignas(kLine) Line {
  std::uint64_t next;
  std::uint64_t rest[7];
};

bool time_is_left(const Stopwatch& stopwatch, Slice slice) {
  return stopwatch.ns() < static_cast<double>(slice.time.count());
}

/// Lines of shared memory, as a snapshot has them.
class Lines {
 public:
  explicit Lines(std::size_t bytes) : count_(bytes / kLine), lines_(static_cast<Line*>(map_shared(bytes))) {}
  Lines(const Lines&) = delete;
  Lines& operator=(const Lines&) = delete;
  ~Lines() { unmap_shared(lines_, count_ * kLine); }

  [[nodiscard]] std::size_t size() const noexcept { return count_; }
  [[nodiscard]] Line& operator[](std::size_t i) noexcept { return lines_[i]; }

 private:
  std::size_t count_;
  Line* lines_;
};

/// One random cycle through all lines.
std::vector<std::uint32_t> link(Lines& lines) {
  std::vector<std::uint32_t> order(lines.size());
  std::iota(order.begin(), order.end(), 0U);
  std::mt19937_64 random(3);
  std::shuffle(order.begin(), order.end(), random);
  for (std::size_t i = 0; i < order.size(); ++i) lines[order[i]].next = order[(i + 1) % order.size()];
  return order;
}

double chase_ns(Lines& lines, Slice slice) {
  constexpr std::size_t kSteps = 4096;
  std::uint64_t at = 0;
  double count = 0;
  const Stopwatch stopwatch;
  do {
    for (std::size_t i = 0; i < kSteps; ++i) at = lines[at].next;
    count += kSteps;
  } while (time_is_left(stopwatch, slice));
  const double spent_ns = stopwatch.ns();
  must(at < lines.size(), "a random walk left its lines");
  return spent_ns / count;
}

double prefetched_ns(Lines& lines, const std::vector<std::uint32_t>& order, Slice slice) {
  std::uint64_t sum = 0;
  double count = 0;
  const Stopwatch stopwatch;
  do {
    for (std::size_t i = 0; i + kStages < order.size(); ++i) {
      __builtin_prefetch(&lines[order[i + kStages]]);
      sum += lines[order[i]].next;
    }
    count += static_cast<double>(order.size() - kStages);
  } while (time_is_left(stopwatch, slice));
  const double spent_ns = stopwatch.ns();
  must(sum != 0, "prefetched reads found nothing");
  return spent_ns / count;
}

struct PingPong {
  alignas(kLine) std::atomic<std::uint64_t> turn{0};
  alignas(kLine) std::atomic<bool> stop{false};
};

}  // namespace

Figures measure_line_transfer(Slice slice) {
  return measure_apart([&]() -> Figures {
    const Board<PingPong> board;
    Party partner(Party::Kind::kProcess, kServerCore, [&]() -> Figures {
      for (std::uint64_t turn = 1; !board->stop.load(std::memory_order_relaxed); turn += 2) {
        while (board->turn.load(std::memory_order_acquire) != turn) {
          if (board->stop.load(std::memory_order_relaxed)) return {};
        }
        board->turn.store(turn + 1, std::memory_order_release);
      }
      return {};
    });
    std::uint64_t turn = 0;
    const auto play = [&] {
      board->turn.store(turn + 1, std::memory_order_release);
      turn += 2;
      while (board->turn.load(std::memory_order_acquire) != turn) {
      }
    };
    play();
    double count = 0;
    const Stopwatch stopwatch;
    while (time_is_left(stopwatch, slice)) {
      for (int i = 0; i < 100; ++i) play();
      count += 200;
    }
    const double spent_ns = stopwatch.ns();
    board->stop.store(true);
    partner.wait();
    return {{"transfer", spent_ns / count}};
  });
}

Figures measure_random_access(std::size_t bytes, Slice slice) {
  return measure_apart([&]() -> Figures {
    Lines lines(bytes);
    const std::vector<std::uint32_t> order = link(lines);
    return {{"dependent", chase_ns(lines, slice)}, {"prefetched", prefetched_ns(lines, order, slice)}};
  });
}

Figures measure_bandwidth(Slice slice) {
  return measure_apart([&]() -> Figures {
    std::vector<char> from(kBandwidthBytes, 1);
    std::vector<char> to(kBandwidthBytes, 2);
    double copied = 0;
    const Stopwatch copy_stopwatch;
    do {
      std::memcpy(to.data(), from.data(), to.size());
      copied += static_cast<double>(to.size());
    } while (time_is_left(copy_stopwatch, slice));
    const double copy_ns = copy_stopwatch.ns();
    must(to[kBandwidthBytes / 2] == 1, "memcpy copied nothing");

    double read = 0;
    std::uint64_t sum = 0;
    const Stopwatch read_stopwatch;
    do {
      const auto* const words = reinterpret_cast<const std::uint64_t*>(to.data());
      sum = std::accumulate(words, words + to.size() / sizeof *words, sum);
      read += static_cast<double>(to.size());
    } while (time_is_left(read_stopwatch, slice));
    const double read_ns = read_stopwatch.ns();
    must(sum != 0, "nothing was read");
    return {{"copy", copied * 1e9 / copy_ns}, {"read", read * 1e9 / read_ns}};
  });
}

}  // namespace shmstate::bench
