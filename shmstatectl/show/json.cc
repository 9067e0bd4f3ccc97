#include "show/json.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

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

}  // namespace

Json::Json(std::initializer_list<std::pair<std::string_view, Json>> fields) : Json(nlohmann::ordered_json::object()) {
  for (const auto& [name, value] : fields) set(name, value);
}
Json::Json(std::string_view text) : Json(nlohmann::ordered_json(text)) {}
Json::Json(bool value) : Json(nlohmann::ordered_json(value)) {}
Json::Json(std::int64_t number) : Json(nlohmann::ordered_json(number)) {}
Json::Json(std::uint64_t number) : Json(nlohmann::ordered_json(number)) {}
Json::Json(double number) : Json(nlohmann::ordered_json(number)) {}
Json::Json(nlohmann::ordered_json&& tree) : tree_(std::make_unique<nlohmann::ordered_json>(std::move(tree))) {}
Json::Json(const Json& other) : tree_(std::make_unique<nlohmann::ordered_json>(*other.tree_)) {}
Json::Json(Json&& other) noexcept = default;
Json& Json::operator=(const Json& other) {
  tree_ = std::make_unique<nlohmann::ordered_json>(*other.tree_);
  return *this;
}
Json& Json::operator=(Json&& other) noexcept = default;
Json::~Json() = default;

Json Json::array() { return Json(nlohmann::ordered_json::array()); }

void Json::set(std::string_view name, const Json& value) { (*tree_)[std::string(name)] = *value.tree_; }
void Json::add(const Json& value) { tree_->push_back(*value.tree_); }

std::string Json::text(int indent) const {
  constexpr bool kAsciiOnly = true;
  return tree_->dump(indent, ' ', kAsciiOnly);
}

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
  if (entry.version != 0) json.set("version", entry.version);
  if (entry.time_to_live) json.set("time_to_live_ns", entry.time_to_live->count());
  if (entry.ephemeral) json.set("ephemeral", true);
  return json;
}

Json json_of(const Change& change) {
  Json json = {{"epoch", change.epoch}, {"change", change_name(change.kind)}, {"key", json_of_bytes(change.key)}};
  if (!change.value) return json;
  json.set("type", type_name(ValueView(*change.value).type()));
  json.set("value", json_of(*change.value));
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

std::string json_line(const Json& json) { return json.text(-1) + '\n'; }
std::string json_document(const Json& json) { return json.text(2) + '\n'; }

}  // namespace shmstate::ctl
