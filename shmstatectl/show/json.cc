#include "show/json.h"

#include <fmt/format.h>

#include <cmath>

#include "show/change_text.h"
#include "show/text.h"
#include "show/value_text.h"

namespace shmstate::ctl {

namespace {

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::string_view group = bytes.substr(i, 3);
    std::uint32_t bits = 0;
    for (std::size_t j = 0; j < 3; ++j)
      bits = (bits << 8) | (j < group.size() ? static_cast<unsigned char>(group[j]) : 0u);
    for (std::size_t j = 0; j < 4; ++j) text += j <= group.size() ? kDigits[(bits >> (18 - 6 * j)) & 63] : '=';
  }
  return text;
}

Json json_of_float(double value) {
  if (std::isfinite(value)) return value;
  return {{"float", raw_text(value)}};
}

std::string dumped(const Json& json, int indent) {
  constexpr bool kAsciiOnly = true;
  return json.dump(indent, ' ', kAsciiOnly) + '\n';
}

}  // namespace

Json json_of_bytes(std::string_view bytes) {
  if (is_utf8(bytes)) return bytes;
  return {{"base64", base64(bytes)}};
}

Json json_of(const Value& value) {
  if (const auto* number = std::get_if<std::int64_t>(&value)) return *number;
  if (const auto* number = std::get_if<double>(&value)) return json_of_float(*number);
  return json_of_bytes(std::get<std::string>(value));
}

Json json_of(const Entry& entry) {
  Json json = {{"key", json_of_bytes(entry.key)},
               {"type", type_name(ValueView(entry.value).type())},
               {"value", json_of(entry.value)},
               {"changed_epoch", entry.changed_epoch}};
  if (entry.version != 0) json["version"] = entry.version;
  if (entry.time_to_live) json["time_to_live_ns"] = entry.time_to_live->count();
  if (entry.ephemeral) json["ephemeral"] = true;
  return json;
}

Json json_of(const Change& change) {
  Json json = {{"epoch", change.epoch}, {"change", change_name(change.kind)}, {"key", json_of_bytes(change.key)}};
  if (!change.value) return json;
  json["type"] = type_name(ValueView(*change.value).type());
  json["value"] = json_of(*change.value);
  return json;
}

Json json_of(const BufferInfo& buffer) {
  return {{"epoch", buffer.epoch}, {"current", buffer.current}, {"pinned", buffer.pinned}};
}

Json json_of(const RingInfo& ring) {
  return {{"id", fmt::format("{:016x}", ring.id)},
          {"name", json_of_bytes(ring.name)},
          {"pid", ring.pid},
          {"uid", ring.uid},
          {"state", json_of_bytes(ring.state)},
          {"quarantine_reason", json_of_bytes(ring.quarantine_reason)},
          {"ring_bytes", ring.ring_bytes},
          {"pushed_bytes", ring.pushed_bytes},
          {"applied_bytes", ring.applied_bytes},
          {"applied_count", ring.applied_count},
          {"rejected_count", ring.rejected_count}};
}

Json json_of(const StatisticInfo& statistic) {
  return {{"name", json_of_bytes(statistic.name)},
          {"value", statistic.value},
          {"unit", json_of_bytes(statistic.unit)},
          {"meaning", json_of_bytes(statistic.meaning)}};
}

Json json_of(const InstanceInfo& info) {
  return {{"instance", json_of_bytes(info.path)},
          {"id", json_of_bytes(info.id)},
          {"layout", {{"major", info.layout_major}, {"minor", info.layout_minor}}},
          {"merger",
           {{"running", info.merger_running}, {"pid", info.merger_pid}, {"silence_ns", info.merger_silence.count()}}},
          {"epoch", info.epoch},
          {"entry_count", info.entry_count},
          {"age_ns", info.age.count()},
          {"memory", {{"committed_bytes", info.committed_bytes}, {"limit_bytes", info.limit_bytes}}},
          {"buffers", json_array(info.buffers)},
          {"rings", json_array(info.rings)},
          {"statistics", json_array(info.statistics)}};
}

std::string json_line(const Json& json) { return dumped(json, -1); }
std::string json_document(const Json& json) { return dumped(json, 2); }

}  // namespace shmstate::ctl
