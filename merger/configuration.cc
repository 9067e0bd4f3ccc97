#include "configuration.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <system_error>
#include <vector>

#include "check.h"
#include "configuration_file.h"
#include "files/control.h"
#include "files/os.h"
#include "files/ring_file.h"
#include "support/log.h"
#include "unit.h"

namespace shmstate::merger {
using namespace internal;
namespace {

constexpr auto kForNewInstances = "For new instances; an existing one keeps what it was made with";
constexpr auto kAtStart = "For new instances, and for existing ones at the next start";
constexpr auto kWhileRunning = "While it runs: changed in the configuration file, applied at SIGHUP";

constexpr std::uint64_t kBatchMax = std::uint64_t{1} << 30;

const std::map<std::string, std::uint64_t> kDurations{
    {"ns", 1}, {"us", 1'000}, {"ms", 1'000'000}, {"s", 1'000'000'000}};

/// The options as CLI11 reads them.
struct RawOptions {
  std::string instance;
  std::string file;
  std::string mode;
  std::string readers_group;
  std::string writers_group;
  bool only_check = false;
  std::uint64_t feed_bytes = std::uint64_t{4} << 20;
  std::uint64_t publish_interval_ns = 1'000'000;
  std::uint64_t pin_time_max_ns = 5'000'000'000;
  std::uint64_t spin_time_ns = 50'000;
  std::uint64_t tombstone_time_ns = 60'000'000'000;
};

std::string refuse_negative(const std::string& value) { return value.starts_with('-') ? "must not be negative" : ""; }

// The last transformation that is added is the first one that CLI11 makes.
const CLI::Validator kNotNegative(refuse_negative, "", "");

/// What is no number is left to CLI11 to refuse.
std::uint64_t number_in(const std::string& text, std::uint64_t otherwise) {
  char* end = nullptr;
  errno = 0;
  const std::uint64_t number = std::strtoull(text.c_str(), &end, 0);
  return end != text.c_str() && *end == '\0' && errno == 0 ? number : otherwise;
}

std::string refuse_odd_feed(const std::string& bytes) {
  const std::uint64_t size = std::stoull(bytes, nullptr, 0);
  return std::has_single_bit(size) && size >= kFeedRecordsMin * sizeof(layout::FeedRecord)
             ? ""
             : "must be a power of two of at least 1k";
}

std::string refuse_little_memory(const std::string& bytes) {
  return std::stoull(bytes, nullptr, 0) >= layout::kBuffersMin * kBufferBytesMin
             ? ""
             : "must be at least 2 MiB for each buffer";
}

std::string refuse_little_rings(const std::string& bytes) {
  return number_in(bytes, kRingBytesMin) >= kRingBytesMin ? "" : "must be at least 64k: no ring is smaller";
}

std::string refuse_no_entries(const std::string& count) {
  return number_in(count, 1) != 0 ? "" : "0 would refuse every key; for no limit, leave the option out";
}

// The merger beats, and looks at its writers, between turns and spells of work; readers take a second without for a
// sign that it is gone.
std::string refuse_long(const std::string& duration_ns) {
  return number_in(duration_ns, 0) <= kDurations.at("s") ? "" : "must be at most 1s";
}

std::string refuse_short_pins(const std::string& duration_ns) {
  const std::uint64_t duration = number_in(duration_ns, 0);
  return duration == 0 || duration >= kDurations.at("ms") ? ""
                                                          : "must be at least 1ms, or 0s for ever: shorter, no reader "
                                                            "could keep a snapshot";
}

CLI::Option* add_duration(CLI::App& app, const std::string& name, std::uint64_t& duration_ns,
                          const std::string& default_text, const std::string& meaning) {
  return app.add_option(name, duration_ns, meaning)
      ->transform(CLI::AsNumberWithUnit(kDurations, CLI::AsNumberWithUnit::UNIT_REQUIRED, "DURATION"))
      ->transform(kNotNegative)
      ->default_str(default_text)
      ->group(kWhileRunning);
}

void add_general(CLI::App& app, RawOptions& raw, const char* default_file) {
  app.add_option("-i,--instance", raw.instance, "Name of the instance, or path of its directory")
      ->envname("SHMSTATE_INSTANCE")
      ->required()
      ->configurable(false);
  app.set_config(
      "--config", default_file,
      "File with these options, as in \"memory-limit = 512m\"; $SHMSTATE_CONFIG names one that may be missing");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.add_flag("--check", raw.only_check,
               "Only check options, file and unit: 0 when a start with them could serve, 2 when not")
      ->configurable(false);
  app.set_version_flag("--version", std::string("shmstate-merger ") + SHMSTATE_VERSION);
}

void add_fixed(CLI::App& app, RawOptions& raw, InstanceOptions& files) {
  const auto size = CLI::AsSizeValue(false);
  app.add_option("--buffers", files.buffer_count, "Replicas of the state, 2 to 8")
      ->envname("SHMSTATE_BUFFERS")
      ->check(CLI::Range(layout::kBuffersMin, layout::kBuffersMax))
      ->capture_default_str()
      ->group(kForNewInstances);
  app.add_option("--memory-limit", files.memory_limit_bytes,
                 "Memory of all buffers together, e.g. 512m; default: three quarters of the file system, at most 8g")
      ->envname("SHMSTATE_MEMORY_LIMIT")
      ->transform(size)
      ->transform(kNotNegative)
      ->check(refuse_little_memory, "")
      ->group(kForNewInstances);
  app.add_option("--max-rings", files.ring_count_max, "Rings served at once, 1 to 4096")
      ->envname("SHMSTATE_MAX_RINGS")
      ->check(CLI::Range(1U, layout::kRingsMax))
      ->capture_default_str()
      ->group(kForNewInstances);
  app.add_option("--feed-bytes", raw.feed_bytes, "Size of the change feed, a power of two")
      ->envname("SHMSTATE_FEED_BYTES")
      ->transform(size)
      ->transform(kNotNegative)
      ->check(refuse_odd_feed, "")
      ->capture_default_str()
      ->group(kForNewInstances);
}

void add_permissions(CLI::App& app, RawOptions& raw) {
  app.add_option("--mode", raw.mode, "Mode of the instance's directory: 0700 for its user only, 0750 for its groups")
      ->envname("SHMSTATE_MODE")
      ->check(CLI::IsMember({"0700", "0750", "0755"}))
      ->default_str("as it is, 0750 if new")
      ->group(kAtStart);
  app.add_option("--readers-group", raw.readers_group, "Group that may read")
      ->envname("SHMSTATE_READERS_GROUP")
      ->default_str("as it is, the merger's own if new")
      ->group(kAtStart);
  app.add_option("--writers-group", raw.writers_group, "Group that may write; its members must be readers, too")
      ->envname("SHMSTATE_WRITERS_GROUP")
      ->default_str("as it is, the merger's own if new")
      ->group(kAtStart);
}

void add_changeable(CLI::App& app, RawOptions& raw, Configuration& configuration) {
  add_duration(app, "--publish-interval", raw.publish_interval_ns, "1ms",
               "How long rings are drained before what was taken is published, at most 1s")
      ->envname("SHMSTATE_PUBLISH_INTERVAL")
      ->check(refuse_long, "");
  add_duration(app, "--pin-time-max", raw.pin_time_max_ns, "5s",
               "How long pins may hold up a publish before a buffer is taken back; 0s: for ever")
      ->envname("SHMSTATE_PIN_TIME_MAX")
      ->check(refuse_short_pins, "");
  add_duration(app, "--spin-time", raw.spin_time_ns, "50us", "How long to look for work before sleeping, at most 1s")
      ->envname("SHMSTATE_SPIN_TIME")
      ->check(refuse_long, "");
  add_duration(app, "--tombstone-time", raw.tombstone_time_ns, "60s",
               "How long the version of an erased key is remembered")
      ->envname("SHMSTATE_TOMBSTONE_TIME");
  app.add_option("--max-entries", configuration.service.merge.entries_max, "Entries and tombstones of the instance")
      ->envname("SHMSTATE_MAX_ENTRIES")
      ->transform(kNotNegative)
      ->check(refuse_no_entries, "")
      ->default_str("unlimited")
      ->group(kWhileRunning);
  app.add_option("--max-ring-bytes", configuration.service.merge.ring_bytes_max, "Larger rings are refused")
      ->envname("SHMSTATE_MAX_RING_BYTES")
      ->transform(CLI::AsSizeValue(false))
      ->transform(kNotNegative)
      ->check(refuse_little_rings, "")
      ->default_str("1g")
      ->group(kWhileRunning);
  app.add_option("--batch-max", configuration.service.merge.batch_max,
                 "Mutations in a batch, which all other writers wait for; larger ones are refused")
      ->envname("SHMSTATE_BATCH_MAX")
      ->transform(kNotNegative)
      ->check(CLI::Range(std::uint64_t{1}, kBatchMax))
      ->capture_default_str()
      ->group(kWhileRunning);
  app.add_flag("--remove-at-exit", configuration.service.remove_at_exit,
               "Remove the instance's directory when ending normally")
      ->group(kWhileRunning);
  app.add_option("--log-level", configuration.log_level, "trace, debug, info, warn, error or off")
      ->envname("SHMSTATE_LOG_LEVEL")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->capture_default_str()
      ->group(kWhileRunning);
}

void apply(const RawOptions& raw, ServiceOptions& service) {
  service.instance = instance_path(raw.instance);
  if (!raw.mode.empty()) service.files.directory_mode = static_cast<unsigned>(std::stoul(raw.mode, nullptr, 8));
  if (!raw.readers_group.empty()) service.files.readers_group = os::group_id(raw.readers_group);
  if (!raw.writers_group.empty()) service.files.writers_group = os::group_id(raw.writers_group);
  service.files.feed_record_count = raw.feed_bytes / sizeof(layout::FeedRecord);
  service.merge.publish_interval = std::chrono::nanoseconds(raw.publish_interval_ns);
  service.merge.pin_time_max = std::chrono::nanoseconds(raw.pin_time_max_ns);
  service.merge.tombstone_time = std::chrono::nanoseconds(raw.tombstone_time_ns);
  service.spin_time = std::chrono::nanoseconds(raw.spin_time_ns);
}

std::map<std::string, std::string> options_at_start(const CLI::App& app) {
  std::map<std::string, std::string> found;
  for (const CLI::Option* const option : app.get_options()) {
    if (option->get_group() != kAtStart) continue;
    found[option->get_name()] = option->empty() ? option->get_default_str() : option->as<std::string>();
  }
  return found;
}

/// CLI11 takes no notice of a default file that it cannot read. Throws `Error`, unless it was read or is missing: one
/// that cannot be read now is another matter than one that the merger's user may not read.
void refuse_unread(const char* path, const ConfigurationFile& file) {
  if (*path == '\0' || file.was_read()) return;
  const os::Fd unread = os::open_file(path, O_RDONLY);
  char first = 0;
  const bool is_readable = unread.is_open() && ::read(unread.get(), &first, sizeof first) >= 0;
  const int error_number = is_readable ? EAGAIN : errno;
  if (os::is_absence(error_number)) return;
  const bool is_closed = error_number == EACCES || error_number == EPERM || error_number == EISDIR;
  throw Error(is_closed ? Status::kInvalidArgument : Status::kSystem,
              fmt::format("shmstate: cannot read {}: {}; the merger's user must be allowed to", path,
                          std::generic_category().message(error_number)));
}

/// For --check: what the unit will tell the merger is what counts, not what this shell has.
void adopt_environment(const Unit& unit) {
  std::vector<std::string> ours;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string_view text = *variable;
    if (text.starts_with("SHMSTATE_")) ours.emplace_back(text.substr(0, text.find('=')));
  }
  for (const std::string& name : ours) {
    if (name != "SHMSTATE_INSTANCE") ::unsetenv(name.c_str());
  }
  for (const auto& [name, value] : unit.environment) ::setenv(name.c_str(), value.c_str(), 1);
}

bool is_on_command_line(const std::string& option, int argc, char** argv) {
  return std::any_of(argv + 1, argv + argc, [&](std::string_view word) { return word.starts_with(option); });
}

/// Where the value was given that a message of CLI11 is about; empty for one on the command line.
std::string place_of(std::string_view message, const CLI::App& app, const ConfigurationFile& file, int argc,
                     char** argv) {
  for (const CLI::Option* const option : app.get_options()) {
    const std::string& name = option->get_name();
    if (message.find(name) == std::string_view::npos || is_on_command_line(name, argc, argv)) continue;
    if (const auto place = file.place_of(*option)) return *place + ": ";
    if (std::getenv(option->get_envname().c_str()) != nullptr) return "$" + option->get_envname() + ": ";
  }
  return "";
}

std::optional<int> read_options(int argc, char** argv, Configuration& configuration, RawOptions& raw) {
  CLI::App app{
      "Serves one shmstate instance: merges what writers push and publishes snapshots for readers.\n"
      "Ends on SIGTERM or SIGINT with everything published; a later start resumes the same state."};
  const char* const named_file = std::getenv("SHMSTATE_CONFIG");
  const char* const default_file = named_file != nullptr ? named_file : "";
  const auto file = std::make_shared<ConfigurationFile>(app);
  app.config_formatter(file);
  add_general(app, raw, default_file);
  add_fixed(app, raw, configuration.service.files);
  add_permissions(app, raw);
  add_changeable(app, raw, configuration);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    const std::string place = place_of(error.what(), app, *file, argc, argv);
    print_error(fmt::format("shmstate: {}{}; see shmstate-merger --help", place, error.what()));
    return kExitUsage;
  }
  raw.file = app.get_config_ptr()->as<std::string>();
  refuse_unread(default_file, *file);
  apply(raw, configuration.service);
  check_options(configuration.service.files);
  configuration.at_start = options_at_start(app);
  return std::nullopt;
}

/// With what the unit sets, if there is one: it serves this instance, whatever the name led to here.
int check(int argc, char** argv, const Configuration& configuration, const RawOptions& raw) {
  const std::optional<Unit> unit = find_unit(configuration.service.instance, raw.file);
  if (!unit) {
    check_start(configuration.service, unit);
    return EXIT_SUCCESS;
  }
  adopt_environment(*unit);
  try {
    Configuration of_unit;
    RawOptions raw_of_unit;
    if (const auto status = read_options(argc, argv, of_unit, raw_of_unit)) return *status;
    of_unit.service.instance = "/run/shmstate/" + unit->name;
    check_start(of_unit.service, unit);
    return EXIT_SUCCESS;
  } catch (const Error& error) {
    throw Error(error.status(), fmt::format("{} (with what {} sets)", error.what(), unit->file.string()));
  }
}

}  // namespace

std::optional<int> read_configuration(int argc, char** argv, Configuration& configuration) {
  RawOptions raw;
  if (const auto status = read_options(argc, argv, configuration, raw)) return status;
  if (raw.only_check) return check(argc, argv, configuration, raw);
  return std::nullopt;
}

}  // namespace shmstate::merger
