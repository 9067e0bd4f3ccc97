#include "instance.h"

#include <fmt/format.h>

#include <chrono>
#include <thread>
#include <vector>

#include "doctor/places.h"
#include "show/output.h"
#include "show/text.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

std::string list_in_quotes(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + in_quotes(name);
  return list;
}

// None in an instance that an older merger made.
std::uint64_t refreshes_of(const InstanceInfo& info) {
  for (const StatisticInfo& statistic : info.statistics) {
    if (statistic.name == "refreshes") return statistic.value;
  }
  return 0;
}

// Behind a closed door there may well be one, and then starting a merger is no remedy.
Error absence() {
  const std::vector<ClosedDirectory> closed = closed_directories();
  if (closed.empty())
    return {Status::kNoInstance, "there is no instance that you may see; start shmstate-merger, or name one with -i"};
  const ClosedDirectory& first = closed.front();
  const std::string others = closed.size() > 1 ? fmt::format(" (and {} more)", closed.size() - 1) : "";
  return {Status::kNoPermission,
          fmt::format("there is no instance that you may see, but one may be where you cannot look: {}{}; {}",
                      first.text, others, first.remedy)};
}

}  // namespace

std::string resolve_instance(const std::string& asked) {
  if (!asked.empty()) return asked;
  const std::vector<std::string> present = list_instances();
  if (present.empty()) throw absence();
  if (present.size() == 1) return present.front();
  throw UsageError(fmt::format("there are {} instances: {}; choose one with -i or $SHMSTATE_INSTANCE", present.size(),
                               list_in_quotes(present)));
}

ReaderOptions reader_options() {
  return {.attach_timeout = std::chrono::nanoseconds(0), .prefault = false, .survive_truncation = true};
}

Reader open_reader(const std::string& instance) { return Reader(instance, reader_options()); }

InstanceInfo look_at(const std::string& instance) { return inspect(instance, {.survive_truncation = true}); }

InstanceInfo look_at_fresh(const std::string& instance) {
  constexpr auto kPatience = std::chrono::seconds(1);
  constexpr auto kPause = std::chrono::milliseconds(5);
  constexpr std::uint64_t kRefreshes = 2;  // the first may have begun before this call
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  InstanceInfo info = look_at(instance);
  const std::uint64_t before = refreshes_of(info);
  while (info.merger_running && before > 0 && refreshes_of(info) < before + kRefreshes &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kPause);
    info = look_at(instance);
  }
  return look_at(instance);  // all of it later than the number of refreshes
}

void report_silent_merger(const InstanceInfo& info) {
  const std::string name = in_quotes(info.path);
  const std::string silence = format_duration(info.merger_silence);
  if (!info.merger_running) {
    report(
        fmt::format("instance {}: no merger is running (silent for {}); this is the last snapshot, of epoch {}; "
                    "start shmstate-merger",
                    name, silence, info.epoch));
  } else if (info.merger_silence >= kSilenceNoticed) {
    report(
        fmt::format("instance {}: the merger (pid {}) is silent for {}; this is the last snapshot, of epoch {}; "
                    "see whether that process is stopped",
                    name, info.merger_pid, silence, info.epoch));
  }
}

Json json_of_freshness(const InstanceInfo& info, Epoch epoch) {
  return {{"instance", json_of_bytes(info.path)},
          {"merger", {{"running", info.merger_running}, {"silence_ns", info.merger_silence.count()}}},
          {"epoch", epoch},
          {"age_ns", info.age.count()}};
}

}  // namespace shmstate::ctl
