/* Following the changes of all keys with a prefix, for C. The conventions are in status_c.h.
 *
 *   shmstate_watch* watch;
 *   shmstate_changes* changes;
 *   shmstate_change change = {.struct_bytes = sizeof change};
 *   if (shmstate_watch_open("plant", "pump/", SHMSTATE_TEXT, NULL, &watch) != SHMSTATE_OK) ...
 *   while (shmstate_watch_next(watch, 1000000000, NULL, &changes) == SHMSTATE_OK) {
 *     while (shmstate_changes_next(changes, &change) == SHMSTATE_OK) ...
 *     shmstate_changes_close(changes);
 *   }
 *   shmstate_watch_close(watch); */
#ifndef SHMSTATE_WATCH_C_H
#define SHMSTATE_WATCH_C_H

#include "shmstate/reader_c.h"

/* NOLINTBEGIN(modernize-use-using): this is C */
#ifdef __cplusplus
extern "C" {
#endif

typedef struct shmstate_watch shmstate_watch;

/* Begins with the present state. Options are those of a reader; NULL as the prefix means all keys. Sets `*watch` to a
 * handle for shmstate_watch_close, or to NULL on error. */
SHMSTATE_API int shmstate_watch_open(const char* instance, const char* prefix, size_t prefix_bytes,
                                     const shmstate_reader_options* options, shmstate_watch** watch) SHMSTATE_NOEXCEPT;
/* The same, but continues after `*since`, for example where another watch stopped (`position` of its last batch), also
 * in another process: begins with what changed after it, or with the present state when that is not known
 * (`gap_reason`) or `*since` is nowhere. */
SHMSTATE_API int shmstate_watch_open_since(const char* instance, const char* prefix, size_t prefix_bytes,
                                           const shmstate_position* since, const shmstate_reader_options* options,
                                           shmstate_watch** watch) SHMSTATE_NOEXCEPT;
/* Changes that came from it stay valid. */
SHMSTATE_API void shmstate_watch_close(shmstate_watch* watch) SHMSTATE_NOEXCEPT;

/* What the changes of one call are. */
typedef struct shmstate_watch_batch {
  size_t struct_bytes;
  shmstate_position position; /* up to here everything has been delivered; nowhere before the first state */
  uint64_t change_count;      /* each key once */
  int32_t complete;  /* 1: the complete state, all keys with the prefix that exist: at first, unless the watch continues
                        from a position, after falling behind the change feed, and when the instance was re-created */
  int32_t conflated; /* 1: several epochs at once, so states in between may have been skipped */
  int32_t gap_reason; /* SHMSTATE_GAP_...: why it is the complete state although a state was delivered before, or the
                         watch continues from a position; 0 otherwise */
  int32_t reserved;   /* 0 */
} shmstate_watch_batch;

/* The next changes, for shmstate_changes_next and shmstate_changes_close: at once when there are some, otherwise after
 * waiting for at most `timeout_ns`, then TIMEOUT, and `*changes` is NULL. `batch` may be NULL. Other errors: as of
 * shmstate_changes_open and shmstate_snapshot_open; nothing is skipped. */
SHMSTATE_API int shmstate_watch_next(shmstate_watch* watch, int64_t timeout_ns, shmstate_watch_batch* batch,
                                     shmstate_changes** changes) SHMSTATE_NOEXCEPT;

/* A descriptor that becomes readable when shmstate_watch_next has something to look at, which makes it unreadable
 * again; or a negative status. It belongs to the watch. Costs a thread, from the first call on, which takes none of the
 * program's signals. A child of fork has it closed, and asks for another. */
SHMSTATE_API int shmstate_watch_get_fd(shmstate_watch* watch) SHMSTATE_NOEXCEPT;

#ifdef __cplusplus
}
#endif
/* NOLINTEND(modernize-use-using) */

#endif
