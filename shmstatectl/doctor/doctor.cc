// doctor: looks at everything that keeps an instance from working, for the user who asks.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>
#include <thread>

#include "commands/commands.h"
#include "doctor/findings.h"
#include "doctor/mount.h"
#include "doctor/pin_holders.h"
#include "doctor/places.h"
#include "files/access.h"
#include "files/control.h"
#include "files/os.h"
#include "instance.h"
#include "live/rates.h"
#include "show/output.h"
#include "show/text.h"
#include "silence.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

namespace fs = std::filesystem;
using Findings = std::vector<Finding>;

// ---- files

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

void check_reading(const fs::path& instance, Findings& findings) {
  for (const char* name : {"control", "snapshot"}) {
    const auto obstacle = obstacle_to(instance / name, R_OK);
    if (!obstacle) {
      findings.push_back({Severity::kOk, "reading", description(instance / name)});
      continue;
    }
    const bool is_on_the_way = obstacle->path != instance / name;
    findings.push_back(
        {Severity::kError, "reading",
         fmt::format("this user cannot {} {}", is_on_the_way ? "search" : "read", description(*obstacle)),
         remedy_of_unreadable(*obstacle, instance),
         obstacle->error == ENOENT ? ExitCode::kNoInstance : ExitCode::kNoPermission});
    if (is_on_the_way) return;  // the same for both
  }
}

std::optional<Obstacle> obstacle_to_writing(const fs::path& instance) {
  if (auto obstacle = obstacle_to(rings_path(instance), W_OK | X_OK)) return obstacle;
  return obstacle_to(doorbell_path(instance), W_OK);
}

// Who reads need not write: that is worth a note only.
void check_writing(const fs::path& instance, Findings& findings) {
  if (const auto obstacle = obstacle_to_writing(instance)) {
    findings.push_back({Severity::kNote, "writing", "this user may not write: " + description(*obstacle),
                        remedy_of(*obstacle, instance, Purpose::kWrite)});
  } else {
    findings.push_back({Severity::kOk, "writing", description(gate_path(instance))});
  }
}

void check_owners(const fs::path& instance, Findings& findings) {
  const auto directory = os::file_info(instance);
  const auto root = os::file_info(instance.parent_path());
  const std::string root_name = instance.parent_path().filename().string();
  if (root && root_name == fmt::format("shmstate-{}", ::geteuid()) && root->uid != ::geteuid()) {
    findings.push_back(
        {Severity::kError, "owner",
         fmt::format("{} belongs to user {}: what lies there is foreign", instance.parent_path().string(), root->uid),
         "remove it, or choose another directory", ExitCode::kNoPermission});
  }
  for (const char* name : {"control", "snapshot"}) {
    const auto file = os::file_info(instance / name);
    if (!file || !directory) continue;
    if (file->uid != directory->uid) {
      findings.push_back(
          {Severity::kWarning, "owner",
           fmt::format("{} belongs to user {}, the directory to user {}", name, file->uid, directory->uid),
           "run the merger as one user only; remove the directory if the instance is not yours"});
    }
    if ((file->mode & 022) != 0) {
      findings.push_back({Severity::kWarning, "owner",
                          fmt::format("others than the merger may write {}", description(instance / name)),
                          "restart the merger, which sets the mode"});
    }
  }
}

// ---- mount

// The last mount of a device is the one that is seen.
Mount mount_of(const fs::path& path) {
  Mount found;
  const auto info = os::file_info(path);
  if (!info) return found;
  const std::string device = fmt::format("{}:{}", major(info->device), minor(info->device));
  std::ifstream lines("/proc/self/mountinfo");
  for (std::string line; std::getline(lines, line);) {
    if (Mount mount = parse_mount(line); mount.device == device) found = std::move(mount);
  }
  return found;
}

void check_mount(const fs::path& instance, const Mount& mount, Findings& findings) {
  const std::string text = mount.type.empty() ? "/proc/self/mountinfo does not tell more"
                                              : fmt::format("{} on {} ({})", mount.type, mount.point, mount.options);
  struct statfs system {};
  if (::statfs(instance.c_str(), &system) != 0) {
    const std::string why = std::generic_category().message(errno);
    findings.push_back({Severity::kWarning, "mount", "cannot tell how it is mounted: " + why, "look at: findmnt"});
    return;
  }
  if (system.f_type != TMPFS_MAGIC) {
    findings.push_back({Severity::kWarning, "mount", "not a tmpfs: " + text,
                        "put the instance below /run/shmstate or /dev/shm: a disk makes writers wait"});
  } else if ((system.f_flags & ST_RDONLY) != 0) {
    findings.push_back({Severity::kError, "mount", "read-only: " + text, "mount it with rw"});
  } else {
    findings.push_back({Severity::kOk, "mount", text});
  }
}

// The merger asks for them by itself, whatever the mount says.
void check_huge_pages(Findings& findings) {
  const char* const path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
  std::string enabled;
  std::getline(std::ifstream(path), enabled);
  if (enabled.empty() && obstacle_to("/sys/kernel/mm", F_OK)) {
    findings.push_back({Severity::kNote, "huge pages", "cannot tell whether the kernel allows them: there is no /sys"});
  } else if (!enabled.empty() && enabled.find("[deny]") == std::string::npos) {
    findings.push_back({Severity::kOk, "huge pages", "the kernel allows them"});
  } else {
    findings.push_back({Severity::kNote, "huge pages",
                        enabled.empty() ? "the kernel has none" : "the kernel denies them",
                        fmt::format("for a large state, write another word than deny to {}", path)});
  }
}

void check_space(const InstanceInfo& info, Findings& findings) {
  struct statvfs space {};
  if (::statvfs(info.path.c_str(), &space) != 0) return;
  const std::uint64_t free_bytes = std::uint64_t{space.f_bavail} * space.f_frsize;
  const std::uint64_t wanted_bytes = info.limit_bytes - std::min(info.committed_bytes, info.limit_bytes);
  const std::string text = fmt::format("{} free on the file system, the instance may grow by {}",
                                       format_bytes(free_bytes), format_bytes(wanted_bytes));
  const std::uint64_t next_page_bytes = info.buffers.size() * layout::kPageBytes;
  const std::string remedy =
      "give the tmpfs more room: systemctl edit run-shmstate.mount, then systemctl reload run-shmstate.mount (another "
      "one: mount -o remount,size=...); or erase keys: a lower --memory-limit counts for new instances only";
  if (free_bytes < next_page_bytes) {
    findings.push_back({Severity::kError, "space", text, remedy, ExitCode::kRejected});
  } else if (free_bytes < wanted_bytes) {
    findings.push_back({Severity::kWarning, "space", text, remedy});
  } else {
    findings.push_back({Severity::kOk, "space", text});
  }
}

// ---- what the instance says

void check_boot(const fs::path& instance, Findings& findings) {
  layout::Identity identity{};
  const auto cannot_tell = [&](const std::string& why) {
    findings.push_back({Severity::kWarning, "boot", "cannot tell whether the files are of this boot: " + why,
                        "leave them as they are until doctor can tell; a merger refuses to start like that, too"});
  };
  const os::Fd control = os::open_file(instance / "control", O_RDONLY);
  if (!control.is_open() || ::pread(control.get(), &identity, sizeof identity, 0) != ssize_t{sizeof identity}) {
    return cannot_tell("control cannot be read");
  }
  if (identity.boot_id == layout::Id{}) return cannot_tell("control does not say of which it is");
  try {
    if (identity.boot_id == os::boot_id()) return;
  } catch (const Error& error) {
    return cannot_tell(error.what());
  }
  findings.push_back({Severity::kError, "boot", "the files are of an earlier boot: nothing in them is valid",
                      "start the merger, which makes the instance anew", ExitCode::kUnreadable});
}

// As a reader that attaches: a snapshot file that was cut, or is of another instance, is found here.
void check_state(const fs::path& instance, Findings& findings) {
  if (obstacle_to(instance / "snapshot", R_OK)) return;  // said already
  try {
    Reader reader = open_reader(instance.string());
    findings.push_back({Severity::kOk, "state", fmt::format("readable, epoch {}", reader.epoch())});
  } catch (const Error& error) {  // its message has the remedy
    findings.push_back({Severity::kError, "state", error.what(), {}, exit_code_of(error.status())});
  }
}

void check_merger(const InstanceInfo& info, Findings& findings) {
  const std::string silence = format_duration(info.merger_silence);
  if (!info.merger_running) {
    findings.push_back({Severity::kError, "merger", "none is running, silent for " + silence,
                        "start it: systemctl start shmstate-merger@" + fs::path(info.path).filename().string() +
                            ", or shmstate-merger --instance " + info.path,
                        ExitCode::kNotMerged});
  } else if (info.merger_silence >= kSilenceNoticed) {
    findings.push_back({Severity::kError, "merger", fmt::format("pid {} is silent for {}", info.merger_pid, silence),
                        "see whether that process is stopped or the machine overloaded", ExitCode::kNotMerged});
  } else {
    findings.push_back({Severity::kOk, "merger", fmt::format("running, pid {}", info.merger_pid)});
  }
}

std::string name_of(const RingInfo& ring) {
  return fmt::format("ring {:016x} of {} (pid {}, user {})", ring.id, in_quotes(ring.name), ring.pid, ring.uid);
}

void check_ring(const RingInfo& ring, Findings& findings) {
  if (ring.state == "quarantined") {
    findings.push_back({Severity::kError, "rings",
                        name_of(ring) + " is quarantined, nothing more of it is merged: " + ring.quarantine_reason,
                        "that writer's memory is corrupt, or its process hostile: restart it", ExitCode::kRejected});
  } else if (backlog_bytes(ring) > ring.ring_bytes / 2) {
    findings.push_back({Severity::kWarning, "backlog",
                        fmt::format("{} has {} of {} unmerged", name_of(ring), format_bytes(backlog_bytes(ring)),
                                    format_bytes(ring.ring_bytes)),
                        "give the merger a processor of its own, or the writer a larger ring"});
  }
  if (ring.rejected_count > 0) {
    findings.push_back({Severity::kNote, "rings",
                        fmt::format("{}: {} mutations rejected", name_of(ring), ring.rejected_count),
                        "the writer learns why: Writer::rejected, or the message of shmstatectl"});
  }
}

void check_rings(const InstanceInfo& info, Findings& findings) {
  for (const RingInfo& ring : info.rings) check_ring(ring, findings);
  findings.push_back({Severity::kOk, "rings", fmt::format("{} known", info.rings.size())});
}

// A pin that is short is no reason to complain, so they are looked at twice.
void check_pins(const InstanceInfo& info, Findings& findings) {
  constexpr auto kLongForAPin = std::chrono::milliseconds(200);
  if (!is_every_back_buffer_pinned(info)) return;
  std::this_thread::sleep_for(kLongForAPin);
  const InstanceInfo later = look_at(info.path);
  if (!is_every_back_buffer_pinned(later)) return;
  std::string who;
  for (const PinHolder& holder : pin_holders(later)) {
    who += fmt::format("{}pid {} ({})", who.empty() ? ": " : ", ", holder.pid, holder.program);
  }
  findings.push_back({Severity::kWarning, "pins",
                      "readers pin every buffer that could be written, so nothing is published" + who,
                      "let them hold snapshots for a shorter time, or give the merger a --pin-time-max, or a new "
                      "instance with more --buffers"});
}

void check_statistics(const InstanceInfo& info, Findings& findings) {
  const auto tell = [&](Severity severity, std::string_view name, const std::string& remedy) {
    for (const StatisticInfo& statistic : info.statistics) {
      if (statistic.name != name || statistic.value == 0) continue;
      findings.push_back({severity, "statistics",
                          fmt::format("{} {}: {}", statistic.name, statistic.value, statistic.meaning), remedy});
    }
  };
  tell(
      Severity::kWarning, "mutations_rejected",
      "writers learn why from flush and Writer::rejected, and the log of an agent says it; mind limits and space here");
  tell(Severity::kWarning, "rings_refused", "end writers, or make the instance anew with a larger --max-rings");
  tell(Severity::kWarning, "commit_failures", "erase keys, or give the instance more memory");
  tell(Severity::kNote, "pins_expired",
       "let readers hold snapshots for a shorter time, or configure a longer maximum pin time");
}

void check_contents(const fs::path& instance, Findings& findings) {
  try {
    const InstanceInfo info = look_at_fresh(instance.string());
    findings.push_back({Severity::kOk, "layout", fmt::format("{}.{}", info.layout_major, info.layout_minor)});
    check_boot(instance, findings);
    check_state(instance, findings);
    check_merger(info, findings);
    check_space(info, findings);
    check_rings(info, findings);
    check_pins(info, findings);
    check_statistics(info, findings);
  } catch (const Error& error) {  // its message has the remedy
    findings.push_back({Severity::kError, "layout", error.what(), {}, exit_code_of(error.status())});
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
  const Mount mount = mount_of(instance);
  check_mount(instance, mount, findings);
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
    print(json_document({{"instance", json_of_bytes(instance.string())}, {"findings", json_array(findings)}}));
  } else {
    print(findings_text(findings));
  }
  return worst_of(findings);
}

}  // namespace shmstate::ctl
