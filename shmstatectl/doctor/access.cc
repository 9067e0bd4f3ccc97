// Who may do what with an instance's files: modes, owners, and the directories on the way.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <string>

#include "doctor/checks.h"
#include "files/access.h"
#include "files/os.h"
#include "files/paths.h"
#include "instance.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

namespace fs = std::filesystem;

// What a merger left half-made, the next one begins again. Where neither can be told, nothing is to be removed.
bool is_known_to_be_complete(const fs::path& instance) {
  try {
    (void)look_at(instance.string());
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string remedy_of_unreadable(const Obstacle& obstacle, const fs::path& instance) {
  if (obstacle.error != ENOENT) return remedy_of(obstacle, instance, Purpose::kRead);
  std::string lost = "without it the state is lost: remove the directory and restart the merger";
  const std::string name = obstacle.path.filename().string();
  if (name == "snapshot" && is_known_to_be_complete(instance)) return lost;
  const bool is_half_made = os::file_info(new_control_path(instance)).has_value();
  if (name == "control" && !is_half_made && os::file_info(instance / "snapshot")) return lost;
  return remedy_of(obstacle, instance, Purpose::kRead);
}

std::optional<Obstacle> obstacle_to_writing(const fs::path& instance) {
  if (auto obstacle = obstacle_to(rings_path(instance), W_OK | X_OK)) return obstacle;
  return obstacle_to(doorbell_path(instance), W_OK);
}

}  // namespace

void check_reading(const fs::path& instance, Findings& findings) {
  for (const char* name : {"control", "snapshot"}) {
    const auto obstacle = obstacle_to(instance / name, R_OK);
    if (!obstacle) {
      findings.ok("reading", description(instance / name));
      continue;
    }
    const bool is_on_the_way = obstacle->path != instance / name;
    findings.error("reading",
                   fmt::format("this user cannot {} {}", is_on_the_way ? "search" : "read", description(*obstacle)),
                   remedy_of_unreadable(*obstacle, instance),
                   obstacle->error == ENOENT ? ExitCode::kNoInstance : ExitCode::kNoPermission);
    if (is_on_the_way) return;  // the same for both
  }
  const fs::path pins = pins_path(instance);  // absent with --pins ask
  const auto obstacle = os::file_info(pins) ? obstacle_to(pins, W_OK) : std::nullopt;
  if (!obstacle) return;
  findings.warning("snapshots",
                   "this user can read single keys, but take no snapshot: cannot write " + description(*obstacle),
                   remedy_of(*obstacle, instance, Purpose::kRead));
}

// Who reads need not write: that is worth a note only.
void check_writing(const fs::path& instance, Findings& findings) {
  if (const auto obstacle = obstacle_to_writing(instance)) {
    findings.note("writing", "this user may not write: " + description(*obstacle),
                  remedy_of(*obstacle, instance, Purpose::kWrite));
  } else {
    findings.ok("writing", description(gate_path(instance)));
  }
}

void check_owners(const fs::path& instance, Findings& findings) {
  const auto directory = os::file_info(instance);
  const auto root = os::file_info(instance.parent_path());
  const std::string root_name = instance.parent_path().filename().string();
  if (root && root_name == fmt::format("shmstate-{}", ::geteuid()) && root->uid != ::geteuid()) {
    findings.error(
        "owner",
        fmt::format("{} belongs to user {}: what lies there is foreign", instance.parent_path().string(), root->uid),
        "remove it, or choose another directory", ExitCode::kNoPermission);
  }
  for (const char* name : {"control", "snapshot"}) {
    const auto file = os::file_info(instance / name);
    if (!file || !directory) continue;
    if (file->uid != directory->uid) {
      findings.warning("owner",
                       fmt::format("{} belongs to user {}, the directory to user {}", name, file->uid, directory->uid),
                       "run the merger as one user only; remove the directory if the instance is not yours");
    }
    if ((file->mode & 022) != 0) {
      findings.warning("owner", fmt::format("others than the merger may write {}", description(instance / name)),
                       "restart the merger, which sets the mode");
    }
  }
}

}  // namespace shmstate::ctl
