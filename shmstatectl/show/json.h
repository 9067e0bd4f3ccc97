// JSON for programs: the fields are documented in docs/shmstatectl.md.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/value.h"
#include "show/entry.h"

namespace shmstate::ctl {

/// A value of JSON. Only json.cc knows nlohmann's own type: what is made of it takes seconds to compile in every file.
class Json {
 public:
  /// An object with these fields, in this order.
  Json(std::initializer_list<std::pair<std::string_view, Json>> fields);
  Json(std::string_view text);
  Json(const std::string& text) : Json(std::string_view(text)) {}
  Json(const char* text) : Json(std::string_view(text)) {}
  template <typename Number>
  requires std::is_arithmetic_v<Number> Json(Number number) : Json(widened(number)) {}
  Json(bool value);
  Json(std::int64_t number);
  Json(std::uint64_t number);
  Json(double number);
  Json(const Json& other);
  Json(Json&& other) noexcept;
  Json& operator=(const Json& other);
  Json& operator=(Json&& other) noexcept;
  ~Json();
  [[nodiscard]] static Json array();

  /// Changes a field of an object, or adds it behind the others.
  void set(std::string_view name, const Json& value);
  /// Adds an element to an array.
  void add(const Json& value);
  /// On one line for an `indent` of -1. ASCII only, so it is safe for any terminal.
  [[nodiscard]] std::string text(int indent) const;

 private:
  explicit Json(nlohmann::ordered_json&& tree);
  template <typename Number>
  static auto widened(Number number) {
    if constexpr (std::is_floating_point_v<Number>) {
      return static_cast<double>(number);
    } else if constexpr (std::is_signed_v<Number>) {
      return static_cast<std::int64_t>(number);
    } else {
      return static_cast<std::uint64_t>(number);
    }
  }

  std::unique_ptr<nlohmann::ordered_json> tree_;
};

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
  for (const T& item : items) array.add(json_of(item));
  return array;
}

/// With a newline at the end: on one line, or indented for people.
[[nodiscard]] std::string json_line(const Json& json);
[[nodiscard]] std::string json_document(const Json& json);

/// The object `head` with one more field: an array of `items`, a line each. Takes far less memory than a `Json` of all.
template <typename T, typename ToJson>
[[nodiscard]] std::string json_document(const Json& head, std::string_view name, const std::vector<T>& items,
                                        const ToJson& to_json) {
  constexpr std::string_view kEnd = "\n}\n";
  std::string text = json_document(head);
  text.resize(text.size() - kEnd.size());
  text += ",\n  " + Json(name).text(-1) + ": [";
  std::string_view separator = "\n    ";
  for (const T& item : items) {
    text += separator;
    text += Json(to_json(item)).text(-1);
    separator = ",\n    ";
  }
  return text + "\n  ]" + std::string(kEnd);
}

}  // namespace shmstate::ctl
