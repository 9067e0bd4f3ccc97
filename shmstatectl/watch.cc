#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <thread>

#include "shmstatectl/commands.h"
#include "shmstatectl/instance.h"
#include "shmstatectl/report.h"
#include "shmstatectl/stable_snapshot.h"
#include "shmstatectl/value_text.h"

namespace shmstate::ctl {

namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr nanoseconds kSlice = std::chrono::milliseconds(50);  // how late an interrupt may be noticed

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);

void end_on_interrupt() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupted.store(true, std::memory_order_relaxed); };
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool is_interrupted() { return interrupted.load(std::memory_order_relaxed); }

void sleep_until(Clock::time_point deadline) {
  while (!is_interrupted() && Clock::now() < deadline)
    std::this_thread::sleep_for(std::min<nanoseconds>(kSlice, deadline - Clock::now()));
}

class Watch {
 public:
  explicit Watch(const Options& options)
      : options_(options), reader_(open_reader(resolve_instance(options.instance))) {}

  void run() {
    while (!is_done()) {
      const auto look = Clock::now();
      print(changes());
      sleep_until(look + options_.interval);
      wait_for_news();
    }
  }

 private:
  [[nodiscard]] bool is_done() const { return is_interrupted() || (options_.limit && printed_ == *options_.limit); }

  std::vector<Change> changes() {
    std::vector<Change> found = with_stable_snapshot(reader_, [&](const Snapshot& snapshot) {
      seen_ = snapshot.epoch();
      return tracker_.compare({.epoch = seen_,
                               .scan = [&](const ChangeTracker::Visit& visit) { scan(snapshot, visit); },
                               .contains = [&](std::string_view key) { return snapshot.find(key).has_value(); }});
    });
    return tracker_.accept(seen_, std::move(found));
  }

  void scan(const Snapshot& snapshot, const ChangeTracker::Visit& visit) const {
    for (const EntryView& entry : snapshot) {
      if (entry.key.starts_with(options_.prefix)) visit(entry.key, entry.value, entry.changed_epoch);
    }
  }

  void print(const std::vector<Change>& changes) {
    for (const Change& change : changes) {
      if (is_done()) break;
      fmt::print("{}", options_.json ? json_line(json_of(change)) : change_text(change));
      ++printed_;
    }
    if (std::fflush(stdout) != 0) throw std::runtime_error("standard output cannot be written; look at where it goes");
  }

  void wait_for_news() {
    while (!is_done() && reader_.wait(seen_, kSlice) == seen_) report_merger();
  }

  void report_merger() {
    const bool running = reader_.merger_running();
    if (running == merger_running_) return;
    merger_running_ = running;
    if (running) {
      report(fmt::format("instance {}: a merger is running again", in_quotes(reader_.path())));
    } else {
      report_silent_merger(inspect(reader_.path()));
    }
  }

  const Options& options_;
  Reader reader_;
  ChangeTracker tracker_;
  Epoch seen_ = 0;
  std::uint64_t printed_ = 0;
  bool merger_running_ = true;
};

}  // namespace

ExitCode run_watch(const Options& options) {
  end_on_interrupt();
  Watch(options).run();
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
