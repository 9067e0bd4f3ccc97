#include "live/top_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cwchar>
#include <iterator>
#include <tuple>

#include "instance.h"
#include "show/text.h"

namespace shmstate::ctl {

namespace {

constexpr auto kAnewShown = std::chrono::seconds(60);
constexpr std::size_t kAlarmedRingsMax = 2;
constexpr std::size_t kPageRings = 10;
constexpr std::size_t kBothRowsMin = 8;  // for rings and keys
constexpr std::size_t kMemoryBarColumns = 16;

// ---- fitting text into columns

// Two for the wide characters of East Asia, none for accents that are put on the character before.
std::size_t columns_of(std::string_view sequence) {
  if (sequence.size() == 1) return 1;
  const int columns = ::wcwidth(static_cast<wchar_t>(code_point(sequence)));
  return columns < 0 ? 1 : static_cast<std::size_t>(columns);
}

// As much of `utf8` as fits, and how many columns that takes.
std::pair<std::string_view, std::size_t> cut(std::string_view utf8, std::size_t columns_max) {
  std::size_t bytes = 0;
  std::size_t columns = 0;
  while (bytes < utf8.size()) {
    const std::size_t next = std::max<std::size_t>(utf8_sequence_bytes(utf8.substr(bytes)), 1);
    const std::size_t wanted = columns_of(utf8.substr(bytes, next));
    if (columns + wanted > columns_max) break;
    bytes += next;
    columns += wanted;
  }
  return {utf8.substr(0, bytes), columns};
}

std::string fit(std::string_view utf8, std::size_t columns) { return std::string(cut(utf8, columns).first); }

std::string left(std::string_view utf8, std::size_t columns) {
  const auto [text, width] = cut(utf8, columns);
  return std::string(text) + std::string(columns - width, ' ');
}

std::string right(std::string_view ascii, std::size_t columns) { return fmt::format("{:>{}}", ascii, columns); }

std::string bar(std::uint64_t part, std::uint64_t whole, std::size_t columns) {
  const double share = whole == 0 ? 0 : std::min(1.0, static_cast<double>(part) / static_cast<double>(whole));
  const auto filled = static_cast<std::size_t>(std::ceil(share * static_cast<double>(columns)));
  return fmt::format("[{:<{}}]", std::string(filled, '#'), columns);
}

std::string labelled(std::string_view label, std::string_view text) { return fmt::format("{:<10}{}", label, text); }

// ---- columns of the rings

constexpr std::size_t kNameColumns = 14;
constexpr std::size_t kNameColumnsMax = 48;
constexpr std::size_t kBarColumns = 8;
constexpr std::size_t kColumns = 80;

std::string ring_row(std::string_view name, std::size_t name_columns, std::string_view backlog, std::string_view full,
                     std::string_view rate, std::string_view rejected, std::string_view pid, std::string_view uid,
                     std::string_view state) {
  return left(name, name_columns) + ' ' + right(backlog, 10) + ' ' + left(full, kBarColumns + 2) + ' ' +
         right(rate, 7) + ' ' + right(rejected, 8) + ' ' + right(pid, 7) + ' ' + right(uid, 5) + ' ' +
         std::string(state);
}

}  // namespace

std::optional<TopKey> top_key(char typed) noexcept {
  switch (typed) {
    case 'q':
    case 'Q': return TopKey::kQuit;
    case 'p':
    case ' ': return TopKey::kPause;
    case 'b': return TopKey::kSortBacklog;
    case 'r': return TopKey::kSortRate;
    case 'x': return TopKey::kSortRejected;
    case 'n': return TopKey::kSortName;
    case 'k': return TopKey::kUp;
    case 'j': return TopKey::kDown;
    default: return std::nullopt;
  }
}

void TopView::take(TopLook look) {
  if (!look.info) {
    look_.problem = look.problem;
    rates_.reset();
    return;
  }
  if (look_.info && look_.info->id != look.info->id) {
    made_anew_at_ = look.at;
    hot_keys_.clear();
    first_ring_ = 0;
  }
  rates_ = look_.info ? rates_between(*look_.info, *look.info, look.at - look_.at) : std::nullopt;
  hot_keys_.take(look.changes, look.at);
  look_ = std::move(look);
}

bool TopView::press(TopKey key) {
  const std::size_t ring_count = look_.info ? look_.info->rings.size() : 0;
  const auto sort = [this](Order order) {
    order_ = order;
    first_ring_ = 0;
  };
  switch (key) {
    case TopKey::kQuit: return false;
    case TopKey::kPause: is_paused_ = !is_paused_; break;
    case TopKey::kSortBacklog: sort(Order::kBacklog); break;
    case TopKey::kSortRate: sort(Order::kRate); break;
    case TopKey::kSortRejected: sort(Order::kRejected); break;
    case TopKey::kSortName: sort(Order::kName); break;
    case TopKey::kUp: first_ring_ -= std::min<std::size_t>(first_ring_, 1); break;
    case TopKey::kPageUp: first_ring_ -= std::min(first_ring_, kPageRings); break;
    case TopKey::kDown: first_ring_ = std::min(first_ring_ + 1, ring_count); break;
    case TopKey::kPageDown: first_ring_ = std::min(first_ring_ + kPageRings, ring_count); break;
  }
  return true;
}

// On a small screen, what matters most of the head. Rings get what they need, but leave hot keys half of the room when
// those need it and there is much. The last line is the help.
std::vector<Line> TopView::lines(ScreenSize size) const {
  std::vector<Line> lines = head_lines();
  lines.resize(std::min(lines.size(), std::max<std::size_t>(size.rows / 2, 1)));
  const auto append = [&lines](std::vector<Line> more) {
    std::move(more.begin(), more.end(), std::back_inserter(lines));
  };
  append(alarm_lines());
  const std::size_t body_rows = size.rows > lines.size() + 1 ? size.rows - lines.size() - 1 : 0;
  const std::size_t ring_count = look_.info ? look_.info->rings.size() : 0;
  const std::size_t key_rows = body_rows < kBothRowsMin ? 0 : 2 + hot_keys_.hottest(body_rows).size();
  const std::size_t ring_rows = std::min(2 + ring_count, body_rows - std::min(key_rows, body_rows / 2));
  append(ring_lines({ring_rows, size.columns}));
  append(key_lines(body_rows - std::min(body_rows, ring_rows)));
  if (size.rows > 1) {
    lines.resize(size.rows - 1);
    lines.push_back({help_text(), Style::kFaint});
  }
  lines.resize(std::min(lines.size(), size.rows));
  for (Line& line : lines) {
    line.text = line.style == Style::kTitle || line.style == Style::kHeading ? left(line.text, size.columns)
                                                                             : fit(line.text, size.columns);
  }
  return lines;
}

std::vector<Line> TopView::head_lines() const {
  std::vector<Line> lines = {{title_text(), Style::kTitle}};
  if (!look_.info) return lines;
  const InstanceInfo& info = *look_.info;
  const std::string silence = format_duration(info.merger_silence);
  const bool is_well = info.merger_running && info.merger_silence < kSilenceNoticed;
  const std::string merger = info.merger_running
                                 ? fmt::format("running, pid {}, heartbeat {} ago", info.merger_pid, silence)
                                 : fmt::format("not running, silent for {} (was pid {})", silence, info.merger_pid);
  const bool is_stale = info.age >= kSilenceNoticed;
  lines.push_back({labelled("merger", merger), is_well ? Style::kPlain : Style::kAlarm});
  lines.push_back({labelled("mutations", mutations_text())});
  lines.push_back({labelled("staleness", format_duration(info.age)), is_stale ? Style::kAlarm : Style::kPlain});
  lines.push_back({labelled("pins", pins_text())});
  lines.push_back({labelled("publish", publish_text())});
  lines.push_back({labelled("memory", memory_text())});
  return lines;
}

std::vector<Line> TopView::alarm_lines() const {
  std::vector<Line> lines;
  if (!look_.problem.empty()) lines.push_back({printable(look_.problem), Style::kAlarm});
  if (!look_.info) return lines;
  if (!look_.problem.empty()) lines.push_back({"what follows was seen before that", Style::kAlarm});
  if (made_anew_at_ && look_.at - *made_anew_at_ < kAnewShown) {
    const std::string ago = format_duration(look_.at - *made_anew_at_);
    lines.push_back({fmt::format("the instance was re-created, {} ago", ago), Style::kAlarm});
  }
  std::size_t quarantined_count = 0;
  for (const RingInfo& ring : look_.info->rings) {
    if (ring.quarantine_reason.empty() || ++quarantined_count > kAlarmedRingsMax) continue;
    lines.push_back({fmt::format("ring {:016x} of {} is quarantined: {}", ring.id, in_quotes(ring.name),
                                 escaped(ring.quarantine_reason)),
                     Style::kAlarm});
  }
  if (quarantined_count > kAlarmedRingsMax) {
    lines.push_back({fmt::format("{} more rings are quarantined; see status", quarantined_count - kAlarmedRingsMax),
                     Style::kAlarm});
  }
  return lines;
}

std::string TopView::title_text() const {
  const std::string what = look_.info ? fmt::format("{}  epoch {}", escaped(look_.info->path), look_.info->epoch) : "";
  return fmt::format("shmstate  {}  every {}{}", what, format_duration(interval_), is_paused_ ? "  PAUSED" : "");
}

std::string TopView::statistic_text(std::string_view name) const {
  const std::optional<std::uint64_t> value = statistic_of(*look_.info, name);
  return value ? fmt::to_string(*value) : "-";
}

std::string TopView::publish_text() const {
  const auto longest = std::chrono::nanoseconds(statistic_of(*look_.info, "turn_duration_max").value_or(0));
  return fmt::format("{}/s, latency {} on average, {} at most", rates_ ? format_rate(rates_->publishes_per_s) : "-",
                     rates_ && rates_->turn_mean ? format_duration(*rates_->turn_mean) : "-", format_duration(longest));
}

std::string TopView::mutations_text() const {
  return fmt::format("{}/s, rejected {}/s, {} since the merger started",
                     rates_ ? format_rate(rates_->mutations_per_s) : "-",
                     rates_ ? format_rate(rates_->rejections_per_s) : "-", statistic_text("mutations_rejected"));
}

std::string TopView::memory_text() const {
  const InstanceInfo& info = *look_.info;
  return fmt::format("{} {} of {}, {} entries", bar(info.committed_bytes, info.limit_bytes, kMemoryBarColumns),
                     format_bytes(info.committed_bytes), format_bytes(info.limit_bytes), info.entry_count);
}

std::string TopView::pins_text() const {
  const auto stalled = std::chrono::nanoseconds(statistic_of(*look_.info, "pin_stall_max").value_or(0));
  std::string text = fmt::format("{} stalls, {} at most", statistic_text("pin_stalls"), format_duration(stalled));
  for (std::size_t b = 0; b < look_.info->buffers.size(); ++b) {
    if (!look_.info->buffers[b].pinned) continue;
    std::string holders;
    for (const PinHolder& holder : look_.pin_holders) {
      if (holder.buffer == b)
        holders += fmt::format("{}{} (pid {})", holders.empty() ? " by " : ", ", escaped(holder.program), holder.pid);
    }
    text += fmt::format("; buffer {} pinned{}", b, holders);
  }
  return text;
}

// ---- rings

double TopView::ring_rate(const RingInfo& ring) const {
  if (!rates_) return 0;
  const auto found = rates_->ring_mutations_per_s.find(ring.id);
  return found == rates_->ring_mutations_per_s.end() ? 0 : found->second;
}

std::vector<const RingInfo*> TopView::sorted_rings() const {
  std::vector<const RingInfo*> rings;
  if (!look_.info) return rings;
  for (const RingInfo& ring : look_.info->rings) rings.push_back(&ring);
  const auto amount = [this](const RingInfo& ring) {
    switch (order_) {
      case Order::kBacklog:
        return static_cast<double>(backlog_bytes(ring)) / (static_cast<double>(ring.ring_bytes) + 1);
      case Order::kRate: return ring_rate(ring);
      case Order::kRejected: return static_cast<double>(ring.rejected_count);
      case Order::kName: break;
    }
    return 0.0;
  };
  std::sort(rings.begin(), rings.end(), [&](const RingInfo* a, const RingInfo* b) {
    const double more_a = amount(*a);
    const double more_b = amount(*b);
    return more_a != more_b ? more_a > more_b : std::tie(a->name, a->id) < std::tie(b->name, b->id);
  });
  return rings;
}

std::vector<Line> TopView::ring_lines(ScreenSize size) const {
  if (size.rows < 2) return {};
  const std::vector<const RingInfo*> rings = sorted_rings();
  const std::size_t shown_max = size.rows - 2;
  const std::size_t first = std::min(first_ring_, rings.size() - std::min(rings.size(), shown_max));
  const std::size_t name_columns =
      std::min(kNameColumns + size.columns - std::min(size.columns, kColumns), kNameColumnsMax);
  const std::string name = rings.size() <= shown_max ? fmt::format("{} RINGS", rings.size())
                                                     : fmt::format("RINGS {}+/{}", first + 1, rings.size());
  std::vector<Line> lines = {
      {}, {ring_row(name, name_columns, "BACKLOG", "", "RATE/S", "REJECTED", "PID", "UID", "STATE"), Style::kHeading}};
  for (std::size_t i = first; i < rings.size() && lines.size() < size.rows; ++i) {
    const bool is_alarming = !rings[i]->quarantine_reason.empty();
    lines.push_back({ring_text(*rings[i], name_columns), is_alarming ? Style::kAlarm : Style::kPlain});
  }
  return lines;
}

std::string TopView::ring_text(const RingInfo& ring, std::size_t name_columns) const {
  const bool is_quarantined = !ring.quarantine_reason.empty();  // its tail may be any number
  const std::string name = ring.name.empty() ? fmt::format("{:016x}", ring.id) : escaped(ring.name);
  return ring_row(name, name_columns, is_quarantined ? "-" : format_bytes(backlog_bytes(ring)),
                  is_quarantined ? "" : bar(backlog_bytes(ring), ring.ring_bytes, kBarColumns),
                  rates_ ? format_rate(ring_rate(ring)) : "-", fmt::to_string(ring.rejected_count),
                  fmt::to_string(ring.pid), fmt::to_string(ring.uid), escaped(ring.state));
}

// ---- keys

std::vector<Line> TopView::key_lines(std::size_t rows) const {
  if (rows < 2) return {};
  std::vector<Line> lines = {{}, {"CHANGES/S  HOTTEST KEYS, of the last 10 s", Style::kHeading}};
  for (const KeyCount& each : hot_keys_.hottest(rows - 2))
    lines.push_back({right(format_rate(each.count), 9) + "  " + escaped(each.key)});
  return lines;
}

std::string TopView::help_text() const {
  const auto choice = [this](Order order, std::string_view text) {
    return order == order_ ? fmt::format("[{}]", text) : std::string(text);
  };
  return fmt::format("q quit  p {}  sort rings: {} {} {} {}  arrows scroll", is_paused_ ? "go on" : "pause",
                     choice(Order::kBacklog, "b backlog"), choice(Order::kRate, "r rate"),
                     choice(Order::kRejected, "x rejected"), choice(Order::kName, "n name"));
}

}  // namespace shmstate::ctl
