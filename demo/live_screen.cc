#include "live_screen.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace shmstate::demo {
namespace {

constexpr std::size_t kValueColumns = 22;
constexpr std::size_t kChangeColumns = 16;
constexpr std::size_t kKeyColumnsMin = 12;

double seconds(std::chrono::nanoseconds duration) { return std::chrono::duration<double>(duration).count(); }

std::string grouped_count(std::uint64_t count) { return grouped(static_cast<std::int64_t>(count)); }

std::string grouped_rate(double per_s) { return grouped(static_cast<std::int64_t>(per_s)) + "/s"; }

std::string format_duration(std::chrono::nanoseconds duration) {
  const double s = seconds(duration);
  if (s < 1e-3) return fmt::format("{:.0f} us", s * 1e6);
  if (s < 1) return fmt::format("{:.2f} ms", s * 1e3);
  return fmt::format("{:.1f} s", s);
}

std::vector<std::string> status_lines(const LiveStatus& status, const StalenessHistogram& staleness) {
  return {
      fmt::format("shmstate live view   {:.1f} s   epoch {}   keys {}   merger {}", seconds(status.elapsed),
                  grouped_count(status.epoch), grouped_count(status.key_count),
                  status.merger_running ? "running" : "NOT RUNNING"),
      fmt::format("mutations {:>16}   {:>12}   batches {}", grouped_count(status.mutation_count),
                  grouped_rate(status.mutations_per_s), status.torn_snapshot_count == 0 ? "whole" : "TORN"),
      fmt::format("publishes {:>16}   {:>12}", grouped_count(status.publish_count),
                  grouped_rate(status.publishes_per_s)),
      fmt::format("staleness {:>16}   p50 {}   p99 {}   max {}", format_duration(status.age),
                  format_duration(staleness.quantile(0.5)), format_duration(staleness.quantile(0.99)),
                  format_duration(staleness.max())),
      "",
  };
}

std::string table_line(std::string_view key, std::string_view value, std::string_view change, std::size_t columns) {
  const std::size_t number_columns = kValueColumns + kChangeColumns;
  const std::size_t key_columns = columns > number_columns + kKeyColumnsMin ? columns - number_columns : kKeyColumnsMin;
  return fmt::format("{:<{}}{:>{}}{:>{}}", key.substr(0, key_columns), key_columns, value.substr(0, kValueColumns - 1),
                     kValueColumns, change.substr(0, kChangeColumns - 1), kChangeColumns);
}

}  // namespace

std::string render_screen(const LiveStatus& status, const StalenessHistogram& staleness, const LiveTable& table,
                          ScreenSize size) {
  std::vector<std::string> lines = status_lines(status, staleness);
  lines.push_back(table_line("KEY", "VALUE", "CHANGE/S", size.columns));
  const std::size_t row_count_max = size.rows > lines.size() ? size.rows - lines.size() : 0;
  for (const LiveRow& row : table.busiest_rows(row_count_max)) {
    lines.push_back(table_line(row.key, row.value, row.change_per_s, size.columns));
  }
  lines.resize(std::min(lines.size(), size.rows));

  std::string screen = "\x1b[H";  // to the top left corner
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) screen += "\r\n";
    screen.append("\x1b[K").append(lines[i].substr(0, size.columns));  // on an empty line
  }
  return lines.size() < size.rows ? screen += "\r\n\x1b[J" : screen;  // and nothing below
}

std::string render_line(const LiveStatus& status, const StalenessHistogram& staleness) {
  return fmt::format(
      "{:.1f} s: epoch {}, {} keys, {} mutations ({}), {} publishes ({}), staleness {} (p50 {}, p99 {})\n",
      seconds(status.elapsed), status.epoch, status.key_count, grouped_count(status.mutation_count),
      grouped_rate(status.mutations_per_s), grouped_count(status.publish_count), grouped_rate(status.publishes_per_s),
      format_duration(status.age), format_duration(staleness.quantile(0.5)), format_duration(staleness.quantile(0.99)));
}

std::string render_summary(const LiveStatus& status, const StalenessHistogram& staleness) {
  const double elapsed_s = std::max(seconds(status.elapsed), 1e-9);
  const auto mean_rate = [&](std::uint64_t count) { return grouped_rate(static_cast<double>(count) / elapsed_s); };
  return fmt::format(
      "ran for     {:.1f} s\n"
      "mutations   {} merged, {}\n"
      "keys        {}\n"
      "publishes   {}, {}, up to epoch {}\n"
      "staleness   p50 {}, p99 {}, max {} ({} samples)\n"
      "snapshots   {} looked through, {} with a part of a batch\n",
      elapsed_s, grouped_count(status.mutation_count), mean_rate(status.mutation_count),
      grouped_count(status.key_count), grouped_count(status.publish_count), mean_rate(status.publish_count),
      status.epoch, format_duration(staleness.quantile(0.5)), format_duration(staleness.quantile(0.99)),
      format_duration(staleness.max()), grouped_count(staleness.sample_count()), status.snapshot_count,
      status.torn_snapshot_count);
}

}  // namespace shmstate::demo
