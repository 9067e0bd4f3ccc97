// What doctor finds: each finding with what to do about it, and what it means for the exit code.
#pragma once

#include <string>
#include <utility>
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

/// What has been found so far. A remedy may be empty: nothing is to be done, or the text says it.
class Findings {
 public:
  void ok(std::string check, std::string text) { add(Severity::kOk, std::move(check), std::move(text), {}); }
  void note(std::string check, std::string text, std::string remedy = {}) {
    add(Severity::kNote, std::move(check), std::move(text), std::move(remedy));
  }
  void warning(std::string check, std::string text, std::string remedy) {
    add(Severity::kWarning, std::move(check), std::move(text), std::move(remedy));
  }
  void error(std::string check, std::string text, std::string remedy, ExitCode code = ExitCode::kOther) {
    add(Severity::kError, std::move(check), std::move(text), std::move(remedy), code);
  }
  [[nodiscard]] const std::vector<Finding>& all() const noexcept { return all_; }

 private:
  void add(Severity severity, std::string check, std::string text, std::string remedy,
           ExitCode code = ExitCode::kOther) {
    all_.push_back({severity, std::move(check), std::move(text), std::move(remedy), code});
  }

  std::vector<Finding> all_;
};

/// A line per finding, and one more with the remedy where there is one.
[[nodiscard]] std::string findings_text(const std::vector<Finding>& findings);
[[nodiscard]] Json json_of(const Finding& finding);

/// The code of the first error, else `kWarnings` when something is to be done, else `kOk`.
[[nodiscard]] ExitCode worst_of(const std::vector<Finding>& findings);

}  // namespace shmstate::ctl
