// What an instance says about itself: its files' boot, its merger, rings, pins and statistics.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>
#include <thread>

#include "doctor/checks.h"
#include "doctor/pin_holders.h"
#include "files/access.h"
#include "files/os.h"
#include "instance.h"
#include "layout/layout.h"
#include "live/rates.h"
#include "show/text.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

namespace fs = std::filesystem;

std::string name_of(const RingInfo& ring) {
  return fmt::format("ring {:016x} of {} (pid {}, user {})", ring.id, in_quotes(ring.name), ring.pid, ring.uid);
}

void check_ring(const RingInfo& ring, Findings& findings) {
  if (ring.state == "quarantined") {
    findings.error("rings", name_of(ring) + " is quarantined, nothing more of it is merged: " + ring.quarantine_reason,
                   "that writer's memory is corrupt, or its process hostile: restart it", ExitCode::kRejected);
  } else if (backlog_bytes(ring) > ring.ring_bytes / 2) {
    findings.warning("backlog",
                     fmt::format("{} has {} of {} unmerged", name_of(ring), format_bytes(backlog_bytes(ring)),
                                 format_bytes(ring.ring_bytes)),
                     "give the merger a processor of its own, or the writer a larger ring");
  }
  if (ring.rejected_count > 0) {
    findings.note("rings", fmt::format("{}: {} mutations rejected", name_of(ring), ring.rejected_count),
                  "the writer learns why: Writer::rejected, or the message of shmstatectl");
  }
}

// Empty when it is zero.
std::string statistic_text(const InstanceInfo& info, std::string_view name) {
  for (const StatisticInfo& statistic : info.statistics) {
    if (statistic.name != name || statistic.value == 0) continue;
    return fmt::format("{} {}: {}", statistic.name, statistic.value, statistic.meaning);
  }
  return {};
}

}  // namespace

void check_boot(const fs::path& instance, Findings& findings) {
  layout::Identity identity{};
  const auto cannot_tell = [&](const std::string& why) {
    findings.warning("boot", "cannot tell whether the files are of this boot: " + why,
                     "leave them as they are until doctor can tell; a merger refuses to start like that, too");
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
  findings.error("boot", "the files are of an earlier boot: nothing in them is valid",
                 "start the merger, which re-creates the instance", ExitCode::kUnreadable);
}

// As a reader that attaches: a snapshot file that was cut, or is of another instance, is found here.
void check_state(const fs::path& instance, Findings& findings) {
  if (obstacle_to(instance / "snapshot", R_OK)) return;  // said already
  try {
    Reader reader = open_reader(instance.string());
    findings.ok("state", fmt::format("readable, epoch {}", reader.epoch()));
  } catch (const Error& error) {  // its message has the remedy
    findings.error("state", error.what(), {}, exit_code_of(error.status()));
  }
}

void check_merger(const InstanceInfo& info, Findings& findings) {
  const std::string silence = format_duration(info.merger_silence);
  if (!info.merger_running) {
    findings.error("merger", "none is running, silent for " + silence,
                   "start it: systemctl start shmstate-merger@" + fs::path(info.path).filename().string() +
                       ", or shmstate-merger --instance " + info.path,
                   ExitCode::kNotMerged);
  } else if (info.merger_silence >= kSilenceNoticed) {
    findings.error("merger", fmt::format("pid {} is silent for {}", info.merger_pid, silence),
                   "see whether that process is stopped or the machine overloaded", ExitCode::kNotMerged);
  } else {
    findings.ok("merger", fmt::format("running, pid {}", info.merger_pid));
  }
}

void check_rings(const InstanceInfo& info, Findings& findings) {
  for (const RingInfo& ring : info.rings) check_ring(ring, findings);
  findings.ok("rings", fmt::format("{} known", info.rings.size()));
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
  findings.warning("pins", "readers pin every buffer that could be written, so nothing is published" + who,
                   "let them hold snapshots for a shorter time, or give the merger a --pin-time-max, or a new "
                   "instance with more --buffers");
}

void check_statistics(const InstanceInfo& info, Findings& findings) {
  const auto warn_of = [&](std::string_view name, const std::string& remedy) {
    if (const std::string text = statistic_text(info, name); !text.empty()) {
      findings.warning("statistics", text, remedy);
    }
  };
  warn_of("mutations_rejected",
          "writers learn why from flush and Writer::rejected, and the log of an agent says it; mind limits and space "
          "here");
  warn_of("rings_refused", "end writers, or re-create the instance with a larger --max-rings");
  warn_of("commit_failures", "erase keys, or give the instance more memory");
  if (const std::string text = statistic_text(info, "pins_expired"); !text.empty()) {
    findings.note("statistics", text,
                  "let readers hold snapshots for a shorter time, or configure a longer maximum pin time");
  }
}

}  // namespace shmstate::ctl
