#pragma once

namespace shmstate::ctl {

/// Parses the arguments and runs the subcommand; returns the exit code of the process.
[[nodiscard]] int run_command_line(int argc, char** argv);

}  // namespace shmstate::ctl
