// shmstate-live-view: shows the merged state of an instance while it changes, as an independent reader sees it.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>
#include <string_view>

#include "live_screen.h"
#include "live_table.h"
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
  ~Terminal() { print("\x1b[?7h\x1b[?25h\x1b[?1049l"); }

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
    Clock::time_point next_refresh = start_;
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

  /// Waits for the writers to end, so that the totals are final, and prints them. False when they do not add up.
  [[nodiscard]] bool conclude() {
    const std::chrono::nanoseconds elapsed = status_.elapsed;
    const bool totals_are_final = wait_for_writers_to_end();
    refresh();
    status_.elapsed = elapsed;
    print(render_summary(status_, staleness_));
    if (!totals_are_final) {
      fmt::print(stderr, "shmstate: writers are still attached; the totals are those of now\n");
      return status_.torn_snapshot_count == 0;
    }
    const std::uint64_t produced = table_.produced_mutations();
    if (produced == status_.mutation_count) return status_.torn_snapshot_count == 0;
    fmt::print(stderr, "shmstate: the producers printed {} mutations, but {} were merged\n", produced,
               status_.mutation_count);
    return false;
  }

 private:
  void refresh() {
    const Clock::time_point now = Clock::now();
    const std::chrono::nanoseconds since_last = now - last_refresh_;
    last_refresh_ = now;
    update_counts(since_last);
    update_table(since_last);
    status_.elapsed = now - start_;
    status_.age = reader_.age();
  }

  void update_counts(std::chrono::nanoseconds since_last) {
    const InstanceInfo info = inspect(reader_.path());
    const std::uint64_t mutation_count = statistic(info, "mutations_applied").value_or(applied_by_rings(info));
    const std::uint64_t publish_count = statistic(info, "publishes").value_or(info.epoch);
    const double seconds = std::chrono::duration<double>(since_last).count();
    if (status_.snapshot_count > 0 && seconds > 0) {
      status_.mutations_per_s = static_cast<double>(mutation_count - status_.mutation_count) / seconds;
      status_.publishes_per_s = static_cast<double>(publish_count - status_.publish_count) / seconds;
    }
    status_.mutation_count = mutation_count;
    status_.publish_count = publish_count;
    status_.merger_running = info.merger_running;
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

  [[nodiscard]] bool wait_for_writers_to_end() const {
    const Clock::time_point deadline = Clock::now() + kWritersEndTimeout;
    while (!all_writers_ended(inspect(reader_.path()))) {
      if (Clock::now() >= deadline) return false;
      sleep_until(Clock::now() + 20ms);
    }
    return true;
  }

  Reader reader_;
  Clock::time_point start_;
  Clock::time_point last_refresh_;
  LiveStatus status_;
  StalenessHistogram staleness_;
  LiveTable table_;
};

int run_live_view(int argc, char** argv) {
  CLI::App app(
      "Shows the merged state of an instance while it changes: a table that fits the terminal, or a line a second.\n"
      "SIGINT or SIGTERM ends it; it then waits until all writers have ended and prints a summary.");
  std::string instance;
  app.add_option("instance", instance, "Name of the instance, or path of its directory")
      ->required()
      ->envname("SHMSTATE_INSTANCE");
  CLI11_PARSE(app, argc, argv);

  stop_on_signals();
  LiveView view(instance);
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
