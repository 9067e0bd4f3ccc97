#include <exception>

#include "command_line.h"
#include "exit_code.h"
#include "interrupt.h"
#include "shmstate/status.h"
#include "show/output.h"
#include "support/errors.h"
#include "support/stop_signal.h"
#include "usage.h"

namespace {

using shmstate::ctl::ExitCode;

int run(int argc, char** argv) {
  const int code = shmstate::ctl::run_command_line(argc, argv);
  shmstate::ctl::flush_output();
  if (!shmstate::ctl::is_at_cpu_limit()) return code;
  shmstate::ctl::report(shmstate::kCpuLimitText);
  return static_cast<int>(ExitCode::kOther);
}

ExitCode code_of_what_was_thrown() {
  try {
    throw;
  } catch (const shmstate::Error& error) {
    shmstate::ctl::report(error.what());
    return shmstate::ctl::exit_code_of(error.status());
  } catch (const shmstate::ctl::UsageError& error) {
    shmstate::ctl::report(error.what());
    return ExitCode::kUsage;
  } catch (const shmstate::ctl::OutputError& error) {
    if (!error.is_reader_gone()) shmstate::ctl::report(error.what());
  } catch (const std::exception& error) {
    shmstate::ctl::report(shmstate::text_of(error));
  }
  return ExitCode::kOther;
}

}  // namespace

int main(int argc, char** argv) {
  shmstate::ctl::prepare_streams();
  shmstate::ctl::end_at_cpu_limit();
  shmstate::end_without_memory(static_cast<int>(ExitCode::kOther));
  try {
    return run(argc, argv);
  } catch (...) {
    return static_cast<int>(code_of_what_was_thrown());
  }
}
