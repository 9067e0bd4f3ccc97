/* Prints the speed of a pump, then one consistent state.
 * usage: example-reader-c INSTANCE */
#include <inttypes.h>
#include <shmstate/reader.h>
#include <stdio.h>

static void print_entry(const shmstate_entry* entry) {
  printf("%.*s = ", (int)entry->key_bytes, entry->key);
  switch (entry->value.type) {
    case SHMSTATE_INT64: printf("%" PRId64 "\n", entry->value.int64); break;
    case SHMSTATE_FLOAT64: printf("%g\n", entry->value.float64); break;
    default: printf("%.*s\n", (int)entry->value.value_bytes, entry->value.bytes); break;
  }
}

static int print_state(shmstate_reader* reader) {
  shmstate_snapshot* snapshot;
  shmstate_entry entry = {.struct_bytes = sizeof entry};
  int status = shmstate_snapshot_open(reader, &snapshot);
  if (status != SHMSTATE_OK) return status;
  while ((status = shmstate_snapshot_next(snapshot, &entry)) == SHMSTATE_OK) print_entry(&entry);
  shmstate_snapshot_close(snapshot);
  return status == SHMSTATE_NOT_FOUND ? SHMSTATE_OK : status;
}

int main(int argc, char** argv) {
  char error_text[512] = "";
  shmstate_reader_options options = {
      .struct_bytes = sizeof options, .error_text = error_text, .error_bytes = sizeof error_text};
  shmstate_reader* reader;
  int64_t rpm;
  int status;
  if (argc != 2) {
    fputs("usage: example-reader-c INSTANCE\n", stderr);
    return 2;
  }
  if (shmstate_reader_open(argv[1], &options, &reader) != SHMSTATE_OK) {
    fprintf(stderr, "%s\n", error_text);
    return 1;
  }
  status = shmstate_reader_get_int64(reader, "pump/7/rpm", SHMSTATE_TEXT, &rpm);
  if (status == SHMSTATE_OK) {
    printf("the pump makes %" PRId64 " turns a minute\n", rpm);
  } else {
    printf("the speed of the pump: %s\n", shmstate_strerror(status));
  }
  status = print_state(reader);
  if (status != SHMSTATE_OK) fprintf(stderr, "the state: %s\n", shmstate_strerror(status));
  shmstate_reader_close(reader);
  return status == SHMSTATE_OK ? 0 : 1;
}
