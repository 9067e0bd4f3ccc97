
#include <chrono>
#include <cstdio>
#include <thread>

#include "commands/commands.h"
#include "instance.h"
#include "show/output.h"
#include "show/status_text.h"

namespace shmstate::ctl {

namespace {

// Rates need a second look, unless nothing can have changed.
InstanceInfo look_twice(const std::string& instance, std::chrono::nanoseconds apart, StatusExtras& extras) {
  using Clock = std::chrono::steady_clock;
  InstanceInfo info = look_at_fresh(instance);
  const auto begin = Clock::now();
  if (apart > std::chrono::nanoseconds::zero() && info.merger_running) {
    std::this_thread::sleep_for(apart);
    InstanceInfo later = look_at(instance);
    extras.rates = rates_between(info, later, Clock::now() - begin);
    info = std::move(later);
  }
  extras.pin_holders = pin_holders(info);
  return info;
}

Json json_with(const InstanceInfo& info, const StatusExtras& extras) {
  Json json = json_of(info);
  for (Json& buffer : json["buffers"]) buffer["pinned_by"] = Json::array();
  for (const PinHolder& holder : extras.pin_holders) {
    if (holder.buffer >= info.buffers.size()) continue;
    json["buffers"][holder.buffer]["pinned_by"].push_back(
        {{"pid", holder.pid}, {"program", json_of_bytes(holder.program)}});
  }
  if (!extras.rates) return json;
  json["rates"] = {{"mutations_per_s", extras.rates->mutations_per_s},
                   {"publishes_per_s", extras.rates->publishes_per_s},
                   {"rejections_per_s", extras.rates->rejections_per_s}};
  for (std::size_t i = 0; i < info.rings.size(); ++i) {
    const auto rate = extras.rates->ring_mutations_per_s.find(info.rings[i].id);
    if (rate != extras.rates->ring_mutations_per_s.end()) json["rings"][i]["mutations_per_s"] = rate->second;
  }
  return json;
}

}  // namespace

ExitCode run_status(const Options& options) {
  StatusExtras extras;
  const InstanceInfo info = look_twice(resolve_instance(options.instance), options.rate_interval, extras);
  print(options.json ? json_document(json_with(info, extras)) : status_text(info, options.verbose, extras));
  if (!options.json) report_silent_merger(info);
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
