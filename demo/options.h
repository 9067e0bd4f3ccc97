// The command lines of the demo's programs.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace shmstate::demo {

struct ViewOptions {
  std::string instance;
};
struct ProducerOptions {
  std::string area;
  double rate_hz = 100;
};

// Each returns the exit status when there is nothing left to do: after --help, and after a mistake.
[[nodiscard]] std::optional<int> read_options(int argc, char** argv, ViewOptions& options);
[[nodiscard]] std::optional<int> read_options(int argc, char** argv, const std::vector<std::string>& area_names,
                                              ProducerOptions& options);

}  // namespace shmstate::demo
