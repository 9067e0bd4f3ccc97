/* What is written through the C API is read through it, in every way there is.
 * usage: c_api_test INSTANCE; a merger serves it */
#define _POSIX_C_SOURCE 200809L
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shmstate/reader.h"
#include "shmstate/watch.h"
#include "shmstate/writer.h"

#define SECONDS INT64_C(1000000000)
static const int64_t kPatience = 60 * SECONDS;

static void fail(int line, const char* what, int64_t got, int64_t wanted) {
  printf("c_api_test.c:%d: %s is %" PRId64 " (%s), not %" PRId64 "\n", line, what, got,
         got < 0 ? shmstate_strerror((int)got) : "", wanted);
  exit(1);
}
static void expect(int line, const char* what, int64_t got, int64_t wanted) {
  if (got != wanted) fail(line, what, got, wanted);
}
#define EXPECT(what, wanted) expect(__LINE__, #what, (int64_t)(what), (int64_t)(wanted))
#define OK(what) EXPECT(what, SHMSTATE_OK)

static int is_text(const char* bytes, size_t count, const char* text) {
  return count == strlen(text) && memcmp(bytes, text, count) == 0;
}

static int64_t int64_of(shmstate_reader* reader, const char* key) {
  int64_t value = -1;
  OK(shmstate_reader_get_int64(reader, key, SHMSTATE_TEXT, &value));
  return value;
}
static double float64_of(shmstate_reader* reader, const char* key) {
  double value = -1;
  OK(shmstate_reader_get_float64(reader, key, SHMSTATE_TEXT, &value));
  return value;
}
static void float64_only(shmstate_reader* reader) {
  double value = -1;
  EXPECT(shmstate_reader_get_float64_only(reader, "int64", SHMSTATE_TEXT, &value), SHMSTATE_WRONG_TYPE);
  EXPECT(value == -1, 1);
  OK(shmstate_reader_get_float64_only(reader, "float64", SHMSTATE_TEXT, &value));
  EXPECT(value == 0.5, 1);
  EXPECT(shmstate_reader_get_float64_only(reader, "float64", SHMSTATE_TEXT, NULL), SHMSTATE_INVALID_ARGUMENT);
}
static shmstate_entry_info info_of(shmstate_reader* reader, const char* key) {
  shmstate_entry_info info = {0};
  info.struct_bytes = sizeof info;
  OK(shmstate_reader_get_info(reader, key, SHMSTATE_TEXT, &info));
  return info;
}

static void values_arrive(shmstate_writer* writer, shmstate_reader* reader) {
  char buffer[16];
  size_t value_bytes = 0;
  int64_t none = 0;
  OK(shmstate_writer_set_int64(writer, "int64", SHMSTATE_TEXT, INT64_MIN, NULL));
  OK(shmstate_writer_set_float64(writer, "float64", SHMSTATE_TEXT, 0.5, NULL));
  OK(shmstate_writer_set_bytes(writer, "bytes", SHMSTATE_TEXT, "one\0two", 7, NULL));
  OK(shmstate_writer_set_bytes(writer, "key with\0zero", 13, "text", SHMSTATE_TEXT, NULL));
  OK(shmstate_writer_set_bytes(writer, "empty", 5, NULL, 0, NULL));
  OK(shmstate_writer_flush(writer, kPatience));

  EXPECT(int64_of(reader, "int64"), INT64_MIN);
  EXPECT(float64_of(reader, "float64") == 0.5, 1);
  EXPECT(float64_of(reader, "int64") == (double)INT64_MIN, 1);
  float64_only(reader);
  OK(shmstate_reader_get_bytes(reader, "bytes", SHMSTATE_TEXT, buffer, sizeof buffer, &value_bytes));
  EXPECT(value_bytes == 7 && memcmp(buffer, "one\0two", 7) == 0, 1);
  OK(shmstate_reader_get_bytes(reader, "key with\0zero", 13, buffer, sizeof buffer, &value_bytes));
  EXPECT(is_text(buffer, value_bytes, "text"), 1);
  OK(shmstate_reader_get_bytes(reader, "empty", SHMSTATE_TEXT, NULL, 0, &value_bytes));
  EXPECT(value_bytes, 0);
  EXPECT(shmstate_reader_get_bytes(reader, "bytes", SHMSTATE_TEXT, buffer, 6, &value_bytes), SHMSTATE_BUFFER_TOO_SMALL);
  EXPECT(value_bytes, 7);
  EXPECT(shmstate_reader_get_int64(reader, "bytes", SHMSTATE_TEXT, &none), SHMSTATE_WRONG_TYPE);
  EXPECT(shmstate_reader_get_int64(reader, "nobody", SHMSTATE_TEXT, &none), SHMSTATE_NOT_FOUND);
}

static void numbers_combine(shmstate_writer* writer, shmstate_reader* reader) {
  for (int64_t i = 1; i <= 10; ++i) {
    OK(shmstate_writer_add_int64(writer, "sum", SHMSTATE_TEXT, i));
    OK(shmstate_writer_max_int64(writer, "max", SHMSTATE_TEXT, i));
    OK(shmstate_writer_min_int64(writer, "min", SHMSTATE_TEXT, i));
    OK(shmstate_writer_add_float64(writer, "sum of halves", SHMSTATE_TEXT, (double)i / 2));
    OK(shmstate_writer_max_float64(writer, "max of halves", SHMSTATE_TEXT, (double)i / 2));
    OK(shmstate_writer_min_float64(writer, "min of halves", SHMSTATE_TEXT, (double)i / 2));
  }
  OK(shmstate_writer_erase(writer, "empty", SHMSTATE_TEXT));
  OK(shmstate_writer_flush(writer, kPatience));
  EXPECT(int64_of(reader, "sum"), 55);
  EXPECT(int64_of(reader, "max"), 10);
  EXPECT(int64_of(reader, "min"), 1);
  EXPECT(float64_of(reader, "sum of halves") == 27.5, 1);
  EXPECT(float64_of(reader, "max of halves") == 5.0, 1);
  EXPECT(float64_of(reader, "min of halves") == 0.5, 1);
  EXPECT(shmstate_reader_get_bytes(reader, "empty", SHMSTATE_TEXT, NULL, 0, &(size_t){0}), SHMSTATE_NOT_FOUND);
}

static void options_count(shmstate_writer* writer, shmstate_reader* reader) {
  shmstate_set_options options = {0};
  options.struct_bytes = sizeof options;
  options.version = 7;
  options.has_version = 1;
  OK(shmstate_writer_set_int64(writer, "versioned", SHMSTATE_TEXT, 7, &options));
  options.version = 6;
  OK(shmstate_writer_set_int64(writer, "versioned", SHMSTATE_TEXT, 6, &options));
  OK(shmstate_writer_erase_version(writer, "versioned", SHMSTATE_TEXT, 5));
  options.has_version = 0;
  options.ephemeral = 1;
  options.ttl_ns = 3600 * SECONDS;
  OK(shmstate_writer_set_int64(writer, "ephemeral", SHMSTATE_TEXT, 1, &options));
  OK(shmstate_writer_flush(writer, kPatience));

  EXPECT(int64_of(reader, "versioned"), 7);
  EXPECT(info_of(reader, "versioned").version, 7);
  EXPECT(info_of(reader, "versioned").ttl_ns < 0, 1);
  EXPECT(info_of(reader, "versioned").ephemeral, 0);
  EXPECT(info_of(reader, "ephemeral").ephemeral, 1);
  EXPECT(info_of(reader, "ephemeral").ttl_ns > 0 && info_of(reader, "ephemeral").ttl_ns <= 3600 * SECONDS, 1);
  EXPECT(info_of(reader, "ephemeral").type, SHMSTATE_INT64);
  EXPECT(info_of(reader, "bytes").value_bytes, 7);
}

static void batches_are_whole(shmstate_writer* writer, shmstate_reader* reader) {
  shmstate_writer_counters counters = {0};
  counters.struct_bytes = sizeof counters;
  int64_t none = 0;
  OK(shmstate_batch_begin(writer));
  EXPECT(shmstate_batch_begin(writer), SHMSTATE_INVALID_ARGUMENT);
  OK(shmstate_writer_set_int64(writer, "a", SHMSTATE_TEXT, 1, NULL));
  OK(shmstate_writer_set_int64(writer, "b", SHMSTATE_TEXT, 2, NULL));
  EXPECT(shmstate_reader_get_int64(reader, "a", SHMSTATE_TEXT, &none), SHMSTATE_NOT_FOUND);
  OK(shmstate_batch_commit(writer));
  EXPECT(shmstate_batch_commit(writer), SHMSTATE_INVALID_ARGUMENT);
  OK(shmstate_writer_flush_ticket(writer, shmstate_writer_get_ticket(writer), kPatience));
  EXPECT(int64_of(reader, "a") == 1 && int64_of(reader, "b") == 2, 1);
  EXPECT(info_of(reader, "a").changed_epoch, info_of(reader, "b").changed_epoch);

  OK(shmstate_batch_begin(writer));
  OK(shmstate_writer_set_int64(writer, "a", SHMSTATE_TEXT, 3, NULL));
  shmstate_batch_abort(writer);
  OK(shmstate_writer_flush(writer, kPatience));
  EXPECT(int64_of(reader, "a"), 1);

  OK(shmstate_batch_begin(writer));
  OK(shmstate_writer_set_int64(writer, "a", SHMSTATE_TEXT, 4, NULL));
  EXPECT(shmstate_writer_set_int64(writer, "", SHMSTATE_TEXT, 4, NULL), SHMSTATE_KEY_EMPTY);
  EXPECT(shmstate_batch_commit(writer), SHMSTATE_KEY_EMPTY);
  EXPECT(shmstate_writer_flush(writer, kPatience), SHMSTATE_KEY_EMPTY);
  EXPECT(int64_of(reader, "a"), 1);

  OK(shmstate_writer_add_int64(writer, "bytes", SHMSTATE_TEXT, 1));
  EXPECT(shmstate_writer_flush(writer, kPatience), SHMSTATE_REJECTED);
  OK(shmstate_writer_get_counters(writer, &counters));
  EXPECT(counters.rejected_wrong_type, 1);
  EXPECT(counters.rejected, 1);
  EXPECT(counters.failed, 2);
  EXPECT(counters.applied + counters.rejected, counters.pushed);
}

static void snapshots_are_stable(shmstate_writer* writer, shmstate_reader* reader) {
  shmstate_snapshot* snapshot = NULL;
  shmstate_entry entry = {0};
  uint64_t entry_count = 0;
  uint64_t visited = 0;
  shmstate_position position = {{0}, 0};
  int rounds = 0;
  entry.struct_bytes = sizeof entry;
  OK(shmstate_snapshot_open(reader, &snapshot));
  OK(shmstate_writer_set_int64(writer, "a", SHMSTATE_TEXT, 100, NULL));
  OK(shmstate_writer_flush(writer, kPatience));
  OK(shmstate_snapshot_get(snapshot, "a", SHMSTATE_TEXT, &entry));
  EXPECT(entry.value.type == SHMSTATE_INT64 && entry.value.int64 == 1, 1);
  EXPECT(int64_of(reader, "a"), 100);
  OK(shmstate_snapshot_get(snapshot, "bytes", SHMSTATE_TEXT, &entry));
  EXPECT(entry.value.type == SHMSTATE_BYTES && entry.value.value_bytes == 7, 1);
  EXPECT(memcmp(entry.value.bytes, "one\0two", 7), 0);
  EXPECT(shmstate_snapshot_get(snapshot, "nobody", SHMSTATE_TEXT, &entry), SHMSTATE_NOT_FOUND);
  EXPECT(shmstate_snapshot_get(snapshot, "", SHMSTATE_TEXT, &entry), SHMSTATE_KEY_EMPTY);

  OK(shmstate_snapshot_get_entry_count(snapshot, &entry_count));
  for (rounds = 0; rounds < 2; ++rounds) {
    for (visited = 0; shmstate_snapshot_next(snapshot, &entry) == SHMSTATE_OK; ++visited) {
      shmstate_entry again = {0};
      again.struct_bytes = sizeof again;
      OK(shmstate_snapshot_get(snapshot, entry.key, entry.key_bytes, &again));
      EXPECT(again.key == entry.key && again.changed_epoch == entry.changed_epoch, 1);
    }
    EXPECT(visited, entry_count);
    EXPECT(shmstate_snapshot_next(snapshot, &entry), SHMSTATE_NOT_FOUND);
    shmstate_snapshot_rewind(snapshot);
  }
  OK(shmstate_snapshot_check(snapshot));
  EXPECT(shmstate_snapshot_get_epoch(snapshot) < shmstate_reader_get_epoch(reader), 1);
  OK(shmstate_snapshot_get_position(snapshot, &position));
  EXPECT(position.epoch, shmstate_snapshot_get_epoch(snapshot));
  OK(shmstate_reader_wait(reader, &position, 0));
  shmstate_snapshot_close(snapshot);
}

static void many_are_read_at_once(shmstate_reader* reader) {
  char text[16];
  char small[2];
  shmstate_lookup lookups[6] = {{0}};
  shmstate_position position = {0};
  shmstate_position current = {0};
  lookups[0].key = "int64";
  lookups[1].key = "float64";
  lookups[2].key = "bytes";
  lookups[2].buffer = text;
  lookups[2].buffer_bytes = sizeof text;
  lookups[3].key = "bytes";
  lookups[3].buffer = small;
  lookups[3].buffer_bytes = sizeof small;
  lookups[4].key = "nobody";
  lookups[5].key = "bytes";
  lookups[0].key_bytes = lookups[1].key_bytes = lookups[2].key_bytes = SHMSTATE_TEXT;
  lookups[3].key_bytes = lookups[4].key_bytes = lookups[5].key_bytes = SHMSTATE_TEXT;
  OK(shmstate_reader_get_many(reader, lookups, 6, &position));
  OK(shmstate_reader_get_position(reader, &current));
  EXPECT(memcmp(&position, &current, sizeof current), 0);
  EXPECT(lookups[0].status == SHMSTATE_OK && lookups[0].value.int64 == INT64_MIN, 1);
  EXPECT(lookups[1].value.type == SHMSTATE_FLOAT64 && lookups[1].value.float64 == 0.5, 1);
  EXPECT(lookups[2].value.bytes == text && lookups[2].value.value_bytes == 7, 1);
  EXPECT(memcmp(text, "one\0two", 7), 0);
  EXPECT(lookups[3].status, SHMSTATE_BUFFER_TOO_SMALL);
  EXPECT(lookups[3].value.value_bytes, 7);
  EXPECT(lookups[3].value.type, SHMSTATE_NONE);
  EXPECT(lookups[4].status, SHMSTATE_NOT_FOUND);
  EXPECT(lookups[5].status, SHMSTATE_BUFFER_TOO_SMALL);
}

/* From where another one stopped, before "watched/a" was erased; or from the state, and says why. */
static void a_watch_continues(const char* instance, const shmstate_position* since) {
  shmstate_watch* watch = NULL;
  shmstate_changes* changes = NULL;
  shmstate_change change = {0};
  shmstate_watch_batch batch = {0};
  shmstate_position elsewhere = *since;
  change.struct_bytes = sizeof change;
  batch.struct_bytes = sizeof batch;
  OK(shmstate_watch_open_since(instance, "watched/", SHMSTATE_TEXT, since, NULL, &watch));
  OK(shmstate_watch_next(watch, kPatience, &batch, &changes));
  EXPECT(batch.complete == 0 && batch.change_count == 1 && batch.gap_reason == 0, 1);
  OK(shmstate_changes_next(changes, &change));
  EXPECT(change.kind, SHMSTATE_CHANGE_ERASED);
  shmstate_changes_close(changes);
  shmstate_watch_close(watch);

  elsewhere.instance[0] ^= 1;
  OK(shmstate_watch_open_since(instance, "watched/", SHMSTATE_TEXT, &elsewhere, NULL, &watch));
  OK(shmstate_watch_next(watch, kPatience, &batch, &changes));
  EXPECT(batch.complete == 1 && batch.change_count == 0 && batch.gap_reason == SHMSTATE_GAP_RECREATED, 1);
  shmstate_changes_close(changes);
  shmstate_watch_close(watch);
}

/* The state, then what changes, then nothing; its descriptor says when to look. */
static void a_watch_follows(shmstate_writer* writer, const char* instance) {
  shmstate_watch* watch = NULL;
  shmstate_changes* changes = NULL;
  shmstate_change change = {0};
  shmstate_watch_batch batch = {0};
  struct pollfd readable = {0};
  change.struct_bytes = sizeof change;
  batch.struct_bytes = sizeof batch;
  OK(shmstate_writer_set_int64(writer, "watched/a", SHMSTATE_TEXT, 1, NULL));
  OK(shmstate_writer_flush(writer, kPatience));
  OK(shmstate_watch_open(instance, "watched/", SHMSTATE_TEXT, NULL, &watch));
  readable.fd = shmstate_watch_get_fd(watch);
  readable.events = POLLIN;
  EXPECT(readable.fd > 2, 1);
  OK(shmstate_watch_next(watch, 0, &batch, &changes));
  EXPECT(batch.complete == 1 && batch.change_count == 1 && batch.position.epoch > 0, 1);
  OK(shmstate_changes_next(changes, &change));
  EXPECT(is_text(change.key, change.key_bytes, "watched/a") && change.value.int64 == 1, 1);
  EXPECT(shmstate_changes_next(changes, &change), SHMSTATE_NOT_FOUND);
  shmstate_changes_close(changes);
  EXPECT(shmstate_watch_next(watch, 0, &batch, &changes), SHMSTATE_TIMEOUT);
  EXPECT(changes == NULL && batch.change_count == 0, 1);

  OK(shmstate_writer_erase(writer, "watched/a", SHMSTATE_TEXT));
  EXPECT(poll(&readable, 1, 60000), 1);
  OK(shmstate_watch_next(watch, kPatience, NULL, &changes));
  shmstate_watch_close(watch);
  OK(shmstate_changes_next(changes, &change));
  EXPECT(change.kind, SHMSTATE_CHANGE_ERASED);
  EXPECT(is_text(change.key, change.key_bytes, "watched/a"), 1);
  shmstate_changes_close(changes);
  OK(shmstate_writer_flush(writer, kPatience));
  a_watch_continues(instance, &batch.position);
}

static void a_child_is_told(shmstate_writer* writer, shmstate_reader* reader) {
  int status = 0;
  const pid_t child = fork();
  if (child == 0) {
    OK(shmstate_reader_get_int64(reader, "int64", SHMSTATE_TEXT, &(int64_t){0}));
    EXPECT(shmstate_writer_set_int64(writer, "int64", SHMSTATE_TEXT, 0, NULL), SHMSTATE_FORKED);
    shmstate_reader_close(reader);
    shmstate_writer_close(writer);
    _exit(0);
  }
  EXPECT(waitpid(child, &status, 0), child);
  EXPECT(status, 0);
}

static void changes_are_told(shmstate_writer* writer, shmstate_reader* reader) {
  shmstate_changes* changes = NULL;
  shmstate_change change = {0};
  shmstate_position position = {{0}, 0};
  shmstate_position before = {{0}, 0};
  const shmstate_position nowhere = {{0}, 0};
  OK(shmstate_reader_get_position(reader, &before));
  position = before;
  EXPECT(before.epoch, shmstate_reader_get_epoch(reader));
  OK(shmstate_reader_wait(reader, &nowhere, 0));
  change.struct_bytes = sizeof change;
  OK(shmstate_writer_set_bytes(writer, "news", SHMSTATE_TEXT, "good", SHMSTATE_TEXT, NULL));
  OK(shmstate_writer_flush(writer, kPatience));
  OK(shmstate_writer_erase(writer, "sum", SHMSTATE_TEXT));
  OK(shmstate_writer_flush(writer, kPatience));
  OK(shmstate_reader_wait(reader, &before, kPatience));

  OK(shmstate_changes_open(reader, &position, &changes));
  EXPECT(position.epoch > before.epoch, 1);
  EXPECT(memcmp(position.instance, before.instance, sizeof before.instance), 0);
  OK(shmstate_changes_next(changes, &change));
  EXPECT(change.kind, SHMSTATE_CHANGE_SET);
  EXPECT(is_text(change.key, change.key_bytes, "news"), 1);
  EXPECT(is_text(change.value.bytes, change.value.value_bytes, "good"), 1);
  OK(shmstate_changes_next(changes, &change));
  EXPECT(change.kind, SHMSTATE_CHANGE_ERASED);
  EXPECT(change.value.type, SHMSTATE_NONE);
  EXPECT(is_text(change.key, change.key_bytes, "sum"), 1);
  EXPECT(shmstate_changes_next(changes, &change), SHMSTATE_NOT_FOUND);
  shmstate_changes_close(changes);

  ++position.instance[15]; /* of another instance */
  EXPECT(shmstate_changes_open(reader, &position, &changes), SHMSTATE_GAP);
  EXPECT(shmstate_reader_get_gap_reason(reader), SHMSTATE_GAP_RECREATED);
  EXPECT(shmstate_reader_get_gap_reason(NULL), SHMSTATE_INVALID_ARGUMENT);
  EXPECT(changes == NULL, 1);
  EXPECT(position.epoch, shmstate_reader_get_epoch(reader));
  EXPECT(memcmp(position.instance, before.instance, sizeof before.instance), 0);
}

int main(int argc, char** argv) {
  shmstate_writer_options writer_options = {0};
  shmstate_reader_status status = {0};
  shmstate_writer_status writer_status = {0};
  shmstate_writer* writer = NULL;
  shmstate_reader* reader = NULL;
  if (argc != 2) return 2;
  writer_options.struct_bytes = sizeof writer_options;
  writer_options.name = "a C program";
  writer_options.ring_bytes = 65536;
  OK(shmstate_writer_open(argv[1], &writer_options, &writer));
  OK(shmstate_reader_open(argv[1], NULL, &reader));
  EXPECT(strcmp(shmstate_reader_get_path(reader), argv[1]), 0);
  EXPECT(strcmp(shmstate_writer_get_path(writer), argv[1]), 0);
  EXPECT(shmstate_writer_get_ring_id(writer) != 0, 1);

  values_arrive(writer, reader);
  numbers_combine(writer, reader);
  options_count(writer, reader);
  batches_are_whole(writer, reader);
  snapshots_are_stable(writer, reader);
  many_are_read_at_once(reader);
  a_watch_follows(writer, argv[1]);
  a_child_is_told(writer, reader);
  changes_are_told(writer, reader);

  writer_status.struct_bytes = sizeof writer_status;
  OK(shmstate_writer_get_status(writer, &writer_status));
  OK(writer_status.ring_status);
  EXPECT(writer_status.merger_running == 1 && writer_status.instance_gone == 0, 1);
  status.struct_bytes = sizeof status;
  OK(shmstate_reader_get_status(reader, &status));
  EXPECT(status.merger_running, 1);
  EXPECT(status.instance_gone, 0);
  EXPECT(shmstate_reader_get_age(reader) >= 0, 1);
  shmstate_reader_close(reader);
  shmstate_writer_close(writer);
  puts("all as written");
  return 0;
}
