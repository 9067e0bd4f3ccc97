// What is decided about the lines of a source beforehand, on the command line: types of keys, and what else each set
// gets.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lines/line_parser.h"

namespace shmstate::agent {

/// How sources that have no path are called.
inline constexpr auto kStandardInput = "stdin";
inline constexpr auto kSockets = "socket";
inline constexpr auto kAllSources = "all";

struct SourceNames {
  std::vector<std::string> paths;  ///< of FIFOs and followed files
  std::string socket;              ///< empty without one
};

class SourceRules {
 public:
  SourceRules() = default;
  /// From texts such as "pump/=float", and "socket:ttl=5s,ephemeral" or "PATH:type=text". Throws
  /// `std::invalid_argument` with the text and what is wrong with it.
  SourceRules(const SourceNames& names, const std::vector<std::string>& types,
              const std::vector<std::string>& defaults);

  /// Of `kStandardInput`, `kSockets`, or the path of a source. The reference stays valid.
  [[nodiscard]] const LineRules& of(const std::string& source) const;

 private:
  LineRules common_;
  std::map<std::string, LineRules> rules_;
};

}  // namespace shmstate::agent
