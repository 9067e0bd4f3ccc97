// What a merger is told: on the command line, in its configuration file, in the environment; what comes first wins.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "service.h"

namespace shmstate {

inline constexpr int kExitUsage = 2;

/// An option that does not change while the merger runs.
struct FixedOption {
  std::string value;
  std::string_view remedy;  // what does change it
};

struct Configuration {
  ServiceOptions service;
  std::string log_level = "info";
  std::map<std::string, FixedOption> fixed;
};

/// Reads all of it, also again: the file may have changed. Returns the exit status when there is nothing left to do:
/// after --help and --version, and after an error, which has been printed. Throws `Error` for a group or a name of an
/// instance that cannot be.
[[nodiscard]] std::optional<int> read_configuration(int argc, char** argv, Configuration& configuration);

}  // namespace shmstate
