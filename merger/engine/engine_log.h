// What the merge engine reports for a log, each kind at a bounded rate.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "layout/layout.h"
#include "shmstate/status.h"

namespace shmstate::internal {

/// Something worth a line in a log.
struct MergeEvent {
  enum class Kind : std::uint8_t {
    kRingServed,
    kRingFinished,
    kRingQuarantined,
    kRingRefused,
    kPinExpired,
    kNoMemory,
    kInstanceGone,
    kMutationRejected,  ///< one a second; `detail` is its key
  };
  Kind kind;
  std::uint64_t ring_id = 0;
  std::string detail;
  Status reason = Status::kOk;  ///< of kMutationRejected
};

class EngineLog {
 public:
  explicit EngineLog(std::function<void(const MergeEvent&)> on_event) : on_event_(std::move(on_event)) {}

  void report(MergeEvent::Kind kind, std::uint64_t ring_id, std::string detail) const;

  // At most one a second; of refused rings, 64 a second.
  void no_memory(std::uint64_t now_ns);
  void mutation_rejected(std::uint64_t now_ns, std::uint64_t ring_id, layout::Reject reject, std::string_view key);
  void ring_refused(std::uint64_t now_ns, std::uint64_t ring_id, std::string why);

 private:
  std::function<void(const MergeEvent&)> on_event_;
  std::uint64_t next_no_memory_ns_ = 0;
  std::uint64_t next_rejection_ns_ = 0;
  std::uint64_t next_refusals_ns_ = 0;
  std::size_t refusal_count_ = 0;  // until then
};

}  // namespace shmstate::internal
