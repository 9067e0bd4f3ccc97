// What shmstatectl does without an instance: its arguments, its texts, its JSON, its exit codes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "command_line.h"
#include "commands/commands.h"
#include "commands/known_keys.h"
#include "commands/load_plan.h"
#include "commands/progress.h"
#include "doctor/findings.h"
#include "doctor/mount.h"
#include "live/hot_keys.h"
#include "live/top_view.h"
#include "show/change_text.h"
#include "show/dump_format.h"
#include "show/entry.h"
#include "show/json.h"
#include "show/status_text.h"
#include "show/text.h"
#include "show/value_text.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

// The subcommand that the command line chose, and its options.
std::string ran;
Options ran_with;

ExitCode record(const char* name, const Options& options) {
  ran = name;
  ran_with = options;
  return ExitCode::kOk;
}

}  // namespace

ExitCode run_status(const Options& options) { return record("status", options); }
ExitCode run_top(const Options& options) { return record("top", options); }
ExitCode run_get(const Options& options) { return record("get", options); }
ExitCode run_set(const Options& options) { return record("set", options); }
ExitCode run_add(const Options& options) { return record("add", options); }
ExitCode run_del(const Options& options) { return record("del", options); }
ExitCode run_list(const Options& options) { return record("list", options); }
ExitCode run_watch(const Options& options) { return record("watch", options); }
ExitCode run_dump(const Options& options) { return record("dump", options); }
ExitCode run_load(const Options& options) { return record("load", options); }
ExitCode run_instances(const Options& options) { return record("instances", options); }
ExitCode run_doctor(const Options& options) { return record("doctor", options); }

namespace {

int parse(std::vector<std::string> arguments) {
  ran.clear();
  ran_with = {};
  arguments.insert(arguments.begin(), "shmstatectl");
  std::vector<char*> argv;
  argv.reserve(arguments.size());
  for (std::string& argument : arguments) argv.push_back(argument.data());
  return run_command_line(static_cast<int>(argv.size()), argv.data());
}

using Keys = std::vector<std::string>;

// Keys and values that mean something to a command line are taken as they are.
TEST(CtlCommandLine, TakesAnyKeyAndValue) {
  EXPECT_EQ(parse({"get", "[a,b]", "list", "{}", "", "a=b", "/x:y", "\"q\""}), 0);
  EXPECT_EQ(ran_with.keys, (Keys{"[a,b]", "list", "{}", "", "a=b", "/x:y", "\"q\""}));
  EXPECT_EQ(parse({"get", "a", "--", "-b", "--", "--json", "[c]"}), 0);
  EXPECT_EQ(ran_with.keys, (Keys{"a", "-b", "--", "--json", "[c]"}));
  EXPECT_FALSE(ran_with.json);
  EXPECT_EQ(parse({"set", "get", "[1,2]"}), 0);
  EXPECT_EQ(ran, "set");
  EXPECT_EQ(ran_with.key, "get");
  EXPECT_EQ(ran_with.value, "[1,2]");
  EXPECT_EQ(parse({"set", "k", "-"}), 0);
  EXPECT_EQ(ran_with.value, "-");
  EXPECT_EQ(parse({"set", "k", ""}), 0);
  EXPECT_EQ(ran_with.value, "");
  EXPECT_EQ(parse({"list", "--", "-p"}), 0);
  EXPECT_EQ(ran_with.prefix, "-p");
}

// A negative number needs no "--".
TEST(CtlCommandLine, TakesNegativeNumbers) {
  EXPECT_EQ(parse({"add", "k", "-5"}), 0);
  EXPECT_EQ(ran_with.value, "-5");
  EXPECT_EQ(parse({"set", "k", "-1.5e3"}), 0);
  EXPECT_EQ(ran_with.value, "-1.5e3");
}

// `-.5` was taken for options, `-inf` for the instance "nf".
TEST(CtlCommandLine, TakesNegativeNumbersInEveryNotation) {
  for (const std::string number : {"-5", "-0", "-007", "-.5", "-5.", "-.5e-3", "-1E5", "-0x1F", "-inf", "-Inf", "-INF",
                                   "-Infinity", "-infinity", "-nan", "-NaN", "-99999999999999999999", "-1e999"}) {
    for (const Keys& arguments : {Keys{"set", "k", number}, Keys{"add", "-i", "plant", "k", number},
                                  Keys{"--json", "add", "k", number, "--timeout", "2s"}}) {
      EXPECT_EQ(parse(arguments), 0) << number;
      EXPECT_EQ(ran_with.key, "k");
      EXPECT_EQ(ran_with.value, number);
    }
  }
  EXPECT_EQ(parse({"get", "-.5", "-5"}), 0);
  EXPECT_EQ(ran_with.keys, (Keys{"-.5", "-5"}));
}

// What looks like a number is an option all the same where it is one.
TEST(CtlCommandLine, NegativeNumbersHideNoOption) {
  EXPECT_EQ(parse({"-inf", "get", "k"}), 0);
  EXPECT_EQ(ran_with.instance, "nf");
  EXPECT_EQ(parse({"get", "k", "-iplant"}), 0);
  EXPECT_EQ(ran_with.instance, "plant");
  EXPECT_EQ(parse({"-i", "set", "get", "k", "-nan"}), 2) << "that set is a name";
  EXPECT_EQ(parse({"add", "k", "-.5", "-iplant", "--json"}), 0);
  EXPECT_EQ(ran_with.instance, "plant");
  EXPECT_TRUE(ran_with.json);
  EXPECT_EQ(parse({"-i", "-5", "add", "k", "1"}), 0);
  EXPECT_EQ(ran_with.instance, "-5");
  ::testing::internal::CaptureStderr();
  for (const Keys& arguments : {Keys{"set", "k", "1", "--timeout", "-5"}, Keys{"list", "--limit", "-.5"},
                                Keys{"set", "k", "1", "--type", "-5"}, Keys{"set", "k", "1", "--ttl", "-inf"}}) {
    EXPECT_EQ(parse(arguments), 2);
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr().find("\\x00"), std::string::npos);
}

// --json and the instance may stand before and after the subcommand.
TEST(CtlCommandLine, TakesCommonOptionsAnywhere) {
  for (const Keys& arguments : {Keys{"-i", "plant", "--json", "get", "k"}, Keys{"get", "-i", "plant", "--json", "k"},
                                Keys{"get", "k", "--json", "--instance=plant"}}) {
    EXPECT_EQ(parse(arguments), 0);
    EXPECT_TRUE(ran_with.json);
    EXPECT_EQ(ran_with.instance, "plant");
    EXPECT_EQ(ran_with.keys, Keys{"k"});
  }
}

// The instance comes from the environment unless it is given.
TEST(CtlCommandLine, TakesTheInstanceFromTheEnvironment) {
  ASSERT_EQ(setenv("SHMSTATE_INSTANCE", "[env]", 1), 0);
  EXPECT_EQ(parse({"status"}), 0);
  EXPECT_EQ(ran_with.instance, "[env]");
  EXPECT_EQ(parse({"status", "-i", "given"}), 0);
  EXPECT_EQ(ran_with.instance, "given");
  unsetenv("SHMSTATE_INSTANCE");
  EXPECT_EQ(parse({"status"}), 0);
  EXPECT_EQ(ran_with.instance, "");
}

// Every option reaches the subcommand that it belongs to.
TEST(CtlCommandLine, TakesEveryOption) {
  EXPECT_EQ(parse({"status", "-v"}), 0);
  EXPECT_TRUE(ran_with.verbose);
  EXPECT_EQ(parse({"get", "--raw", "k"}), 0);
  EXPECT_TRUE(ran_with.raw);
  EXPECT_EQ(parse({"set", "--type", "text", "--timeout", "250ms", "k", "1"}), 0);
  EXPECT_EQ(ran_with.type, Type::kBytes);
  EXPECT_EQ(ran_with.timeout, 250ms);
  EXPECT_EQ(parse({"set", "--ttl", "1h", "k", "1"}), 0);
  EXPECT_EQ(ran_with.time_to_live, 1h);
  EXPECT_EQ(parse({"set", "--version", "0", "k", "1"}), 0);
  EXPECT_EQ(ran_with.version, 0u);
  EXPECT_EQ(parse({"del", "k", "--version=18446744073709551615"}), 0);
  EXPECT_EQ(ran_with.version, ~std::uint64_t{0});
  EXPECT_EQ(parse({"get", "-v", "k"}), 0);
  EXPECT_TRUE(ran_with.verbose);
  EXPECT_EQ(parse({"watch", "--initial"}), 0);
  EXPECT_TRUE(ran_with.initial);
  EXPECT_EQ(parse({"load", "--missing", "--no-split"}), 0);
  EXPECT_TRUE(ran_with.missing_only && ran_with.no_split && !ran_with.only_if_empty);
  EXPECT_EQ(parse({"load", "--if-empty"}), 0);
  EXPECT_TRUE(ran_with.only_if_empty && !ran_with.missing_only && !ran_with.no_split);
  EXPECT_EQ(parse({"--connect", "/run/agent.sock", "set", "k", "1"}), 0);
  EXPECT_EQ(ran_with.connect, "/run/agent.sock");
  EXPECT_EQ(parse({"load", "--connect=/run/agent.sock"}), 0);
  EXPECT_EQ(ran_with.connect, "/run/agent.sock");
  EXPECT_EQ(parse({"add", "--type", "float", "k", "1"}), 0);
  EXPECT_EQ(ran_with.type, Type::kFloat64);
  EXPECT_EQ(ran_with.timeout, 1s);
  EXPECT_EQ(parse({"list", "--keys", "--limit", "3", "pump/"}), 0);
  EXPECT_TRUE(ran_with.keys_only);
  EXPECT_EQ(ran_with.limit, 3u);
  EXPECT_EQ(ran_with.prefix, "pump/");
  EXPECT_EQ(parse({"watch", "--count", "2", "--interval", "0", "pump/"}), 0);
  EXPECT_EQ(ran_with.limit, 2u);
  EXPECT_EQ(ran_with.interval, 0ns);
  EXPECT_EQ(parse({"watch"}), 0);
  EXPECT_EQ(ran_with.limit, std::nullopt);
  EXPECT_EQ(parse({"dump", "pump/"}), 0);
  EXPECT_EQ(ran_with.prefix, "pump/");
  EXPECT_EQ(parse({"load", "--timeout", "2s", "file"}), 0);
  EXPECT_EQ(ran_with.file, "file");
  EXPECT_EQ(ran_with.load_timeout, 2s);
}

// A command line that makes no sense runs nothing and is exit code 2.
TEST(CtlCommandLine, RefusesNonsense) {
  for (const Keys& arguments :
       {Keys{}, Keys{"nonsense"}, Keys{"get"}, Keys{"set", "k"}, Keys{"set", "k", "v", "more"},
        Keys{"get", "--no", "k"}, Keys{"set", "--timeout", "soon", "k", "v"}, Keys{"set", "--timeout", "-1s", "k", "v"},
        Keys{"list", "--limit", "0"}, Keys{"list", "--limit", "-1"}, Keys{"add", "--type", "text", "k", "1"},
        Keys{"set", "--type", "blob", "k", "1"}, Keys{"set", "--version", "-1", "k", "1"},
        Keys{"set", "--version", "", "k", "1"}, Keys{"set", "--version", "18446744073709551616", "k", "1"},
        Keys{"set", "--connect", "", "k", "1"}, Keys{"list", "a", "b"}, Keys{"status", "x"}}) {
    EXPECT_EQ(parse(arguments), 2) << ::testing::PrintToString(arguments);
    EXPECT_EQ(ran, "");
  }
}

// Only set and del know versions of keys. Behind another command the option showed the program's version, ran nothing
// and ended well.
TEST(CtlCommandLine, AVersionBehindAnotherCommandIsRefused) {
  for (const Keys& arguments : {Keys{"add", "--version", "1", "k", "1"}, Keys{"add", "k", "1", "--version=1"},
                                Keys{"add", "k", "1", "--version"}, Keys{"load", "--version", "file"},
                                Keys{"get", "k", "--version"}, Keys{"status", "--version"}}) {
    EXPECT_EQ(parse(arguments), 2) << ::testing::PrintToString(arguments);
    EXPECT_EQ(ran, "");
  }
  EXPECT_EQ(parse({"--version"}), 0);
}

// What is no command is named, and not said to be missing.
TEST(CtlCommandLine, AnUnknownCommandWasCalledMissing) {
  const auto message = [](const Keys& arguments) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(parse(arguments), 2);
    return ::testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(message({"foo"}), "shmstate: unknown command \"foo\"; see shmstatectl --help\n");
  EXPECT_EQ(message({"-i", "plant", "foo", "--bar"}), "shmstate: unknown command \"foo\"; see shmstatectl --help\n");
  EXPECT_EQ(message({"--foo"}), "shmstate: unknown option \"--foo\"; see shmstatectl --help\n");
  EXPECT_EQ(message({}), "shmstate: a command is missing; see shmstatectl --help\n");
  EXPECT_EQ(message({"get"}), "shmstate: KEY is required; see shmstatectl --help\n");
}

// A name that is given, but empty, comes from a variable that is not set: it does not mean "whatever there is".
TEST(CtlCommandLine, AnEmptyInstanceWasTakenForTheOnlyOneThereIs) {
  for (const Keys& arguments : {Keys{"-i", "", "del", "k"}, Keys{"del", "k", "-i", ""},
                                Keys{"--instance=", "get", "del", "k"}, Keys{"--instance", "", "del", "k"}}) {
    EXPECT_EQ(parse(arguments), 2) << ::testing::PrintToString(arguments);
    EXPECT_EQ(ran, "");
  }
  ASSERT_EQ(setenv("SHMSTATE_INSTANCE", "", 1), 0);
  EXPECT_EQ(parse({"del", "k"}), 0);
  unsetenv("SHMSTATE_INSTANCE");
}

// A time to live of nothing, or of less than a nanosecond, is not the same as none.
TEST(CtlCommandLine, AShortestTimeToLiveMeantForEver) {
  for (const char* duration : {"0", "0s", "0.1ns", "1e-300"}) {
    EXPECT_EQ(parse({"set", "--ttl", duration, "k", "1"}), 2) << duration;
    EXPECT_EQ(ran, "");
  }
  EXPECT_EQ(parse({"set", "--ttl", "1ns", "--timeout", "0", "k", "1"}), 0);
  EXPECT_EQ(ran_with.time_to_live, 1ns);
}

// --help names every exit code.
TEST(CtlCommandLine, HelpNamesTheExitCodes) {
  ::testing::internal::CaptureStdout();
  EXPECT_EQ(parse({"--help"}), 0);
  const std::string help = ::testing::internal::GetCapturedStdout();
  EXPECT_NE(help.find(kExitCodesHelp), std::string::npos);
  EXPECT_NE(help.find("SHMSTATE_INSTANCE"), std::string::npos);
}

// The type of a value is recognised by its look, and only where nothing of the look gets lost.
TEST(CtlValue, RecognisesTypes) {
  EXPECT_EQ(parse_value("42", {}), Value(std::int64_t{42}));
  EXPECT_EQ(parse_value("-9223372036854775808", {}), Value(std::numeric_limits<std::int64_t>::min()));
  EXPECT_EQ(parse_value("0", {}), Value(std::int64_t{0}));
  EXPECT_EQ(parse_value("1.5", {}), Value(1.5));
  EXPECT_EQ(parse_value("-.5", {}), Value(-0.5));
  EXPECT_EQ(parse_value("1e3", {}), Value(1000.0));
  for (const char* text : {"", "-", "007", "04.10", "00e1", "0012e45", "+1", "1.2.3", "0x10", "nan", "inf", "1 ", " 1",
                           "e5", ".", "1e", "true"})
    EXPECT_EQ(parse_value(text, {}), Value(std::string(text))) << text;
}

// A type can be forced.
TEST(CtlValue, TakesAForcedType) {
  EXPECT_EQ(parse_value("42", Type::kBytes), Value(std::string("42")));
  EXPECT_EQ(parse_value("42", Type::kFloat64), Value(42.0));
  EXPECT_EQ(parse_value("007", Type::kInt64), Value(std::int64_t{7}));
  EXPECT_TRUE(std::isinf(std::get<double>(parse_value("inf", Type::kFloat64))));
}

// Where a number must stand, every notation that the writer-agent takes is taken here, too.
TEST(CtlValue, ForcedTypesRefusedNotationsThatTheAgentTakes) {
  EXPECT_EQ(parse_value("0x10", Type::kInt64), Value(std::int64_t{16}));
  EXPECT_EQ(parse_value("+5", Type::kInt64), Value(std::int64_t{5}));
  EXPECT_EQ(parse_value("+1.5", Type::kFloat64), Value(1.5));
  EXPECT_EQ(parse_number("-0x10", {}), Value(std::int64_t{-16}));
  EXPECT_EQ(parse_number("007", {}), Value(std::int64_t{7}));
  EXPECT_EQ(parse_number("7", Type::kFloat64), Value(7.0));
}

// A number that would be changed by storing it is refused, not stored.
TEST(CtlValue, RefusesWhatDoesNotFit) {
  EXPECT_THROW((void)parse_value("9223372036854775808", {}), UsageError);
  EXPECT_THROW((void)parse_value("1e999", {}), UsageError);
  EXPECT_THROW((void)parse_value("1.5", Type::kInt64), UsageError);
  EXPECT_THROW((void)parse_value("abc", Type::kFloat64), UsageError);
  EXPECT_THROW((void)parse_value("", Type::kInt64), UsageError);
  EXPECT_THROW((void)parse_number("abc", {}), UsageError);
}

// What is shown of a number, typed in again, is the same number of the same type.
TEST(CtlValue, TextOfNumbersReadsBack) {
  for (const Value& value : {Value(std::int64_t{-7}), Value(1.0), Value(-0.0), Value(0.1), Value(1e300), Value(1e-300),
                             Value(123456789012345680.0), Value(std::numeric_limits<std::int64_t>::max())})
    EXPECT_EQ(parse_value(raw_text(value), {}), value) << raw_text(value);
}

// No byte that a terminal acts upon gets through, whatever a writer stored.
TEST(CtlText, EscapesWhatATerminalActsUpon) {
  EXPECT_EQ(escaped("plain text, \xC3\xA4, \xE2\x82\xAC, \xF0\x9F\x98\x80"),
            "plain text, \xC3\xA4, \xE2\x82\xAC, \xF0\x9F\x98\x80");
  EXPECT_EQ(escaped("\x1B[31m"), "\\x1b[31m");
  EXPECT_EQ(escaped(std::string_view("a\0b\n\t\r\x7F", 7)), "a\\x00b\\n\\t\\r\\x7f");
  EXPECT_EQ(escaped("\xC2\x9B[31m"), "\\xc2\\x9b[31m");  // a control character in two bytes
  EXPECT_EQ(escaped("\x9B"), "\\x9b");                   // and in one, outside UTF-8
  EXPECT_EQ(escaped("\xE2\x80\xAE-\xE2\x80\xAC"), "\\xe2\\x80\\xae-\\xe2\\x80\\xac");  // turns the text around
  EXPECT_EQ(escaped("\xD8\x9C"), "\\xd8\\x9c");  // the Arabic letter mark turns it, too
  EXPECT_EQ(escaped("C:\\n"), "C:\\\\n");
  EXPECT_EQ(printable("C:\\n\n"), "C:\\n\\n");
  for (int byte = 0; byte < 256; ++byte) {
    for (const char c : escaped(std::string(1, static_cast<char>(byte)))) {
      EXPECT_GE(c, 0x20) << byte;
      EXPECT_LT(c, 0x7F) << byte;
    }
  }
}

// Only valid UTF-8 counts as text: no overlong form, no surrogate, nothing cut off.
TEST(CtlText, KnowsUtf8) {
  EXPECT_TRUE(is_utf8(""));
  EXPECT_TRUE(is_utf8("\xF4\x8F\xBF\xBF"));
  for (const char* bytes : {"\x80", "\xC3", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                            "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80", "\xE2\x82", "\xE2(\xA1", "a\xFF"})
    EXPECT_FALSE(is_utf8(bytes)) << escaped(bytes);
}

// Durations and sizes are shown in the unit that people would choose.
TEST(CtlText, FormatsDurationsAndSizes) {
  EXPECT_EQ(format_duration(340ns), "340 ns");
  EXPECT_EQ(format_duration(12300ns), "12.3 us");
  EXPECT_EQ(format_duration(45ms), "45.0 ms");
  EXPECT_EQ(format_duration(4200ms), "4.2 s");
  EXPECT_EQ(format_duration(185s), "3 min 5 s");
  EXPECT_EQ(format_duration(124min), "2 h 4 min");
  EXPECT_EQ(format_duration(50h), "2 d 2 h");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(12u << 20), "12.0 MiB");
  EXPECT_EQ(format_bytes(std::numeric_limits<std::uint64_t>::max()), "16.0 EiB");
}

// Durations are read with a unit, or as seconds, and never as something else.
TEST(CtlText, ParsesDurations) {
  EXPECT_EQ(parse_duration("250ms"), 250ms);
  EXPECT_EQ(parse_duration("1.5 s"), 1500ms);
  EXPECT_EQ(parse_duration("2"), 2s);
  EXPECT_EQ(parse_duration("0"), 0ns);
  EXPECT_EQ(parse_duration("3min"), 3min);
  for (const char* text : {"", "s", "-1s", "1 year", "1e30", "nan", "inf", "1s2", "0.1ns"})
    EXPECT_EQ(parse_duration(text), std::nullopt) << text;
}

// Columns line up by characters, not bytes, and one huge cell does not move the other lines.
TEST(CtlText, SetsColumns) {
  EXPECT_EQ(format_columns({{"a", "1"}, {"\xC3\xA4\xC3\xA4", "2"}}), "a   1\n\xC3\xA4\xC3\xA4  2\n");
  EXPECT_EQ(format_columns({{"a", "1"}, {"longest", "2"}}, 3), "a    1\nlongest  2\n");
}

// Bytes that are no text survive JSON as base64.
TEST(CtlJson, CarriesAnyBytes) {
  EXPECT_EQ(json_line(json_of_bytes("tab\t\xC3\xA4\x7F")), "\"tab\\t\\u00e4\\u007f\"\n");
  EXPECT_EQ(json_line(json_of_bytes("\xFF")), "{\"base64\":\"/w==\"}\n");
  EXPECT_EQ(json_line(json_of_bytes("\xFF\xFE")), "{\"base64\":\"//4=\"}\n");
  EXPECT_EQ(json_line(json_of_bytes("\xFF\xFE\xFD")), "{\"base64\":\"//79\"}\n");
  EXPECT_EQ(json_line(json_of_bytes("\xFF\xFE\xFD\xFC")), "{\"base64\":\"//79/A==\"}\n");
}

// What an entry has besides its value is told only where it has it.
TEST(CtlJson, TellsVersionAndTimeToLive) {
  const Entry entry{.key = "k", .value = {}, .version = 9, .time_to_live = 2ns, .ephemeral = true};
  EXPECT_THAT(json_line(json_of(entry)), HasSubstr(",\"version\":9,\"time_to_live_ns\":2,\"ephemeral\":true}"));
}

// Numbers keep their type in JSON, also those that JSON cannot say.
TEST(CtlJson, KeepsTypes) {
  EXPECT_EQ(json_line(json_of(Entry{"k", std::int64_t{1}, 7})),
            "{\"key\":\"k\",\"type\":\"int64\",\"value\":1,\"changed_epoch\":7}\n");
  EXPECT_EQ(json_line(json_of(Value(1.0))), "1.0\n");
  EXPECT_EQ(json_line(json_of(Value(-std::numeric_limits<double>::infinity()))), "{\"float\":\"-inf\"}\n");
}

// A document with an array of many is valid JSON, also when there are none.
TEST(CtlJson, PutsManyIntoOneDocument) {
  const auto document = [](const std::vector<std::int64_t>& items) {
    return json_document({{"epoch", 7}}, "items", items, [](std::int64_t item) { return Json(item); });
  };
  EXPECT_EQ(document({}), "{\n  \"epoch\": 7,\n  \"items\": [\n  ]\n}\n");
  EXPECT_EQ(document({1, 2}), "{\n  \"epoch\": 7,\n  \"items\": [\n    1,\n    2\n  ]\n}\n");
}

// A change is one line of JSON, and an erased key has no value.
TEST(CtlJson, SaysWhatChanged) {
  EXPECT_EQ(json_line(json_of(Change{"k", ChangeKind::kSet, 3, Value(std::string("v"))})),
            "{\"epoch\":3,\"change\":\"set\",\"key\":\"k\",\"type\":\"bytes\",\"value\":\"v\"}\n");
  EXPECT_EQ(json_line(json_of(Change{"k", ChangeKind::kErased, 4, {}})),
            "{\"epoch\":4,\"change\":\"erase\",\"key\":\"k\"}\n");
}

InstanceInfo some_instance() {
  InstanceInfo info;
  info.path = "/run/shmstate/\x1B[mplant";
  info.id = "00112233445566778899aabbccddeeff";
  info.merger_pid = 4711;
  info.merger_silence = 4200ms;
  info.epoch = 12;
  info.buffers = {{.epoch = 12, .current = true, .pinned = true}, {.epoch = 0}};
  RingInfo ring;
  ring.id = 0xAB;
  ring.name = "pump\x1B";
  ring.state = "live";
  ring.pushed_bytes = 4096;
  ring.applied_bytes = 1024;
  ring.applied_count = 17;
  info.rings = {ring};
  info.statistics = {
      {.name = "publish_latency_ns_max", .unit = "ns", .meaning = "The longest publish.", .value = 1500}};
  return info;
}

// The status shows what a person looks for, and nothing that a foreign name could do to the terminal.
TEST(CtlStatus, ShowsEverythingHarmlessly) {
  const std::string text = status_text(some_instance(), true);
  for (const char* part :
       {"\\x1b[mplant", "not running, silent for 4.2 s (was pid 4711)", "being written", "00000000000000ab",
        "pump\\x1b", "3.0 KiB", "publish_latency_ns_max", "1.5 us", "The longest publish."})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  EXPECT_EQ(text.find('\x1B'), std::string::npos);
  EXPECT_EQ(status_text(some_instance(), false).find("The longest publish."), std::string::npos);
}

// Who pins a buffer and how fast a ring is merged is shown where it is known; pages are shown as what they take.
TEST(CtlStatus, ShowsPinHoldersRatesAndSizes) {
  InstanceInfo info = some_instance();
  info.statistics = {{.name = "pages_committed", .unit = "4KiB", .meaning = "", .value = 512}};
  Rates rates;
  rates.mutations_per_s = 12'345;
  rates.ring_mutations_per_s = {{0xAB, 12.4}};
  const std::string text = status_text(info, false, {.pin_holders = {{0, 99, "re\x1B[m"}}, .rates = rates});
  for (const char* part : {"by pid 99 (re\\x1b[m)", " 12/s", "12.3k/s mutations, 0/s publishes", "2.0 MiB"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  EXPECT_EQ(text.find("4KiB"), std::string::npos);
  EXPECT_NE(status_text(info, false).find("yes"), std::string::npos);
}

// A quarantined ring is shown with the reason; its tail may be any number, and is not shown as a backlog.
TEST(CtlStatus, ShowsWhyARingIsQuarantined) {
  InstanceInfo info = some_instance();
  info.rings[0].state = "quarantined";
  info.rings[0].quarantine_reason = "its tail is impossible";
  info.rings[0].pushed_bytes = ~std::uint64_t{0};
  const std::string text = status_text(info, false);
  EXPECT_NE(text.find("ring 00000000000000ab is quarantined: its tail is impossible"), std::string::npos) << text;
  EXPECT_EQ(text.find("EiB"), std::string::npos) << text;
  EXPECT_THAT(json_line(json_of(info)), HasSubstr("\"quarantine_reason\":\"its tail is impossible\""));
}

InstanceInfo look(std::uint64_t mutations, std::uint64_t publishes, std::uint64_t turn_ns, std::uint64_t applied) {
  InstanceInfo info = some_instance();
  info.rings[0].applied_count = applied;
  info.statistics = {{.name = "mutations_applied", .unit = "", .meaning = "", .value = mutations},
                     {.name = "publishes", .unit = "", .meaning = "", .value = publishes},
                     {.name = "turn_duration_total", .unit = "ns", .meaning = "", .value = turn_ns}};
  return info;
}

// Rates are what two looks at the same instance and merger tell; a counter that is not there or went back counts
// nothing.
TEST(CtlRates, NeedTwoLooksAtTheSameMerger) {
  const InstanceInfo before = look(100, 10, 1'000, 5);
  const std::optional<Rates> rates = rates_between(before, look(1'100, 14, 9'000, 25), 2s);
  ASSERT_TRUE(rates);
  EXPECT_DOUBLE_EQ(rates->mutations_per_s, 500);
  EXPECT_DOUBLE_EQ(rates->publishes_per_s, 2);
  EXPECT_DOUBLE_EQ(rates->rejections_per_s, 0);
  EXPECT_EQ(rates->turn_mean, 2'000ns);
  EXPECT_DOUBLE_EQ(rates->ring_mutations_per_s.at(0xAB), 10);
  EXPECT_DOUBLE_EQ(rates_between(before, look(50, 5, 0, 1), 2s)->mutations_per_s, 0);
  EXPECT_TRUE(rates_between(before, look(50, 5, 0, 1), 2s)->ring_mutations_per_s.empty());
  EXPECT_FALSE(rates_between(before, before, 2s)->turn_mean);
  EXPECT_FALSE(rates_between(before, before, 0s));
  InstanceInfo restarted = before;
  ++restarted.merger_pid;
  EXPECT_FALSE(rates_between(before, restarted, 2s));
  InstanceInfo recreated = before;
  recreated.id = "0";
  EXPECT_FALSE(rates_between(before, recreated, 2s));
}

// Counters of a damaged instance may tell of more than fits a duration.
TEST(CtlRates, TheMeanOfDamagedCountersDidNotFitADuration) {
  const std::optional<Rates> rates = rates_between(look(0, 0, 0, 0), look(0, 1, ~std::uint64_t{0}, 0), 2s);
  ASSERT_TRUE(rates);
  EXPECT_GT(*rates->turn_mean, 1h);
}

constexpr std::chrono::steady_clock::time_point kStart{};

// Hot keys are those of the window, as changes per second of the time that it covers, whatever came before.
TEST(CtlHotKeys, CountOverASlidingWindow) {
  HotKeys keys(10s);
  EXPECT_TRUE(keys.hottest(10).empty());
  keys.take({{"before the first look", 1e9}}, kStart);
  keys.take({{"a", 4}, {"b", 10}}, kStart + 2s);
  ASSERT_EQ(keys.hottest(10).size(), 2U);
  EXPECT_EQ(keys.hottest(10)[0].key, "b");
  EXPECT_DOUBLE_EQ(keys.hottest(10)[0].count, 5);
  EXPECT_DOUBLE_EQ(keys.hottest(10)[1].count, 2);
  EXPECT_EQ(keys.hottest(1).size(), 1U);
  for (int second = 3; second <= 12; ++second) keys.take({{"a", 1}}, kStart + std::chrono::seconds(second));
  ASSERT_EQ(keys.hottest(10).size(), 1U) << "what is older than the window is forgotten";
  EXPECT_DOUBLE_EQ(keys.hottest(10)[0].count, 1);
  keys.clear();
  EXPECT_TRUE(keys.hottest(10).empty());
}

// However many keys change, and however long they are, only some bytes of the hottest are remembered.
TEST(CtlHotKeys, TakeBoundedMemory) {
  HotKeys keys(10s);
  keys.take({}, kStart);
  for (int look = 1; look <= 100; ++look) {
    std::vector<KeyCount> counts;
    for (int i = 0; i < 1'000; ++i) counts.push_back({std::to_string(look * 1'000 + i) + std::string(4'000, 'k'), 1});
    counts.push_back({"hot", 2});
    keys.take(counts, kStart + look * 100ms);
  }
  const std::vector<KeyCount> hottest = keys.hottest(1'000'000);
  EXPECT_EQ(hottest[0].key, "hot");
  EXPECT_DOUBLE_EQ(hottest[0].count, 20);
  EXPECT_LE(hottest.size(), (HotKeys::kParts + 1) * HotKeys::kKeysMax);
  for (const KeyCount& each : hottest) ASSERT_LE(each.key.size(), HotKeys::kKeyBytesMax);
}

std::string text_of(const std::vector<Line>& lines) {
  std::string text;
  for (const Line& line : lines) text += line.text + '\n';
  return text;
}

InstanceInfo busy_instance(std::uint64_t mutations) {
  InstanceInfo info = look(mutations, mutations / 10, mutations * 100, mutations);
  info.merger_running = true;
  info.merger_silence = 1ms;
  info.limit_bytes = 64 << 20;
  info.committed_bytes = 16 << 20;
  info.rings[0].ring_bytes = 6'000;
  RingInfo idle = info.rings[0];
  idle.id = 0xCD;
  idle.name = "idle";
  idle.applied_bytes = idle.pushed_bytes;
  idle.rejected_count = 7;
  info.rings.push_back(idle);
  return info;
}

TopView busy_view() {
  TopView view(1s);
  view.take({.at = kStart, .info = busy_instance(1'000)});
  view.take({.at = kStart + 2s,
             .info = busy_instance(3'000),
             .pin_holders = {{0, 99, "reader\x1B"}},
             .changes = {{"pump/\x1B[2J/rpm", 100}, {"valve", 500}}});
  return view;
}

// A screen of 80 columns and 24 rows has it all, hottest and fullest first, and nothing harms the terminal.
TEST(CtlTop, ShowsEverythingOnAnOrdinaryScreen) {
  const std::string text = text_of(busy_view().lines({24, 80}));
  for (const char* part :
       {"running, pid 4711", "epoch 12", "1000/s, rejected 0/s", "100/s, latency 1.0 us on average",
        "16.0 MiB of 64.0 MiB", "[####            ]", "buffer 0 pinned by reader\\x1b (pid 99)", "2 RINGS",
        "3.0 KiB [#####   ]", "HOTTEST KEYS", "250  valve", "50  pump/\\x1b[2J/rpm", "q quit", "[b backlog]"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  EXPECT_EQ(text.find('\x1B'), std::string::npos);
  EXPECT_LT(text.find("pump\\x1b "), text.find("idle")) << text;
}

// Whatever the size of the screen, no line is wider and none is too much.
TEST(CtlTop, FitsEveryScreen) {
  TopView view = busy_view();
  InstanceInfo info = busy_instance(4'000);
  info.path = "/run/shmstate/\xC3\xA4\xE6\xBC\xA2" + std::string(300, 'p');
  info.rings[0].quarantine_reason = "its tail is impossible";
  for (int i = 0; i < 100; ++i) info.rings.push_back(info.rings[1]);
  view.take({.at = kStart + 3s, .info = info});
  view.take({.at = kStart + 4s, .problem = std::string(200, 'x')});
  for (std::size_t rows = 0; rows <= 60; ++rows) {
    for (const std::size_t columns : {0, 1, 2, 20, 40, 79, 80, 81, 200}) {
      const std::vector<Line> lines = view.lines({rows, columns});
      ASSERT_LE(lines.size(), rows);
      for (const Line& line : lines) {
        ASSERT_TRUE(is_utf8(line.text));
        ASSERT_LE(character_count(line.text), columns) << rows << " rows: " << line.text;
      }
    }
  }
  EXPECT_NE(text_of(busy_view().lines({10, 40})).find("RINGS"), std::string::npos) << "a small screen shows rings, too";
}

// Rings are sorted as the keys say, and scrolled; the help line tells which order it is.
TEST(CtlTop, SortsAndScrolls) {
  TopView view = busy_view();
  const auto position = [&view](const char* part) { return text_of(view.lines({24, 80})).find(part); };
  EXPECT_TRUE(view.press(*top_key('x')));
  EXPECT_LT(position("idle"), position("pump\\x1b "));
  EXPECT_NE(position("[x rejected]"), std::string::npos);
  EXPECT_TRUE(view.press(*top_key('n')));
  EXPECT_LT(position("idle"), position("pump\\x1b "));
  InstanceInfo many = busy_instance(4'000);
  many.rings.clear();
  for (int i = 0; i < 300; ++i) {
    many.rings.push_back({});
    many.rings.back().id = static_cast<std::uint64_t>(i) + 1;
    many.rings.back().name = "ring-" + std::to_string(1'000 + i);
  }
  view.take({.at = kStart + 3s, .info = many});
  EXPECT_NE(position("ring-1000"), std::string::npos);
  EXPECT_TRUE(view.press(TopKey::kPageDown));
  EXPECT_EQ(position("ring-1009"), std::string::npos);
  EXPECT_NE(position("ring-1010"), std::string::npos);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(view.press(TopKey::kPageDown));
  EXPECT_NE(position("ring-1299"), std::string::npos) << "the end does not scroll away";
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(view.press(TopKey::kPageUp));
  EXPECT_NE(position("ring-1000"), std::string::npos);
  EXPECT_FALSE(view.press(*top_key('q')));
  EXPECT_FALSE(top_key('?'));
}

// A damaged control may tell of rings of any size: they are sorted all the same.
TEST(CtlTop, TheLargestRingSizeMadeTheOrderUndefined) {
  TopView view(1s);
  InstanceInfo info = busy_instance(1'000);
  info.rings[1].ring_bytes = ~std::uint64_t{0};
  info.rings[1].pushed_bytes = info.rings[1].applied_bytes = 0;
  for (int i = 0; i < 30; ++i) info.rings.push_back(info.rings[static_cast<std::size_t>(i % 2)]);
  view.take({.at = kStart, .info = info});
  const std::string text = text_of(view.lines({60, 80}));
  EXPECT_LT(text.rfind("pump"), text.find("idle")) << text;
}

// What is wrong is said as an alarm: no merger, no instance any more, a re-created one, a quarantined ring.
TEST(CtlTop, SaysWhatIsWrong) {
  TopView view = busy_view();
  const auto alarms = [&view] {
    std::string text;
    for (const Line& line : view.lines({40, 100}))
      if (line.style == Style::kAlarm) text += line.text + '\n';
    return text;
  };
  EXPECT_EQ(alarms(), "");
  InstanceInfo info = busy_instance(4'000);
  info.merger_running = false;
  info.age = 5s;
  info.rings[0].quarantine_reason = "its tail is impossible";
  view.take({.at = kStart + 3s, .info = info});
  EXPECT_NE(alarms().find("not running, silent for"), std::string::npos) << alarms();
  EXPECT_NE(alarms().find("staleness 5.0 s"), std::string::npos) << alarms();
  EXPECT_NE(alarms().find("quarantined: its tail is impossible"), std::string::npos) << alarms();
  view.take({.at = kStart + 4s, .problem = "shmstate: instance \"plant\" is gone"});
  EXPECT_NE(alarms().find("instance \"plant\" is gone"), std::string::npos) << alarms();
  info.id = "another";
  view.take({.at = kStart + 5s, .info = info});
  EXPECT_EQ(alarms().find("is gone"), std::string::npos) << alarms();
  EXPECT_NE(alarms().find("re-created"), std::string::npos) << alarms();
  EXPECT_EQ(text_of(view.lines({40, 100})).find("valve"), std::string::npos)
      << "its keys are those of another instance";
}

// The JSON status has the same numbers, exactly.
TEST(CtlStatus, IsCompleteAsJson) {
  const std::string json = json_line(json_of(some_instance()));
  EXPECT_THAT(json, HasSubstr("\"merger\":{\"running\":false,"));
  EXPECT_THAT(json, HasSubstr("\"silence_ns\":4200000000}"));
  EXPECT_THAT(json, HasSubstr("\"buffers\":[{\"epoch\":12,\"current\":true,\"pinned\":true},"
                              "{\"epoch\":0,\"current\":false,\"pinned\":false}]"));
  EXPECT_THAT(json, HasSubstr("\"rings\":[{\"id\":\"00000000000000ab\""));
  EXPECT_THAT(json, HasSubstr("\"pushed_bytes\":4096"));
  EXPECT_THAT(json, HasSubstr("\"value\":1500"));
}

std::string text_of(const std::vector<Change>& changes) {
  std::string text;
  for (const Change& change : changes) text += change_text(change);
  return text;
}

Change set_change(Epoch epoch, std::string key) { return {std::move(key), ChangeKind::kSet, epoch, Value(1.0)}; }
Change erase_change(Epoch epoch, std::string key) { return {std::move(key), ChangeKind::kErased, epoch, {}}; }

// Every kind of change has its word, and only a set has a value.
TEST(CtlChanges, SaysWhatHappened) {
  EXPECT_EQ(change_text({"a\n", ChangeKind::kSet, 7, Value(2.0)}), "7 set a\\n 2.0\n");
  EXPECT_EQ(change_text({"a", ChangeKind::kErased, 7, {}}), "7 erase a\n");
  EXPECT_EQ(change_text({"a", ChangeKind::kExpired, 7, {}}), "7 expire a\n");
  EXPECT_EQ(change_text({"a", ChangeKind::kOwnerGone, 7, {}}), "7 owner_gone a\n");
}

Position at(Epoch epoch) { return {.instance = {}, .epoch = epoch}; }

// Watching begins with the state that is there: it is no change; what comes after is told as it comes.
TEST(CtlChanges, BeginWithTheStateThatIsThere) {
  KnownKeys known;
  EXPECT_EQ(text_of(known.changes_of({})), "");
  EXPECT_EQ(text_of(known.changes_of({.changes = {set_change(3, "a")}, .position = at(5), .complete = true})), "");
  EXPECT_EQ(text_of(known.changes_of({.changes = {set_change(6, "b"), erase_change(7, "a")}, .position = at(7)})),
            "6 set b 1.0\n7 erase a\n");
}

// After changes were missed, what exists is told, and what is gone: nothing that was told before stays wrong.
TEST(CtlChanges, RecoverFromMissedChanges) {
  KnownKeys known;
  (void)known.changes_of({.changes = {set_change(3, "a"), set_change(3, "b")}, .position = at(5), .complete = true});
  (void)known.changes_of({.changes = {set_change(6, "c"), erase_change(6, "b")}, .position = at(6)});
  EXPECT_EQ(text_of(known.changes_of(
                {.changes = {set_change(8, "c"), set_change(9, "d")}, .position = at(9), .complete = true})),
            "8 set c 1.0\n9 set d 1.0\n9 erase a\n");
  EXPECT_EQ(text_of(known.changes_of({.changes = {}, .position = at(2), .complete = true})).size(),
            std::string_view("2 erase c\n2 erase d\n").size());
}

std::string every_byte() {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  return bytes;
}

// A line of a dump is printable, and gives back every byte of key and value, the type, and the version.
TEST(CtlDump, LinesReadBack) {
  for (const Value& value : {Value(std::int64_t{-7}), Value(0.1), Value(-0.0), Value(HUGE_VAL), Value(std::string()),
                             Value(every_byte()), Value(std::string("42")), Value(std::string("\\x41"))}) {
    const std::string key = every_byte();
    const EntryView entry{.key = key, .value = value, .version = 17, .ephemeral = true};
    std::string line = dump_line(entry);
    ASSERT_TRUE(line.ends_with('\n'));
    line.pop_back();
    for (const char c : line) EXPECT_TRUE(c == '\t' || (c >= 0x20 && c < 0x7F)) << static_cast<int>(c);
    const Entry read = parse_dump_line(line);
    EXPECT_EQ(read.key, key);
    EXPECT_EQ(read.value, value) << line;
    EXPECT_EQ(read.version, 17U);
    EXPECT_EQ(read.time_to_live, std::nullopt);
    EXPECT_TRUE(read.ephemeral);
  }
  EXPECT_EQ(parse_dump_line("k\tint64\t1\tttl_ns=5").time_to_live, 5ns);
}

// A line tells the epoch of the last change, so that what was published together can be loaded together.
TEST(CtlDump, LinesTellTheEpochOfTheLastChange) {
  const EntryView entry{.key = "k", .value = std::int64_t{1}, .changed_epoch = 18'446'744'073'709'551'615U};
  EXPECT_EQ(dump_line(entry), "k\tint64\t1\tepoch=18446744073709551615\n");
  EXPECT_EQ(parse_dump_line("k\tint64\t1\tepoch=18446744073709551615").changed_epoch, entry.changed_epoch);
  EXPECT_EQ(parse_dump_line("k\tint64\t1").changed_epoch, 0U);
}

constexpr BatchLimits kSmallBatches = {.entries_max = 10, .bytes_max = 10'000, .entries = 4, .bytes = 1'000};

std::vector<Entry> entries_of_epochs(const std::vector<std::uint64_t>& epochs) {
  std::vector<Entry> entries;
  for (const std::uint64_t epoch : epochs)
    entries.push_back({.key = "k", .value = std::int64_t{1}, .changed_epoch = epoch});
  return entries;
}

// What was published together is in one batch; small epochs share one.
TEST(CtlLoadPlan, EntriesOfOneEpochAreInOneBatch) {
  const LoadPlan plan = plan_batches(entries_of_epochs({1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4}), kSmallBatches);
  EXPECT_EQ(plan.ends, (std::vector<std::size_t>{4, 14, 15}));
  EXPECT_EQ(plan.split_count, 0U);
  EXPECT_EQ(plan_batches({}, kSmallBatches).ends, std::vector<std::size_t>{});
}

// What fits behind the batch that is being filled no longer begins one.
TEST(CtlLoadPlan, AnEpochIsNotTornByTheEndOfABatch) {
  const LoadPlan plan = plan_batches(entries_of_epochs({1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2}), kSmallBatches);
  EXPECT_EQ(plan.ends, (std::vector<std::size_t>{3, 11}));
  EXPECT_EQ(plan.split_count, 0U);
}

// What no batch can hold is split, counted, and shares its batches with nothing else.
TEST(CtlLoadPlan, AnEpochThatNoBatchCanHoldIsSplitAndCounted) {
  std::vector<std::uint64_t> epochs(27, 5);
  epochs.front() = 1;
  epochs.back() = 6;
  const LoadPlan plan = plan_batches(entries_of_epochs(epochs), kSmallBatches);
  EXPECT_EQ(plan.ends, (std::vector<std::size_t>{1, 11, 21, 26, 27}));
  EXPECT_EQ(plan.split_count, 1U);
}

// Bytes count as entries do.
TEST(CtlLoadPlan, BytesEndABatchToo) {
  std::vector<Entry> entries = entries_of_epochs({1, 2, 2, 3});
  for (Entry& entry : entries) entry.value = std::string(4'000, 'x');
  EXPECT_EQ(plan_batches(entries, kSmallBatches).ends, (std::vector<std::size_t>{1, 3, 4}));
  entries[0].value = std::string(20'000, 'x');  // larger than a batch, but no batch is without an entry
  const LoadPlan plan = plan_batches(entries, kSmallBatches);
  EXPECT_EQ(plan.ends, (std::vector<std::size_t>{1, 3, 4}));
  EXPECT_EQ(plan.split_count, 0U);
  std::vector<Entry> small = entries_of_epochs({1, 2, 3});
  for (Entry& entry : small) entry.value = std::string(600, 'x');
  EXPECT_EQ(plan_batches(small, kSmallBatches).ends, (std::vector<std::size_t>{2, 3})) << "two are enough for one";
}

// Of entries without an epoch nobody knows what belongs together.
TEST(CtlLoadPlan, EntriesWithoutAnEpochBelongToNobody) {
  const LoadPlan plan = plan_batches(entries_of_epochs({0, 0, 0, 0, 0, 0}), kSmallBatches);
  EXPECT_EQ(plan.ends, (std::vector<std::size_t>{4, 6}));
  EXPECT_EQ(plan.split_count, 0U);
}

// The table of get -v has a dash for what an entry does not have.
TEST(CtlEntry, TheTableShowsAllThatAnEntryHas) {
  const std::vector<Entry> entries = {{.key = "a", .value = std::int64_t{1}, .changed_epoch = 7},
                                      {.key = "b",
                                       .value = std::string("text"),
                                       .changed_epoch = 8,
                                       .version = 42,
                                       .time_to_live = 5s,
                                       .ephemeral = true}};
  EXPECT_EQ(entries_table(entries),
            "KEY  TYPE   EPOCH  VERSION  TIME TO LIVE      VALUE\n"
            "a    int64  7      -        -                 1\n"
            "b    bytes  8      42       5.0 s, ephemeral  text\n");
}

// The longest line that an entry can have is within the limit of what is read.
TEST(CtlDump, TheLongestLineFits) {
  const std::string key(kKeyBytesMax, '\0');
  const std::string value(kValueBytesMax, '\xFF');
  const EntryView entry{.key = key, .value = value, .version = ~std::uint64_t{0}, .expiry_ns = 1, .ephemeral = true};
  EXPECT_LT(dump_line(entry).size(), kDumpLineBytesMax);
}

// A line that no dump holds is refused, not guessed at.
TEST(CtlDump, RefusesOtherLines) {
  for (const char* line :
       {"", "k", "k\tint64", "k\tint64\tx", "k\tint64\t1.5", "k\tfloat64\t", "k\tnone\t1", "\tint64\t1", "k\tbytes\t\\",
        "k\tbytes\t\\q", "k\tbytes\t\\x4", "k\tbytes\t\\x4g", "k\tint64\t1\tversion=", "k\tint64\t1\tversion=-1",
        "k\tint64\t1\tttl_ns=9223372036854775808", "k\tint64\t1\tcolour=red", "k\tint64\t99999999999999999999"})
    EXPECT_THROW((void)parse_dump_line(line), UsageError) << line;
}

// load has no --type that could be chosen.
TEST(CtlDump, AWrongNumberNamedAnOptionOfSet) {
  try {
    (void)parse_dump_line("k\tint64\t1.5");
    FAIL();
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(), "\"1.5\" is no int64");
  }
}

// A key may begin as an end line does: its line has tabs, an end line has none.
TEST(CtlDump, AKeyThatBeginsAsAnEndLineWasTakenForOne) {
  const EntryView entry{.key = "# end 1", .value = std::int64_t{1}};
  std::string line = dump_line(entry);
  line.pop_back();
  EXPECT_FALSE(is_dump_end(line));
  EXPECT_EQ(parse_dump_line(line).key, entry.key);
  EXPECT_TRUE(is_dump_end(dump_end(7)));
}

// The bar is empty at the beginning, full at the end, and never longer than that.
TEST(CtlProgress, FillsUp) {
  EXPECT_EQ(progress_bar("loading", 0, 200), "loading [" + std::string(40, ' ') + "]   0 %");
  EXPECT_EQ(progress_bar("loading", 100, 200), "loading [" + std::string(20, '#') + std::string(20, ' ') + "]  50 %");
  EXPECT_EQ(progress_bar("loading", 300, 200), "loading [" + std::string(40, '#') + "] 100 %");
}

// Mount and file system have options of their own, and both say ro or rw.
TEST(CtlMount, OptionsWereShownTwice) {
  const Mount mount =
      parse_mount("45 29 0:40 / /run/shmstate rw,nosuid,relatime shared:2 - tmpfs tmpfs rw,size=64k,relatime");
  EXPECT_EQ(mount.device, "0:40");
  EXPECT_EQ(mount.point, "/run/shmstate");
  EXPECT_EQ(mount.type, "tmpfs");
  EXPECT_EQ(mount.options, "rw,nosuid,relatime,size=64k");
  EXPECT_EQ(parse_mount("1 2 0:3 / /a ro,noexec - tmpfs tmpfs rw,size=1k").options, "ro,noexec,size=1k");
  EXPECT_EQ(parse_mount("1 2 0:3 / /a rw,noexec - tmpfs tmpfs ro,size=1k").options, "ro,noexec,size=1k");
  EXPECT_EQ(parse_mount("1 2 0:3 / /a rw - tmpfs tmpfs rw").options, "rw");
}

// The exit code tells the worst finding: an error before warnings, warnings before notes, which are success.
TEST(CtlFindings, TheWorstDecides) {
  const Finding note{Severity::kNote, "a", "b", "c"};
  const Finding warning{Severity::kWarning, "a", "b", "c"};
  const Finding error{Severity::kError, "a", "b", "c", ExitCode::kNotMerged};
  EXPECT_EQ(worst_of({}), ExitCode::kOk);
  EXPECT_EQ(worst_of({note}), ExitCode::kOk);
  EXPECT_EQ(worst_of({note, warning}), ExitCode::kWarnings);
  EXPECT_EQ(worst_of({warning, error, note}), ExitCode::kNotMerged);
}

// Findings show what was found and what to do, and nothing that a foreign name could do to the terminal.
TEST(CtlFindings, ShowTheRemedyHarmlessly) {
  const std::string text = findings_text({{Severity::kWarning, "rings", "\x1B[mring", "restart"}});
  EXPECT_EQ(text.find('\x1B'), std::string::npos);
  EXPECT_NE(text.find("warning  rings  \\x1b[mring"), std::string::npos) << text;
  EXPECT_NE(text.find("-> restart"), std::string::npos);
}

// Every status has the exit code that is documented for it.
TEST(CtlExitCode, MapsStatuses) {
  EXPECT_EQ(exit_code_of(Status::kOk), ExitCode::kOk);
  EXPECT_EQ(exit_code_of(Status::kNotFound), ExitCode::kKeyNotFound);
  EXPECT_EQ(exit_code_of(Status::kKeyTooLong), ExitCode::kUsage);
  EXPECT_EQ(exit_code_of(Status::kNoInstance), ExitCode::kNoInstance);
  EXPECT_EQ(exit_code_of(Status::kNoPermission), ExitCode::kNoPermission);
  EXPECT_EQ(exit_code_of(Status::kTimeout), ExitCode::kNotMerged);
  EXPECT_EQ(exit_code_of(Status::kRejected), ExitCode::kRejected);
  EXPECT_EQ(exit_code_of(Status::kVersionMismatch), ExitCode::kUnreadable);
  EXPECT_EQ(exit_code_of(Status::kSystem), ExitCode::kOther);
}

}  // namespace

}  // namespace shmstate::ctl
