#include "configuration_file.h"

#include <fmt/format.h>

#include "support/byte_order_mark.h"

namespace shmstate::merger {
namespace {

constexpr std::string_view kBlanks = " \t\r\f\v";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

bool is_blank(char c) { return kBlanks.find(c) != std::string_view::npos; }
bool begins_comment(std::string_view text) { return text.starts_with('#') || text.starts_with(';'); }

/// What stands before a # that follows a blank, or begins the text.
std::string_view without_comment(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '#' && (i == 0 || is_blank(text[i - 1]))) return trimmed(text.substr(0, i));
  }
  return text;
}

void take_quoted(std::string_view text, ConfigurationLine& line) {
  const std::size_t end = text.find(text.front(), 1);
  if (end == std::string_view::npos) {
    line.mistake = "the closing quote is missing";
    return;
  }
  line.value = text.substr(1, end - 1);
  const std::string_view rest = text.substr(end + 1);
  const std::string_view behind = trimmed(rest);
  const bool is_comment = begins_comment(behind) && is_blank(rest.front());
  if (!behind.empty() && !is_comment) line.mistake = "text follows the closing quote";
}

}  // namespace

std::optional<ConfigurationLine> parse_configuration_line(std::string_view text) {
  text = trimmed(text);
  if (text.empty() || begins_comment(text)) return std::nullopt;
  ConfigurationLine line;
  if (text.starts_with('[')) {
    line.mistake = "there are no sections";
    return line;
  }
  const std::size_t equals = text.find('=');
  if (equals == std::string_view::npos) {
    line.name = without_comment(text);
    line.value = "true";
    return line;
  }
  line.name = trimmed(text.substr(0, equals));
  const std::string_view value = trimmed(text.substr(equals + 1));
  if (value.starts_with('"') || value.starts_with('\'')) {
    take_quoted(value, line);
  } else {
    line.value = without_comment(value);
  }
  return line;
}

std::vector<CLI::ConfigItem> ConfigurationFile::from_config(std::istream& input) const {
  was_read_ = true;
  std::vector<CLI::ConfigItem> all;
  std::string text;
  for (int number = 1; std::getline(input, text); ++number) {
    if (number == 1 && has_utf16_mark(text)) refuse(number, std::string(kUtf16Problem));
    const auto line = parse_configuration_line(number == 1 ? without_utf8_mark(text) : text);
    if (line) all.push_back(take(*line, number));
  }
  return all;
}

std::optional<std::string> ConfigurationFile::place_of(const CLI::Option& option) const {
  const auto found = lines_.find(option.get_name());
  if (found == lines_.end()) return std::nullopt;
  return place(found->second);
}

CLI::ConfigItem ConfigurationFile::take(const ConfigurationLine& line, int number) const {
  if (!line.mistake.empty()) refuse(number, line.mistake);
  const CLI::Option* const option = app_.get_option_no_throw("--" + line.name);
  if (option == nullptr) refuse(number, "unknown option \"" + line.name + '"');
  if (!option->get_configurable()) refuse(number, '"' + line.name + "\" cannot be given in a file");
  if (const auto [first, is_new] = lines_.emplace(option->get_name(), number); !is_new) {
    refuse(number, '"' + line.name + "\" is given twice, in line " + std::to_string(first->second) + ", too");
  }
  CLI::ConfigItem item;
  item.name = line.name;
  item.inputs = {line.value};
  return item;
}

std::string ConfigurationFile::place(int line) const {
  return fmt::format("{}:{}", app_.get_config_ptr()->as<std::string>(), line);
}

void ConfigurationFile::refuse(int line, const std::string& why) const {
  throw CLI::ConfigError(place(line) + ": " + why);
}

}  // namespace shmstate::merger
