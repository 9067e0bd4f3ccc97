
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

Json buffers_with_holders(const InstanceInfo& info, const std::vector<PinHolder>& pin_holders) {
  Json buffers = Json::array();
  for (std::size_t i = 0; i < info.buffers.size(); ++i) {
    Json holders = Json::array();
    for (const PinHolder& holder : pin_holders) {
      if (holder.buffer == i) holders.add({{"pid", holder.pid}, {"program", json_of_bytes(holder.program)}});
    }
    Json buffer = json_of(info.buffers[i]);
    buffer.set("pinned_by", holders);
    buffers.add(buffer);
  }
  return buffers;
}

Json json_with(const InstanceInfo& info, const StatusExtras& extras) {
  Json json = json_of(info);
  json.set("buffers", buffers_with_holders(info, extras.pin_holders));
  if (!extras.rates) return json;
  json.set("rates", {{"mutations_per_s", extras.rates->mutations_per_s},
                     {"publishes_per_s", extras.rates->publishes_per_s},
                     {"rejections_per_s", extras.rates->rejections_per_s}});
  Json rings = Json::array();
  for (const RingInfo& info_of_ring : info.rings) {
    Json ring = json_of(info_of_ring);
    const auto rate = extras.rates->ring_mutations_per_s.find(info_of_ring.id);
    if (rate != extras.rates->ring_mutations_per_s.end()) ring.set("mutations_per_s", rate->second);
    rings.add(ring);
  }
  json.set("rings", rings);
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
