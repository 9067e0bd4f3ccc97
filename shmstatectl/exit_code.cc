#include "exit_code.h"

namespace shmstate::ctl {

ExitCode exit_code_of(Status status) noexcept {
  switch (status) {
    case Status::kOk: return ExitCode::kOk;
    case Status::kNotFound: return ExitCode::kKeyNotFound;
    case Status::kWrongType:
    case Status::kKeyEmpty:
    case Status::kKeyTooLong:
    case Status::kValueTooBig:
    case Status::kMutationTooBig:
    case Status::kOutOfRange:
    case Status::kInvalidArgument: return ExitCode::kUsage;
    case Status::kNoInstance:
    case Status::kNotReady: return ExitCode::kNoInstance;
    case Status::kNoPermission: return ExitCode::kNoPermission;
    case Status::kTimeout:
    case Status::kNoMerger: return ExitCode::kNotMerged;
    case Status::kRejected:
    case Status::kLimit:
    case Status::kUnknown:
    case Status::kCrowded:
    case Status::kRingRefused:
    case Status::kRingQuarantined: return ExitCode::kRejected;
    case Status::kVersionMismatch:
    case Status::kDamaged: return ExitCode::kUnreadable;
    case Status::kBufferTooSmall:
    case Status::kRingFull:
    case Status::kNoMemory:
    case Status::kExpired:
    case Status::kTooOld:
    case Status::kGap:
    case Status::kAlreadyRunning:
    case Status::kForked:
    case Status::kSystem: return ExitCode::kOther;
  }
  return ExitCode::kOther;
}

}  // namespace shmstate::ctl
