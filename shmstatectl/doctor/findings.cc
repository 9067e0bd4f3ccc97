#include "doctor/findings.h"

#include <algorithm>

#include "show/text.h"

namespace shmstate::ctl {

namespace {

std::string_view name_of(Severity severity) {
  switch (severity) {
    case Severity::kOk: return "ok";
    case Severity::kNote: return "note";
    case Severity::kWarning: return "warning";
    case Severity::kError: return "error";
  }
  return "unknown";
}

}  // namespace

std::string findings_text(const std::vector<Finding>& findings) {
  std::vector<std::vector<std::string>> rows;
  for (const Finding& finding : findings) {
    rows.push_back({std::string(name_of(finding.severity)), finding.check, printable(finding.text)});
    if (!finding.remedy.empty()) rows.push_back({"", "", "-> " + printable(finding.remedy)});
  }
  return format_columns(rows);
}

Json json_of(const Finding& finding) {
  return {{"severity", name_of(finding.severity)},
          {"check", finding.check},
          {"finding", json_of_bytes(finding.text)},
          {"remedy", json_of_bytes(finding.remedy)}};
}

ExitCode worst_of(const std::vector<Finding>& findings) {
  const auto has = [&](Severity severity) {
    return std::find_if(findings.begin(), findings.end(),
                        [severity](const Finding& finding) { return finding.severity == severity; });
  };
  if (const auto error = has(Severity::kError); error != findings.end()) return error->code;
  return has(Severity::kWarning) != findings.end() ? ExitCode::kWarnings : ExitCode::kOk;
}

}  // namespace shmstate::ctl
