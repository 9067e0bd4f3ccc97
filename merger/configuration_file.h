// The configuration file: options of the command line, one in a line.
//
//   memory-limit = 512m           # a comment begins at a # behind a blank, or at the beginning of a line
//   readers-group = "plant #2"    ; in double or single quotes, everything stands for itself
//   remove-at-exit
#pragma once

#include <CLI/CLI.hpp>
#include <istream>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace shmstate::merger {

/// A line that says something.
struct ConfigurationLine {
  std::string name;
  std::string value;    // "true" without one
  std::string mistake;  // what is wrong with the line; empty when nothing is
};

/// Nothing for an empty line, and for a comment.
[[nodiscard]] std::optional<ConfigurationLine> parse_configuration_line(std::string_view text);

/// Reads the file for CLI11, whose own reader cuts a value at a # within quotes. Remembers in which line an option was
/// given, so that a mistake is told with its place.
class ConfigurationFile final : public CLI::ConfigBase {
 public:
  explicit ConfigurationFile(const CLI::App& app) : app_(app) {}

  [[nodiscard]] bool was_read() const { return was_read_; }

  [[nodiscard]] std::vector<CLI::ConfigItem> from_config(std::istream& input) const override;

  /// The line that gives an option, as in "/etc/shmstate/plant.conf:2".
  [[nodiscard]] std::optional<std::string> place_of(const CLI::Option& option) const;

 private:
  [[nodiscard]] CLI::ConfigItem take(const ConfigurationLine& line, int number) const;
  [[nodiscard]] std::string place(int line) const;
  [[noreturn]] void refuse(int line, const std::string& why) const;

  const CLI::App& app_;
  mutable std::map<std::string, int> lines_;  // by option: CLI11 only reads
  mutable bool was_read_ = false;
};

}  // namespace shmstate::merger
