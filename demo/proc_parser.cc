#include "proc_parser.h"

#include <array>
#include <charconv>
#include <optional>
#include <span>
#include <string>

namespace shmstate::demo {
namespace {

constexpr std::string_view kBlanks = " \t\n";
constexpr std::int64_t kSectorBytes = 512;  // the unit of /proc/diskstats, whatever the device has

/// Takes the text up to the next newline off `text`.
std::string_view take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return line;
}

/// Takes the next word off `line`; empty at the end.
std::string_view take_word(std::string_view& line) {
  line.remove_prefix(std::min(line.find_first_not_of(kBlanks), line.size()));
  const std::string_view word = line.substr(0, line.find_first_of(kBlanks));
  line.remove_prefix(word.size());
  return word;
}

void skip_words(std::string_view& line, int count) {
  for (int i = 0; i < count; ++i) take_word(line);
}

template <typename Number>
std::optional<Number> to_number(std::string_view word) {
  Number number{};
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return number;
}

void set_integer_word(std::string_view prefix, std::string_view name, std::string_view word, MutationLines& lines,
                      std::int64_t unit = 1) {
  const auto number = to_number<std::int64_t>(word);
  std::int64_t product = 0;
  if (number && !__builtin_mul_overflow(*number, unit, &product)) lines.set_integer(prefix, name, product);
}

void set_float_word(std::string_view prefix, std::string_view name, std::string_view word, MutationLines& lines) {
  if (const auto number = to_number<double>(word)) lines.set_float(prefix, name, *number);
}

std::string prefix_of(std::string_view area, std::string_view item) { return std::string(area).append(item) += '/'; }

struct Column {
  std::string_view name;  // empty: not wanted
  std::int64_t unit = 1;
};

void set_columns(std::string_view prefix, std::span<const Column> columns, std::string_view line,
                 MutationLines& lines) {
  for (const Column& column : columns) {
    const std::string_view word = take_word(line);
    if (!column.name.empty()) set_integer_word(prefix, column.name, word, lines, column.unit);
  }
}

void parse_cpu_line(std::string_view cpu, std::string_view line, MutationLines& lines) {
  static constexpr std::array<Column, 10> kColumns = {{{"user"},
                                                       {"nice"},
                                                       {"system"},
                                                       {"idle"},
                                                       {"iowait"},
                                                       {"irq"},
                                                       {"softirq"},
                                                       {"steal"},
                                                       {"guest"},
                                                       {"guest_nice"}}};
  set_columns(prefix_of("cpu/", cpu.empty() ? "all" : cpu), kColumns, line, lines);
}

std::string_view stat_name(std::string_view word) {
  if (word == "ctxt") return "context_switches";
  if (word == "intr") return "interrupts";
  if (word == "softirq") return "softirqs";
  if (word == "processes") return "forks";
  if (word == "procs_running") return "running_tasks";
  if (word == "procs_blocked") return "blocked_tasks";
  return {};
}

// "some avg10=0.12 avg60=0.01 avg300=0.00 total=4711"
void parse_pressure(std::string_view text, std::string_view prefix, MutationLines& lines) {
  while (!text.empty()) {
    std::string_view line = take_line(text);
    const std::string kind(take_word(line));
    for (std::string_view word = take_word(line); !word.empty(); word = take_word(line)) {
      const std::size_t equals = word.find('=');
      if (equals == std::string_view::npos) continue;
      const std::string_view name = word.substr(0, equals);
      const std::string_view value = word.substr(equals + 1);
      if (name == "total") {
        set_integer_word(prefix, kind + "_total_us", value, lines);
      } else {
        set_float_word(prefix, kind + "_" + std::string(name) + "_percent", value, lines);
      }
    }
  }
}

bool all_zero(std::string_view line) { return line.find_first_not_of(" \t0") == std::string_view::npos; }

}  // namespace

void parse_stat(std::string_view text, MutationLines& lines) {
  while (!text.empty()) {
    std::string_view line = take_line(text);
    const std::string_view word = take_word(line);
    if (word.starts_with("cpu")) {
      parse_cpu_line(word.substr(3), line, lines);
    } else if (const std::string_view name = stat_name(word); !name.empty()) {
      set_integer_word("cpu/", name, take_word(line), lines);
    }
  }
}

// "0.03 0.07 0.02 1/123 4567"
void parse_loadavg(std::string_view text, MutationLines& lines) {
  for (const std::string_view name : {"load_1min", "load_5min", "load_15min"}) {
    set_float_word("cpu/", name, take_word(text), lines);
  }
  const std::string_view tasks = take_word(text);
  if (const std::size_t slash = tasks.find('/'); slash != std::string_view::npos) {
    set_integer_word("cpu/", "tasks", tasks.substr(slash + 1), lines);
  }
}

// "MemFree:        123456 kB"
void parse_meminfo(std::string_view text, MutationLines& lines) {
  while (!text.empty()) {
    std::string_view line = take_line(text);
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0) continue;
    const std::string_view name = line.substr(0, colon);
    line.remove_prefix(colon + 1);
    set_integer_word("memory/", name, take_word(line), lines);
  }
}

void parse_vmstat(std::string_view text, MutationLines& lines) {
  while (!text.empty()) {
    std::string_view line = take_line(text);
    const std::string_view name = take_word(line);
    if (!name.empty()) set_integer_word("memory/vmstat/", name, take_word(line), lines);
  }
}

// "  eth0: 16 counters"; the two lines of headings have no colon.
void parse_net_dev(std::string_view text, MutationLines& lines) {
  static constexpr std::array<Column, 12> kColumns = {{{"rx_bytes"},
                                                       {"rx_packets"},
                                                       {"rx_errors"},
                                                       {"rx_dropped"},
                                                       {},
                                                       {},
                                                       {},
                                                       {"rx_multicast_packets"},
                                                       {"tx_bytes"},
                                                       {"tx_packets"},
                                                       {"tx_errors"},
                                                       {"tx_dropped"}}};
  while (!text.empty()) {
    std::string_view line = take_line(text);
    const std::size_t colon = line.rfind(':');
    if (colon == std::string_view::npos) continue;
    std::string_view name = line.substr(0, colon);
    line.remove_prefix(colon + 1);
    name = take_word(name);
    if (!name.empty()) set_columns(prefix_of("net/", name), kColumns, line, lines);
  }
}

// "254 0 vda 17 counters"; a device that was never used (a free loop device) is left out.
void parse_diskstats(std::string_view text, MutationLines& lines) {
  static constexpr std::array<Column, 11> kColumns = {{{"reads"},
                                                       {"reads_merged"},
                                                       {"read_bytes", kSectorBytes},
                                                       {"read_ms"},
                                                       {"writes"},
                                                       {"writes_merged"},
                                                       {"written_bytes", kSectorBytes},
                                                       {"write_ms"},
                                                       {"in_flight"},
                                                       {"busy_ms"},
                                                       {"weighted_ms"}}};
  while (!text.empty()) {
    std::string_view line = take_line(text);
    skip_words(line, 2);
    const std::string_view name = take_word(line);
    if (!name.empty() && !all_zero(line)) set_columns(prefix_of("disk/", name), kColumns, line, lines);
  }
}

void parse_cpu_pressure(std::string_view text, MutationLines& lines) { parse_pressure(text, "cpu/pressure/", lines); }

void parse_memory_pressure(std::string_view text, MutationLines& lines) {
  parse_pressure(text, "memory/pressure/", lines);
}

void parse_disk_pressure(std::string_view text, MutationLines& lines) { parse_pressure(text, "disk/pressure/", lines); }

// "42 (a name, which may hold anything, also parentheses) S 1 ..."; columns as numbered in proc(5).
void parse_process_stat(std::string_view text, std::string_view prefix, MutationLines& lines) {
  static constexpr std::array<Column, 17> kColumns = {{{"parent"},  // column 4
                                                       {},
                                                       {},
                                                       {},
                                                       {},
                                                       {},
                                                       {"minor_faults"},
                                                       {},
                                                       {"major_faults"},
                                                       {},
                                                       {"user_ticks"},
                                                       {"system_ticks"},
                                                       {},
                                                       {},
                                                       {"priority"},
                                                       {"nice"},
                                                       {"threads"}}};
  const std::size_t open = text.find('(');
  const std::size_t close = text.rfind(')');
  if (open == std::string_view::npos || close == std::string_view::npos || close < open) return;
  lines.set_text(prefix, "name", text.substr(open + 1, close - open - 1));
  text.remove_prefix(close + 1);
  const std::string_view state = take_word(text);
  if (!state.empty()) lines.set_text(prefix, "state", state);
  set_columns(prefix, kColumns, text, lines);
}

// "size resident shared text lib data dirty", in pages
void parse_process_statm(std::string_view text, std::string_view prefix, std::int64_t page_bytes,
                         MutationLines& lines) {
  const std::array<Column, 6> columns = {{{"virtual_bytes", page_bytes},
                                          {"rss_bytes", page_bytes},
                                          {"shared_bytes", page_bytes},
                                          {},
                                          {},
                                          {"data_bytes", page_bytes}}};
  set_columns(prefix, columns, text, lines);
}

}  // namespace shmstate::demo
