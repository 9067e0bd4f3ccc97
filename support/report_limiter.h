// How many reports may be written: so many a second, and the others are counted.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>

namespace shmstate {

class ReportLimiter {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit ReportLimiter(std::uint32_t reports_per_second) : reports_per_second_(reports_per_second) {}

  /// Whether a report may be written now; if not, it counts as suppressed.
  [[nodiscard]] bool allow(TimePoint now) {
    if (now - window_start_ >= std::chrono::seconds(1)) {
      window_start_ = now;
      written_ = 0;
    }
    if (written_ < reports_per_second_) {
      ++written_;
      return true;
    }
    ++suppressed_;
    return false;
  }

  /// The number of reports suppressed since the last call.
  [[nodiscard]] std::uint64_t take_suppressed() noexcept { return std::exchange(suppressed_, 0); }

 private:
  std::uint32_t reports_per_second_;
  std::uint32_t written_ = 0;
  std::uint64_t suppressed_ = 0;
  TimePoint window_start_{};
};

}  // namespace shmstate
