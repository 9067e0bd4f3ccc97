// The command line of the agent.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "inputs/source_rules.h"
#include "shmstate/writer.h"

namespace shmstate::agent {

struct Options {
  std::string instance;
  bool reads_stdin = false;
  std::vector<std::string> fifos;
  std::vector<std::string> files;
  bool from_start = false;
  std::string socket;
  unsigned socket_mode = 0660;
  std::size_t connections_max = 1000;
  bool answers_lines = false;
  SourceRules rules;
  WriterOptions writer;
  std::chrono::milliseconds flush_timeout{5000};
  bool is_strict = false;
  std::string log_level = "info";
};

/// Fills the options from the command line and the environment. Returns the exit status when there is nothing left to
/// do: after --help and --version, and after an error, which has been printed.
[[nodiscard]] std::optional<int> parse_options(int argc, char** argv, Options& options);

}  // namespace shmstate::agent
