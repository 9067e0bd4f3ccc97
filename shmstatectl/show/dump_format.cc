#include "show/dump_format.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>

#include "show/text.h"
#include "show/value_text.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

constexpr std::string_view kEpoch = "epoch=";
constexpr std::string_view kVersion = "version=";
constexpr std::string_view kTimeToLive = "ttl_ns=";
constexpr std::string_view kEphemeral = "ephemeral";
constexpr std::string_view kEnd = "# end ";

std::string_view take_field(std::string_view& line) {
  const std::size_t end = std::min(line.find('\t'), line.size());
  const std::string_view field = line.substr(0, end);
  line.remove_prefix(std::min(end + 1, line.size()));
  return field;
}

std::string parse_bytes(std::string_view field) {
  if (const auto bytes = unescaped(field)) return *bytes;
  throw UsageError(fmt::format("{} has a backslash that begins no escape", in_quotes(field)));
}

std::uint64_t parse_number_after(std::string_view name, std::string_view field) {
  const std::string_view digits = field.substr(name.size());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
  if (error == std::errc() && end == digits.data() + digits.size()) return number;
  throw UsageError(fmt::format("{} has no number behind {}", in_quotes(field), name));
}

std::chrono::nanoseconds parse_time_to_live(std::string_view field) {
  const std::uint64_t ns = parse_number_after(kTimeToLive, field);
  if (ns <= std::uint64_t{std::numeric_limits<std::int64_t>::max()}) return std::chrono::nanoseconds(ns);
  throw UsageError(fmt::format("{} is longer than any time to live", in_quotes(field)));
}

// What is told of a value that was typed in names an option that load does not have.
Value parse_number_of(Type type, std::string_view field) {
  try {
    return parse_number(field, type);
  } catch (const UsageError&) {
    throw UsageError(fmt::format("{} is no {}", in_quotes(field), type_name(type)));
  }
}

Value parse_typed(std::string_view type, std::string_view field) {
  for (const Type known : {Type::kInt64, Type::kFloat64}) {
    if (type == type_name(known)) return parse_number_of(known, field);
  }
  if (type == type_name(Type::kBytes)) return parse_bytes(field);
  throw UsageError(fmt::format("there is no type {}", in_quotes(type)));
}

void take_metadata(std::string_view field, Entry& entry) {
  if (field.starts_with(kEpoch)) {
    entry.changed_epoch = parse_number_after(kEpoch, field);
  } else if (field.starts_with(kVersion)) {
    entry.version = parse_number_after(kVersion, field);
  } else if (field.starts_with(kTimeToLive)) {
    entry.time_to_live = parse_time_to_live(field);
  } else if (field == kEphemeral) {
    entry.ephemeral = true;
  } else {
    throw UsageError(fmt::format("there is no field {}", in_quotes(field)));
  }
}

}  // namespace

std::string dump_line(const EntryView& entry) {
  std::string line =
      fmt::format("{}\t{}\t{}", escaped(entry.key), type_name(entry.value.type()), value_text(entry.value));
  line += fmt::format("\t{}{}", kEpoch, entry.changed_epoch);
  if (entry.version != 0) line += fmt::format("\t{}{}", kVersion, entry.version);
  if (const auto left = entry.time_to_live()) line += fmt::format("\t{}{}", kTimeToLive, left->count());
  if (entry.ephemeral) line += fmt::format("\t{}", kEphemeral);
  return line += '\n';
}

std::string dump_end(std::uint64_t entry_count) { return fmt::format("{}{}", kEnd, entry_count); }

bool is_dump_end(std::string_view line) { return line.starts_with(kEnd) && line.find('\t') == std::string_view::npos; }

Entry parse_dump_line(std::string_view line) {
  Entry entry;
  entry.key = parse_bytes(take_field(line));
  check_key(entry.key);
  const std::string_view type = take_field(line);
  entry.value = parse_typed(type, take_field(line));
  while (!line.empty()) take_metadata(take_field(line), entry);
  return entry;
}

}  // namespace shmstate::ctl
