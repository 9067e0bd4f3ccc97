// instances: what there is to look at, and whether somebody serves it.
#include <fmt/format.h>
#include <pwd.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "commands/commands.h"
#include "files/access.h"
#include "files/control.h"
#include "files/os.h"
#include "instance.h"
#include "show/output.h"
#include "show/report.h"
#include "show/text.h"
#include "silence.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

namespace fs = std::filesystem;

struct Seen {
  std::string path;
  std::string name;  // what -i takes
  std::string owner;
  std::optional<InstanceInfo> info = std::nullopt;
  std::string problem = {};  // why there is no `info`
};

// The path, where the name alone leads elsewhere or cannot be one.
std::string name_of(const fs::path& path) {
  try {
    if (instance_path(path.filename().string()) == path) return path.filename().string();
  } catch (const Error&) {
  }
  return path.string();
}

std::string owner_of(const fs::path& path) {
  const auto info = os::file_info(path);
  if (!info) return {};
  const passwd* const user = ::getpwuid(info->uid);
  return user != nullptr ? user->pw_name : fmt::to_string(info->uid);
}

std::vector<Seen> see_all() {
  std::vector<Seen> all;
  for (const std::string& path : list_instances()) {
    Seen& seen = all.emplace_back(Seen{.path = path, .name = name_of(path), .owner = owner_of(path)});
    try {
      seen.info = look_at(path);
    } catch (const Error& error) {
      seen.problem = error.what();
    }
  }
  for (const Obstacle& closed : closed_directories()) {
    all.push_back(
        {.path = closed.path.string(),
         .name = name_of(closed.path),
         .owner = owner_of(closed.path),
         .problem = fmt::format("you cannot look into {}; {}", description(closed), remedy_of_closed(closed))});
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
    json["entry_count"] = seen.info->entry_count;
  } else {
    json["problem"] = json_of_bytes(seen.problem);
  }
  json["name"] = json_of_bytes(seen.name);
  json["owner"] = json_of_bytes(seen.owner);
  return json;
}

}  // namespace

ExitCode run_instances(const Options& options) {
  const std::vector<Seen> all = see_all();
  if (options.json) {
    Json instances = Json::array();
    for (const Seen& seen : all) instances.push_back(json_of(seen));
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
