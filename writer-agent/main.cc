// shmstate-writer-agent: the process beside producers that cannot link the writer library.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <csignal>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <optional>
#include <utility>

#include "writer-agent/agent.h"
#include "writer-agent/options.h"

namespace {

void set_up_log(const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_logger_st("shmstate"));
  spdlog::set_pattern("shmstate: %v");
  spdlog::set_level(spdlog::level::from_str(level));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    shmstate::agent::Options options;
    if (const std::optional<int> status = shmstate::agent::parse_options(argc, argv, options)) return *status;
    set_up_log(options.log_level);
    std::signal(SIGPIPE, SIG_IGN);
    return shmstate::agent::Agent(std::move(options)).run();
  } catch (const shmstate::Error& error) {
    std::cerr << error.what() << '\n';
  } catch (const std::exception& error) {
    std::cerr << "shmstate: " << error.what() << '\n';
  }
  return EXIT_FAILURE;
}
