// What a merger will be told by systemd: the environment and the user of its unit, read from the unit's files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace shmstate::merger {

struct Unit {
  std::string name;                                // of the instance
  std::filesystem::path file;                      // where it is defined, without what is added to it elsewhere
  std::map<std::string, std::string> environment;  // variables that it sets
  std::string user;                                // empty: root
  std::vector<std::string> groups;                 // besides the user's own
};

/// The unit that serves an instance, if the configuration file or the path of the instance is where a unit has it, and
/// one is installed. Looks where systemd looks, or in $SYSTEMD_UNIT_PATH. Throws `Error` when a file of it cannot be
/// read.
[[nodiscard]] std::optional<Unit> find_unit(const std::filesystem::path& instance,
                                            const std::filesystem::path& configuration);

/// What lines of a unit's file add to it: Environment=, User=, SupplementaryGroups= of [Service].
void take_unit_lines(std::string_view text, Unit& unit);

}  // namespace shmstate::merger
