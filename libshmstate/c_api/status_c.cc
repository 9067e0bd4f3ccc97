#include "shmstate/status_c.h"

#include "c_api/c_api.h"

namespace shmstate::internal::c_api {

static_assert(SHMSTATE_NOT_FOUND == code(Status::kNotFound) && SHMSTATE_WRONG_TYPE == code(Status::kWrongType));
static_assert(SHMSTATE_BUFFER_TOO_SMALL == code(Status::kBufferTooSmall));
static_assert(SHMSTATE_KEY_EMPTY == code(Status::kKeyEmpty) && SHMSTATE_KEY_TOO_LONG == code(Status::kKeyTooLong));
static_assert(SHMSTATE_VALUE_TOO_BIG == code(Status::kValueTooBig));
static_assert(SHMSTATE_MUTATION_TOO_BIG == code(Status::kMutationTooBig));
static_assert(SHMSTATE_OUT_OF_RANGE == code(Status::kOutOfRange) && SHMSTATE_RING_FULL == code(Status::kRingFull));
static_assert(SHMSTATE_TIMEOUT == code(Status::kTimeout) && SHMSTATE_NO_MEMORY == code(Status::kNoMemory));
static_assert(SHMSTATE_REJECTED == code(Status::kRejected) && SHMSTATE_LIMIT == code(Status::kLimit));
static_assert(SHMSTATE_RING_REFUSED == code(Status::kRingRefused));
static_assert(SHMSTATE_RING_QUARANTINED == code(Status::kRingQuarantined));
static_assert(SHMSTATE_EXPIRED == code(Status::kExpired) && SHMSTATE_TOO_OLD == code(Status::kTooOld));
static_assert(SHMSTATE_GAP == code(Status::kGap) && SHMSTATE_NO_INSTANCE == code(Status::kNoInstance));
static_assert(SHMSTATE_NOT_READY == code(Status::kNotReady));
static_assert(SHMSTATE_NO_PERMISSION == code(Status::kNoPermission));
static_assert(SHMSTATE_VERSION_MISMATCH == code(Status::kVersionMismatch) &&
              SHMSTATE_DAMAGED == code(Status::kDamaged));
static_assert(SHMSTATE_ALREADY_RUNNING == code(Status::kAlreadyRunning));
static_assert(SHMSTATE_NO_MERGER == code(Status::kNoMerger) && SHMSTATE_SYSTEM == code(Status::kSystem));
static_assert(SHMSTATE_INVALID_ARGUMENT == code(Status::kInvalidArgument) && SHMSTATE_FORKED == code(Status::kForked));
static_assert(SHMSTATE_UNKNOWN == code(Status::kUnknown));
static_assert(SHMSTATE_CROWDED == code(Status::kCrowded));

static_assert(SHMSTATE_NONE == static_cast<int>(Type::kNone) && SHMSTATE_INT64 == static_cast<int>(Type::kInt64));
static_assert(SHMSTATE_FLOAT64 == static_cast<int>(Type::kFloat64) && SHMSTATE_BYTES == static_cast<int>(Type::kBytes));

}  // namespace shmstate::internal::c_api

const char* shmstate_strerror(int status) noexcept {
  const bool is_known = status <= SHMSTATE_OK && status >= SHMSTATE_CROWDED;
  return is_known ? shmstate::describe(static_cast<shmstate::Status>(-status)).data() : "unknown status";
}
