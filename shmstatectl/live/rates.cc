#include "live/rates.h"

#include <algorithm>

namespace shmstate::ctl {

namespace {

std::map<std::uint64_t, double> ring_rates(const InstanceInfo& before, const InstanceInfo& after, double seconds) {
  std::map<std::uint64_t, std::uint64_t> counts;
  for (const RingInfo& ring : before.rings) counts[ring.id] = ring.applied_count;
  std::map<std::uint64_t, double> rates;
  for (const RingInfo& ring : after.rings) {
    const auto count = counts.find(ring.id);
    if (count == counts.end() || ring.applied_count < count->second) continue;
    rates[ring.id] = static_cast<double>(ring.applied_count - count->second) / seconds;
  }
  return rates;
}

}  // namespace

std::uint64_t backlog_bytes(const RingInfo& ring) {
  return ring.pushed_bytes - std::min(ring.applied_bytes, ring.pushed_bytes);
}

std::optional<std::uint64_t> statistic_of(const InstanceInfo& info, std::string_view name) {
  const auto found = std::find_if(info.statistics.begin(), info.statistics.end(),
                                  [name](const StatisticInfo& statistic) { return statistic.name == name; });
  return found == info.statistics.end() ? std::nullopt : std::optional(found->value);
}

std::optional<Rates> rates_between(const InstanceInfo& before, const InstanceInfo& after,
                                   std::chrono::nanoseconds apart) {
  const bool is_comparable = before.id == after.id && before.merger_pid == after.merger_pid && apart.count() > 0;
  if (!is_comparable) return std::nullopt;
  const double seconds = std::chrono::duration<double>(apart).count();
  const auto increase = [&](std::string_view name) {
    const std::uint64_t from = statistic_of(before, name).value_or(0);
    const std::uint64_t to = statistic_of(after, name).value_or(0);
    return static_cast<double>(to - std::min(from, to));
  };
  Rates rates;
  rates.mutations_per_s = increase("mutations_applied") / seconds;
  rates.publishes_per_s = increase("publishes") / seconds;
  rates.rejections_per_s = increase("mutations_rejected") / seconds;
  if (const double publishes = increase("publishes"); publishes > 0) {
    constexpr double kLongest = 1e18;  // ns: a damaged counter may tell more than fits
    const double mean = std::min(increase("turn_duration_total") / publishes, kLongest);
    rates.turn_mean = std::chrono::nanoseconds(static_cast<std::int64_t>(mean));
  }
  rates.ring_mutations_per_s = ring_rates(before, after, seconds);
  return rates;
}

}  // namespace shmstate::ctl
