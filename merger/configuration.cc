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
#include <istream>
#include <memory>
#include <sstream>
#include <string_view>
#include <system_error>
#include <vector>

#include "core/instance.h"
#include "core/os.h"
#include "log/log.h"

namespace shmstate {
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

/// The configuration file: its options are taken line by line, so that a mistake is told with its place.
class ConfigurationFile final : public CLI::ConfigBase {
 public:
  explicit ConfigurationFile(const CLI::App& app) : app_(app) {}

  [[nodiscard]] std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> all;
    std::string line;
    for (int number = 1; std::getline(input, line); ++number) {
      std::istringstream one_line(line);
      for (CLI::ConfigItem& item : ConfigBase::from_config(one_line)) {
        take(item, number);
        all.push_back(std::move(item));
      }
    }
    return all;
  }

  /// The line that gives an option, as in "/etc/shmstate/plant.conf:2".
  [[nodiscard]] std::optional<std::string> place_of(const CLI::Option& option) const {
    const auto found = lines_.find(option.get_name());
    if (found == lines_.end()) return std::nullopt;
    return place(found->second);
  }

 private:
  [[nodiscard]] std::string place(int line) const {
    return fmt::format("{}:{}", app_.get_config_ptr()->as<std::string>(), line);
  }
  void take(const CLI::ConfigItem& item, int line) const {
    const auto refuse = [&](const std::string& why) { throw CLI::ConfigError(place(line) + ": " + why); };
    if (item.name == "++") refuse("there are no sections");
    const CLI::Option* const option = app_.get_option_no_throw("--" + item.fullname());
    if (option == nullptr) return refuse("unknown option \"" + item.fullname() + '"');
    if (!option->get_configurable()) refuse('"' + item.name + "\" cannot be given in a file");
    if (const auto [first, is_new] = lines_.emplace(option->get_name(), line); !is_new) {
      refuse('"' + item.name + "\" is given twice, in line " + std::to_string(first->second) + ", too");
    }
  }

  const CLI::App& app_;
  mutable std::map<std::string, int> lines_;  // by option: CLI11 only reads
};

std::string refuse_negative(const std::string& value) { return value.starts_with('-') ? "must not be negative" : ""; }

// The last transformation that is added is the first one that CLI11 makes.
const CLI::Validator kNotNegative(refuse_negative, "", "");

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
  app.add_flag("--check", raw.only_check, "Only check the options and the file: 0 when they make sense, 2 when not")
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
               "How long rings are drained before what was taken is published")
      ->envname("SHMSTATE_PUBLISH_INTERVAL");
  add_duration(app, "--pin-time-max", raw.pin_time_max_ns, "5s",
               "How long pins may hold up a publish before a buffer is taken back; 0s: for ever")
      ->envname("SHMSTATE_PIN_TIME_MAX");
  add_duration(app, "--spin-time", raw.spin_time_ns, "50us", "How long to look for work before sleeping")
      ->envname("SHMSTATE_SPIN_TIME");
  add_duration(app, "--tombstone-time", raw.tombstone_time_ns, "60s",
               "How long the version of an erased key is remembered")
      ->envname("SHMSTATE_TOMBSTONE_TIME");
  app.add_option("--max-entries", configuration.service.merge.entries_max, "Entries and tombstones of the instance")
      ->envname("SHMSTATE_MAX_ENTRIES")
      ->transform(kNotNegative)
      ->default_str("unlimited")
      ->group(kWhileRunning);
  app.add_option("--max-ring-bytes", configuration.service.merge.ring_bytes_max, "Larger rings are refused")
      ->envname("SHMSTATE_MAX_RING_BYTES")
      ->transform(CLI::AsSizeValue(false))
      ->transform(kNotNegative)
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

/// CLI11 takes no notice of a default file that it cannot read. Returns why not; empty if it can be read, or is
/// missing.
std::string why_unreadable(const char* path) {
  const os::Fd file = os::open_file(path, O_RDONLY);
  char first = 0;
  if (file.is_open() && ::read(file.get(), &first, sizeof first) >= 0) return "";
  return errno == ENOENT || errno == ENOTDIR ? "" : std::generic_category().message(errno);
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

}  // namespace

std::optional<int> read_configuration(int argc, char** argv, Configuration& configuration) {
  CLI::App app{
      "Serves one shmstate instance: merges what writers push and publishes snapshots for readers.\n"
      "Ends on SIGTERM or SIGINT with everything published; a later start resumes the same state."};
  const char* const named_file = std::getenv("SHMSTATE_CONFIG");
  const char* const default_file = named_file != nullptr ? named_file : "";
  const auto file = std::make_shared<ConfigurationFile>(app);
  app.config_formatter(file);
  RawOptions raw;
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
  if (const std::string reason = why_unreadable(default_file); !reason.empty()) {
    print_error(
        fmt::format("shmstate: cannot read {}: {}; the merger's user must be allowed to", default_file, reason));
    return kExitUsage;
  }
  apply(raw, configuration.service);
  check_options(configuration.service.files);
  if (raw.only_check) return EXIT_SUCCESS;
  configuration.at_start = options_at_start(app);
  return std::nullopt;
}

}  // namespace shmstate
