#include <cstdio>
#include <exception>

#include "shmstate/status.h"
#include "shmstatectl/command_line.h"
#include "shmstatectl/exit_code.h"
#include "shmstatectl/report.h"
#include "shmstatectl/usage.h"

namespace {

using shmstate::ctl::ExitCode;

int run(int argc, char** argv) {
  const int code = shmstate::ctl::run_command_line(argc, argv);
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  shmstate::ctl::report("standard output cannot be written; look at where it is redirected to");
  return static_cast<int>(ExitCode::kOther);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const shmstate::Error& error) {
    shmstate::ctl::report(error.what());
    return static_cast<int>(shmstate::ctl::exit_code_of(error.status()));
  } catch (const shmstate::ctl::UsageError& error) {
    shmstate::ctl::report(error.what());
    return static_cast<int>(ExitCode::kUsage);
  } catch (const std::exception& error) {
    shmstate::ctl::report(error.what());
    return static_cast<int>(ExitCode::kOther);
  }
}
