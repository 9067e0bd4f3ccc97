/* The reader, for C: looks keys up in the current snapshot, without a lock and without writing anything. What the
 * operations mean is said in reader.h and in docs/semantics.md; the conventions are in status_c.h.
 *
 *   shmstate_reader* reader;
 *   if (shmstate_reader_open("plant", NULL, &reader) != SHMSTATE_OK) ...
 *   int64_t rpm;
 *   if (shmstate_reader_get_int64(reader, "pump/7/rpm", SHMSTATE_TEXT, &rpm) == SHMSTATE_OK) ...
 *   shmstate_reader_close(reader); */
#ifndef SHMSTATE_READER_C_H
#define SHMSTATE_READER_C_H

#include "shmstate/status_c.h"

/* NOLINTBEGIN(modernize-use-using): this is C */
#ifdef __cplusplus
extern "C" {
#endif

typedef struct shmstate_reader shmstate_reader;
typedef struct shmstate_snapshot shmstate_snapshot;
typedef struct shmstate_changes shmstate_changes;

/* A place in the history of one instance: after the publish `epoch`. All zeros: nowhere, before all that any instance
 * publishes. Plain data, which may be stored and sent. It lies within other structures and has no size of its own, so
 * it stays as it is for ever. */
typedef struct shmstate_position {
  uint8_t instance[16];
  uint64_t epoch;
} shmstate_position;

/* Zero is the default of every member. */
typedef struct shmstate_reader_options {
  size_t struct_bytes;
  int64_t attach_timeout_ns;  /* how long an instance may take to appear; by default 2 s; negative: none */
  int32_t prefault;           /* not 0: map the pages of the present snapshot at once */
  int32_t survive_truncation; /* not 0: see ReaderOptions in reader.h; installs a handler for SIGBUS */
  char* error_text;           /* the caller's: filled with path, reason and remedy when opening fails; may be NULL */
  size_t error_bytes;         /* its size; a longer text is cut, and always ends with a NUL */
} shmstate_reader_options;

/* Attaches to an instance, by name or by the path of its directory; works while the merger is down. Sets `*reader` to a
 * handle for shmstate_reader_close, or to NULL on error. */
SHMSTATE_API int shmstate_reader_open(const char* instance, const shmstate_reader_options* options,
                                      shmstate_reader** reader) SHMSTATE_NOEXCEPT;
/* Snapshots and changes that were opened with it stay valid. */
SHMSTATE_API void shmstate_reader_close(shmstate_reader* reader) SHMSTATE_NOEXCEPT;

/* Point reads: no system call, no store to shared memory. On error `*value` is unchanged. get_float64 takes an int64
 * entry as well: exactly up to 2^53, beyond that rounded to the nearest double; get_float64_only does not.
 * Errors: NOT_FOUND, WRONG_TYPE, KEY_EMPTY, KEY_TOO_LONG, DAMAGED. */
SHMSTATE_API int shmstate_reader_get_int64(shmstate_reader* reader, const char* key, size_t key_bytes,
                                           int64_t* value) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_reader_get_float64(shmstate_reader* reader, const char* key, size_t key_bytes,
                                             double* value) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_reader_get_float64_only(shmstate_reader* reader, const char* key, size_t key_bytes,
                                                  double* value) SHMSTATE_NOEXCEPT;
/* Copies into the caller's buffer, without a terminating NUL, and sets `*value_bytes`. BUFFER_TOO_SMALL: `*value_bytes`
 * says what is needed. On any error the contents of the buffer are undefined. */
SHMSTATE_API int shmstate_reader_get_bytes(shmstate_reader* reader, const char* key, size_t key_bytes, char* buffer,
                                           size_t buffer_bytes, size_t* value_bytes) SHMSTATE_NOEXCEPT;

/* What is known about a key besides its value. */
typedef struct shmstate_entry_info {
  size_t struct_bytes;
  int32_t type;
  int32_t ephemeral; /* 1: erased when its writer is gone */
  size_t value_bytes;
  uint64_t changed_epoch; /* the epoch that published the last change of this key */
  uint64_t version;       /* of the last versioned set; 0 without one */
  int64_t ttl_ns;         /* time left to live; negative when it does not expire */
} shmstate_entry_info;

SHMSTATE_API int shmstate_reader_get_info(shmstate_reader* reader, const char* key, size_t key_bytes,
                                          shmstate_entry_info* info) SHMSTATE_NOEXCEPT;

/* One key of shmstate_reader_get_many, and what was found. It lies in arrays and has no size of its own, so it stays as
 * it is for ever. */
typedef struct shmstate_lookup {
  const char* key;
  size_t key_bytes;
  char* buffer; /* the caller's, where bytes go, without a NUL behind; may be NULL if buffer_bytes is 0 */
  size_t buffer_bytes;
  shmstate_value
      value;      /* of type SHMSTATE_NONE unless status is OK; with BUFFER_TOO_SMALL, value_bytes is what is needed */
  int32_t status; /* OK, NOT_FOUND, BUFFER_TOO_SMALL, KEY_EMPTY, KEY_TOO_LONG, or INVALID_ARGUMENT */
  int32_t reserved;
} shmstate_lookup;

/* Several keys as of one epoch, whose position goes to `*position` unless that is NULL. OK also when keys are missing:
 * each has its own status. Errors: DAMAGED, EXPIRED, NO_MEMORY, SYSTEM; then what is in `lookups` is unspecified. */
SHMSTATE_API int shmstate_reader_get_many(shmstate_reader* reader, shmstate_lookup* lookups, size_t lookup_count,
                                          shmstate_position* position) SHMSTATE_NOEXCEPT;

/* The epoch of the current snapshot. 0 for NULL. */
SHMSTATE_API uint64_t shmstate_reader_get_epoch(shmstate_reader* reader) SHMSTATE_NOEXCEPT;
/* The position of the current snapshot. */
SHMSTATE_API int shmstate_reader_get_position(shmstate_reader* reader, shmstate_position* position) SHMSTATE_NOEXCEPT;
/* Sleeps until the current snapshot is one after `*position`, or of an instance re-created since, for at most
 * `timeout_ns`: OK or TIMEOUT. */
SHMSTATE_API int shmstate_reader_wait(shmstate_reader* reader, const shmstate_position* position,
                                      int64_t timeout_ns) SHMSTATE_NOEXCEPT;
/* How old the current snapshot is: the time since the merger last knew that it held everything pushed. Negative, an
 * error, for NULL. */
SHMSTATE_API int64_t shmstate_reader_get_age(shmstate_reader* reader) SHMSTATE_NOEXCEPT;

/* Where a reader stands. */
typedef struct shmstate_reader_status {
  size_t struct_bytes;
  int64_t age_ns;
  uint64_t reattach_count; /* how often this reader reattached to a re-created instance */
  int32_t merger_running;  /* asks the kernel */
  int32_t instance_gone;   /* the directory no longer leads to what is being read */
} shmstate_reader_status;

SHMSTATE_API int shmstate_reader_get_status(shmstate_reader* reader, shmstate_reader_status* status) SHMSTATE_NOEXCEPT;
/* The directory of the instance, which lives as long as the reader. NULL for NULL. */
SHMSTATE_API const char* shmstate_reader_get_path(const shmstate_reader* reader) SHMSTATE_NOEXCEPT;

/* An entry of a snapshot. Key and value point into shared memory and live until the snapshot is closed. */
typedef struct shmstate_entry {
  size_t struct_bytes;
  const char* key; /* no NUL behind it */
  size_t key_bytes;
  shmstate_value value;
  uint64_t changed_epoch;
  uint64_t version;
  uint64_t expiry_ns; /* when it expires, on CLOCK_BOOTTIME; 0: never */
  int32_t ephemeral;
  int32_t reserved;
} shmstate_entry;

/* Pins the current snapshot: one consistent state, for as long as it is held. Meanwhile the merger cannot reuse that
 * buffer, so hold it briefly. Use it from the thread that uses the reader. Sets `*snapshot` to a handle for
 * shmstate_snapshot_close, or to NULL on error. */
SHMSTATE_API int shmstate_snapshot_open(shmstate_reader* reader, shmstate_snapshot** snapshot) SHMSTATE_NOEXCEPT;
SHMSTATE_API void shmstate_snapshot_close(shmstate_snapshot* snapshot) SHMSTATE_NOEXCEPT;

/* 0 for NULL. */
SHMSTATE_API uint64_t shmstate_snapshot_get_epoch(const shmstate_snapshot* snapshot) SHMSTATE_NOEXCEPT;
/* Where to continue from: what changed after this snapshot. */
SHMSTATE_API int shmstate_snapshot_get_position(const shmstate_snapshot* snapshot,
                                                shmstate_position* position) SHMSTATE_NOEXCEPT;
/* The number of entries. */
SHMSTATE_API int shmstate_snapshot_get_entry_count(const shmstate_snapshot* snapshot,
                                                   uint64_t* entry_count) SHMSTATE_NOEXCEPT;
/* FORKED in a child of the process that opened it. EXPIRED once the merger reclaimed the buffer, after the maximum pin
 * time that it is configured with: what was read through pointers since the last check is void. */
SHMSTATE_API int shmstate_snapshot_check(const shmstate_snapshot* snapshot) SHMSTATE_NOEXCEPT;

/* The entry of a key, without copying. Errors: NOT_FOUND, KEY_EMPTY, KEY_TOO_LONG, EXPIRED, DAMAGED. */
SHMSTATE_API int shmstate_snapshot_get(const shmstate_snapshot* snapshot, const char* key, size_t key_bytes,
                                       shmstate_entry* entry) SHMSTATE_NOEXCEPT;
/* Visits all entries, in no particular order, one with each call: SHMSTATE_NOT_FOUND after the last one. Errors:
 * EXPIRED, DAMAGED. */
SHMSTATE_API int shmstate_snapshot_next(shmstate_snapshot* snapshot, shmstate_entry* entry) SHMSTATE_NOEXCEPT;
/* The next call of shmstate_snapshot_next begins again. */
SHMSTATE_API void shmstate_snapshot_rewind(shmstate_snapshot* snapshot) SHMSTATE_NOEXCEPT;

enum {
  SHMSTATE_CHANGE_SET = 0,       /* set, or changed by add, max or min */
  SHMSTATE_CHANGE_ERASED = 1,    /* erased by a writer */
  SHMSTATE_CHANGE_EXPIRED = 2,   /* its time to live was over */
  SHMSTATE_CHANGE_OWNER_GONE = 3 /* it was ephemeral and its writer is gone */
};

/* A key's latest state. Key and value live until the changes are closed. */
typedef struct shmstate_change {
  size_t struct_bytes;
  const char* key; /* no NUL behind it */
  size_t key_bytes;
  shmstate_value value; /* of type SHMSTATE_NONE unless kind is SHMSTATE_CHANGE_SET */
  uint64_t epoch;       /* that published the change */
  int32_t kind;
  int32_t reserved;
} shmstate_change;

/* The keys that changed after `*position`, each once, in the order of epochs; sets `*position` to what to ask with the
 * next time, and `*changes` to a handle for shmstate_changes_close. It holds no pin.
 * GAP: it is not known what changed, for a reason that shmstate_reader_get_gap_reason returns. `*changes` is NULL, and
 * `*position` is set: read the state from a snapshot, then continue from it. On any other error `*position` is
 * unchanged. */
SHMSTATE_API int shmstate_changes_open(shmstate_reader* reader, shmstate_position* position,
                                       shmstate_changes** changes) SHMSTATE_NOEXCEPT;

enum {
  SHMSTATE_GAP_FELL_BEHIND = 1, /* the feed did not reach back that far: ask more often, or make the feed larger */
  SHMSTATE_GAP_OVERTAKEN = 2,   /* it did, but was overwritten, or the buffer reclaimed, while it was read */
  SHMSTATE_GAP_RECREATED = 3,   /* the position is not one of this instance, which was re-created since */
  SHMSTATE_GAP_DAMAGED = 4      /* there are bytes in the feed that are not records */
};
/* Why the last shmstate_changes_open of this reader said GAP; 0 when it did not. Negative, an error, for NULL. */
SHMSTATE_API int shmstate_reader_get_gap_reason(const shmstate_reader* reader) SHMSTATE_NOEXCEPT;

SHMSTATE_API void shmstate_changes_close(shmstate_changes* changes) SHMSTATE_NOEXCEPT;
/* One change with each call: SHMSTATE_NOT_FOUND after the last one. */
SHMSTATE_API int shmstate_changes_next(shmstate_changes* changes, shmstate_change* change) SHMSTATE_NOEXCEPT;

#ifdef __cplusplus
}
#endif
/* NOLINTEND(modernize-use-using) */

#endif
