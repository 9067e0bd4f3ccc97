#include <fmt/format.h>

#include <cstdio>

#include "commands/commands.h"
#include "instance.h"
#include "live/stable_snapshot.h"
#include "show/output.h"
#include "show/text.h"
#include "show/value_text.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

struct Found {
  Epoch epoch = 0;
  std::vector<Entry> entries;
  std::vector<std::string> missing;
};

void check_arguments(const Options& options) {
  for (const std::string& key : options.keys) check_key(key);
  if (options.raw && options.keys.size() != 1) throw UsageError("--raw writes one value; name exactly one KEY");
  if (options.raw && options.verbose) throw UsageError("--raw and --verbose exclude each other; choose one");
  if (options.raw && options.json) throw UsageError("--raw and --json exclude each other; choose one");
}

Found find_all(const Snapshot& snapshot, const std::vector<std::string>& keys) {
  Found found;
  found.epoch = snapshot.epoch();
  for (const std::string& key : keys) {
    if (const auto entry = snapshot.find(key)) {
      found.entries.push_back(copy_of(*entry));
    } else {
      found.missing.push_back(key);
    }
  }
  return found;
}

Json json_of(const Found& found, const InstanceInfo& info) {
  Json json = json_of_freshness(info, found.epoch);
  json.set("entries", json_array(found.entries));
  Json missing = Json::array();
  for (const std::string& key : found.missing) missing.add(json_of_bytes(key));
  json.set("missing", missing);
  return json;
}

std::string text_of(const Found& found, const Options& options) {
  if (options.verbose) return found.entries.empty() ? "" : entries_table(found.entries);
  if (options.keys.size() > 1) return entries_text(found.entries);
  if (found.entries.empty()) return {};
  const Value& value = found.entries.front().value;
  return options.raw ? raw_text(value) : value_text(value) + '\n';
}

}  // namespace

ExitCode run_get(const Options& options) {
  check_arguments(options);
  Reader reader = open_reader(resolve_instance(options.instance));
  const Found found =
      with_stable_snapshot(reader, [&](const Snapshot& snapshot) { return find_all(snapshot, options.keys); });
  const InstanceInfo info = look_at(reader.path());
  print(options.json ? json_document(json_of(found, info)) : text_of(found, options));
  if (!options.json) report_silent_merger(info);
  for (const std::string& key : found.missing)
    report(fmt::format("key {} not found in instance {}", in_quotes(key), in_quotes(reader.path())));
  return found.missing.empty() ? ExitCode::kOk : ExitCode::kKeyNotFound;
}

}  // namespace shmstate::ctl
