#include "live_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <utility>

namespace shmstate::demo {
namespace {

constexpr double kActivityKept = 0.9;  // of one refresh, in the next

bool is_number(Type type) { return type == Type::kInt64 || type == Type::kFloat64; }

double to_double(const ValueView& value) {
  return value.type() == Type::kInt64 ? static_cast<double>(value.int64()) : value.float64();
}

double change_per_s(const Value& from, const ValueView& to, double seconds) {
  if (seconds <= 0 || !is_number(to.type()) || ValueView(from).type() != to.type()) return 0;
  return (to_double(to) - to_double(from)) / seconds;
}

std::string format_value(const Value& value) {
  if (const auto* number = std::get_if<std::int64_t>(&value)) return grouped(*number);
  if (const auto* number = std::get_if<double>(&value)) return fmt::format("{:.2f}", *number);
  return printable(std::get<std::string>(value));
}

std::string_view area_of(std::string_view key) { return key.substr(0, key.find('/')); }

}  // namespace

void LiveTable::start_refresh(std::chrono::nanoseconds since_last) {
  since_last_s_ = std::chrono::duration<double>(since_last).count();
  ++refresh_;
  samples_ = sum_of_samples_ = produced_mutations_ = 0;
}

void LiveTable::observe(std::string_view key, const ValueView& value) {
  if (value.type() == Type::kInt64) count_samples(key, value.int64());
  auto found = entries_.find(key);
  if (found == entries_.end()) {
    entries_.emplace(key, Entry{value.to_value(), 0, 0, refresh_});
    return;
  }
  Entry& entry = found->second;
  const bool changed = !(ValueView(entry.value) == value);
  entry.activity = entry.activity * kActivityKept + (changed ? 1 : 0);
  entry.change_per_s = change_per_s(entry.value, value, since_last_s_);
  entry.refresh = refresh_;
  if (changed) entry.value = value.to_value();
}

void LiveTable::finish_refresh() {
  std::erase_if(entries_, [this](const auto& entry) { return entry.second.refresh != refresh_; });
}

void LiveTable::count_samples(std::string_view key, std::int64_t value) {
  if (!key.starts_with("producer/")) return;
  if (key == "producer/samples") {
    sum_of_samples_ = value;
  } else if (key.ends_with("/samples")) {
    samples_ += value;
  } else if (key.ends_with("/mutations")) {
    produced_mutations_ += value;
  }
}

std::vector<LiveRow> LiveTable::busiest_rows(std::size_t row_count_max) const {
  auto areas = entries_of_areas();
  std::sort(areas.begin(), areas.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
  std::vector<Entries::const_iterator> chosen;
  for (std::size_t i = 0; i < areas.size(); ++i) {  // small areas first: the others share what those leave
    const std::size_t share = (row_count_max - chosen.size()) / (areas.size() - i);
    const std::size_t take = std::min(share, areas[i].size());
    std::partial_sort(areas[i].begin(), areas[i].begin() + static_cast<std::ptrdiff_t>(take), areas[i].end(),
                      [](const auto& a, const auto& b) {
                        return std::tie(b->second.activity, a->first) < std::tie(a->second.activity, b->first);
                      });
    chosen.insert(chosen.end(), areas[i].begin(), areas[i].begin() + static_cast<std::ptrdiff_t>(take));
  }
  std::sort(chosen.begin(), chosen.end(), [](const auto& a, const auto& b) { return a->first < b->first; });
  std::vector<LiveRow> rows;
  std::transform(chosen.begin(), chosen.end(), std::back_inserter(rows),
                 [this](const auto& entry) { return row_of(entry); });
  return rows;
}

std::vector<std::vector<LiveTable::Entries::const_iterator>> LiveTable::entries_of_areas() const {
  std::vector<std::vector<Entries::const_iterator>> areas;
  std::string_view area;
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (areas.empty() || area_of(entry->first) != area) areas.emplace_back();
    area = area_of(entry->first);
    areas.back().push_back(entry);
  }
  return areas;
}

LiveRow LiveTable::row_of(Entries::const_iterator entry) const {
  const auto& [key, state] = *entry;
  LiveRow row{printable(key) + process_name(key), format_value(state.value), {}};
  if (is_number(ValueView(state.value).type())) row.change_per_s = fmt::format("{:.1f}", state.change_per_s);
  return row;
}

// " (bash)" for the keys of a process
std::string LiveTable::process_name(std::string_view key) const {
  const std::size_t slash = key.find('/', std::string_view("process/").size());
  if (!key.starts_with("process/") || slash == std::string_view::npos) return {};
  const auto name = entries_.find(std::string(key.substr(0, slash)) + "/name");
  return name == entries_.end() ? std::string() : fmt::format(" ({})", format_value(name->second.value));
}

std::string grouped(std::int64_t number) {
  std::string digits = fmt::format("{}", number);
  const std::size_t first = number < 0 ? 1 : 0;
  for (std::size_t end = digits.size(); end > first + 3; end -= 3) digits.insert(end - 3, 1, ',');
  return digits;
}

std::string printable(std::string_view bytes) {
  std::string text(bytes);
  std::replace_if(
      text.begin(), text.end(), [](char byte) { return byte < ' ' || byte > '~'; }, '?');
  return text;
}

}  // namespace shmstate::demo
