// shmstate-live-view: shows the merged state of an instance while it changes, as an independent reader sees it.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "live_screen.h"
#include "live_table.h"
#include "options.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "staleness_histogram.h"
#include "stop_signal.h"

namespace shmstate::demo {
namespace {

using namespace std::chrono_literals;

constexpr auto kAgePeriod = 1ms;
constexpr auto kScreenPeriod = 250ms;
constexpr auto kLinePeriod = 1s;
constexpr auto kWritersEndTimeout = 5s;
constexpr auto kStatisticsTimeout = 1s;  // the merger writes them ten times a second

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

/// The terminal's other screen, without cursor and line wrap, for as long as it is needed.
class Terminal {
 public:
  Terminal() { print("\x1b[?1049h\x1b[?25l\x1b[?7l"); }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  ~Terminal() { print("\x1b[H\x1b[J\x1b[?7h\x1b[?25h\x1b[?1049l"); }

  [[nodiscard]] static ScreenSize size() {
    winsize window{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_row == 0 || window.ws_col == 0) return {};
    return {window.ws_row, window.ws_col};
  }
};

std::optional<std::uint64_t> statistic(const InstanceInfo& info, std::string_view name) {
  const auto found = std::find_if(info.statistics.begin(), info.statistics.end(),
                                  [name](const StatisticInfo& statistic) { return statistic.name == name; });
  return found == info.statistics.end() ? std::nullopt : std::optional(found->value);
}

std::uint64_t applied_by_rings(const InstanceInfo& info) {
  std::uint64_t count = 0;
  for (const RingInfo& ring : info.rings) count += ring.applied_count;
  return count;
}

bool all_writers_ended(const InstanceInfo& info) {
  return std::all_of(info.rings.begin(), info.rings.end(), [](const RingInfo& ring) {
    return ring.state != "live" && ring.applied_bytes == ring.pushed_bytes;
  });
}

class LiveView {
 public:
  explicit LiveView(std::string_view instance) : reader_(instance), start_(Clock::now()), last_refresh_(start_) {}

  void watch() {
    const bool on_terminal = ::isatty(STDOUT_FILENO) == 1;
    std::optional<Terminal> terminal;
    if (on_terminal) terminal.emplace();
    const std::chrono::nanoseconds refresh_period = on_terminal ? kScreenPeriod : kLinePeriod;
    Clock::time_point next_age = start_;
    Clock::time_point next_refresh = start_ + refresh_period;
    refresh();  // rates need a moment to count from
    while (!stop_requested()) {
      sleep_until(next_age);
      staleness_.record(reader_.age());
      const Clock::time_point now = Clock::now();
      next_age = std::max<Clock::time_point>(next_age + kAgePeriod, now);
      if (now < next_refresh) continue;
      next_refresh = std::max<Clock::time_point>(next_refresh + refresh_period, now);
      refresh();
      print(on_terminal ? render_screen(status_, staleness_, table_, Terminal::size())
                        : render_line(status_, staleness_));
    }
    status_.elapsed = Clock::now() - start_;
  }

  /// Waits until the writers have ended and the totals add up, and prints them. False when they do not.
  [[nodiscard]] bool conclude() {
    const std::chrono::nanoseconds elapsed = status_.elapsed;
    const bool writers_ended =
        wait_until(kWritersEndTimeout, [this] { return all_writers_ended(inspect(reader_.path())); });
    const bool adds_up = wait_until(kStatisticsTimeout, [this] {
      refresh();
      return table_.produced_mutations() == status_.mutation_count;
    });
    status_.elapsed = elapsed;
    print(render_summary(status_, staleness_));
    if (!writers_ended) {
      fmt::print(stderr, "shmstate: writers are still attached, so these totals are not final\n");
    } else if (!adds_up) {
      fmt::print(stderr, "shmstate: the producers printed {} mutations, but {} were merged\n",
                 table_.produced_mutations(), status_.mutation_count);
    }
    return (adds_up || !writers_ended) && status_.torn_snapshot_count == 0;
  }

 private:
  void refresh() {
    const Clock::time_point now = Clock::now();
    const std::chrono::nanoseconds since_last = now - last_refresh_;
    last_refresh_ = now;
    update_counts();
    update_table(since_last);
    status_.elapsed = now - start_;
    status_.age = reader_.age();
  }

  void update_counts() {
    const InstanceInfo info = inspect(reader_.path());
    const std::uint64_t mutation_count = statistic(info, "mutations_applied").value_or(applied_by_rings(info));
    const std::uint64_t publish_count = statistic(info, "publishes").value_or(info.epoch);
    status_.mutation_count = mutation_count;
    status_.publish_count = publish_count;
    status_.merger_running = info.merger_running;
    update_rates();
  }

  // Over a second at least, because the merger writes its statistics only ten times a second.
  void update_rates() {
    const Clock::time_point now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - rates_since_).count();
    if (seconds < 0.99 && status_.snapshot_count > 0) return;
    if (status_.snapshot_count > 0) {
      status_.mutations_per_s = static_cast<double>(status_.mutation_count - rated_mutation_count_) / seconds;
      status_.publishes_per_s = static_cast<double>(status_.publish_count - rated_publish_count_) / seconds;
    }
    rates_since_ = now;
    rated_mutation_count_ = status_.mutation_count;
    rated_publish_count_ = status_.publish_count;
  }

  void update_table(std::chrono::nanoseconds since_last) {
    table_.start_refresh(since_last);
    const Snapshot snapshot = reader_.snapshot();
    for (const auto& [key, value] : snapshot) table_.observe(key, value);
    table_.finish_refresh();
    status_.epoch = snapshot.epoch();
    status_.key_count = snapshot.size();
    ++status_.snapshot_count;
    if (!table_.batches_are_whole()) ++status_.torn_snapshot_count;
  }

  [[nodiscard]] static bool wait_until(std::chrono::nanoseconds timeout, const std::function<bool()>& done) {
    const Clock::time_point deadline = Clock::now() + timeout;
    while (!done()) {
      if (Clock::now() >= deadline) return false;
      sleep_until(Clock::now() + 20ms);
    }
    return true;
  }

  Reader reader_;
  Clock::time_point start_;
  Clock::time_point last_refresh_;
  Clock::time_point rates_since_;
  std::uint64_t rated_mutation_count_ = 0;
  std::uint64_t rated_publish_count_ = 0;
  LiveStatus status_;
  StalenessHistogram staleness_;
  LiveTable table_;
};

int run_live_view(int argc, char** argv) {
  ViewOptions options;
  if (const auto status = read_options(argc, argv, options)) return *status;

  stop_on_signals();
  LiveView view(options.instance);
  view.watch();
  return view.conclude() ? 0 : 1;
}

}  // namespace
}  // namespace shmstate::demo

int main(int argc, char** argv) {
  try {
    return shmstate::demo::run_live_view(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
