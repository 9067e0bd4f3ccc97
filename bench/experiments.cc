#include "experiments.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>

#include "contenders/shmstate.h"
#include "shmstate/inspect.h"
#include "shmstate/writer.h"

namespace shmstate::bench {
using namespace internal;
namespace {

constexpr std::size_t kChunk = 1000;
constexpr std::size_t kCheckedWrites = 256;

/// A salt that no measurement before had; drawn before any fork.
std::int64_t next_salt() {
  static std::int64_t measurement = 0;
  return salt_of(++measurement);
}

[[nodiscard]] std::size_t chunk_of(const Contender& contender) { return std::min(kChunk, contender.burst()); }

void must_read(Client& client, const Item& item, std::int64_t salt) {
  must(client.get(item) == item.value + salt, "the last write cannot be read");
}

/// What an operation costs, seen in bursts of them.
class Bursts {
 public:
  void add(std::size_t count, double spent_ns) {
    count_ += static_cast<double>(count);
    spent_ns_ += spent_ns;
    means_ns_.push_back(spent_ns / static_cast<double>(count));
  }
  /// The mean of all, and the median of the bursts, which those that were interrupted do not move.
  [[nodiscard]] Figures figures() {
    const auto middle = means_ns_.begin() + static_cast<std::ptrdiff_t>(means_ns_.size() / 2);
    std::nth_element(means_ns_.begin(), middle, means_ns_.end());
    return {{"mean", spent_ns_ / count_}, {"burst", *middle}, {"count", count_}};
  }

 private:
  double count_ = 0;
  double spent_ns_ = 0;
  std::vector<double> means_ns_;
};

double per_second(double count, double ns) { return count * 1e9 / ns; }
double time_left(const Stopwatch& stopwatch, Slice slice, double share = 1.0) {
  return share * static_cast<double>(slice.time.count()) - stopwatch.ns();
}

}  // namespace

Workload::Workload(std::uint64_t keys, std::size_t stream_length)
    : key_count(keys),
      items(all_items(keys)),
      uniform(make_stream(keys, stream_length, Distribution::kUniform, 1)),
      zipf(make_stream(keys, stream_length, Distribution::kZipf, 2)) {}

// ---- writing

Figures measure_push(Contender& contender, const std::vector<Item>& stream, Slice slice) {
  const std::int64_t salt = next_salt();
  return measure_apart([&] {
    const bool is_state = contender.can(Contender::kRead);
    const auto client = contender.connect(is_state ? Contender::Role::kBoth : Contender::Role::kWriter);
    Cycle cycle(stream);
    const auto burst = [&](auto&& push) {
      const std::span<const Item> items = cycle.next(contender.burst());
      push(items);
      client->finish();
      if (is_state) must_read(*client, items.back(), salt);
    };
    burst([&](auto items) { client->set_all(items, salt); });

    Bursts bursts;
    for (const Stopwatch stopwatch; time_left(stopwatch, slice, 0.5) > 0;) {
      burst([&](auto items) {
        const Stopwatch push_stopwatch;
        client->set_all(items, salt);
        bursts.add(items.size(), push_stopwatch.ns());
      });
    }
    Durations durations(std::size_t{1} << 20);
    for (const Stopwatch stopwatch; time_left(stopwatch, slice, 0.5) > 0;) {
      burst([&](auto items) { client->set_each(items, salt, durations); });
    }
    Figures figures = durations.percentiles();
    figures.merge(bursts.figures());
    figures["count"] += static_cast<double>(durations.size());
    return figures;
  });
}

namespace {

/// Any but exit. Not the strict mode of seccomp: on x86 it also forbids reading the time-stamp counter, which a clock
/// that makes no system call needs.
void die_at_the_next_system_call() {
  std::array program{sock_filter(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr))),
                     sock_filter(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 0, 1)),
                     sock_filter(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)),
                     sock_filter(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS))};
  const sock_fprog filter{.len = program.size(), .filter = program.data()};
  must(::prctl(PR_SET_NO_NEW_PRIVS, 1UL, 0UL, 0UL, 0UL) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0,
       "cannot watch for system calls");
}

}  // namespace

Figures measure_system_calls(Contender& contender, const std::vector<Item>& stream) {
  constexpr std::size_t kRingfuls = 4;
  constexpr std::size_t kPushes = 50'000;  // less than a ring: it cannot become full
  const std::int64_t salt = next_salt();
  const pid_t child = ::fork();
  must(child >= 0, "fork failed");
  if (child == 0) {
    pin_to_core(kMeasuredCore);
    Client* const client = contender.connect(Contender::Role::kWriter).release();
    Cycle cycle(stream);
    for (std::size_t i = 0; i < kRingfuls * kPushes; i += kBurst) {  // memory is committed as the ring is used
      client->set_all(cycle.next(kBurst), salt);
      client->finish();
    }
    die_at_the_next_system_call();
    for (std::size_t i = 0; i < kPushes; i += kBurst) client->set_all(cycle.next(kBurst), salt);
    ::syscall(SYS_exit, 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  must(WIFEXITED(status), "a push made a system call");
  return {{"pushes", kPushes}, {"system_calls", 0}};
}

namespace {

struct ThroughputBoard {
  std::atomic<unsigned> ready{0};
  std::atomic<bool> start{false};
  std::atomic<bool> stop{false};
};

struct LastWrites {
  std::array<Item, kCheckedWrites> items;
};

/// One of several writers: writes its share until it shall stop, and leaves its last writes to be checked.
Figures write_share(Contender& contender, const std::vector<Item>& share, std::int64_t salt, ThroughputBoard& board,
                    LastWrites& last) {
  const auto client = contender.connect(Contender::Role::kWriter);
  Cycle cycle(share);
  double count = 0;
  std::span<const Item> items;
  board.ready.fetch_add(1);
  while (!board.start.load(std::memory_order_acquire)) std::this_thread::yield();
  do {
    items = cycle.next(chunk_of(contender));
    client->set_all(items, salt);
    count += static_cast<double>(items.size());
  } while (!board.stop.load(std::memory_order_relaxed));
  client->finish();
  const std::uint64_t end = ticks();
  for (std::size_t i = 0; i < kCheckedWrites; ++i) {
    last.items[i] = items[items.size() - std::min(items.size(), kCheckedWrites - i)];
    last.items[i].value += salt;
  }
  return {{"count", count}, {"end", static_cast<double>(end)}};
}

/// Of several writes of one key the last one counts.
void must_find(Client& client, const LastWrites& last) {
  for (std::size_t i = 0; i < last.items.size(); ++i) {
    const bool is_last = std::none_of(last.items.begin() + static_cast<std::ptrdiff_t>(i) + 1, last.items.end(),
                                      [&](const Item& later) { return later.key == last.items[i].key; });
    if (is_last) must(client.get(last.items[i]) == last.items[i].value, "a writer's last write cannot be read");
  }
}

}  // namespace

Figures measure_throughput(Contender& contender, const Workload& workload, unsigned writer_count, Slice slice) {
  const std::int64_t salt = next_salt();
  return measure_apart([&]() -> Figures {
    const Board<ThroughputBoard> board;
    auto* const last = static_cast<LastWrites*>(map_shared(sizeof(LastWrites) * writer_count));
    const auto reader = contender.connect(Contender::Role::kReader);
    std::vector<Party> writers;
    for (unsigned i = 0; i < writer_count; ++i) {
      const int core = contender.has_server() || i % 2 == 0 ? kMeasuredCore : kServerCore;
      writers.emplace_back(contender.party_kind(), core, [&, i] {
        const auto share = writer_share(workload.uniform, workload.key_count, i, writer_count);
        return write_share(contender, share, salt, *board, last[i]);
      });
    }
    wait_until("the writers", [&] { return board->ready.load() == writer_count; });
    const auto start = static_cast<double>(ticks());
    board->start.store(true, std::memory_order_release);
    std::this_thread::sleep_for(slice.time);
    board->stop.store(true);
    double count = 0;
    double end = start;
    for (Party& writer : writers) {
      const Figures figures = writer.wait();
      count += figures.at("count");
      end = std::max(end, figures.at("end"));
    }
    for (unsigned i = 0; i < writer_count; ++i) must_find(*reader, last[i]);
    return {{"rate", per_second(count, (end - start) * ns_per_tick())}, {"count", count}};
  });
}

// ---- reading

namespace {

Figures read_for(Client& client, const std::vector<Item>& stream, std::size_t chunk, Slice slice) {
  Cycle cycle(stream);
  const auto read = [&](double share) {
    const Stopwatch stopwatch;
    std::uint64_t found = 0;
    std::uint64_t expected = 0;
    Bursts bursts;
    do {
      const std::span<const Item> items = cycle.next(chunk);
      const Stopwatch read_stopwatch;
      found += client.get_all(items);
      bursts.add(items.size(), read_stopwatch.ns());
      expected += index_sum(items.data(), items.size());
    } while (time_left(stopwatch, slice, share) > 0);
    must(found == expected, "reads found values of other keys");
    return bursts.figures();
  };
  read(0.3);  // to warm up
  return read(0.7);
}

}  // namespace

Figures measure_read(Contender& contender, const std::vector<Item>& stream, Slice slice) {
  return measure_apart([&] {
    const auto client = contender.connect(Contender::Role::kReader);
    return read_for(*client, stream, chunk_of(contender), slice);
  });
}

Figures measure_read_flood(Contender& contender, const std::vector<Item>& stream, Slice slice) {
  const std::int64_t salt = next_salt();
  return measure_apart([&] {
    const Board<ThroughputBoard> board;
    const auto reader = contender.connect(Contender::Role::kReader);
    Party writer(contender.party_kind(), kServerCore, [&]() -> Figures {
      const auto client = contender.connect(Contender::Role::kWriter);
      Cycle cycle(stream);
      double count = 0;
      const Stopwatch stopwatch;
      while (!board->stop.load(std::memory_order_relaxed)) {
        const std::span<const Item> items = cycle.next(chunk_of(contender));
        client->set_all(items, salt);
        count += static_cast<double>(items.size());
        board->ready.store(1, std::memory_order_relaxed);
      }
      client->finish();
      return {{"rate", per_second(count, stopwatch.ns())}};
    });
    wait_until("a flood", [&] { return board->ready.load() == 1; });
    Figures figures = read_for(*reader, stream, chunk_of(contender), slice);
    board->stop.store(true);
    figures["flood_rate"] = writer.wait().at("rate");
    return figures;
  });
}

// ---- latency

namespace {

struct LatencyBoard {
  alignas(64) std::atomic<std::uint64_t> seen{0};  // writes that the reader has seen
  std::atomic<std::uint64_t> seen_at{0};           // ticks of the last one
  std::atomic<bool> stop{false};
};

void spin_for(std::chrono::nanoseconds time) {
  for (const Stopwatch stopwatch; stopwatch.ns() < static_cast<double>(time.count());) relax();
}
// A merger that shall fall asleep gets the core that the pause leaves.
void pass_time(std::chrono::nanoseconds time) {
  if (time < std::chrono::microseconds(50)) return spin_for(time);
  std::this_thread::sleep_for(time);
}

void wait_for_value(Client& client, const Item& item, std::int64_t salt) {
  while (!client.has_arrived(item, salt)) {
  }
}

Figures write_and_poll(Contender& contender, std::span<const Item> stream, std::int64_t salt, Slice slice) {
  const auto client = contender.connect(Contender::Role::kBoth);
  client->set_all(stream.first(1), salt);
  client->finish();
  Durations durations(stream.size());
  std::size_t next = 1;
  for (const Stopwatch stopwatch; time_left(stopwatch, slice) > 0 && next < stream.size(); ++next) {
    pass_time(contender.latency_pause());
    const std::uint64_t start = ticks();
    client->set_all(stream.subspan(next, 1), salt);
    wait_for_value(*client, stream[next], salt);
    durations.add(ticks() - start);
  }
  Figures figures = durations.percentiles();
  figures["count"] = static_cast<double>(durations.size());
  return figures;
}

/// The other side of `write_for_observer`.
void observe(Client& client, std::span<const Item> stream, std::int64_t salt, LatencyBoard& board) {
  for (std::size_t next = 0; next < stream.size(); ++next) {
    while (!client.has_arrived(stream[next], salt)) {
      if (board.stop.load(std::memory_order_relaxed)) return;
    }
    board.seen_at.store(ticks(), std::memory_order_relaxed);
    board.seen.store(next + 1, std::memory_order_release);
  }
}

Figures write_for_observer(Contender& contender, std::span<const Item> stream, std::int64_t salt, Slice slice) {
  const Board<LatencyBoard> board;
  Party observer(contender.party_kind(), kServerCore, [&]() -> Figures {
    const auto reader = contender.connect(Contender::Role::kReader);
    observe(*reader, stream, salt, *board);
    return {};
  });
  const auto client = contender.connect(Contender::Role::kWriter);
  const auto write_and_wait = [&](std::size_t place) {
    const std::uint64_t start = ticks();
    client->set_all(stream.subspan(place, 1), salt);
    while (board->seen.load(std::memory_order_acquire) <= place) relax();
    const std::uint64_t seen_at = board->seen_at.load(std::memory_order_relaxed);
    return seen_at > start ? seen_at - start : 0;
  };
  write_and_wait(0);
  Durations durations(stream.size());
  std::size_t next = 1;
  for (const Stopwatch stopwatch; time_left(stopwatch, slice) > 0 && next < stream.size(); ++next) {
    pass_time(contender.latency_pause());
    durations.add(write_and_wait(next));
  }
  board->stop.store(true);
  observer.wait();
  Figures figures = durations.percentiles();
  figures["count"] = static_cast<double>(durations.size());
  return figures;
}

}  // namespace

Figures measure_latency(Contender& contender, const std::vector<Item>& stream, Slice slice) {
  const std::int64_t salt = next_salt();
  return measure_apart([&] {
    return contender.has_server() ? write_and_poll(contender, stream, salt, slice)
                                  : write_for_observer(contender, stream, salt, slice);
  });
}

// ---- whole states

Figures measure_scan(Contender& contender, const Workload& workload, Slice slice) {
  return measure_apart([&] {
    const auto client = contender.connect(Contender::Role::kReader);
    const std::uint64_t expected = index_sum(workload.items.data(), workload.items.size());
    const auto scan = [&] {
      const Stopwatch stopwatch;
      const ScanResult result = client->scan();
      const double spent_ns = stopwatch.ns();
      must(result.entry_count == workload.key_count, "a scan found " + std::to_string(result.entry_count) + " of " +
                                                         std::to_string(workload.key_count) + " keys");
      must(result.index_sum == expected, "a scan found values of other keys");
      return spent_ns;
    };
    std::vector<double> spent_ns{scan()};
    for (const Stopwatch stopwatch; time_left(stopwatch, slice) > 0;) spent_ns.push_back(scan());
    std::sort(spent_ns.begin(), spent_ns.end());
    return Figures{{"median", spent_ns[spent_ns.size() / 2]}};
  });
}

Figures measure_held_view(Contender& contender, const std::vector<Item>& stream, std::chrono::nanoseconds hold) {
  const std::int64_t salt = next_salt();
  return measure_apart([&]() -> Figures {
    Party holder(contender.party_kind(), kServerCore, [&]() -> Figures {
      contender.connect(Contender::Role::kReader)->hold_view(hold);
      return {};
    });
    const auto client = contender.connect(Contender::Role::kBoth);
    std::uint64_t push_max = 0;
    std::uint64_t readable_max = 0;
    const double end_ns = 1.2 * static_cast<double>(hold.count());
    std::size_t next = 0;
    for (const Stopwatch stopwatch; stopwatch.ns() < end_ns; next = (next + 1) % stream.size()) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      const std::uint64_t start = ticks();
      client->set_all({&stream[next], 1}, salt);
      push_max = std::max(push_max, ticks() - start);
      wait_for_value(*client, stream[next], salt);
      readable_max = std::max(readable_max, ticks() - start);
    }
    holder.wait();
    return {{"push_max", static_cast<double>(push_max) * ns_per_tick()},
            {"readable_max", static_cast<double>(readable_max) * ns_per_tick()}};
  });
}

// ---- shmstate alone

struct IdleRings::Shared {
  std::atomic<bool> ready{false};
  std::atomic<bool> stop{false};
};

IdleRings::IdleRings(const std::string& instance, unsigned count)
    : board_(std::make_unique<Board<Shared>>()),
      party_(Party::Kind::kProcess, kServerCore, [instance, count, &board = **board_]() -> Figures {
        WriterOptions options;
        options.ring_bytes = std::size_t{64} << 10;
        std::vector<Writer> writers;
        for (unsigned i = 0; i < count; ++i) {
          writers.emplace_back(instance, options);
          writers.back().set("idle/" + std::to_string(i), static_cast<std::int64_t>(i));
        }
        for (Writer& writer : writers) {
          must(writer.flush(std::chrono::seconds(60)) == Status::kOk, "an idle ring is not served");
        }
        board.ready.store(true);
        while (!board.stop.load()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
        return {};
      }) {
  wait_until("idle rings", [&] { return (*board_)->ready.load(); });
}

IdleRings::~IdleRings() { (*board_)->stop.store(true); }

Figures measure_large(const std::filesystem::path& directory, std::uint64_t key_count, Slice slice) {
  const std::unique_ptr<ShmstateContender> contender = make_shmstate();
  std::filesystem::create_directories(directory);
  contender->start(directory, key_count);
  const Workload workload(key_count, std::size_t{1} << 20);
  const Stopwatch stopwatch;
  contender->load(workload.items);
  const double build_ns = stopwatch.ns();
  Figures figures{{"build_rate", per_second(static_cast<double>(key_count), build_ns)},
                  {"bytes_per_key", contender->memory_bytes() / static_cast<double>(key_count)},
                  {"read", measure_read(*contender, workload.uniform, slice).at("mean")},
                  {"rate", measure_throughput(*contender, workload, 1, slice).at("rate")},
                  {"scan", measure_scan(*contender, workload, slice).at("median")}};
  const Figures latency = measure_latency(*contender, workload.uniform, slice);
  figures["latency_p50"] = latency.at("p50");
  figures["latency_p99"] = latency.at("p99");
  contender->stop();
  std::filesystem::remove_all(directory);
  return figures;
}

}  // namespace shmstate::bench
