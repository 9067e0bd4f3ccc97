#include "event_log.h"

#include <chrono>

#include "support/escape.h"
#include "support/log.h"

namespace shmstate::merger {
namespace {

using Kind = MergeEvent::Kind;

LogLevel level_of(Kind kind) {
  switch (kind) {
    case Kind::kRingServed:
    case Kind::kRingFinished: return LogLevel::kDebug;
    case Kind::kRingRefused:
    case Kind::kMutationRejected:
    case Kind::kPinExpired: return LogLevel::kWarning;
    case Kind::kRingQuarantined:
    case Kind::kNoMemory:
    case Kind::kInstanceGone: break;
  }
  return LogLevel::kError;
}

std::string text_of(const MergeEvent& event) {
  switch (event.kind) {
    case Kind::kRingServed: return fmt::format("ring {:016x} of {}: served", event.ring_id, event.detail);
    case Kind::kRingFinished: return fmt::format("ring {:016x}: finished and removed", event.ring_id);
    case Kind::kRingQuarantined: return fmt::format("ring {:016x}: quarantined: {}", event.ring_id, event.detail);
    case Kind::kRingRefused: return fmt::format("ring {:016x}: refused: {}", event.ring_id, event.detail);
    case Kind::kPinExpired: return event.detail + ": reclaimed from readers after the maximum pin time";
    case Kind::kNoMemory: return "no memory: " + event.detail;
    case Kind::kMutationRejected:
      return fmt::format("ring {:016x}: a mutation of key {} was rejected: {}", event.ring_id, excerpt(event.detail),
                         describe(event.reason));
    case Kind::kInstanceGone: return event.detail + ": the directory was removed or replaced";
  }
  return event.detail;
}

}  // namespace

void EventLog::tell(const MergeEvent& event) {
  const LogLevel level = level_of(event.kind);
  if (!is_logged(level) || !limiter_.allow(std::chrono::steady_clock::now())) return;
  warn_of_suppressed();
  const std::string text = text_of(event);
  write_log(level, "{}", fmt::make_format_args(text));
}

void EventLog::warn_of_suppressed() {
  if (const std::uint64_t count = limiter_.take_suppressed(); count > 0) {
    log_warning("{} more events are not shown", count);
  }
}

}  // namespace shmstate::merger
