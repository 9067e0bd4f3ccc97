#include "configuration.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <bit>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "check.h"
#include "configuration_file.h"
#include "files/control.h"
#include "files/os.h"
#include "files/ring_file.h"
#include "support/log.h"
#include "support/units.h"
#include "unit.h"

namespace shmstate::merger {
using namespace internal;
namespace {

constexpr auto kForNewInstances = "For new instances; an existing one keeps what it was made with";
constexpr auto kAtStart = "For new instances, and for existing ones at the next start";
constexpr auto kWhileRunning = "While it runs: changed in the configuration file, applied at SIGHUP";

using std::chrono::nanoseconds;

/// What is given as text, and becomes something else in `apply`.
struct RawOptions {
  std::string instance;
  std::string file;
  std::string mode;
  std::string readers_group;
  std::string writers_group;
  std::string pins = "announced";
  bool only_check = false;
  std::uint64_t feed_bytes = InstanceOptions{}.feed_record_count * sizeof(layout::FeedRecord);
};

// ---- limits: why a value is refused, or nothing

std::string any_duration(nanoseconds /*duration*/) { return ""; }

std::string odd_feed(std::uint64_t bytes) {
  return std::has_single_bit(bytes) && bytes >= kFeedRecordsMin * sizeof(layout::FeedRecord)
             ? ""
             : "must be a power of two of at least 1k";
}

std::string little_memory(std::uint64_t bytes) {
  return bytes >= layout::kBuffersMin * kBufferBytesMin ? "" : "must be at least 2 MiB for each buffer";
}

std::string little_ring(std::uint64_t bytes) {
  return bytes >= kRingBytesMin ? "" : "must be at least 64k: no ring is smaller";
}

// The merger beats, and looks at its writers, between turns and spells of work; readers take a second without for a
// sign that it is gone.
std::string long_duration(nanoseconds duration) {
  return duration <= std::chrono::seconds(1) ? "" : "must be at most 1s";
}

std::string short_pin(nanoseconds duration) {
  const bool is_kept = duration == nanoseconds::zero() || duration >= std::chrono::milliseconds(1);
  return is_kept ? "" : "must be at least 1ms, or 0s for ever: shorter, no reader could keep a snapshot";
}

std::string negative(const std::string& text) { return text.starts_with('-') ? "must not be negative" : ""; }

/// What is not a number is left to CLI11 to refuse.
std::string no_entries(const std::string& text) {
  const bool is_zero = text.starts_with('0') && std::strtoull(text.c_str(), nullptr, 0) == 0;
  return is_zero ? "0 would refuse every key; for no limit, leave the option out" : "";
}

// ---- fields: how the text of an option becomes a value

using Field = std::function<CLI::Option*(CLI::App& app, const std::string& name)>;

Field duration(nanoseconds& target, std::string (*refusal)(nanoseconds)) {
  return [&target, refusal](CLI::App& app, const std::string& name) {
    const auto assign = [&target, refusal, name](const std::string& text) {
      const auto value = parse_duration(text);
      const std::string why = value ? refusal(*value) : duration_problem(text);
      if (!why.empty()) throw CLI::ValidationError(name, why);
      target = *value;
    };
    return app.add_option_function<std::string>(name, assign)
        ->type_name("DURATION")
        ->default_str(duration_text(target));
  };
}

Field size(std::uint64_t& target, std::string (*refusal)(std::uint64_t)) {
  return [&target, refusal](CLI::App& app, const std::string& name) {
    const auto assign = [&target, refusal, name](const std::string& text) {
      const auto value = parse_size(text);
      const std::string why = value ? refusal(*value) : size_problem(text);
      if (!why.empty()) throw CLI::ValidationError(name, why);
      target = *value;
    };
    return app.add_option_function<std::string>(name, assign)->type_name("SIZE")->default_str(size_text(target));
  };
}

template <class Number>
Field number(Number& target, const CLI::Validator& limits) {
  return [&target, limits](CLI::App& app, const std::string& name) {
    // The last transformation that is added is the first one that CLI11 makes.
    return app.add_option(name, target)
        ->check(limits)
        ->transform(CLI::Validator(negative, "", ""))
        ->capture_default_str();
  };
}

Field word(std::string& target) {
  return [&target](CLI::App& app, const std::string& name) { return app.add_option(name, target); };
}

Field one_of(std::string& target, std::vector<std::string> words) {
  return [&target, words = std::move(words)](CLI::App& app, const std::string& name) {
    return app.add_option(name, target)->check(CLI::IsMember(words))->capture_default_str();
  };
}

Field flag(bool& target) {
  return [&target](CLI::App& app, const std::string& name) { return app.add_flag(name, target); };
}

// ---- the table

struct Row {
  const char* name;
  Field field;
  const char* default_text;  // empty: the value that the field has
  const char* meaning;
};

/// In the environment: SHMSTATE_ and the name, without dashes.
std::string variable_of(std::string_view option) {
  std::string variable = "SHMSTATE_";
  for (const char c : option.substr(2)) {
    variable += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return variable;
}

void add(CLI::App& app, const char* group, const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    CLI::Option* const option = row.field(app, row.name)->description(row.meaning)->group(group);
    if (*row.default_text != '\0') option->default_str(row.default_text);
    if (option->get_items_expected_max() > 0) option->envname(variable_of(row.name));  // no flag
  }
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
  add(app, kForNewInstances,
      {{"--buffers", number(files.buffer_count, CLI::Range(layout::kBuffersMin, layout::kBuffersMax)), "",
        "Replicas of the state, 2 to 8"},
       {"--memory-limit", size(files.memory_limit_bytes, little_memory),
        "three quarters of the file system, at most 8g", "Memory of all buffers together, e.g. 512m"},
       {"--max-rings", number(files.ring_count_max, CLI::Range(1U, layout::kRingsMax)), "",
        "Rings served at once, 1 to 4096"},
       {"--pins", one_of(raw.pins, {"announced", "ask"}), "",
        "How the merger learns of readers' pins: announced needs write access to one word, ask costs a call each turn"},
       {"--feed-bytes", size(raw.feed_bytes, odd_feed), "", "Size of the change feed, a power of two"}});
}

void add_permissions(CLI::App& app, RawOptions& raw) {
  constexpr auto kKept = "as it is, the merger's own if new";
  add(app, kAtStart,
      {{"--mode", one_of(raw.mode, {"0700", "0750", "0755"}), "as it is, 0750 if new",
        "Mode of the instance's directory: 0700 for its user only, 0750 for its groups"},
       {"--readers-group", word(raw.readers_group), kKept, "Group that may read"},
       {"--writers-group", word(raw.writers_group), kKept, "Group that may write; its members must be readers, too"}});
}

void add_changeable(CLI::App& app, Configuration& configuration) {
  constexpr std::uint64_t kBatchMax = std::uint64_t{1} << 30;
  MergeOptions& merge = configuration.service.merge;
  add(app, kWhileRunning,
      {{"--publish-interval", duration(merge.publish_interval, long_duration), "",
        "How long rings are drained before what was taken is published, at most 1s"},
       {"--pin-time-max", duration(merge.pin_time_max, short_pin), "",
        "How long pins may hold up a publish before a buffer is reclaimed; 0s: for ever"},
       {"--spin-time", duration(configuration.service.spin_time, long_duration), "",
        "How long to look for work before sleeping, at most 1s"},
       {"--tombstone-time", duration(merge.tombstone_time, any_duration), "",
        "How long the version of an erased key is remembered"},
       {"--max-entries", number(merge.entries_max, CLI::Validator(no_entries, "", "")), "unlimited",
        "Entries and tombstones of the instance"},
       {"--max-ring-bytes", size(merge.ring_bytes_max, little_ring), "", "Larger rings are refused"},
       {"--batch-max", number(merge.batch_max, CLI::Range(std::uint64_t{1}, kBatchMax)), "",
        "Mutations in a batch, which all other writers wait for; larger ones are refused"},
       {"--remove-at-exit", flag(configuration.service.remove_at_exit), "",
        "Remove the instance's directory when ending normally"},
       {"--log-level", one_of(configuration.log_level, {"trace", "debug", "info", "warn", "error", "off"}), "",
        "trace, debug, info, warn, error or off"}});
}

void apply(const RawOptions& raw, ServiceOptions& service) {
  service.instance = instance_path(raw.instance);
  if (!raw.mode.empty()) service.files.directory_mode = static_cast<unsigned>(std::stoul(raw.mode, nullptr, 8));
  if (!raw.readers_group.empty()) service.files.readers_group = os::group_id(raw.readers_group);
  if (!raw.writers_group.empty()) service.files.writers_group = os::group_id(raw.writers_group);
  service.files.has_announced_pins = raw.pins == "announced";
  service.files.feed_record_count = raw.feed_bytes / sizeof(layout::FeedRecord);
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
  add_changeable(app, configuration);
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
