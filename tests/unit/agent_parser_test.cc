// What the agent makes of lines, without an instance: parsing, typing, cutting, batches, limited reports.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "inputs/source_rules.h"
#include "lines/line_parser.h"
#include "lines/line_splitter.h"
#include "lines/pending_batch.h"
#include "lines/session.h"
#include "support/report_limiter.h"

namespace shmstate::agent {
namespace {

using namespace std::string_view_literals;

using Texts = std::vector<std::string>;

constexpr std::int64_t kInt64Max = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kInt64Min = std::numeric_limits<std::int64_t>::min();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Scratch& scratch() {
  static Scratch space;
  return space;
}

ParsedLine parse(std::string_view line, const LineRules& rules = {}) { return parse_line(line, scratch(), rules); }
LineError error_of(std::string_view line) { return parse(line).error; }
Verb verb_of(std::string_view line) { return parse(line).command.verb; }

void expect_set(std::string_view line, std::string_view key, ValueView value) {
  const ParsedLine parsed = parse(line);
  EXPECT_EQ(parsed.error, LineError::kNone) << line << ": " << describe(parsed.error);
  EXPECT_EQ(parsed.command.verb, Verb::kSet) << line;
  EXPECT_EQ(parsed.command.key, key) << line;
  EXPECT_TRUE(parsed.command.value == value) << line << " has type " << type_name(parsed.command.value.type());
}

void expect_add(std::string_view line, std::string_view key, ValueView value) {
  const ParsedLine parsed = parse(line);
  EXPECT_EQ(parsed.error, LineError::kNone) << line << ": " << describe(parsed.error);
  EXPECT_EQ(parsed.command.verb, Verb::kAdd) << line;
  EXPECT_EQ(parsed.command.key, key) << line;
  EXPECT_TRUE(parsed.command.value == value) << line << " has type " << type_name(parsed.command.value.type());
}

TEST(LineParser, EmptyLinesAndCommentsAreNoCommands) {
  for (const std::string_view line : {"", "   ", "\t", "# set a 1", "  #x"}) {
    EXPECT_EQ(error_of(line), LineError::kNone) << line;
    EXPECT_EQ(verb_of(line), Verb::kNothing) << line;
  }
}

TEST(LineParser, CommandsWithoutOperandsTakeNone) {
  EXPECT_EQ(verb_of("begin"), Verb::kBegin);
  EXPECT_EQ(verb_of(" commit "), Verb::kCommit);
  EXPECT_EQ(verb_of("abort"), Verb::kAbort);
  EXPECT_EQ(verb_of("flush"), Verb::kFlush);
  EXPECT_EQ(error_of("commit now"), LineError::kTrailingText);
}

TEST(LineParser, TheLongAndTheShortFormMeanTheSame) {
  expect_set("set pump/7/rpm 1480", "pump/7/rpm", 1480);
  expect_set("  set\tpump/7/rpm  1480\t", "pump/7/rpm", 1480);
  expect_set("pump/7/rpm=1480", "pump/7/rpm", 1480);
  expect_set("set=5", "set", 5);
  expect_set("key=", "key", "");
  expect_set("url=http://x/?a=b", "url", "http://x/?a=b");
  expect_set("set url http://x/?a=b", "url", "http://x/?a=b");
}

TEST(LineParser, EraseTakesAKeyAndNothingElse) {
  const ParsedLine parsed = parse("del \"a key\"");
  EXPECT_EQ(parsed.command.verb, Verb::kErase);
  EXPECT_EQ(parsed.command.key, "a key");
  EXPECT_EQ(error_of("del"), LineError::kKeyMissing);
  EXPECT_EQ(error_of("del a b"), LineError::kTrailingText);
}

TEST(LineParser, PlainDecimalNumbersGetTheirTypeAndEverythingElseStaysText) {
  expect_set("k=0", "k", 0);
  expect_set("k=-3", "k", -3);
  expect_set("k=9223372036854775807", "k", kInt64Max);
  expect_set("k=-9223372036854775808", "k", kInt64Min);
  expect_set("k=1.5", "k", 1.5);
  expect_set("k=-.5", "k", -0.5);
  expect_set("k=1e3", "k", 1000.0);
  expect_set("k=99999999999999999999.0", "k", 1e20);
  for (const std::string_view text :
       {"007",   "-007", "04.10", "00e1", "0012e45", "+5",   "0x1f", "nan", "inf", "-inf", "1_000",   "1.2.3",
        "12abc", "-",    ".",     "-.",   "1e",      "true", "1,5",  "0x",  "--1", "1e5x", "Infinity"}) {
    expect_set("k=" + std::string(text), "k", text);
  }
}

TEST(LineParser, ANumberThatDoesNotFitIsAnErrorUnlessForcedToText) {
  EXPECT_EQ(error_of("k=9223372036854775808"), LineError::kIntegerOutOfRange);
  EXPECT_EQ(error_of("set k -9223372036854775809"), LineError::kIntegerOutOfRange);
  EXPECT_EQ(error_of("k=99999999999999999999999999"), LineError::kIntegerOutOfRange);
  EXPECT_EQ(error_of("set:i k 0x8000000000000000"), LineError::kIntegerOutOfRange);
  EXPECT_EQ(error_of("add k 9223372036854775808"), LineError::kIntegerOutOfRange);
  EXPECT_EQ(error_of("k=1e400"), LineError::kFloatOutOfRange);
  expect_set("set:s k 9223372036854775808", "k", "9223372036854775808");
  expect_set("set:f k 9223372036854775808", "k", 9223372036854775808.0);
  expect_set("k=\"9223372036854775808\"", "k", "9223372036854775808");
}

TEST(LineParser, ForcedTypesAcceptEveryNotation) {
  expect_set("set:i k 007", "k", 7);
  expect_set("set:i k +5", "k", 5);
  expect_set("set:i k 0x1F", "k", 31);
  expect_set("set:i k -0x8000000000000000", "k", kInt64Min);
  expect_set("set:i k \"12\"", "k", 12);
  expect_set("set:f k 12", "k", 12.0);
  expect_set("set:f k +1.5", "k", 1.5);
  expect_set("set:f k inf", "k", kInfinity);
  expect_set("set:f k -Infinity", "k", -kInfinity);
  expect_set("set:s k 12", "k", "12");
  EXPECT_TRUE(std::isnan(parse("set:f k nan").command.value.float64()));
  EXPECT_TRUE(std::signbit(parse("set:f k -nan").command.value.float64()));
}

TEST(LineParser, ForcedTypesRefuseOtherText) {
  for (const std::string_view text : {"1.0", "1e3", "abc", "", "0x", "+", "nan", "+-5", "0x-5"}) {
    EXPECT_EQ(error_of("set:i k \"" + std::string(text) + "\""), LineError::kNotInteger) << text;
  }
  for (const std::string_view text : {"abc", "", "0x1f", "1.5f", "nan0", "infinite", "-", "+-1"}) {
    EXPECT_EQ(error_of("set:f k \"" + std::string(text) + "\""), LineError::kNotNumber) << text;
  }
}

TEST(LineParser, AddTakesNumbersInEveryNotation) {
  expect_add("add k 1", "k", 1);
  expect_add("add k -0x10", "k", -16);
  expect_add("add k 2.5", "k", 2.5);
  expect_add("add k \"5\"", "k", 5);
  expect_add("add:i k +7", "k", 7);
  expect_add("add:f k 7", "k", 7.0);
  EXPECT_EQ(error_of("add k one"), LineError::kNotNumber);
  EXPECT_EQ(error_of("add:i k 1.5"), LineError::kNotInteger);
  EXPECT_EQ(error_of("add k"), LineError::kValueMissing);
}

TEST(LineParser, ANaNIsSetAndNotAdded) {
  EXPECT_EQ(error_of("add k nan"), LineError::kNotToAdd);
  EXPECT_EQ(error_of("add:f k -NaN"), LineError::kNotToAdd);
  EXPECT_EQ(error_of("add k \"nan\""), LineError::kNotToAdd);
  EXPECT_EQ(error_of("set:f k nan"), LineError::kNone);
  expect_add("add k -inf", "k", -kInfinity);
}

// --- options behind the operands

TEST(LineParser, ASetTakesTimeToLiveVersionAndEphemeralInAnyOrder) {
  for (const std::string_view line : {"set k 5 ttl=250ms version=42 ephemeral", "k=5 ephemeral\tversion=42  ttl=0.25 ",
                                      "k=5 ttl=250000us version=42 ephemeral", "\"k\"=5 ttl=.25s ephemeral version=042",
                                      "set:i k \"5\" ttl=250ms version=42 ephemeral"}) {
    expect_set(line, "k", 5);
    const SetOptions options = parse(line).command.options;
    EXPECT_EQ(options.ttl, std::chrono::milliseconds(250)) << line;
    EXPECT_EQ(options.version, 42U) << line;
    EXPECT_TRUE(options.ephemeral) << line;
  }
  const SetOptions none = parse("k=ttl=5s").command.options;
  EXPECT_EQ(none.ttl.count(), 0);
  EXPECT_EQ(none.version, std::nullopt);
  EXPECT_FALSE(none.ephemeral);
  expect_set("k=\"two words\" ttl=1h", "k", "two words");
  EXPECT_EQ(parse("k= version=18446744073709551615").command.options.version, ~std::uint64_t{0});
  EXPECT_EQ(parse("del k version=7").command.options.version, 7U);
}

TEST(LineParser, OptionsThatAreNoneOrInTheWrongPlaceAreErrors) {
  for (const std::string_view ttl :
       {"ttl=", "ttl=0", "ttl=soon", "ttl=-5s", "ttl=5d", "ttl=0.5ms", "ttl=\"5s\"", "ttl=nan"})
    EXPECT_EQ(error_of("set k 5 " + std::string(ttl)), LineError::kTimeToLive) << ttl;
  for (const std::string_view version :
       {"version=", "version=-1", "version=1.0", "version=18446744073709551616", "version=x"})
    EXPECT_EQ(error_of("set k 5 " + std::string(version)), LineError::kVersion) << version;
  for (const std::string_view twice : {"ttl=1s ttl=1s", "version=1 ttl=1s version=2", "ephemeral ephemeral"})
    EXPECT_EQ(error_of("k=5 " + std::string(twice)), LineError::kOptionTwice) << twice;
  for (const std::string_view word : {"EPHEMERAL", "ephemeral=1", "TTL=5s", "ttl", "words", "\"ttl=5s\"", "# comment"})
    EXPECT_EQ(error_of("k=5 " + std::string(word)), LineError::kTrailingText) << word;
  for (const std::string_view line :
       {"add k 5 ttl=1s", "add k 5 version=1", "add k 5 ephemeral", "del k ttl=1s", "del k ephemeral"})
    EXPECT_EQ(error_of(line), LineError::kOptionElsewhere) << line;
  EXPECT_EQ(error_of("ttl=5s"), LineError::kNone) << "a key may be called so";
  EXPECT_EQ(error_of("flush ttl=5s"), LineError::kTrailingText);
}

// --- rules of a source

TEST(LineParser, AFixedTypeHoldsForUnquotedAndQuotedValuesAlike) {
  LineRules rules;
  rules.types.add("f/", FixedType::kFloat);
  rules.types.add("i/", FixedType::kInteger);
  rules.types.add("t/", FixedType::kText);
  const auto value_of = [&](std::string_view line) { return parse(line, rules).command.value.to_value(); };
  for (const std::string_view line :
       {"f/k=180", "f/k=180.0", "f/k=\"180\"", "set f/k 0180", "set:f f/k 18e1", "add f/k 180"})
    EXPECT_EQ(value_of(line), Value(180.0)) << line;
  for (const std::string_view line : {"i/k=180", "i/k=\"180\"", "i/k=+0180", "set:i i/k 0xb4", "add i/k 180"})
    EXPECT_EQ(value_of(line), Value(std::int64_t{180})) << line;
  for (const std::string_view line : {"t/k=180", "set t/k \"180\"", "set:s t/k 180"})
    EXPECT_EQ(value_of(line), Value("180")) << line;
  EXPECT_EQ(value_of("other=180"), Value(std::int64_t{180}));
  EXPECT_EQ(value_of("t/k=99999999999999999999"), Value("99999999999999999999"));
}

TEST(LineParser, WhatDoesNotConvertToItsFixedTypeIsAnError) {
  LineRules rules;
  rules.types.add("f/", FixedType::kFloat);
  rules.types.add("i/", FixedType::kInteger);
  rules.types.add("t/", FixedType::kText);
  const auto error = [&](std::string_view line) { return parse(line, rules).error; };
  EXPECT_EQ(error("f/k=fast"), LineError::kNotNumber);
  EXPECT_EQ(error("f/k="), LineError::kNotNumber);
  EXPECT_EQ(error("f/k=1e999"), LineError::kFloatOutOfRange);
  EXPECT_EQ(error("i/k=180.5"), LineError::kNotInteger);
  EXPECT_EQ(error("i/k=180.0"), LineError::kNotInteger);
  EXPECT_EQ(error("i/k=\"\""), LineError::kNotInteger);
  EXPECT_EQ(error("i/k=9223372036854775808"), LineError::kIntegerOutOfRange);
  EXPECT_EQ(error("set:i f/k 180"), LineError::kTypeIsFixed);
  EXPECT_EQ(error("set:s i/k 180"), LineError::kTypeIsFixed);
  EXPECT_EQ(error("add:f i/k 180"), LineError::kTypeIsFixed);
  EXPECT_EQ(error("add t/k 180"), LineError::kFixedAsText);
  EXPECT_EQ(error("add f/k nan"), LineError::kNotToAdd);
  EXPECT_EQ(error("del t/k"), LineError::kNone);
}

TEST(LineParser, TheLongestPrefixFixesTheType) {
  LineRules rules;
  rules.types.add("", FixedType::kText);
  rules.types.add("pump/7/", FixedType::kInteger);
  rules.types.add("pump/", FixedType::kFloat);
  const auto value_of = [&](std::string_view line) { return parse(line, rules).command.value.to_value(); };
  EXPECT_EQ(value_of("pump/7/rpm=1"), Value(std::int64_t{1}));
  EXPECT_EQ(value_of("pump/8/rpm=1"), Value(1.0));
  EXPECT_EQ(value_of("fan=1"), Value("1"));
}

TEST(SourceRules, GiveTheSetsOfASourceWhatTheirLinesDoNotSay) {
  const SourceRules all({{"/a:b", "/c"}, "/s"}, {"k=x=float"},
                        {"all:version=3", "socket:ephemeral,ttl=5s", "/a:b:ttl=1min,type=text", "/s:version=9"});
  const auto options = [&](const std::string& source, std::string_view line) {
    return parse(line, all.of(source)).command.options;
  };
  EXPECT_EQ(options("/a:b", "k=1").ttl, std::chrono::minutes(1));
  EXPECT_EQ(options("/a:b", "k=1 ttl=2s").ttl, std::chrono::seconds(2));
  EXPECT_EQ(options("/a:b", "k=1").version, 3U);
  EXPECT_EQ(options("/a:b", "k=1 version=4").version, 4U);
  EXPECT_EQ(options("/a:b", "del k").version, 3U);
  EXPECT_FALSE(options("/a:b", "k=1").ephemeral);
  EXPECT_EQ(options("/a:b", "add k 1").ttl.count(), 0);
  EXPECT_EQ(options(kSockets, "k=1").ttl, std::chrono::seconds(5));
  EXPECT_TRUE(options(kSockets, "k=1").ephemeral);
  EXPECT_TRUE(options("/s", "k=1").ephemeral) << "a socket with a path is a socket";
  EXPECT_EQ(options("/s", "k=1").version, 9U);
  EXPECT_EQ(options("/c", "k=1").version, 3U);
  EXPECT_EQ(options(kStandardInput, "k=1").ttl.count(), 0);
  EXPECT_EQ(parse("a=1", all.of("/a:b")).command.value.type(), Type::kBytes);
  EXPECT_EQ(parse("\"k=x\"=1", all.of("/a:b")).command.value.type(), Type::kFloat64) << "a longer prefix goes first";
}

TEST(SourceRules, NonsenseIsRefused) {
  const SourceNames names{{"/f"}, "/s"};
  for (const std::string type : {"", "float", "k=", "k=double", "k=FLOAT"})
    EXPECT_THROW(SourceRules(names, {type}, {}), std::invalid_argument) << type;
  for (const std::string defaults :
       {"", "ttl=5s", "/other:ttl=5s", "/f:", "/f:ttl=0", "/f:ttl=5s,", "/f:version=x", "/f:type=int", "/f:ephemeral",
        "all:ephemeral", "stdin:ttl=5s,ephemeral", "/f:ttl", "/f:ttl=5s ephemeral"}) {
    EXPECT_THROW(SourceRules(names, {}, {defaults}), std::invalid_argument) << defaults;
  }
}

TEST(LineParser, QuotesCarryAnyByte) {
  expect_set(R"(set "a key" "two words")", "a key", "two words");
  expect_set(R"("a=b"="c=d")", "a=b", "c=d");
  expect_set(R"(k="")", "k", "");
  expect_set(R"(k="\n\t\r\\\"\x41\x7f\xfF")", "k", "\n\t\r\\\"A\x7f\xff");
  expect_set(R"("k\0"="a\0b")", "k\0"sv, "a\0b"sv);
  expect_set("k=\xff\x01\0z"sv, "k", "\xff\x01\0z"sv);
  expect_set("k=\"\xff\x01\0z\""sv, "k", "\xff\x01\0z"sv);
  expect_set(R"(set "set" "#")", "set", "#");
  expect_set(R"(k=C:\new)", "k", R"(C:\new)");
}

TEST(LineParser, WrongQuotingIsAnError) {
  EXPECT_EQ(error_of(R"(k="open)"), LineError::kOpenQuote);
  EXPECT_EQ(error_of(R"(set "open)"), LineError::kOpenQuote);
  EXPECT_EQ(error_of(R"(k="open\")"), LineError::kOpenQuote);
  EXPECT_EQ(error_of(R"(k="open\)"), LineError::kBadEscape);
  EXPECT_EQ(error_of(R"(k="\q")"), LineError::kBadEscape);
  EXPECT_EQ(error_of(R"(k="\x4")"), LineError::kBadEscape);
  EXPECT_EQ(error_of(R"(k="\xg0")"), LineError::kBadEscape);
  EXPECT_EQ(error_of(R"(k="a"b)"), LineError::kTextAfterQuote);
  EXPECT_EQ(error_of(R"(k=a"b")"), LineError::kStrayQuote);
  EXPECT_EQ(error_of(R"(set a"b c)"), LineError::kStrayQuote);
  EXPECT_EQ(error_of(R"(k"=c)"), LineError::kStrayQuote);
  EXPECT_EQ(error_of(R"(k="a" "b")"), LineError::kTrailingText);
}

TEST(LineParser, EveryOtherLineIsRefusedWithItsReason) {
  EXPECT_EQ(error_of("st a 5"), LineError::kUnknownCommand);
  EXPECT_EQ(error_of("SET a 5"), LineError::kUnknownCommand);
  EXPECT_EQ(error_of("set:x a 5"), LineError::kUnknownCommand);
  EXPECT_EQ(error_of("a = 5"), LineError::kUnknownCommand);
  EXPECT_EQ(error_of("\"a\" 5"), LineError::kUnknownCommand);
  EXPECT_EQ(error_of("set"), LineError::kKeyMissing);
  EXPECT_EQ(error_of("set a"), LineError::kValueMissing);
  EXPECT_EQ(error_of("set a=b 5"), LineError::kEqualsAfterKey);
  EXPECT_EQ(error_of("set \"a\"=5"), LineError::kEqualsAfterKey);
  EXPECT_EQ(error_of("=5"), LineError::kKeyEmpty);
  EXPECT_EQ(error_of("\"\"=5"), LineError::kKeyEmpty);
  EXPECT_EQ(error_of("set \"\" 5"), LineError::kKeyEmpty);
  EXPECT_EQ(error_of("a=two words"), LineError::kTrailingText);
  EXPECT_EQ(error_of("set a 5 expires=3"), LineError::kTrailingText);
}

TEST(LineParser, KeysAndValuesUpToTheirLimitAreAcceptedAndNotAByteMore) {
  const std::string key(kKeyBytesMax, 'k');
  const std::string value(kValueBytesMax, 'v');
  expect_set("set " + key + ' ' + value, key, value);
  expect_set("\"" + key + "\"=\"" + value + '"', key, value);
  EXPECT_EQ(error_of("set " + key + "k 5"), LineError::kKeyTooLong);
  EXPECT_EQ(error_of(key + "k=5"), LineError::kKeyTooLong);
  EXPECT_EQ(error_of("del \"" + key + "k\""), LineError::kKeyTooLong);
  EXPECT_EQ(error_of("k=" + value + 'v'), LineError::kValueTooBig);
  EXPECT_EQ(error_of("k=\"" + value + "v\""), LineError::kValueTooBig);
}

TEST(LineParser, TheLongestLineWithEverythingEscapedIsAccepted) {
  std::string key;
  std::string value;
  for (std::size_t i = 0; i < kKeyBytesMax; ++i) key += "\\x6b";
  for (std::size_t i = 0; i < kValueBytesMax; ++i) value += "\\x76";
  const std::string line = "set:s \"" + key + "\" \"" + value + '"';
  ASSERT_LE(line.size(), kLineBytesMax);
  expect_set(line, std::string(kKeyBytesMax, 'k'), std::string(kValueBytesMax, 'v'));
  EXPECT_EQ(error_of("set:s \"" + key + "\\x6b\" 1"), LineError::kKeyTooLong);
  EXPECT_EQ(error_of("k=\"" + value + "\\x76\""), LineError::kValueTooBig);
}

unsigned seed_of_run() {
  const char* given = std::getenv("SHMSTATE_TEST_SEED");
  return given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
}

std::string quoted(std::string_view bytes, std::mt19937& random) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string text = "\"";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\' || c == '\n' || c == '\r' || random() % 4 == 0) {
      text += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      text += c;
    }
  }
  return text + '"';
}

TEST(LineParser, AnyBytesSurviveTheWayThroughQuotes) {
  const unsigned seed = seed_of_run();
  SCOPED_TRACE("SHMSTATE_TEST_SEED=" + std::to_string(seed));
  std::mt19937 random(seed);
  for (int round = 0; round < 2000; ++round) {
    std::string key(1 + random() % 40, '\0');
    std::string value(random() % 200, '\0');
    for (char& c : key) c = static_cast<char>(random());
    for (char& c : value) c = static_cast<char>(random());
    expect_set("set " + quoted(key, random) + ' ' + quoted(value, random), key, value);
  }
}

TEST(LineParser, AnyBytesGiveACommandWithinTheLimitsOrAnError) {
  const unsigned seed = seed_of_run();
  SCOPED_TRACE("SHMSTATE_TEST_SEED=" + std::to_string(seed));
  std::mt19937 random(seed);
  const std::vector<std::string_view> pieces{
      "ttl=",  "version=", "ephemeral", "5s",  "set", "add", "del",
      ":i",    ":f",       ":s",        " ",   "\t",  "=",   "\"",
      "\\",    "\\x",      "\\0",       "k",   "1",   "-",   ".",
      "e",     "0x",       "nan",       "inf", "#",   "+",   "9223372036854775808",
      "begin", "\r",       "\0"sv,      "\xff"};
  for (int round = 0; round < 50000; ++round) {
    std::string line;
    for (std::size_t left = random() % 12; left > 0; --left) line += pieces[random() % pieces.size()];
    const ParsedLine parsed = parse(line);
    if (parsed.error != LineError::kNone) {
      EXPECT_EQ(parsed.command.verb, Verb::kNothing) << line;
      EXPECT_FALSE(describe(parsed.error).empty()) << line;
      continue;
    }
    const Verb verb = parsed.command.verb;
    const bool has_value = verb == Verb::kSet || verb == Verb::kAdd;
    EXPECT_EQ(parsed.command.key.empty(), !has_value && verb != Verb::kErase) << line;
    EXPECT_EQ(parsed.command.value.type() != Type::kNone, has_value) << line;
  }
}

// --- cutting a stream into lines

std::vector<std::string> lines_of(LineSplitter& splitter, const std::vector<std::string_view>& chunks, bool finish) {
  std::vector<std::string> lines;
  const auto keep = [&](const Line& line) {
    lines.push_back(std::to_string(line.number) + (line.is_too_long ? "!" : ":") + std::string(line.text));
    return true;
  };
  for (const std::string_view chunk : chunks) EXPECT_EQ(splitter.feed(chunk, keep), chunk.size());
  if (finish) splitter.finish(keep);
  return lines;
}

TEST(LineSplitter, LinesAreTheSameHoweverTheStreamIsChunked) {
  const std::string_view stream = "one\r\n\ntwo\nthree\r\r\nfour";
  for (std::size_t step = 1; step <= stream.size(); ++step) {
    std::vector<std::string_view> chunks;
    for (std::size_t at = 0; at < stream.size(); at += step) chunks.push_back(stream.substr(at, step));
    LineSplitter splitter(100);
    EXPECT_EQ(lines_of(splitter, chunks, true), (Texts{"1:one", "2:", "3:two", "4:three\r", "5:four"})) << step;
  }
}

TEST(LineSplitter, ATooLongLineIsToldOnceAndSkippedToItsNewline) {
  for (const std::vector<std::string_view>& chunks :
       {std::vector{"0123456789a\nok\n"sv}, {"01234", "56789", "a", "bc\nok\n"}, {"0123456789a", "\nok\n"}}) {
    LineSplitter splitter(10);
    EXPECT_EQ(lines_of(splitter, chunks, true), (Texts{"1!0123456789", "2:ok"}));
  }
}

TEST(LineSplitter, ALineOfExactlyTheLimitIsWhole) {
  LineSplitter splitter(10);
  EXPECT_EQ(lines_of(splitter, {"0123456789\n", "01234", "56789\n"}, true), (Texts{"1:0123456789", "2:0123456789"}));
}

TEST(LineSplitter, TheRestOfAChunkIsLeftWhenALineSaysStop) {
  LineSplitter splitter(100);
  std::vector<std::string> lines;
  const auto stop_at_b = [&](const Line& line) {
    lines.emplace_back(line.text);
    return line.text != "b";
  };
  EXPECT_EQ(splitter.feed("a\nb\nc\nd", stop_at_b), 4U);
  EXPECT_EQ(splitter.feed("c\nd", stop_at_b), 3U);
  splitter.finish(stop_at_b);
  EXPECT_EQ(lines, (Texts{"a", "b", "c", "d"}));
}

TEST(LineSplitter, AnUnfinishedLineCanBeDropped) {
  LineSplitter splitter(100);
  EXPECT_EQ(lines_of(splitter, {"a\nhal"}, false), (Texts{"1:a"}));
  EXPECT_TRUE(splitter.drop_unfinished());
  EXPECT_FALSE(splitter.drop_unfinished());
  EXPECT_EQ(lines_of(splitter, {"b\n"}, true), (Texts{"2:b"}));
}

TEST(LineSplitter, AStreamEnteredInTheMiddleOfALineBeginsWithTheNextOne) {
  LineSplitter splitter(100);
  splitter.skip_rest_of_line();
  EXPECT_EQ(lines_of(splitter, {"f of it\nwhole\n"}, true), (Texts{"1:whole"}));
}

TEST(LineSplitter, AByteOrderMarkIsNoPartOfTheFirstLine) {
  const std::string_view stream =
      "\xEF\xBB\xBF"
      "a=1\n\xEF\xBB\xBF"
      "b=2\n";
  for (std::size_t step = 1; step <= stream.size(); ++step) {
    std::vector<std::string_view> chunks;
    for (std::size_t at = 0; at < stream.size(); at += step) chunks.push_back(stream.substr(at, step));
    LineSplitter splitter(100);
    EXPECT_EQ(lines_of(splitter, chunks, true), (Texts{"1:a=1",
                                                       "2:\xEF\xBB\xBF"
                                                       "b=2"}))
        << step;
    EXPECT_EQ(lines_of(splitter, chunks, true), (Texts{"3:a=1",
                                                       "4:\xEF\xBB\xBF"
                                                       "b=2"}))
        << "another stream";
  }
  LineSplitter splitter(100);
  EXPECT_EQ(lines_of(splitter, {"\xEF\xBB\xBF"}, true), (Texts{"1:"}));
  EXPECT_EQ(lines_of(splitter, {"\xEF\xBB\xBF\r\n"}, true), (Texts{"2:"}));
  EXPECT_EQ(lines_of(splitter, {"\xEF\xBB\n"}, true), (Texts{"3:\xEF\xBB"})) << "half a mark is none";
}

TEST(LineSplitter, AStreamEnteredInTheMiddleBeginsWithNoByteOrderMark) {
  LineSplitter splitter(100);
  splitter.skip_rest_of_line();
  EXPECT_EQ(lines_of(splitter,
                     {"f\n\xEF\xBB\xBF"
                      "a=1\n"},
                     true),
            (Texts{"1:\xEF\xBB\xBF"
                   "a=1"}));
}

// A line of UTF-16 looks like one with NUL bytes in its key.
TEST(LineSplitter, EveryLineOfAStreamInUtf16IsMarkedAndNoneOfTheNextStream) {
  for (const std::string_view first : {"\xFF\xFE"
                                       "a\0=\0"
                                       "1\0\n"sv,
                                       "\xFE\xFF\0a\0=\0"
                                       "1\0\n"sv,
                                       "\xFF\xFE\0\0a\0\0\0\n"sv, "\0\0\xFE\xFF\0\0\0a\n"sv}) {
    LineSplitter splitter(100);
    std::vector<bool> marks;
    const auto keep = [&](const Line& line) {
      marks.push_back(line.is_utf16);
      return true;
    };
    for (const std::string_view chunk : {first, "\0b=2\n"sv}) (void)splitter.feed(chunk, keep);
    splitter.finish(keep);
    (void)splitter.feed("c=3\n", keep);
    EXPECT_EQ(marks, (std::vector<bool>{true, true, false}));
  }
}

// --- what a session does with lines

std::string text_of(const Command& command) {
  const std::string verb = command.verb == Verb::kSet ? "set " : command.verb == Verb::kAdd ? "add " : "del ";
  std::string value;
  if (command.value.type() == Type::kInt64) value = " " + std::to_string(command.value.int64());
  if (command.value.type() == Type::kFloat64) value = " f" + std::to_string(command.value.float64());
  if (command.value.type() == Type::kBytes) value = " '" + std::string(command.value.bytes()) + "'";
  if (command.options.ephemeral) value += " ephemeral";
  return verb + std::string(command.key) + value;
}

class RecordingSink final : public MutationSink {
 public:
  Status push(const Command& mutation) override {
    if (answer == Status::kOk) pushed.push_back(text_of(mutation));
    return answer;
  }
  Status push_batch(const PendingBatch& batch) override {
    std::string text;
    batch.for_each([&](const Command& mutation) { text += (text.empty() ? "" : "; ") + text_of(mutation); });
    if (answer == Status::kOk) pushed.push_back("[" + text + "]");
    return answer;
  }

  [[nodiscard]] std::uint64_t batch_max() const noexcept override { return batch_max_now; }

  Status answer = Status::kOk;
  std::uint64_t batch_max_now = 32'768;
  std::vector<std::string> pushed;
};

class SessionTest : public ::testing::Test {
 protected:
  Verdict say(std::string_view text) { return session_.handle({.text = text, .number = ++line_number_}); }
  void say_all(const std::vector<std::string_view>& lines) {
    for (const std::string_view line : lines) say(line);
  }

  RecordingSink sink_;
  Tally tally_;
  Session session_{sink_, tally_, scratch(), 200};
  std::uint64_t line_number_ = 0;
};

TEST_F(SessionTest, MutationsArePushedInOrderAndAnswered) {
  EXPECT_EQ(say("set a 1").answer, Answer::kOk);
  EXPECT_EQ(say("# nothing").answer, Answer::kNone);
  EXPECT_EQ(say("add a 2.5").answer, Answer::kOk);
  EXPECT_EQ(say("del a").answer, Answer::kOk);
  EXPECT_EQ(sink_.pushed, (Texts{"set a 1", "add a f2.500000", "del a"}));
  EXPECT_EQ(tally_.lines, 4U);
  EXPECT_EQ(tally_.mutations, 3U);
  EXPECT_TRUE(tally_.is_clean());
}

TEST_F(SessionTest, ABadLineIsCountedAndTheNextOneWorks) {
  const Verdict verdict = say("nonsense");
  EXPECT_TRUE(verdict.is_problem);
  EXPECT_EQ(verdict.answer, Answer::kError);
  EXPECT_TRUE(session_.problem().starts_with("unknown command")) << session_.problem();
  EXPECT_EQ(say("a=1").answer, Answer::kOk);
  EXPECT_EQ(tally_.bad_lines, 1U);
  EXPECT_EQ(sink_.pushed, (Texts{"set a 1"}));
}

TEST_F(SessionTest, ATooLongLineIsABadLine) {
  EXPECT_TRUE(session_.handle({.text = "abc", .number = 1, .is_too_long = true}).is_problem);
  EXPECT_EQ(session_.problem(), "the line is too long, in \"abc\"");
  EXPECT_EQ(tally_.bad_lines, 1U);
}

TEST_F(SessionTest, ABatchIsPushedAsAWholeByItsCommitAndAnsweredOnce) {
  EXPECT_EQ(say("begin").answer, Answer::kNone);
  EXPECT_EQ(say("set a 1").answer, Answer::kNone);
  EXPECT_EQ(say("b=text").answer, Answer::kNone);
  EXPECT_EQ(say("del c").answer, Answer::kNone);
  EXPECT_TRUE(sink_.pushed.empty());
  EXPECT_EQ(say("commit").answer, Answer::kOk);
  EXPECT_EQ(sink_.pushed, (Texts{"[set a 1; set b 'text'; del c]"}));
  EXPECT_EQ(tally_.mutations, 3U);
  EXPECT_EQ(tally_.batches, 1U);
  say("a=2");
  EXPECT_EQ(sink_.pushed.back(), "set a 2");
}

TEST_F(SessionTest, AnAbortedBatchLeavesNothingBehind) {
  say_all({"begin", "a=1"});
  EXPECT_EQ(say("abort").answer, Answer::kOk);
  say_all({"begin", "b=2", "commit"});
  EXPECT_EQ(sink_.pushed, (Texts{"[set b 2]"}));
  EXPECT_TRUE(tally_.is_clean());
}

TEST_F(SessionTest, ABadLineDiscardsItsWholeBatchAndTheCommitTellsWhy) {
  say_all({"begin", "a=1"});
  const Verdict bad = say("a=two words");
  EXPECT_TRUE(bad.is_problem);
  EXPECT_EQ(bad.answer, Answer::kNone);
  say("b=2");
  EXPECT_EQ(say("commit").answer, Answer::kError);
  EXPECT_TRUE(session_.problem().starts_with("the batch is discarded: line 3: text after the end"))
      << session_.problem();
  EXPECT_TRUE(sink_.pushed.empty());
  EXPECT_EQ(tally_.bad_lines, 1U);
  EXPECT_EQ(tally_.discarded_batches, 1U);
  say_all({"begin", "c=3", "commit"});
  EXPECT_EQ(sink_.pushed, (Texts{"[set c 3]"}));
}

TEST_F(SessionTest, BatchCommandsInTheWrongPlaceAreBadLines) {
  EXPECT_EQ(say("commit").answer, Answer::kError);
  EXPECT_EQ(say("abort").answer, Answer::kError);
  say_all({"begin", "a=1", "begin", "commit"});
  EXPECT_NE(session_.problem().find("begin inside a batch"), std::string::npos) << session_.problem();
  EXPECT_TRUE(sink_.pushed.empty());
  EXPECT_EQ(tally_.bad_lines, 3U);
}

TEST_F(SessionTest, FlushWaitsOutsideABatchAndIsRefusedInsideOne) {
  EXPECT_EQ(say("flush").answer, Answer::kFlushWhenReadable);
  say("begin");
  EXPECT_EQ(say("flush").answer, Answer::kFlushError);
  EXPECT_EQ(say("commit").answer, Answer::kError);
}

TEST_F(SessionTest, ABatchThatIsOpenAtTheEndIsDiscardedAndTold) {
  EXPECT_FALSE(session_.end());
  say_all({"begin", "a=1"});
  EXPECT_TRUE(session_.end());
  EXPECT_NE(session_.problem().find("begun in line 1"), std::string::npos) << session_.problem();
  EXPECT_FALSE(session_.end());
  EXPECT_TRUE(sink_.pushed.empty());
  EXPECT_EQ(tally_.discarded_batches, 1U);
}

TEST_F(SessionTest, ABatchBiggerThanTheRingIsRefusedBeforeItTakesMemory) {
  say("begin");
  const std::string line = "key=\"" + std::string(150, 'v') + '"';
  EXPECT_FALSE(say(line).is_problem);
  EXPECT_TRUE(say(line).is_problem);
  EXPECT_NE(session_.problem().find("bigger than the ring"), std::string::npos) << session_.problem();
  EXPECT_EQ(say("commit").answer, Answer::kError);
  EXPECT_TRUE(sink_.pushed.empty());
}

TEST_F(SessionTest, ABatchOfMoreMutationsThanTheMergerAllowsIsRefusedWithTheLimit) {
  sink_.batch_max_now = 2;
  say_all({"begin", "a=1", "b=2"});
  EXPECT_EQ(say("commit").answer, Answer::kOk);
  say_all({"begin", "a=1", "b=2"});
  EXPECT_TRUE(say("c=3").is_problem);
  EXPECT_NE(session_.problem().find("larger than the 2 mutations"), std::string::npos) << session_.problem();
  EXPECT_NE(session_.problem().find("--batch-max"), std::string::npos) << session_.problem();
  EXPECT_EQ(say("commit").answer, Answer::kError);
  EXPECT_EQ(tally_.batches, 1U);
}

TEST_F(SessionTest, WhatTheRingRefusesIsCountedByMutation) {
  sink_.answer = Status::kTimeout;
  const Verdict verdict = say("a=1");
  EXPECT_TRUE(verdict.is_ring_full);
  EXPECT_EQ(verdict.answer, Answer::kError);
  EXPECT_TRUE(session_.problem().starts_with("key \"a\" refused: the ring is full")) << session_.problem();
  say_all({"begin", "a=1", "b=2"});
  EXPECT_TRUE(say("commit").is_ring_full);
  EXPECT_EQ(tally_.refused_mutations, 3U);
  EXPECT_EQ(tally_.mutations, 0U);
  sink_.answer = Status::kOk;
  say("c=3");
  EXPECT_EQ(sink_.pushed, (Texts{"set c 3"}));
}

TEST_F(SessionTest, ALineOfUtf16IsABadLineWhateverItLooksLike) {
  const Verdict verdict = session_.handle({.text = "a=1", .number = 1, .is_too_long = false, .is_utf16 = true});
  EXPECT_TRUE(verdict.is_problem);
  EXPECT_TRUE(session_.problem().starts_with("the text is UTF-16")) << session_.problem();
  EXPECT_TRUE(sink_.pushed.empty());
}

// --- what a problem names

TEST_F(SessionTest, AProblemNamesTheBeginningOfItsLine) {
  say("nonsense \x01\n\"");
  EXPECT_TRUE(session_.problem().ends_with(R"(, in "nonsense \x01\n\"")")) << session_.problem();
  say("k=two " + std::string(1000, 'w'));
  EXPECT_TRUE(session_.problem().ends_with("www...\"")) << session_.problem();
  EXPECT_NE(session_.problem().find(", in \"k=two www"), std::string::npos);
  EXPECT_LT(session_.problem().size(), 300U);
}

TEST_F(SessionTest, ARefusalNamesItsKey) {
  sink_.answer = Status::kRingFull;
  say("\"the key\"=1");
  EXPECT_TRUE(session_.problem().starts_with("key \"the key\" refused: ")) << session_.problem();
  say("add " + std::string(kKeyBytesMax, 'k') + " 1");
  EXPECT_LT(session_.problem().size(), 300U);
  say_all({"begin", "a=1", "b=2", "commit"});
  EXPECT_TRUE(session_.problem().starts_with("batch with key \"a\" refused: ")) << session_.problem();
}

// --- what was lost since the last flush

TEST_F(SessionTest, LostLinesAreCountedWithTheFirstOne) {
  EXPECT_EQ(session_.lost_lines().take(), "");
  say_all({"a=1", "nonsense", "b=2", "more nonsense"});
  const std::string lost = session_.lost_lines().take();
  EXPECT_TRUE(lost.starts_with("2 lines refused since the last flush, first: line 2: unknown command")) << lost;
  EXPECT_TRUE(lost.ends_with("in \"nonsense\"")) << lost;
  EXPECT_EQ(session_.lost_lines().take(), "") << "it is told once";
}

TEST_F(SessionTest, EveryLineOfADiscardedBatchIsLost) {
  say_all({"begin", "a=1", "b=two words", "c=3", "commit"});
  const std::string lost = session_.lost_lines().take();
  EXPECT_TRUE(lost.starts_with("3 lines refused since the last flush, first: line 3: text after the end")) << lost;
  say_all({"begin", "a=1", "abort"});
  EXPECT_EQ(session_.lost_lines().take(), "") << "nobody refused it";
  sink_.answer = Status::kTimeout;
  say_all({"begin", "a=1", "b=2", "commit", "c=1"});
  EXPECT_TRUE(session_.lost_lines().take().starts_with("3 lines refused since the last flush, first: line 12: batch"));
}

// --- ephemeral keys

TEST_F(SessionTest, OnlyAConnectionHasEphemeralKeys) {
  EXPECT_TRUE(say("a=1 ephemeral").is_problem);
  EXPECT_TRUE(session_.problem().starts_with("only the keys of a connection can be ephemeral")) << session_.problem();
  EXPECT_TRUE(sink_.pushed.empty());
}

TEST_F(SessionTest, TheFirstEphemeralKeyAsksForARingOfItsOwnAndEverythingGoesThereThen) {
  RecordingSink own;
  session_.set_own_ring(Session::OwnRing::kMayHave);
  say("a=1");
  EXPECT_EQ(say("b=2 ephemeral").answer, Answer::kAgainWithOwnRing);
  EXPECT_EQ(tally_.lines, 1U);
  session_.move_to_own_ring(own);
  EXPECT_EQ(say("b=2 ephemeral").answer, Answer::kOk);
  say_all({"c=3", "begin", "d=4 ephemeral", "e=5", "commit"});
  EXPECT_EQ(sink_.pushed, (Texts{"set a 1"}));
  EXPECT_EQ(own.pushed, (Texts{"set b 2 ephemeral", "set c 3", "[set d 4 ephemeral; set e 5]"}));
}

TEST_F(SessionTest, ABatchWithAnEphemeralKeyAsksAtItsCommit) {
  RecordingSink own;
  session_.set_own_ring(Session::OwnRing::kMayHave);
  say_all({"begin", "a=1 ephemeral"});
  EXPECT_EQ(say("commit").answer, Answer::kAgainWithOwnRing);
  session_.move_to_own_ring(own);
  EXPECT_EQ(say("commit").answer, Answer::kOk);
  EXPECT_EQ(own.pushed, (Texts{"[set a 1 ephemeral]"}));
  EXPECT_TRUE(tally_.is_clean());
}

TEST_F(SessionTest, WithoutARingOfItsOwnAnEphemeralLineIsRefused) {
  session_.set_own_ring(Session::OwnRing::kMayHave);
  const Verdict verdict = session_.refuse_own_ring({.text = "a=1 ephemeral", .number = 1}, "too many rings");
  EXPECT_EQ(verdict.answer, Answer::kError);
  EXPECT_EQ(session_.problem(), "no ring for ephemeral keys: too many rings");
  EXPECT_EQ(tally_.refused_mutations, 1U);
  say_all({"begin", "a=1 ephemeral", "b=2"});
  (void)session_.refuse_own_ring({.text = "commit", .number = 4}, "too many rings");
  EXPECT_EQ(tally_.discarded_batches, 1U);
  EXPECT_TRUE(session_.lost_lines().take().starts_with("3 lines refused"));
  EXPECT_EQ(say("commit").answer, Answer::kError) << "the batch is over";
}

// --- limited reports

TEST(ReportLimiter, WritesSoManyASecondAndCountsTheOthers) {
  ReportLimiter limiter(3);
  const auto start = std::chrono::steady_clock::now();
  int written = 0;
  for (int i = 0; i < 10; ++i) written += limiter.allow(start + std::chrono::milliseconds(i)) ? 1 : 0;
  EXPECT_EQ(written, 3);
  EXPECT_EQ(limiter.take_suppressed(), 7U);
  EXPECT_EQ(limiter.take_suppressed(), 0U);
  EXPECT_TRUE(limiter.allow(start + std::chrono::seconds(1)));
}

}  // namespace
}  // namespace shmstate::agent
