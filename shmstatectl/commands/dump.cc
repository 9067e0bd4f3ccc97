#include <fmt/format.h>

#include "commands/commands.h"
#include "commands/progress.h"
#include "instance.h"
#include "live/stable_snapshot.h"
#include "show/dump_format.h"
#include "show/output.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

// All lines are made before one is written: whoever reads them slowly must not pin a buffer.
std::string text_of(const Snapshot& snapshot, const std::string& prefix) {
  constexpr std::uint64_t kEntriesBetweenShows = 1024;
  Progress progress("dumping", snapshot.size());
  std::string text = std::string(kDumpHead) + '\n';
  std::uint64_t seen = 0;
  std::uint64_t dumped = 0;
  for (const EntryView& entry : snapshot) {
    if (seen++ % kEntriesBetweenShows == 0) progress.show(seen);
    if (!entry.key.starts_with(prefix)) continue;
    text += dump_line(entry);
    ++dumped;
  }
  return text += dump_end(dumped) + '\n';
}

}  // namespace

ExitCode run_dump(const Options& options) {
  if (options.json) throw UsageError("dump has a format of its own; leave --json out, or use list");
  Reader reader = open_reader(resolve_instance(options.instance));
  const std::string text =
      with_stable_snapshot(reader, [&](const Snapshot& snapshot) { return text_of(snapshot, options.prefix); });
  print(text);
  report_silent_merger(look_at(reader.path()));
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
