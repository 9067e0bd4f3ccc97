// JSON for programs: the fields are documented in docs/shmstatectl.md.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "shmstate/inspect.h"
#include "shmstate/value.h"
#include "shmstatectl/change_tracker.h"
#include "shmstatectl/entry.h"

namespace shmstate::ctl {

using Json = nlohmann::ordered_json;

/// Text as a string; bytes that are not UTF-8 as {"base64": "..."}.
[[nodiscard]] Json json_of_bytes(std::string_view bytes);
/// A number, or `json_of_bytes`; a float that JSON cannot say as {"float": "inf"}, "-inf" or "nan".
[[nodiscard]] Json json_of(const Value& value);
[[nodiscard]] Json json_of(const Entry& entry);
[[nodiscard]] Json json_of(const Change& change);
[[nodiscard]] Json json_of(const BufferInfo& buffer);
[[nodiscard]] Json json_of(const RingInfo& ring);
[[nodiscard]] Json json_of(const StatisticInfo& statistic);
[[nodiscard]] Json json_of(const InstanceInfo& info);

template <typename T>
[[nodiscard]] Json json_array(const std::vector<T>& items) {
  Json array = Json::array();
  for (const T& item : items) array.push_back(json_of(item));
  return array;
}

/// ASCII only, so it is safe for any terminal. On one line, or indented for people.
[[nodiscard]] std::string json_line(const Json& json);
[[nodiscard]] std::string json_document(const Json& json);

}  // namespace shmstate::ctl
