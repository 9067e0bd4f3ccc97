#include "command_line.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <sstream>

#include "arguments.h"
#include "commands/commands.h"
#include "show/output.h"
#include "show/text.h"

namespace shmstate::ctl {

namespace {

const std::map<std::string, Type> kTypeNames = {
    {"int", Type::kInt64}, {"float", Type::kFloat64}, {"text", Type::kBytes}};

// Strings come out of the parser with their mark; every string option is declared here, so that none keeps it.
template <typename T>
CLI::Option* add_text(CLI::App& app, const std::string& name, T& target, const std::string& description) {
  return app.add_option(name, target, description)->transform([](const std::string& text) { return unmarked(text); });
}

CLI::Option* add_duration(CLI::App& app, const std::string& name, std::chrono::nanoseconds& target,
                          const std::string& description) {
  const auto assign = [&target, name](const std::string& argument) {
    const std::string text = unmarked(argument);
    const auto duration = parse_duration(text);
    if (!duration) throw CLI::ValidationError(name, duration_problem(text));
    target = *duration;
  };
  return app.add_option_function<std::string>(name, assign, description)->type_name("DURATION");
}

void add_limit(CLI::App& app, const std::string& name, Options& options, const std::string& description) {
  const auto assign = [&options, name](const std::string& argument) {
    const std::string text = unmarked(argument);
    options.limit = parse_count(text);
    if (!options.limit) throw CLI::ValidationError(name, in_quotes(text) + " is no count; write 1 or more");
  };
  app.add_option_function<std::string>(name, assign, description)->type_name("N");
}

// Also 0, which is only higher than none.
void add_version(CLI::App& app, Options& options, const std::string& description) {
  const auto assign = [&options](const std::string& text) {
    options.version = parse_version(text);
    if (!options.version) throw CLI::ValidationError("--version", in_quotes(text) + " is no version; write 0 or more");
  };
  app.add_option_function<std::string>("--version", assign, description)->type_name("N");
}

// Behind a command that has no such option, the parser would take it for that of the program: show its version, run
// nothing, and end well.
void refuse_version(CLI::App& command) {
  command
      .add_flag_callback("--version",
                         [] {
                           throw CLI::ValidationError(
                               "--version", "of a key belongs to set and del, that of the program before the command");
                         })
      ->group("");
}

CLI::App& add_command(CLI::App& app, Options& options, const std::string& name, ExitCode (*run)(const Options&),
                      const std::string& description) {
  CLI::App& command = *app.add_subcommand(name, description);
  command.callback([&options, run] { options.run = run; });
  command.footer("-i, --instance and --json may follow, too: see shmstatectl --help.");
  return command;
}

void add_type(CLI::App& command, Options& options, const std::map<std::string, Type>& names) {
  const auto assign = [&options, names](const std::string& name) { options.type = names.at(name); };
  command.add_option_function<std::string>("--type", assign, "Take the value as this type")
      ->transform([](const std::string& name) { return unmarked(name); })
      ->check(CLI::IsMember(names))
      ->type_name("TYPE");
}

void add_timeout(CLI::App& command, Options& options) {
  add_duration(command, "--timeout", options.timeout, "How long to wait until it is merged, default 1s");
}

void add_status(CLI::App& app, Options& options) {
  CLI::App& command =
      add_command(app, options, "status", run_status, "Show the instance: merger, buffers, rings, statistics");
  command.add_flag("-v,--verbose", options.verbose, "Show what each statistic means");
  add_duration(command, "--interval", options.rate_interval,
               "Between the two looks that rates need, default 500ms; 0: none");
}

void add_top(CLI::App& app, Options& options) {
  CLI::App& command =
      add_command(app, options, "top", run_top, "Watch the instance live: rates, backlogs, hottest keys, latency");
  add_duration(command, "--interval", options.refresh_interval, "How often to look, default 1s");
}

void add_get(CLI::App& app, Options& options) {
  CLI::App& command = add_command(app, options, "get", run_get, "Print the values of keys, all of one snapshot");
  add_text(command, "KEY", options.keys, "The keys")->required();
  command.add_flag("--raw", options.raw, "Write exactly the bytes of one value: nothing escaped, no line end");
  command.add_flag("-v,--verbose", options.verbose,
                   "Show type, epoch of the last change, version and time to live, too");
}

void add_set(CLI::App& app, Options& options) {
  CLI::App& command = add_command(app, options, "set", run_set, "Set a key");
  add_text(command, "KEY", options.key, "The key")->required();
  add_text(command, "VALUE", options.value, "An integer, a float or text; - reads bytes from standard input")
      ->required();
  add_type(command, options, kTypeNames);
  add_duration(command, "--ttl", options.time_to_live, "Erase the key after this time")
      ->check([](const std::string& text) {
        return std::string(parse_duration(unmarked(text)) == std::chrono::nanoseconds::zero() ? "0 is no time to live"
                                                                                              : "");
      });
  add_version(command, options, "Only if this is higher than the version that the key has");
  add_timeout(command, options);
}

void add_add(CLI::App& app, Options& options) {
  CLI::App& command = add_command(app, options, "add", run_add, "Add to a number; a missing key is created");
  add_text(command, "KEY", options.key, "The key")->required();
  add_text(command, "N", options.value, "An integer or a float, of the type that the key holds")->required();
  add_type(command, options, {{"int", Type::kInt64}, {"float", Type::kFloat64}});
  add_timeout(command, options);
}

void add_del(CLI::App& app, Options& options) {
  CLI::App& command = add_command(app, options, "del", run_del, "Erase a key; a missing one is no error");
  add_text(command, "KEY", options.key, "The key")->required();
  add_version(command, options, "Only if this is higher than the version that the key has; remembers it");
  add_timeout(command, options);
}

void add_list(CLI::App& app, Options& options) {
  CLI::App& command = add_command(app, options, "list", run_list, "List keys and values, sorted by key");
  add_text(command, "PREFIX", options.prefix, "Only keys that begin with this");
  command.add_flag("--keys", options.keys_only, "Only the keys");
  add_limit(command, "--limit", options, "At most so many entries");
}

void add_watch(CLI::App& app, Options& options) {
  CLI::App& command =
      add_command(app, options, "watch", run_watch, "Print changes as they become visible, until SIGINT");
  add_text(command, "PREFIX", options.prefix, "Only keys that begin with this");
  command.add_flag("--initial", options.initial, "Print the state that is there, too, before the changes");
  add_limit(command, "--count", options, "End after so many changes");
  add_duration(command, "--interval", options.interval, "Print at most so often; the default prints at once");
}

void add_dump(CLI::App& app, Options& options) {
  CLI::App& command = add_command(app, options, "dump", run_dump, "Write one snapshot as text that load reads back");
  add_text(command, "PREFIX", options.prefix, "Only keys that begin with this");
}

void add_load(CLI::App& app, Options& options) {
  CLI::App& command = add_command(app, options, "load", run_load, "Set every entry of a dump");
  add_text(command, "FILE", options.file, "What dump wrote; without it, or as -, standard input");
  add_duration(command, "--timeout", options.load_timeout, "How long to wait until a batch is merged, default 30s");
  command.add_flag("--missing", options.missing_only, "Set only keys that are not there");
  command.add_flag("--if-empty", options.only_if_empty, "Load nothing, and end with 0, unless the instance is empty");
  command.add_flag("--no-split", options.no_split,
                   "Load nothing that was changed together, but is too much for a batch");
}

// Where no command is found, the parser only says that one is required.
std::string reason_of(const CLI::App& app, const CLI::Error& error) {
  const std::vector<std::string> unknown = app.remaining();
  if (!app.get_subcommands().empty() || error.get_name() != "RequiredError") return error.what();
  if (unknown.empty()) return "a command is missing";
  const std::string word = unmarked(unknown.front());
  return fmt::format("unknown {} {}", word.starts_with('-') ? "option" : "command", in_quotes(word));
}

void declare(CLI::App& app, Options& options) {
  app.name("shmstatectl");
  app.fallthrough();
  app.require_subcommand(1);
  app.set_version_flag("--version", std::string("shmstatectl " SHMSTATE_VERSION));
  app.failure_message([](const CLI::App* parsed, const CLI::Error& error) {
    return reason_of(*parsed, error) + "; see shmstatectl --help";
  });
  add_text(app, "-i,--instance", options.instance, "The instance: its name or its directory; default: the only one")
      ->check([](const std::string& name) {  // of a variable that is not set: not "the only one", which may be another
        return std::string(name.empty() ? "the name is empty" : "");
      })
      ->envname("SHMSTATE_INSTANCE")
      ->type_name("NAME");
  app.add_flag("--json", options.json, "Print JSON");
  add_text(app, "--connect", options.connect, "The socket of an agent: set, add, del and load send to it")
      ->check([](const std::string& path) { return std::string(path.empty() ? "the path is empty" : ""); })
      ->type_name("PATH");
  add_status(app, options);
  add_top(app, options);
  add_get(app, options);
  add_set(app, options);
  add_add(app, options);
  add_del(app, options);
  add_list(app, options);
  add_watch(app, options);
  add_dump(app, options);
  add_load(app, options);
  add_command(app, options, "instances", run_instances, "List the instances that there are, and who serves them");
  add_command(app, options, "doctor", run_doctor, "Look for what keeps the instance from working; name the remedies");
  for (CLI::App* const command : app.get_subcommands({})) {
    if (command->get_option_no_throw("--version") == nullptr) refuse_version(*command);
  }
  app.footer(
      "A key or value that begins with - and is no number goes after --, for example: shmstatectl set -- KEY -x\n\n" +
      std::string(kExitCodesHelp));
}

// The parser wants the last argument first.
std::vector<std::string> arguments_in_reverse(int argc, char** argv) {
  std::vector<std::string> arguments = mark_literals({argv + 1, argv + argc});
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

}  // namespace

int run_command_line(int argc, char** argv) {
  CLI::App app("Looks into a shmstate instance, and changes it.");
  Options options;
  declare(app, options);
  try {
    app.parse(arguments_in_reverse(argc, argv));
  } catch (const CLI::ParseError& error) {
    std::ostringstream out;
    std::ostringstream err;
    const bool is_help = app.exit(error, out, err) == 0;
    print(out.str());
    if (is_help) return 0;
    report(err.str());
    return static_cast<int>(ExitCode::kUsage);
  }
  return static_cast<int>(options.run(options));
}

}  // namespace shmstate::ctl
