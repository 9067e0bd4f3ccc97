// The subcommands. Each prints its result on standard output, what people must know beside it on standard error, and
// throws `shmstate::Error` or `UsageError` when it cannot be carried out.
#pragma once

#include "options.h"

namespace shmstate::ctl {

[[nodiscard]] ExitCode run_status(const Options& options);
[[nodiscard]] ExitCode run_top(const Options& options);
[[nodiscard]] ExitCode run_get(const Options& options);
[[nodiscard]] ExitCode run_set(const Options& options);
[[nodiscard]] ExitCode run_add(const Options& options);
[[nodiscard]] ExitCode run_del(const Options& options);
[[nodiscard]] ExitCode run_list(const Options& options);
[[nodiscard]] ExitCode run_watch(const Options& options);
[[nodiscard]] ExitCode run_dump(const Options& options);
[[nodiscard]] ExitCode run_load(const Options& options);
[[nodiscard]] ExitCode run_instances(const Options& options);
[[nodiscard]] ExitCode run_doctor(const Options& options);

}  // namespace shmstate::ctl
