// instances: what there is to look at, and whether somebody serves it.
#include <fmt/format.h>
#include <sys/stat.h>

#include <optional>
#include <string>
#include <vector>

#include "commands/commands.h"
#include "doctor/places.h"
#include "instance.h"
#include "show/output.h"
#include "show/text.h"
#include "support/accounts.h"

namespace shmstate::ctl {

namespace {

struct Seen {
  std::string path;
  std::string name;  // what -i takes
  std::string owner;
  std::optional<InstanceInfo> info = std::nullopt;
  std::string problem = {};  // why there is no `info`
};

std::string owner_of(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 ? user_name(info.st_uid) : "";
}

std::vector<Seen> see_all() {
  std::vector<Seen> all;
  for (const std::string& path : list_instances()) {
    Seen& seen = all.emplace_back(Seen{.path = path, .name = instance_name(path), .owner = owner_of(path)});
    try {
      seen.info = look_at(path);
    } catch (const Error& error) {
      seen.problem = error.what();
    }
  }
  for (const ClosedDirectory& closed : closed_directories()) {
    all.push_back({.path = closed.path,
                   .name = instance_name(closed.path),
                   .owner = owner_of(closed.path),
                   .problem = fmt::format("you cannot look into {}; {}", closed.text, closed.remedy)});
  }
  return all;
}

std::string merger_text(const InstanceInfo& info) {
  const std::string silence = format_duration(info.merger_silence);
  if (!info.merger_running) return "not running for " + silence;
  return info.merger_silence < kSilenceNoticed ? "running" : "silent for " + silence;
}

std::string text_of(const std::vector<Seen>& all) {
  if (all.empty()) return "no instances\n";
  std::vector<std::vector<std::string>> rows = {{"INSTANCE", "MERGER", "EPOCH", "ENTRIES", "OWNER"}};
  for (const Seen& seen : all) {
    const auto number = [&seen](std::uint64_t InstanceInfo::*field) {
      return seen.info ? fmt::to_string((*seen.info).*field) : "-";
    };
    rows.push_back({escaped(seen.name), seen.info ? merger_text(*seen.info) : "-", number(&InstanceInfo::epoch),
                    number(&InstanceInfo::entry_count), escaped(seen.owner)});
  }
  return format_columns(rows);
}

Json json_of(const Seen& seen) {
  Json json = {{"instance", json_of_bytes(seen.path)}};
  if (seen.info) {
    json = json_of_freshness(*seen.info, seen.info->epoch);
    json.set("entry_count", seen.info->entry_count);
  } else {
    json.set("problem", json_of_bytes(seen.problem));
  }
  json.set("name", json_of_bytes(seen.name));
  json.set("owner", json_of_bytes(seen.owner));
  return json;
}

}  // namespace

ExitCode run_instances(const Options& options) {
  const std::vector<Seen> all = see_all();
  if (options.json) {
    Json instances = Json::array();
    for (const Seen& seen : all) instances.add(json_of(seen));
    print(json_document({{"instances", instances}}));
    return ExitCode::kOk;
  }
  print(text_of(all));
  for (const Seen& seen : all) {
    if (!seen.info) report(seen.problem);
  }
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
