#include "live/hot_keys.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

namespace shmstate::ctl {

namespace {

using Sums = std::unordered_map<std::string, double>;

void add(Sums& sums, const std::vector<KeyCount>& counts) {
  for (const KeyCount& each : counts) sums[each.key.substr(0, HotKeys::kKeyBytesMax)] += each.count;
}

std::vector<KeyCount> largest(const Sums& sums, std::size_t count_max) {
  std::vector<KeyCount> counts;
  counts.reserve(sums.size());
  for (const auto& [key, count] : sums) counts.push_back({key, count});
  const auto kept = static_cast<std::ptrdiff_t>(std::min(count_max, counts.size()));
  std::partial_sort(counts.begin(), counts.begin() + kept, counts.end(), [](const KeyCount& a, const KeyCount& b) {
    return a.count != b.count ? a.count > b.count : a.key < b.key;
  });
  counts.resize(static_cast<std::size_t>(kept));
  return counts;
}

}  // namespace

void HotKeys::take(const std::vector<KeyCount>& counts, TimePoint now) {
  if (parts_.empty()) {
    parts_.push_back({now, now, {}});
    return;
  }
  if (parts_.back().end - parts_.back().begin >= window_ / kParts) parts_.push_back({parts_.back().end, now, {}});
  Part& part = parts_.back();
  Sums sums;
  add(sums, part.counts);
  add(sums, counts);
  part.counts = largest(sums, kKeysMax);
  part.end = now;
  while (parts_.front().end <= now - window_) parts_.pop_front();
}

std::vector<KeyCount> HotKeys::hottest(std::size_t count_max) const {
  if (parts_.empty() || parts_.back().end == parts_.front().begin) return {};
  Sums sums;
  for (const Part& part : parts_) add(sums, part.counts);
  std::vector<KeyCount> counts = largest(sums, count_max);
  const double seconds = std::chrono::duration<double>(parts_.back().end - parts_.front().begin).count();
  for (KeyCount& each : counts) each.count /= seconds;
  return counts;
}

}  // namespace shmstate::ctl
