#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "commands/commands.h"
#include "commands/known_keys.h"
#include "instance.h"
#include "interrupt.h"
#include "shmstate/watch.h"
#include "show/change_text.h"
#include "show/output.h"
#include "show/text.h"

namespace shmstate::ctl {

namespace {

using std::chrono::nanoseconds;
using Clock = std::chrono::steady_clock;

constexpr nanoseconds kSlice = std::chrono::milliseconds(50);  // how late an interrupt may be noticed

void sleep_until(Clock::time_point deadline) {
  while (!is_interrupted() && !is_reader_gone() && Clock::now() < deadline)
    std::this_thread::sleep_for(std::min<nanoseconds>(kSlice, deadline - Clock::now()));
}

class Session {
 public:
  Session(const Options& options, const std::string& instance)
      : options_(options),
        reader_(open_reader(instance)),
        watch_(instance, options.prefix, reader_options()),
        known_keys_(options.initial) {}

  void run() {
    while (!is_done() && !is_reader_gone()) {
      const auto look = Clock::now();
      print(known_keys_.changes_of(watch_.next(kSlice)));
      report_merger();
      sleep_until(look + options_.interval);
    }
  }

 private:
  [[nodiscard]] bool is_done() const { return is_interrupted() || (options_.limit && printed_ == *options_.limit); }

  void print(const std::vector<Change>& changes) {
    std::string text;
    for (const Change& change : changes) {
      if (is_done()) break;
      text += options_.json ? json_line(json_of(change)) : change_text(change);
      ++printed_;
    }
    ctl::print(text);
  }

  void report_merger() {
    const bool running = reader_.status().merger_running;
    if (running == merger_running_) return;
    merger_running_ = running;
    if (running) {
      report(fmt::format("instance {}: a merger is running again", in_quotes(reader_.path())));
    } else {
      report_absence();
    }
  }

  // A merger with --remove-at-exit takes the instance with it; what the next one makes is watched.
  void report_absence() const {
    try {
      report_silent_merger(look_at(reader_.path()));
    } catch (const Error& error) {
      report(error.what());
    }
  }

  const Options& options_;
  Reader reader_;
  Watch watch_;
  KnownKeys known_keys_;
  std::uint64_t printed_ = 0;
  bool merger_running_ = true;
};

}  // namespace

ExitCode run_watch(const Options& options) {
  end_on_interrupt();
  try {
    Session(options, resolve_instance(options.instance)).run();
  } catch (const OutputError& error) {
    if (!error.is_reader_gone()) throw;
  }
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
