// What a merger is told: on the command line, in its configuration file, in the environment; what comes first wins.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "service.h"

namespace shmstate::merger {

inline constexpr int kExitUsage = 2;

struct Configuration {
  ServiceOptions service;
  std::string log_level = "info";
  std::map<std::string, std::string> at_start;  // options that only count when the merger starts
};

/// Reads all of it, also again: the file may have changed. Returns the exit status when there is nothing left to do:
/// after --help, --version and --check, and after an error, which has been printed. Throws `Error` (kInvalidArgument)
/// for a group or a name of an instance that cannot be, and for options that make no sense together.
[[nodiscard]] std::optional<int> read_configuration(int argc, char** argv, Configuration& configuration);

}  // namespace shmstate::merger
