#include "reporter.h"

#include "support/log.h"

namespace shmstate::agent {

void Reporter::bad_line(std::string_view source, std::uint64_t line_number, std::string_view problem) {
  if (allow()) log_warning("{}, line {}: {}", source, line_number, problem);
}

void Reporter::problem(std::string_view source, std::string_view problem) {
  if (allow()) log_warning("{}: {}", source, problem);
}

void Reporter::report_suppressed() {
  const std::uint64_t count = limiter_.take_suppressed();
  if (count > 0) log_warning("{} more problems were counted but not shown", count);
}

}  // namespace shmstate::agent
