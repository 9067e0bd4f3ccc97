// shmstate-merger: serves one instance until a signal ends it.
#include <sys/resource.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>

#include "configuration.h"
#include "service.h"
#include "support/errors.h"
#include "support/log.h"
#include "support/stop_signal.h"

namespace {

using shmstate::Status;
using shmstate::merger::Configuration;

constexpr int kExitAlreadyRunning = 3;
constexpr int kExitUnusableState = 4;

// Each ring takes a descriptor: as many as the hard limit allows, whatever a shell begins with.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// What may pass is told apart from what another start would only repeat: the units try the former for ever.
int exit_code(Status status) {
  switch (status) {
    case Status::kInvalidArgument: return shmstate::merger::kExitUsage;
    case Status::kAlreadyRunning: return kExitAlreadyRunning;
    case Status::kVersionMismatch:
    case Status::kDamaged: return kExitUnusableState;
    default: return EXIT_FAILURE;
  }
}

std::optional<Configuration> read_again(int argc, char** argv) {
  try {
    Configuration configuration;
    if (!shmstate::merger::read_configuration(argc, argv, configuration).has_value()) return configuration;
  } catch (const std::exception& error) {
    shmstate::print_error(error.what());
  }
  return std::nullopt;
}

void warn_of_what_needs_a_restart(const Configuration& old, const Configuration& now) {
  for (const auto& [name, wanted] : now.at_start) {
    const std::string& held = old.at_start.at(name);
    if (wanted != held) shmstate::log_warning("{} stays \"{}\"; for \"{}\", restart the merger", name, held, wanted);
  }
}

void reload(int argc, char** argv, const Configuration& old, shmstate::merger::Service& service) {
  const std::optional<Configuration> now = read_again(argc, argv);
  if (!now) {
    shmstate::log_error("the configuration stays as it was");
    return;
  }
  shmstate::set_log_level(now->log_level);
  service.reconfigure(now->service);
  warn_of_what_needs_a_restart(old, *now);
  shmstate::log_info("configuration applied");
}

int serve(int argc, char** argv, const Configuration& configuration) {
  shmstate::merger::Service service(configuration.service);
  while (service.serve(shmstate::requests())) {
    const unsigned asked = shmstate::requests().exchange(shmstate::kNoRequest, std::memory_order_relaxed);
    if ((asked & shmstate::kCpuLimitRequest) != 0) {  // as if killed: the next start goes on with what is there
      shmstate::log_error("{}", shmstate::kCpuLimitText);
      return EXIT_FAILURE;
    }
    if ((asked & shmstate::kStopRequest) != 0) {
      service.finish();
      return EXIT_SUCCESS;
    }
    reload(argc, argv, configuration, service);
  }
  return EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    shmstate::open_standard_streams();
    Configuration configuration;
    if (const auto status = shmstate::merger::read_configuration(argc, argv, configuration))
      return shmstate::status_of_output(*status);
    shmstate::set_up_log("shmstate-merger", "[%Y-%m-%d %H:%M:%S.%e] [%n] [%^%l%$] %v", configuration.log_level);
    shmstate::catch_stop_signals(shmstate::Hangup::kIsCaught);
    shmstate::hear_of_cpu_limit();
    raise_descriptor_limit();
    return serve(argc, argv, configuration);
  } catch (const shmstate::Error& error) {
    shmstate::print_error(error.what());
    return exit_code(error.status());
  } catch (const std::exception& error) {
    shmstate::print_error(shmstate::text_of(error));
    return EXIT_FAILURE;
  }
}
