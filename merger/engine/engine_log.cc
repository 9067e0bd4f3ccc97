#include "engine/engine_log.h"

#include <utility>

namespace shmstate::internal {
namespace {

using layout::Reject;

constexpr std::uint64_t kIntervalNs = 1'000'000'000;
constexpr std::size_t kRefusalsMax = 64;  // in an interval

Status status_of(Reject reject) noexcept {
  switch (reject) {
    case Reject::kWrongType: return Status::kWrongType;
    case Reject::kOutOfRange: return Status::kOutOfRange;
    case Reject::kNoMemory: return Status::kNoMemory;
    case Reject::kLimit: return Status::kLimit;
    case Reject::kBatchTooBig: return Status::kMutationTooBig;
    case Reject::kUnknown: return Status::kUnknown;
    case Reject::kCrowded: return Status::kCrowded;
  }
  return Status::kRejected;
}

}  // namespace

void EngineLog::report(MergeEvent::Kind kind, std::uint64_t ring_id, std::string detail) const {
  if (on_event_) on_event_({.kind = kind, .ring_id = ring_id, .detail = std::move(detail)});
}

void EngineLog::no_memory(std::uint64_t now_ns) {
  if (now_ns < next_no_memory_ns_) return;
  next_no_memory_ns_ = now_ns + kIntervalNs;
  report(MergeEvent::Kind::kNoMemory, 0, "the file system or the memory limit has no room for more pages");
}

// The writer only sees a count; the log names one key now and then.
void EngineLog::mutation_rejected(std::uint64_t now_ns, std::uint64_t ring_id, Reject reject, std::string_view key) {
  if (now_ns < next_rejection_ns_ || !on_event_) return;
  next_rejection_ns_ = now_ns + kIntervalNs;
  on_event_({.kind = MergeEvent::Kind::kMutationRejected,
             .ring_id = ring_id,
             .detail = std::string(key),
             .reason = status_of(reject)});
}

void EngineLog::ring_refused(std::uint64_t now_ns, std::uint64_t ring_id, std::string why) {
  if (now_ns >= next_refusals_ns_) refusal_count_ = 0;
  if (refusal_count_ == kRefusalsMax) return;
  if (refusal_count_++ == 0) next_refusals_ns_ = now_ns + kIntervalNs;
  report(MergeEvent::Kind::kRingRefused, ring_id, std::move(why));
}

}  // namespace shmstate::internal
