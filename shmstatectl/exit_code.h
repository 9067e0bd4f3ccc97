// What the command line promises to scripts: one exit code per kind of outcome.
#pragma once

#include <string_view>

#include "shmstate/status.h"

namespace shmstate::ctl {

enum class ExitCode : int {
  kOk = 0,
  kKeyNotFound = 1,
  kUsage = 2,
  kNoInstance = 3,
  kNoPermission = 4,
  kNotMerged = 5,
  kRejected = 6,
  kUnreadable = 7,
  kOther = 8,
  kWarnings = 9,
};

[[nodiscard]] ExitCode exit_code_of(Status status) noexcept;

inline constexpr std::string_view kExitCodesHelp =
    "Exit codes:\n"
    "  0  ok\n"
    "  1  a key was not found\n"
    "  2  usage: an argument is missing, unknown or out of its limits\n"
    "  3  no such instance\n"
    "  4  no permission\n"
    "  5  pushed, but not merged within the timeout, or no merger is running\n"
    "  6  rejected by the merger\n"
    "  7  layout version mismatch, or the instance is damaged\n"
    "  8  anything else, for example a full ring\n"
    "  9  doctor found nothing worse than warnings\n";

}  // namespace shmstate::ctl
