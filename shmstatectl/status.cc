#include <fmt/format.h>

#include <cstdio>

#include "shmstatectl/commands.h"
#include "shmstatectl/instance.h"
#include "shmstatectl/status_text.h"

namespace shmstate::ctl {

ExitCode run_status(const Options& options) {
  const InstanceInfo info = look_at(resolve_instance(options.instance));
  fmt::print("{}", options.json ? json_document(json_of(info)) : status_text(info, options.verbose));
  if (!options.json) report_silent_merger(info);
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
