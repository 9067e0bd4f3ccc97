// JSON for programs: the fields are documented in docs/shmstatectl.md.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/value.h"
#include "show/entry.h"

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

/// The object `head` with one more field: an array of `items`, a line each. Takes far less memory than a `Json` of all.
template <typename T, typename ToJson>
[[nodiscard]] std::string json_document(const Json& head, std::string_view name, const std::vector<T>& items,
                                        const ToJson& to_json) {
  constexpr std::string_view kEnd = "\n}\n";
  std::string text = json_document(head);
  text.resize(text.size() - kEnd.size());
  text += ",\n  " + Json(name).dump() + ": [";
  std::string_view separator = "\n    ";
  for (const T& item : items) {
    text += separator;
    text += json_line(to_json(item));
    text.pop_back();
    separator = ",\n    ";
  }
  return text + "\n  ]" + std::string(kEnd);
}

}  // namespace shmstate::ctl
