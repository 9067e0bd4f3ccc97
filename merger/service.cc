#include "service.h"

#include <linux/magic.h>
#include <sys/prctl.h>
#include <sys/statfs.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "files/os.h"
#include "protocol/doorbell.h"
#include "support/accounts.h"
#include "support/log.h"
#include "support/units.h"

namespace shmstate::merger {
using namespace internal;
namespace {

using std::chrono::nanoseconds;

constexpr auto kStallNap = std::chrono::microseconds(20);         // between looks at readers' pins
constexpr auto kUnfencedSleepMax = std::chrono::milliseconds(1);  // where the kernel has no membarrier
constexpr auto kDrainTimeMax = std::chrono::seconds(5);
constexpr std::uint64_t kReportIntervalNs = 1'000'000'000;  // as long as the log's limit counts

std::string permissions_text(const Permissions& permissions) {
  return fmt::format("mode {:04o}, readers' group {}, writers' group {}", permissions.directory_mode,
                     group_name(permissions.readers_group), group_name(permissions.writers_group));
}

void warn_if_kept(std::string_view option, const std::string& made, const std::string& wanted) {
  if (made != wanted) log_warning("{} stays \"{}\"; for \"{}\", make a new instance", option, made, wanted);
}

// What the instance was made with, where something else is wanted now.
void warn_of_what_is_kept(const Geometry& made, const InstanceOptions& wanted) {
  warn_if_kept("--buffers", std::to_string(made.buffer_count), std::to_string(wanted.buffer_count));
  warn_if_kept("--max-rings", std::to_string(made.ring_count_max), std::to_string(wanted.ring_count_max));
  const auto pins_text = [](bool announced) { return std::string(announced ? "announced" : "ask"); };
  warn_if_kept("--pins", pins_text(made.has_announced_pins), pins_text(wanted.has_announced_pins));
  warn_if_kept("--feed-bytes", size_text(made.feed_record_count * sizeof(layout::FeedRecord)),
               size_text(wanted.feed_record_count * sizeof(layout::FeedRecord)));
  const std::uint64_t limit = made.buffer_count * made.buffer_stride;
  const std::uint64_t step = made.buffer_count * os::kHugePageBytes;  // it was rounded down to that
  if (wanted.memory_limit_bytes != 0 && wanted.memory_limit_bytes / step != limit / step) {
    warn_if_kept("--memory-limit", size_text(limit), size_text(wanted.memory_limit_bytes));
  }
}

void warn_unless_in_memory(const std::filesystem::path& instance) {
  struct statfs found {};
  if (::statfs(instance.c_str(), &found) != 0 || found.f_type == TMPFS_MAGIC || found.f_type == RAMFS_MAGIC) return;
  log_warning("{} is not on a tmpfs: what is pushed is written to its disk; choose a directory on one",
              instance.string());
}

void warn_unless_told(bool is_told) {
  if (is_told) return;
  log_warning(
      "the kernel does not tell of new rings, so they are searched for; raise fs.inotify.max_user_instances "
      "and fs.inotify.max_user_watches");
}

}  // namespace

Service::Service(const ServiceOptions& options)
    : options_(options),
      owner_(options.instance, options.files),
      engine_(
          owner_, options.merge, [this](const MergeEvent& event) { event_log_.tell(event); }, os::now_ns()),
      reported_ns_(os::now_ns()) {
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  log_info("{} {} at epoch {}: {} entries, {} rings; {}", owner_.is_resumed() ? "resumed" : "created",
           owner_.path().string(), engine_.epoch(), engine_.table().entry_count(), engine_.ring_count(),
           permissions_text(owner_.permissions()));
  if (owner_.is_resumed()) warn_of_what_is_kept(owner_.geometry(), options.files);
  warn_unless_in_memory(owner_.path());
  warn_unless_told(engine_.is_told_of_rings());
  manager_.ready(status(reported_ns_));
}

bool Service::serve(const std::atomic<unsigned>& request) {
  std::uint64_t worked_ns = 0;
  while (request.load(std::memory_order_relaxed) == 0 && engine_.is_current()) {
    const std::uint64_t now_ns = os::now_ns();
    if (now_ns >= next_report_ns_) report(now_ns);
    const MergeEngine::Progress progress = engine_.step(now_ns);
    if (progress == MergeEngine::Progress::kWorked) {
      worked_ns = now_ns;
    } else if (progress == MergeEngine::Progress::kStalled) {
      std::this_thread::sleep_for(kStallNap);
    } else if (now_ns - worked_ns < static_cast<std::uint64_t>(options_.spin_time.count())) {
      os::relax();
    } else {
      sleep();
    }
  }
  return engine_.is_current();
}

void Service::reconfigure(const ServiceOptions& options) {
  manager_.reloading();
  engine_.set_options(options.merge);
  options_.spin_time = options.spin_time;
  options_.remove_at_exit = options.remove_at_exit;
  warn_of_what_is_kept(owner_.geometry(), options.files);
  manager_.ready(status(os::now_ns()));
}

void Service::finish() {
  manager_.stopping();
  drain();
  event_log_.warn_of_suppressed();
  log_info("stopped at epoch {}: {} mutations applied", engine_.epoch(), engine_.applied_count());
  if (options_.remove_at_exit) remove_files();
}

// The watchdog is fed here and nowhere else: a loop that no longer gets around is one that hangs.
void Service::report(std::uint64_t now_ns) {
  event_log_.warn_of_suppressed();
  if (now_ns >= next_sign_of_life_ns_) {
    next_sign_of_life_ns_ = now_ns + manager_.interval_ns();
    manager_.alive(status(now_ns));
  }
  next_report_ns_ = std::min(next_sign_of_life_ns_, now_ns + kReportIntervalNs);
}

std::string Service::status(std::uint64_t now_ns) {
  const std::uint64_t applied = engine_.applied_count();
  const auto passed_s = static_cast<double>(now_ns - std::exchange(reported_ns_, now_ns)) / 1e9;
  const auto rate = static_cast<double>(applied - std::exchange(reported_count_, applied)) / std::max(passed_s, 1e-3);
  return fmt::format("epoch {}, {} entries, {} rings, {:.0f} mutations/s", engine_.epoch(),
                     engine_.table().entry_count(), engine_.ring_count(), rate);
}

// A doorbell that is truncated, or that somebody plays with, costs no more than the rest of a sleep: 100 ms at most.
void Service::sleep() {
  const Shared<std::uint32_t>& wakes = owner_.doorbell().wakes;
  sleep_for_a_phase(owner_.sleep(), wakes, os::fence_all_processes, [&](std::uint32_t wakes_before, bool fenced) {
    const std::uint64_t now_ns = os::now_ns();
    const std::uint64_t deadline_ns = engine_.deadline_ns();
    if (engine_.has_work() || now_ns >= deadline_ns) return;
    const nanoseconds until(deadline_ns - now_ns);
    engine_.count_sleep();
    os::futex_wait(wakes.futex(), wakes_before, fenced ? until : std::min<nanoseconds>(until, kUnfencedSleepMax));
  });
}

void Service::drain() {
  const std::uint64_t end_ns = os::now_ns() + static_cast<std::uint64_t>(nanoseconds(kDrainTimeMax).count());
  std::uint64_t now_ns = os::now_ns();
  for (; now_ns < end_ns; now_ns = os::now_ns()) {
    if (engine_.step(now_ns) == MergeEngine::Progress::kIdle && !engine_.has_work()) break;
  }
  if (now_ns >= end_ns) log_warning("stopped although rings are not empty; the next start goes on with them");
  engine_.write_statistics();
}

void Service::remove_files() {
  if (const std::error_code error = owner_.remove_files()) {
    log_warning("cannot remove {}: {}", owner_.path().string(), error.message());
  }
}

}  // namespace shmstate::merger
