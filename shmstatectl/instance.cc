#include "shmstatectl/instance.h"

#include <fmt/format.h>

#include <vector>

#include "shmstatectl/report.h"
#include "shmstatectl/silence.h"
#include "shmstatectl/text.h"
#include "shmstatectl/usage.h"

namespace shmstate::ctl {

namespace {

std::string list_in_quotes(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + in_quotes(name);
  return list;
}

}  // namespace

std::string resolve_instance(const std::string& asked) {
  if (!asked.empty()) return asked;
  const std::vector<std::string> present = list_instances();
  if (present.empty())
    throw Error(Status::kNoInstance,
                "there is no instance that you may see; start shmstate-merger, or name one with -i");
  if (present.size() == 1) return present.front();
  throw UsageError(fmt::format("there are {} instances: {}; choose one with -i or $SHMSTATE_INSTANCE", present.size(),
                               list_in_quotes(present)));
}

ReaderOptions reader_options() {
  return {.attach_timeout = std::chrono::nanoseconds(0), .prefault = false, .survive_truncation = true};
}

Reader open_reader(const std::string& instance) { return Reader(instance, reader_options()); }

InstanceInfo look_at(const std::string& instance) { return inspect(instance, {.survive_truncation = true}); }

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
