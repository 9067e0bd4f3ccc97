// What a program loads and unloads again: the libraries in it, linked statically.
#include "shmstate/reader_c.h"
#include "shmstate/writer_c.h"

/// Opens a reader and a writer that survive truncation, and closes them. Returns a status.
extern "C" __attribute__((visibility("default"))) int guest_plugin_visit(const char* instance) {
  shmstate_reader_options reader_options{};
  reader_options.struct_bytes = sizeof reader_options;
  reader_options.survive_truncation = 1;
  shmstate_writer_options writer_options{};
  writer_options.struct_bytes = sizeof writer_options;
  writer_options.survive_truncation = 1;
  shmstate_reader* reader = nullptr;
  shmstate_writer* writer = nullptr;
  int status = shmstate_reader_open(instance, &reader_options, &reader);
  if (status == SHMSTATE_OK) status = shmstate_writer_open(instance, &writer_options, &writer);
  shmstate_writer_close(writer);
  shmstate_reader_close(reader);
  return status;
}
