// What the merge engine reports, as lines of the log, limited in rate: a writer can cause as many as it likes.
#pragma once

#include <cstdint>

#include "engine/merge_engine.h"
#include "support/report_limiter.h"

namespace shmstate::merger {
using namespace internal;

class EventLog {
 public:
  void tell(const MergeEvent& event);
  /// Tells how many events were not told since the last call.
  void warn_of_suppressed();

 private:
  static constexpr std::uint32_t kReportsPerSecond = 10;
  ReportLimiter limiter_{kReportsPerSecond};
};

}  // namespace shmstate::merger
