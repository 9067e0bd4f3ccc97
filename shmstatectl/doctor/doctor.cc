// doctor: looks at everything that keeps an instance from working, for the user who asks.
#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "commands/commands.h"
#include "doctor/checks.h"
#include "doctor/places.h"
#include "files/access.h"
#include "files/os.h"
#include "files/paths.h"
#include "instance.h"
#include "show/output.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

namespace fs = std::filesystem;

void check_contents(const fs::path& instance, Findings& findings) {
  try {
    const InstanceInfo info = look_at_fresh(instance.string());
    findings.ok("layout", fmt::format("{}.{}", info.layout_major, info.layout_minor));
    check_boot(instance, findings);
    check_state(instance, findings);
    check_merger(info, findings);
    check_space(info, findings);
    check_rings(info, findings);
    check_pins(info, findings);
    check_statistics(info, findings);
  } catch (const Error& error) {  // its message has the remedy
    findings.error("layout", error.what(), {}, exit_code_of(error.status()));
  }
}

Findings examine(const fs::path& instance) {
  Findings findings;
  const auto obstacle = obstacle_to(instance / "control", R_OK);
  const bool is_closed = obstacle && obstacle->error != ENOENT;
  const auto info = os::file_info(instance);
  if (!info && is_closed) {
    check_reading(instance, findings);
    return findings;
  }
  if (!info || info->is_regular) {
    check_contents(instance, findings);  // says why
    return findings;
  }
  check_reading(instance, findings);
  check_writing(instance, findings);
  check_owners(instance, findings);
  check_mount(instance, findings);
  check_huge_pages(findings);
  if (!is_closed) check_contents(instance, findings);
  return findings;
}

// In a root that this user cannot search, the instance may be, but is not found.
fs::path path_to_examine(const std::string& name) {
  fs::path found = instance_path(name);
  if (os::file_info(found) || name.find('/') != std::string::npos) return found;
  return closed_path_of(name).value_or(found);
}

// Where no name is given and none is seen, what is closed is what is meant.
std::string instance_or_closed_directory(const std::string& asked) {
  if (asked.empty() && list_instances().empty()) {
    if (const std::vector<ClosedDirectory> closed = closed_directories(); !closed.empty()) return closed.front().path;
  }
  return resolve_instance(asked);
}

}  // namespace

ExitCode run_doctor(const Options& options) {
  const fs::path instance = path_to_examine(instance_or_closed_directory(options.instance));
  const Findings findings = examine(instance);
  if (options.json) {
    print(json_document({{"instance", json_of_bytes(instance.string())}, {"findings", json_array(findings.all())}}));
  } else {
    print(findings_text(findings.all()));
  }
  return worst_of(findings.all());
}

}  // namespace shmstate::ctl
