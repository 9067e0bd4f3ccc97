/* The writer, for C: pushes mutations into a ring of its own, from which the merger takes them. What the operations
 * mean is said in writer.h and in docs/semantics.md; the conventions are in status_c.h.
 *
 *   shmstate_writer* writer;
 *   if (shmstate_writer_open("plant", NULL, &writer) != SHMSTATE_OK) ...
 *   shmstate_writer_set_int64(writer, "pump/7/rpm", SHMSTATE_TEXT, 1480, NULL);
 *   shmstate_writer_flush(writer, 100000000);
 *   shmstate_writer_close(writer); */
#ifndef SHMSTATE_WRITER_C_H
#define SHMSTATE_WRITER_C_H

#include "shmstate/status_c.h"

/* NOLINTBEGIN(modernize-use-using): this is C */
#ifdef __cplusplus
extern "C" {
#endif

typedef struct shmstate_writer shmstate_writer;

/* What a push does when the merger has not made room yet. A shared ring also counts as full while another process is in
 * the middle of a push and does not go on. */
enum {
  SHMSTATE_BLOCK = 0,   /* wait for room, for at most full_timeout_ns, then SHMSTATE_TIMEOUT */
  SHMSTATE_FAIL = 1,    /* SHMSTATE_RING_FULL at once */
  SHMSTATE_CONFLATE = 2 /* keep the latest of every key in private memory until there is room; never blocks */
};

/* Zero is the default of every member. */
typedef struct shmstate_writer_options {
  size_t struct_bytes;
  const char* name;           /* shown in the status, ends with a NUL; by default the program's name */
  size_t ring_bytes;          /* 64 KiB to 1 GiB, rounded up to a power of two; by default 4 MiB */
  int32_t when_full;          /* by default SHMSTATE_BLOCK */
  int32_t shared;             /* not 0: push through the one ring that all writers of this user share */
  int64_t full_timeout_ns;    /* how long to wait for room, at the end, too; by default 1 s; negative: none */
  size_t conflate_bytes_max;  /* for SHMSTATE_CONFLATE; by default 64 MiB */
  int64_t attach_timeout_ns;  /* how long an instance may take to appear; by default 2 s; negative: none */
  char* error_text;           /* the caller's: filled with path, reason and remedy when opening fails; may be NULL */
  size_t error_bytes;         /* its size; a longer text is cut, and always ends with a NUL */
  int32_t survive_truncation; /* not 0: see WriterOptions in writer.h; installs a handler for SIGBUS */
  int32_t reopen;             /* not 0: reattach to a re-created instance, see WriterOptions in writer.h */
} shmstate_writer_options;

/* Attaches to an instance, by name or by the path of its directory, and creates a ring in it; works while the merger is
 * down. Sets `*writer` to a handle for shmstate_writer_close, or to NULL on error. */
SHMSTATE_API int shmstate_writer_open(const char* instance, const shmstate_writer_options* options,
                                      shmstate_writer** writer) SHMSTATE_NOEXCEPT;
/* Leaves what was pushed to the merger; discards an open batch. Ephemeral keys of this writer are erased. With
 * SHMSTATE_CONFLATE, it waits for room for what is retained, for at most full_timeout_ns; what is left then is lost. */
SHMSTATE_API void shmstate_writer_close(shmstate_writer* writer) SHMSTATE_NOEXCEPT;

/* What a set says besides the value. */
typedef struct shmstate_set_options {
  size_t struct_bytes;
  int64_t ttl_ns;      /* the key is erased when this has passed; 0: never */
  uint64_t version;    /* if has_version: apply only if this is higher than the version of the entry */
  int32_t has_version; /* 0 or 1 */
  int32_t ephemeral;   /* not 0: the key is erased when this writer is gone */
} shmstate_set_options;

/* Mutations: a copy into shared memory, and no system call unless the merger sleeps. On error nothing was pushed. The
 * status may be ignored: failures are counted, and shmstate_writer_flush reports them. While a batch is open they
 * belong to it. Key and value are copied. Errors: KEY_EMPTY, KEY_TOO_LONG, VALUE_TOO_BIG, INVALID_ARGUMENT,
 * MUTATION_TOO_BIG, RING_FULL or TIMEOUT, NO_MEMORY, RING_REFUSED, RING_QUARANTINED, NO_INSTANCE, DAMAGED, FORKED,
 * SYSTEM; OUT_OF_RANGE for the addition of a NaN, and the maximum or minimum with one. */
SHMSTATE_API int shmstate_writer_set_int64(shmstate_writer* writer, const char* key, size_t key_bytes, int64_t value,
                                           const shmstate_set_options* options) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_set_float64(shmstate_writer* writer, const char* key, size_t key_bytes, double value,
                                             const shmstate_set_options* options) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_set_bytes(shmstate_writer* writer, const char* key, size_t key_bytes,
                                           const char* value, size_t value_bytes,
                                           const shmstate_set_options* options) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_erase(shmstate_writer* writer, const char* key, size_t key_bytes) SHMSTATE_NOEXCEPT;
/* Erases only an entry of a lower version; the version is remembered for a while. */
SHMSTATE_API int shmstate_writer_erase_version(shmstate_writer* writer, const char* key, size_t key_bytes,
                                               uint64_t version) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_add_int64(shmstate_writer* writer, const char* key, size_t key_bytes,
                                           int64_t delta) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_add_float64(shmstate_writer* writer, const char* key, size_t key_bytes,
                                             double delta) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_max_int64(shmstate_writer* writer, const char* key, size_t key_bytes,
                                           int64_t value) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_max_float64(shmstate_writer* writer, const char* key, size_t key_bytes,
                                             double value) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_min_int64(shmstate_writer* writer, const char* key, size_t key_bytes,
                                           int64_t value) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_writer_min_float64(shmstate_writer* writer, const char* key, size_t key_bytes,
                                             double value) SHMSTATE_NOEXCEPT;

/* How many mutations a batch may hold, as the merger says now; UINT64_MAX when it sets no limit. It may hold 512 bytes
 * for each of them, keys and values together, and must fit the ring; a larger one is MUTATION_TOO_BIG. 0 for NULL. */
SHMSTATE_API uint64_t shmstate_writer_get_batch_max(const shmstate_writer* writer) SHMSTATE_NOEXCEPT;
/* A batch: the mutations between begin and commit become visible together or not at all. The first error sticks and is
 * what commit returns: then nothing was pushed. INVALID_ARGUMENT: begin while a batch is open, commit while none is;
 * the open batch stays as it is. */
SHMSTATE_API int shmstate_batch_begin(shmstate_writer* writer) SHMSTATE_NOEXCEPT;
SHMSTATE_API int shmstate_batch_commit(shmstate_writer* writer) SHMSTATE_NOEXCEPT;
/* Discards the batch, if one is open. */
SHMSTATE_API void shmstate_batch_abort(shmstate_writer* writer) SHMSTATE_NOEXCEPT;

/* The ticket of the last mutation pushed: a position in this writer's stream. 0 for NULL. */
SHMSTATE_API uint64_t shmstate_writer_get_ticket(const shmstate_writer* writer) SHMSTATE_NOEXCEPT;
/* Waits until readers can see everything pushed so far; an open batch is not.
 * TIMEOUT; REJECTED when the merger refused a mutation since the last flush; the first error of a push since the last
 * flush; RING_REFUSED, RING_QUARANTINED, NO_INSTANCE, DAMAGED or FORKED when this ring is not merged. */
SHMSTATE_API int shmstate_writer_flush(shmstate_writer* writer, int64_t timeout_ns) SHMSTATE_NOEXCEPT;
/* The same for everything up to `ticket`. */
SHMSTATE_API int shmstate_writer_flush_ticket(shmstate_writer* writer, uint64_t ticket,
                                              int64_t timeout_ns) SHMSTATE_NOEXCEPT;

/* Mutations of one writer, all since it was opened; of a shared ring, what the merger counts is of the whole ring. */
typedef struct shmstate_writer_counters {
  size_t struct_bytes;
  uint64_t pushed;    /* accepted by the ring */
  uint64_t failed;    /* refused by a push, whatever the reason */
  uint64_t applied;   /* readers can see them (merger's count) */
  uint64_t rejected;  /* refused by the merger, for one of the following reasons or another */
  uint64_t conflated; /* went through SHMSTATE_CONFLATE */
  uint64_t rejected_wrong_type;
  uint64_t rejected_out_of_range;
  uint64_t rejected_no_memory;
  uint64_t rejected_limit;
  uint64_t rejected_batch_too_big;
  uint64_t lost; /* accepted, and gone with an instance that was removed (reopen) */
  uint64_t rejected_unknown;
  uint64_t rejected_crowded;
} shmstate_writer_counters;

SHMSTATE_API int shmstate_writer_get_counters(const shmstate_writer* writer,
                                              shmstate_writer_counters* counters) SHMSTATE_NOEXCEPT;

/* Where a writer stands. */
typedef struct shmstate_writer_status {
  size_t struct_bytes;
  uint64_t reopen_count;  /* how often this writer reattached to a re-created instance */
  int32_t merger_running; /* asks the kernel */
  int32_t instance_gone;  /* the directory no longer leads to what is being written to */
  int32_t ring_status;    /* OK, or why pushes are not merged: as from shmstate_writer_flush, and FORKED */
  int32_t reserved;
} shmstate_writer_status;

/* A few system calls. */
SHMSTATE_API int shmstate_writer_get_status(shmstate_writer* writer, shmstate_writer_status* status) SHMSTATE_NOEXCEPT;
/* The directory of the instance, which lives as long as the writer. NULL for NULL. */
SHMSTATE_API const char* shmstate_writer_get_path(const shmstate_writer* writer) SHMSTATE_NOEXCEPT;
/* The identity of this writer's ring: its file is `writers/rings/<16 hex digits>`. 0 for NULL. */
SHMSTATE_API uint64_t shmstate_writer_get_ring_id(const shmstate_writer* writer) SHMSTATE_NOEXCEPT;

#ifdef __cplusplus
}
#endif
/* NOLINTEND(modernize-use-using) */

#endif
