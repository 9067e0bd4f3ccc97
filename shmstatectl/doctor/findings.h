// What doctor finds: each finding with what to do about it, and what it means for the exit code.
#pragma once

#include <string>
#include <vector>

#include "exit_code.h"
#include "show/json.h"

namespace shmstate::ctl {

enum class Severity : std::uint8_t { kOk, kNote, kWarning, kError };

struct Finding {
  Severity severity = Severity::kOk;
  std::string check;                 // what was looked at, for example "mount"
  std::string text;                  // what was found
  std::string remedy = {};           // empty when there is nothing to do
  ExitCode code = ExitCode::kOther;  // of an error
};

/// A line per finding, and one more with the remedy where there is one.
[[nodiscard]] std::string findings_text(const std::vector<Finding>& findings);
[[nodiscard]] Json json_of(const Finding& finding);

/// The code of the first error, else `kWarnings` when something is to be done, else `kOk`.
[[nodiscard]] ExitCode worst_of(const std::vector<Finding>& findings);

}  // namespace shmstate::ctl
