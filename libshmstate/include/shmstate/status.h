// Outcomes that cross the public interface: one small enum for the hot path, one exception for opening things.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "shmstate/api.h"

namespace shmstate {

/// The outcome of an operation. `kOk` is zero; everything else says why nothing, or not everything, happened.
enum class Status : std::uint8_t {
  kOk = 0,
  kNotFound,         ///< the key does not exist in the snapshot
  kWrongType,        ///< the key holds another type than the one asked for, or than `add` needs
  kBufferTooSmall,   ///< the caller's buffer is smaller than the value; the needed size is reported
  kKeyEmpty,         ///< a key has at least 1 byte
  kKeyTooLong,       ///< a key has at most 4,096 bytes
  kValueTooBig,      ///< a value has at most 1 MiB
  kMutationTooBig,   ///< the mutation or batch is larger than the ring can ever hold, or the batch than is allowed
  kOutOfRange,       ///< an integer does not fit 64 signed bits, or a sum overflows or is not a number
  kRingFull,         ///< the merger has not made room yet
  kTimeout,          ///< the time given has passed
  kNoMemory,         ///< the file system or the configured limit has no room
  kRejected,         ///< the merger refused at least one mutation; the writer's counters say which kind
  kLimit,            ///< the instance has its maximum number of entries
  kRingRefused,      ///< the merger does not serve this ring: too many rings, or this one is larger than allowed
  kRingQuarantined,  ///< the merger found bytes in this ring that are not mutations, and stopped reading it
  kExpired,          ///< the merger reclaimed the pinned buffer; data read since the last check is void
  kTooOld,           ///< the snapshot is older than the caller accepts
  kGap,              ///< the change feed no longer reaches back that far
  kNoInstance,       ///< no such instance
  kNotReady,         ///< the instance exists but its merger has not finished creating it
  kNoPermission,     ///< the files of the instance may not be opened by this user
  kVersionMismatch,  ///< the instance was created with another layout version
  kDamaged,          ///< the files of the instance are not what they should be
  kAlreadyRunning,   ///< another merger serves the instance
  kNoMerger,         ///< no merger is running
  kSystem,           ///< a system call failed; the message names it
  kInvalidArgument,  ///< an option has a value that makes no sense
  kForked,           ///< it was opened before a fork, and this is the child; open another one here
  kUnknown,          ///< the merger does not know an id, operation, type or flag of a mutation
  kCrowded,          ///< too many keys whose hashes begin like this one's: they were chosen to
};

/// A short English phrase for a status, for messages and logs.
[[nodiscard]] constexpr std::string_view describe(Status status) noexcept {
  switch (status) {
    case Status::kOk: return "ok";
    case Status::kNotFound: return "not found";
    case Status::kWrongType: return "wrong type";
    case Status::kBufferTooSmall: return "buffer too small";
    case Status::kKeyEmpty: return "key is empty";
    case Status::kKeyTooLong: return "key is longer than 4096 bytes";
    case Status::kValueTooBig: return "value is bigger than 1 MiB";
    case Status::kMutationTooBig: return "bigger than the ring can hold, or a batch of more than is allowed";
    case Status::kOutOfRange: return "out of range";
    case Status::kRingFull: return "ring is full";
    case Status::kTimeout: return "timed out";
    case Status::kNoMemory: return "no memory left";
    case Status::kRejected: return "rejected by the merger";
    case Status::kLimit: return "the instance has its maximum number of entries";
    case Status::kRingRefused: return "ring refused: too many rings, or larger than the instance allows";
    case Status::kRingQuarantined: return "ring is quarantined";
    case Status::kExpired: return "snapshot expired";
    case Status::kTooOld: return "snapshot is too old";
    case Status::kGap: return "change feed does not reach back that far";
    case Status::kNoInstance: return "no such instance";
    case Status::kNotReady: return "instance is not ready";
    case Status::kNoPermission: return "permission denied";
    case Status::kVersionMismatch: return "layout version mismatch";
    case Status::kDamaged: return "instance is damaged";
    case Status::kAlreadyRunning: return "another merger is running";
    case Status::kNoMerger: return "no merger is running";
    case Status::kSystem: return "system error";
    case Status::kInvalidArgument: return "invalid argument";
    case Status::kForked: return "opened before a fork, by the parent; open it again in the child";
    case Status::kUnknown: return "the merger does not know what this says";
    case Status::kCrowded: return "too many keys whose hashes begin alike";
  }
  return "unknown status";
}

/// Thrown when something cannot be opened or created. `what()` names the path, the reason and the remedy.
class SHMSTATE_API Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  [[nodiscard]] Status status() const noexcept { return status_; }

 private:
  Status status_;
};

}  // namespace shmstate
