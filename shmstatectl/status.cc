#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <thread>

#include "shmstatectl/commands.h"
#include "shmstatectl/instance.h"
#include "shmstatectl/status_text.h"

namespace shmstate::ctl {

namespace {

std::map<std::uint64_t, double> rates_between(const InstanceInfo& before, const InstanceInfo& after, double seconds) {
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

// Rates need a second look, unless nothing can have changed.
InstanceInfo look_twice(const std::string& instance, std::chrono::nanoseconds apart, StatusExtras& extras) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  InstanceInfo info = look_at(instance);
  extras.pin_holders = pin_holders(info.path);
  if (apart <= std::chrono::nanoseconds::zero() || info.rings.empty() || !info.merger_running) return info;
  std::this_thread::sleep_for(apart);
  InstanceInfo later = look_at(instance);
  extras.mutations_per_s = rates_between(info, later, std::chrono::duration<double>(Clock::now() - begin).count());
  return later;
}

Json json_with(const InstanceInfo& info, const StatusExtras& extras) {
  Json json = json_of(info);
  for (Json& buffer : json["buffers"]) buffer["pinned_by"] = Json::array();
  for (const PinHolder& holder : extras.pin_holders) {
    if (holder.buffer >= info.buffers.size()) continue;
    json["buffers"][holder.buffer]["pinned_by"].push_back(
        {{"pid", holder.pid}, {"program", json_of_bytes(holder.program)}});
  }
  for (std::size_t i = 0; i < info.rings.size(); ++i) {
    const auto rate = extras.mutations_per_s.find(info.rings[i].id);
    if (rate != extras.mutations_per_s.end()) json["rings"][i]["mutations_per_s"] = rate->second;
  }
  return json;
}

}  // namespace

ExitCode run_status(const Options& options) {
  StatusExtras extras;
  const InstanceInfo info = look_twice(resolve_instance(options.instance), options.rate_interval, extras);
  fmt::print("{}", options.json ? json_document(json_with(info, extras)) : status_text(info, options.verbose, extras));
  if (!options.json) report_silent_merger(info);
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
