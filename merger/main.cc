#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <map>
#include <string>

#include "core/instance.h"
#include "core/os.h"
#include "service.h"

namespace {

std::atomic<bool> stop{false};

void on_signal(int) { stop.store(true, std::memory_order_relaxed); }

void handle_signals() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

struct Arguments {
  std::string instance;
  std::string log_level = "info";
  std::string mode;
  std::string readers_group;
  std::string writers_group;
  std::uint64_t publish_interval_ns = 1'000'000;
  std::uint64_t pin_time_max_ns = 5'000'000'000;
  std::uint64_t spin_time_ns = 50'000;
  std::uint64_t tombstone_time_ns = 60'000'000'000;
  std::uint64_t feed_bytes = std::uint64_t{4} << 20;
  shmstate::ServiceOptions service;
};

const std::map<std::string, std::uint64_t> kDurations{
    {"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}};

void add_options(CLI::App& app, Arguments& a) {
  const auto duration = CLI::AsNumberWithUnit(kDurations, CLI::AsNumberWithUnit::UNIT_REQUIRED, "DURATION");
  const auto size = CLI::AsSizeValue(false);
  app.add_option("-i,--instance", a.instance, "Name of the instance, or path of its directory")
      ->envname("SHMSTATE_INSTANCE")
      ->required();
  app.add_option("--buffers", a.service.files.buffer_count, "Replicas of the state, 2 to 8 (new instances)")
      ->envname("SHMSTATE_BUFFERS")
      ->capture_default_str();
  app.add_option(
         "--memory-limit", a.service.files.memory_limit_bytes,
         "Memory of all buffers together, e.g. 512m; default: the file system's size, at most 8g (new instances)")
      ->envname("SHMSTATE_MEMORY_LIMIT")
      ->transform(size);
  app.add_option("--max-rings", a.service.files.ring_count_max, "Rings served at once, 1 to 4096 (new instances)")
      ->envname("SHMSTATE_MAX_RINGS")
      ->capture_default_str();
  app.add_option("--feed-bytes", a.feed_bytes, "Size of the change feed, a power of two (new instances)")
      ->envname("SHMSTATE_FEED_BYTES")
      ->transform(size)
      ->capture_default_str();
  app.add_option("--mode", a.mode, "Mode of the instance's directory: 0700 for its user only, 0750 for its groups")
      ->envname("SHMSTATE_MODE")
      ->check(CLI::IsMember({"0700", "0750", "0755"}))
      ->default_str("as it is, 0750 if new");
  app.add_option("--readers-group", a.readers_group, "Group that may read")
      ->envname("SHMSTATE_READERS_GROUP")
      ->default_str("as it is, the merger's own if new");
  app.add_option("--writers-group", a.writers_group, "Group that may write; its members must be readers, too")
      ->envname("SHMSTATE_WRITERS_GROUP")
      ->default_str("as it is, the merger's own if new");
  app.add_option("--publish-interval", a.publish_interval_ns,
                 "How long rings are drained before what was taken is published")
      ->envname("SHMSTATE_PUBLISH_INTERVAL")
      ->transform(duration)
      ->default_str("1ms");
  app.add_option("--pin-time-max", a.pin_time_max_ns,
                 "How long pins may hold up a publish before a buffer is taken back; 0s: for ever")
      ->envname("SHMSTATE_PIN_TIME_MAX")
      ->transform(duration)
      ->default_str("5s");
  app.add_option("--spin-time", a.spin_time_ns, "How long to look for work before sleeping")
      ->envname("SHMSTATE_SPIN_TIME")
      ->transform(duration)
      ->default_str("50us");
  app.add_option("--max-entries", a.service.merge.entries_max, "Entries and tombstones of the instance")
      ->envname("SHMSTATE_MAX_ENTRIES")
      ->default_str("unlimited");
  app.add_option("--max-ring-bytes", a.service.merge.ring_bytes_max, "Larger rings are refused")
      ->envname("SHMSTATE_MAX_RING_BYTES")
      ->transform(size)
      ->default_str("1g");
  app.add_option("--tombstone-time", a.tombstone_time_ns, "How long the version of an erased key is remembered")
      ->envname("SHMSTATE_TOMBSTONE_TIME")
      ->transform(duration)
      ->default_str("60s");
  app.add_flag("--remove-at-exit", a.service.remove_at_exit, "Remove the instance's directory when ending normally");
  app.add_option("--log-level", a.log_level, "trace, debug, info, warn, error or off")
      ->envname("SHMSTATE_LOG_LEVEL")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
}

shmstate::ServiceOptions service_options(Arguments& a) {
  a.service.instance = shmstate::instance_path(a.instance);
  if (!a.mode.empty()) a.service.files.directory_mode = static_cast<unsigned>(std::stoul(a.mode, nullptr, 8));
  if (!a.readers_group.empty()) a.service.files.readers_group = shmstate::os::group_id(a.readers_group);
  if (!a.writers_group.empty()) a.service.files.writers_group = shmstate::os::group_id(a.writers_group);
  a.service.files.feed_record_count = a.feed_bytes / sizeof(shmstate::layout::FeedRecord);
  a.service.merge.publish_interval = std::chrono::nanoseconds(a.publish_interval_ns);
  a.service.merge.pin_time_max = std::chrono::nanoseconds(a.pin_time_max_ns);
  a.service.merge.tombstone_time = std::chrono::nanoseconds(a.tombstone_time_ns);
  a.service.spin_time = std::chrono::nanoseconds(a.spin_time_ns);
  return a.service;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Serves one shmstate instance: merges what writers push and publishes snapshots for readers.\n"
      "Ends on SIGTERM or SIGINT with everything published; a later start resumes the same state."};
  Arguments arguments;
  add_options(app, arguments);
  CLI11_PARSE(app, argc, argv);
  spdlog::set_default_logger(spdlog::stderr_color_mt("shmstate-merger"));
  spdlog::set_level(spdlog::level::from_str(arguments.log_level));
  try {
    handle_signals();
    shmstate::Service service(service_options(arguments));
    return service.run(stop) ? 0 : 1;
  } catch (const shmstate::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.status() == shmstate::Status::kAlreadyRunning ? 3 : 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "shmstate: {}\n", error.what());
    return 1;
  }
}
