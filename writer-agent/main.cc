// shmstate-writer-agent: the process beside producers that cannot link the writer library.
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "agent.h"
#include "options.h"
#include "support/errors.h"
#include "support/log.h"
#include "support/stop_signal.h"

int main(int argc, char** argv) {
  try {
    shmstate::open_standard_streams();
    shmstate::agent::Options options;
    if (const std::optional<int> status = shmstate::agent::parse_options(argc, argv, options))
      return shmstate::status_of_output(*status);
    shmstate::set_up_log("shmstate-writer-agent", "shmstate: %v", options.log_level);
    shmstate::hear_of_cpu_limit();
    return shmstate::agent::Agent(std::move(options)).run();
  } catch (const shmstate::Error& error) {
    shmstate::print_error(error.what());
  } catch (const std::exception& error) {
    shmstate::print_error(shmstate::text_of(error));
  }
  return EXIT_FAILURE;
}
