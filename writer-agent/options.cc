#include "options.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <iostream>
#include <stdexcept>

#include "support/units.h"

namespace shmstate::agent {
namespace {

constexpr int kExitUsage = 2;
constexpr std::chrono::nanoseconds kDurationMax = std::chrono::seconds(1'000'000);
constexpr std::uint64_t kRingBytesMin = std::uint64_t{64} << 10;
constexpr std::uint64_t kRingBytesMax = std::uint64_t{1} << 30;
constexpr auto kSources = "Sources";
constexpr auto kLines = "Lines";
constexpr auto kLimits = "Limits";

constexpr auto kDescription =
    "Reads mutations as lines from many sources at once and pushes them into an instance of shmstate.\n"
    "\n"
    "  set KEY VALUE    KEY=VALUE          add KEY N          del KEY\n"
    "  begin ... commit (or abort)         flush              # comment\n"
    "\n"
    "Behind VALUE may stand ttl=5s, version=42 and, from a connection, ephemeral; behind the KEY of del, version=42.\n"
    "VALUE is an integer (12, -3), a float (1.5, 1e3), or text, which is anything else (007, 04.10, nan). set:s, "
    "set:i,\n"
    "set:f, add:i and add:f force the type. Keys and values with blanks, = or quotes go in double quotes, with\n"
    "\\n \\t \\r \\0 \\\\ \\\" \\xHH; what is quoted is text. The mutations between begin and commit become readable\n"
    "together or not at all; a bad line among them discards them all.\n"
    "flush waits until readers can see everything before it. A bad line is reported, counted and skipped.\n"
    "\n"
    "Without any source, and without sockets from systemd, it reads standard input.\n";

constexpr auto kFooter =
    "Durations take ns, us, ms, s, min or h (seconds without a unit); sizes take k, m or g, in powers of 1024.\n"
    "Exit status: 0 when all input has ended or after SIGTERM; 1 on a failure, and with --strict after any loss; 2 for "
    "a\n"
    "wrong command line.";

/// A validator that does not show in --help, where the type name says what is meant.
CLI::Validator unseen(CLI::Validator validator) { return validator.description(""); }

CLI::Option* add_duration(CLI::App& app, const std::string& name, std::chrono::nanoseconds& target,
                          const std::string& meaning) {
  const auto assign = [&target, name](const std::string& text) {
    const auto duration = parse_duration(text);
    if (!duration) throw CLI::ValidationError(name, duration_problem(text));
    if (*duration > kDurationMax) throw CLI::ValidationError(name, "must be at most " + duration_text(kDurationMax));
    target = *duration;
  };
  return app.add_option_function<std::string>(name, assign, meaning)
      ->type_name("DURATION")
      ->default_str(duration_text(target))
      ->group(kLimits);
}

CLI::Option* add_ring_size(CLI::App& app, std::size_t& target) {
  constexpr auto kName = "--ring-size";
  const auto assign = [&target](const std::string& text) {
    const auto bytes = parse_size(text);
    if (!bytes) throw CLI::ValidationError(kName, size_problem(text));
    if (*bytes < kRingBytesMin || *bytes > kRingBytesMax) throw CLI::ValidationError(kName, "must be 64k to 1g");
    target = *bytes;
  };
  return app.add_option_function<std::string>(kName, assign, "Bytes of the ring, and so the largest batch: 64k to 1g")
      ->type_name("SIZE")
      ->default_str(size_text(target))
      ->group(kLimits);
}

/// The command line as CLI11 reads it; `apply` turns it into options.
struct RawOptions {
  std::chrono::nanoseconds flush_timeout{};
  std::string socket_mode = "0660";
  std::string when_full = "block";
  std::vector<std::string> types;
  std::vector<std::string> defaults;
};

std::string check_octal_mode(const std::string& text) {
  const bool is_octal = !text.empty() && text.size() <= 4 && text.find_first_not_of("01234567") == std::string::npos;
  const bool is_mode = is_octal && std::stoul(text, nullptr, 8) <= 0777;
  return is_mode ? "" : "must be a file mode in octal, such as 0660";
}

void add_sources(CLI::App& app, Options& options, RawOptions& raw) {
  app.add_flag("--stdin", options.reads_stdin, "Read standard input, beside other sources")
      ->envname("SHMSTATE_AGENT_STDIN")
      ->group(kSources);
  app.add_option("--fifo", options.fifos, "Read a FIFO, created when missing; may be repeated")
      ->envname("SHMSTATE_AGENT_FIFO")
      ->type_name("PATH")
      ->allow_extra_args(false)
      ->group(kSources);
  app.add_option("--follow", options.files, "Read what is appended to a file, by name; may be repeated")
      ->envname("SHMSTATE_AGENT_FOLLOW")
      ->type_name("PATH")
      ->allow_extra_args(false)
      ->group(kSources);
  app.add_flag("--from-start", options.from_start, "Begin at the start of followed files, not at their end")
      ->envname("SHMSTATE_AGENT_FROM_START")
      ->group(kSources);
  app.add_option("--socket", options.socket, "Listen on a Unix stream socket at this path")
      ->envname("SHMSTATE_AGENT_SOCKET")
      ->type_name("PATH")
      ->group(kSources);
  app.add_option("--socket-mode", raw.socket_mode, "Mode of the socket file, in octal")
      ->envname("SHMSTATE_AGENT_SOCKET_MODE")
      ->type_name("OCTAL")
      ->check(check_octal_mode)
      ->capture_default_str()
      ->group(kSources);
  app.add_option("--connections-max", options.connections_max, "Connections at a time; more of them wait")
      ->envname("SHMSTATE_AGENT_CONNECTIONS_MAX")
      ->check(unseen(CLI::Range(std::size_t{1}, std::size_t{100000})))
      ->type_name("N")
      ->capture_default_str()
      ->group(kSources);
  app.add_flag("--ack", options.answers_lines,
               "Answer \"ok\" or \"error: ...\" to each line, or batch, of a connection")
      ->envname("SHMSTATE_AGENT_ACK")
      ->group(kSources);
}

void add_rules(CLI::App& app, RawOptions& raw) {
  app.add_option("--type", raw.types, "Take all values of keys with this prefix as float, integer or text; repeatable")
      ->envname("SHMSTATE_AGENT_TYPE")
      ->type_name("PREFIX=TYPE")
      ->allow_extra_args(false)
      ->group(kLines);
  app.add_option(
         "--defaults", raw.defaults,
         "What each set of a source gets unless its line says it: ttl=5s, version=42, ephemeral (connections),\n"
         "type=float, with commas; SOURCE is stdin, socket, all, or a path that was given; repeatable")
      ->envname("SHMSTATE_AGENT_DEFAULTS")
      ->type_name("SOURCE:WORDS")
      ->allow_extra_args(false)
      ->group(kLines);
}

void add_limits(CLI::App& app, Options& options, RawOptions& raw) {
  app.add_option("--when-full", raw.when_full, "When the ring is full: block, or fail at once")
      ->envname("SHMSTATE_AGENT_WHEN_FULL")
      ->check(unseen(CLI::IsMember({"block", "fail"})))
      ->type_name("block|fail")
      ->capture_default_str()
      ->group(kLimits);
  add_duration(app, "--full-timeout", options.writer.full_timeout, "How long a mutation may wait for room in the ring")
      ->envname("SHMSTATE_AGENT_FULL_TIMEOUT");
  add_duration(app, "--flush-timeout", raw.flush_timeout, "How long flush may wait, and the agent when it stops")
      ->envname("SHMSTATE_AGENT_FLUSH_TIMEOUT");
  add_duration(app, "--attach-timeout", options.writer.attach_timeout, "How long the instance may take to appear")
      ->envname("SHMSTATE_AGENT_ATTACH_TIMEOUT");
  add_ring_size(app, options.writer.ring_bytes)->envname("SHMSTATE_AGENT_RING_SIZE");
  app.add_flag("--strict", options.is_strict, "Exit with status 1 when any line, batch or mutation was lost")
      ->envname("SHMSTATE_AGENT_STRICT")
      ->group(kLimits);
}

void add_rest(CLI::App& app, Options& options) {
  app.add_option("-i,--instance,instance", options.instance, "Name of the instance, or the path of its directory")
      ->envname("SHMSTATE_INSTANCE")
      ->type_name("NAME");
  app.add_option("--name", options.writer.name, "Name of this writer in the status of the instance")
      ->envname("SHMSTATE_AGENT_NAME")
      ->type_name("NAME")
      ->capture_default_str();
  app.add_option("--log-level", options.log_level, "How much to tell on standard error")
      ->envname("SHMSTATE_LOG_LEVEL")
      ->check(unseen(CLI::IsMember({"debug", "info", "warn", "error", "off"})))
      ->type_name("debug|info|warn|error|off")
      ->capture_default_str();
  app.set_version_flag("--version", std::string("shmstate-writer-agent ") + SHMSTATE_VERSION);
}

void apply(const RawOptions& raw, Options& options) {
  options.socket_mode = static_cast<unsigned>(std::stoul(raw.socket_mode, nullptr, 8));
  options.writer.when_full = raw.when_full == "fail" ? WhenFull::kFail : WhenFull::kBlock;
  SourceNames names{options.fifos, options.socket};
  names.paths.insert(names.paths.end(), options.files.begin(), options.files.end());
  options.rules = SourceRules(names, raw.types, raw.defaults);
  options.flush_timeout = std::chrono::ceil<std::chrono::milliseconds>(raw.flush_timeout);
}

}  // namespace

std::optional<int> parse_options(int argc, char** argv, Options& options) {
  CLI::App app{kDescription, "shmstate-writer-agent"};
  RawOptions raw;
  raw.flush_timeout = options.flush_timeout;
  options.writer.name = "shmstate-writer-agent";
  options.writer.survive_truncation = true;
  add_rest(app, options);
  add_sources(app, options, raw);
  add_rules(app, raw);
  add_limits(app, options, raw);
  app.footer(kFooter);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::cerr << "shmstate: " << error.what() << "; see shmstate-writer-agent --help\n";
    return kExitUsage;
  }
  if (options.instance.empty()) {
    std::cerr << "shmstate: no instance given; name one, as in shmstate-writer-agent plant, or set SHMSTATE_INSTANCE\n";
    return kExitUsage;
  }
  try {
    apply(raw, options);
  } catch (const std::invalid_argument& error) {
    std::cerr << "shmstate: " << error.what() << "; see shmstate-writer-agent --help\n";
    return kExitUsage;
  }
  return std::nullopt;
}

}  // namespace shmstate::agent
