// What the agent writes to its log about bad input: attributed, and limited in rate.
#pragma once

#include <cstdint>
#include <string_view>

#include "support/report_limiter.h"

namespace shmstate::agent {

class Reporter {
 public:
  void bad_line(std::string_view source, std::uint64_t line_number, std::string_view problem);
  void problem(std::string_view source, std::string_view problem);

  /// Tells how many reports were not written since the last call.
  void report_suppressed();

 private:
  [[nodiscard]] bool allow() { return limiter_.allow(std::chrono::steady_clock::now()); }

  static constexpr std::uint32_t kReportsPerSecond = 10;
  ReportLimiter limiter_{kReportsPerSecond};
};

}  // namespace shmstate::agent
