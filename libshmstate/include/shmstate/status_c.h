/* What both C APIs share: status codes, values, and the conventions.
 *
 * - Functions return SHMSTATE_OK or a negative status, unless they say otherwise. Nothing is thrown.
 * - A handle is used from one thread at a time; threads that should not slow each other down open their own. In a child
 *   of fork, readers and watches reattach by themselves. Everything else belongs to the parent: it returns
 *   SHMSTATE_FORKED; close it and open another one. NULL in place of a handle or of a key is SHMSTATE_INVALID_ARGUMENT,
 *   and closing NULL does nothing. Other pointers must be valid, except for options, where NULL means the defaults.
 * - Keys and values are bytes with a size; SHMSTATE_TEXT as the size means that they end with a NUL, which does not
 *   belong to them.
 * - Structs begin with their size, which the caller sets:
 *   `shmstate_set_options options = {.struct_bytes = sizeof options}`. So a program and a library of different versions
 *   understand each other: a member that the caller's struct has no room for has its default, or is not filled in; a
 *   member that the library does not know must be zero, or is set to zero. An impossible size, such as one that is not
 * a multiple of 8, is SHMSTATE_INVALID_ARGUMENT. Values, positions and lookups have no size and never change.
 * - Times are nanoseconds. A negative timeout is the same as 0.
 * - No call changes signal handlers (but for survive_truncation), signal masks, the locale, the umask or limits. errno
 *   means nothing after a call, and may have changed. Calls are not cancellation points. */
#ifndef SHMSTATE_STATUS_C_H
#define SHMSTATE_STATUS_C_H

/* NOLINTBEGIN(modernize-use-using, modernize-deprecated-headers): this is C */
#include <stddef.h>
#include <stdint.h>

#include "shmstate/api.h"

#ifdef __cplusplus
#define SHMSTATE_NOEXCEPT noexcept
extern "C" {
#else
#define SHMSTATE_NOEXCEPT
#endif

#define SHMSTATE_TEXT SIZE_MAX

enum {
  SHMSTATE_OK = 0,
  SHMSTATE_NOT_FOUND = -1,         /* the key does not exist in the snapshot; or the end of what is gone over */
  SHMSTATE_WRONG_TYPE = -2,        /* the key holds another type */
  SHMSTATE_BUFFER_TOO_SMALL = -3,  /* the needed size is reported */
  SHMSTATE_KEY_EMPTY = -4,         /* a key has at least 1 byte */
  SHMSTATE_KEY_TOO_LONG = -5,      /* a key has at most 4,096 bytes */
  SHMSTATE_VALUE_TOO_BIG = -6,     /* a value has at most 1 MiB */
  SHMSTATE_MUTATION_TOO_BIG = -7,  /* larger than the ring can ever hold, or a batch larger than is allowed */
  SHMSTATE_OUT_OF_RANGE = -8,      /* add, max or min with a NaN */
  SHMSTATE_RING_FULL = -9,         /* the merger has not made room yet */
  SHMSTATE_TIMEOUT = -10,          /* the time given has passed */
  SHMSTATE_NO_MEMORY = -11,        /* the file system, the configured limit or the process has no room */
  SHMSTATE_REJECTED = -12,         /* the merger refused at least one mutation; the counters say why */
  SHMSTATE_LIMIT = -13,            /* the instance has its maximum number of entries */
  SHMSTATE_RING_REFUSED = -14,     /* the merger does not serve this ring: too many, or larger than allowed */
  SHMSTATE_RING_QUARANTINED = -15, /* the merger found bytes in this ring that are not mutations */
  SHMSTATE_EXPIRED = -16,          /* the merger reclaimed the pinned buffer: what was read is void */
  SHMSTATE_TOO_OLD = -17,          /* the snapshot is older than the caller accepts */
  SHMSTATE_GAP = -18,              /* the change feed no longer reaches back that far */
  SHMSTATE_NO_INSTANCE = -19,      /* no such instance, or it was removed */
  SHMSTATE_NOT_READY = -20,        /* the instance exists but its merger has not finished creating it */
  SHMSTATE_NO_PERMISSION = -21,    /* the files of the instance may not be opened by this user */
  SHMSTATE_VERSION_MISMATCH = -22, /* the instance was created with another layout version */
  SHMSTATE_DAMAGED = -23,          /* the files of the instance are not what they should be */
  SHMSTATE_ALREADY_RUNNING = -24,  /* another merger serves the instance */
  SHMSTATE_NO_MERGER = -25,        /* no merger is running */
  SHMSTATE_SYSTEM = -26,           /* a system call failed */
  SHMSTATE_INVALID_ARGUMENT = -27, /* an argument or an option has a value that makes no sense */
  SHMSTATE_FORKED = -28,           /* it was opened before a fork, and this is the child; open another one here */
  SHMSTATE_UNKNOWN = -29,          /* the merger does not know an id, operation, type or flag of a mutation */
  SHMSTATE_CROWDED = -30           /* too many keys whose hashes begin like this one's: they were chosen to */
};

/* A short English phrase for a status, of any number. Never NULL; static, so it is never freed. Any thread. */
SHMSTATE_API const char* shmstate_strerror(int status) SHMSTATE_NOEXCEPT;

enum { SHMSTATE_NONE = 0, SHMSTATE_INT64 = 1, SHMSTATE_FLOAT64 = 2, SHMSTATE_BYTES = 3 };

/* A value, owned by the handle that it came from. `type` says which member counts; the others are zero. It lies within
 * other structs and has no size of its own, so it stays as it is for ever. */
typedef struct shmstate_value {
  int32_t type;
  int32_t reserved;
  int64_t int64;
  double float64;
  const char* bytes; /* no NUL behind them */
  size_t value_bytes;
} shmstate_value;

#ifdef __cplusplus
}
#endif
/* NOLINTEND(modernize-use-using, modernize-deprecated-headers) */

#endif
