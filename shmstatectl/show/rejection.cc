#include "show/rejection.h"

namespace shmstate::ctl {

Status reason_of_rejection(const Writer& writer) {
  for (const Status reason : {Status::kWrongType, Status::kOutOfRange, Status::kNoMemory, Status::kLimit,
                              Status::kMutationTooBig, Status::kUnknown, Status::kCrowded}) {
    if (writer.rejected(reason) != 0) return reason;
  }
  return Status::kRejected;
}

std::string rejection_text(Status reason) {
  switch (reason) {
    case Status::kWrongType:
      return "the key holds another type; look with get --json, choose --type, or erase the key first";
    case Status::kOutOfRange: return "the sum overflows, or is no number (NaN); set the key to another number first";
    case Status::kNoMemory: return "the instance has no memory left; erase keys, or configure a larger limit";
    case Status::kMutationTooBig:
      return "a batch is larger than the merger allows (its --batch-max); make smaller ones";
    case Status::kUnknown:
      return "the merger does not know what it says; install the same version of shmstate everywhere";
    case Status::kLimit: return "the instance has its maximum number of entries; erase keys, or configure more";
    case Status::kCrowded: return "too many keys were chosen for where their hashes lead; choose another name";
    default: return "see the counters in shmstatectl status";
  }
}

}  // namespace shmstate::ctl
