#include "shmstate/writer_c.h"

#include <optional>

#include "c_api/c_api.h"
#include "shmstate/writer.h"

using shmstate::Batch;
using shmstate::SetOptions;
using shmstate::Status;
using shmstate::ValueView;
using shmstate::WhenFull;
using shmstate::Writer;
using shmstate::WriterOptions;
using namespace shmstate::internal::c_api;

struct shmstate_writer {
  Writer writer;
  std::optional<Batch> batch{};
};

namespace {

bool to_when_full(std::int32_t given, WhenFull& when_full) noexcept {
  switch (given) {
    case SHMSTATE_BLOCK: when_full = WhenFull::kBlock; return true;
    case SHMSTATE_FAIL: when_full = WhenFull::kFail; return true;
    case SHMSTATE_CONFLATE: when_full = WhenFull::kConflate; return true;
    default: return false;
  }
}

/// Throws `Error`; may throw std::bad_alloc.
WriterOptions to_options(const shmstate_writer_options& given) {
  WriterOptions options;
  if (!to_when_full(given.when_full, options.when_full)) {
    throw shmstate::Error(Status::kInvalidArgument,
                          "shmstate: when_full is none of SHMSTATE_BLOCK, SHMSTATE_FAIL and "
                          "SHMSTATE_CONFLATE");
  }
  if (given.name != nullptr) options.name = given.name;
  if (given.ring_bytes != 0) options.ring_bytes = given.ring_bytes;
  if (given.conflate_bytes_max != 0) options.conflate_bytes_max = given.conflate_bytes_max;
  options.shared = given.shared != 0;
  options.survive_truncation = given.survive_truncation != 0;
  options.reopen = given.reopen != 0;
  options.full_timeout = timeout_or(given.full_timeout_ns, options.full_timeout);
  options.attach_timeout = timeout_or(given.attach_timeout_ns, options.attach_timeout);
  return options;
}

/// What a push refuses, it counts and reports: so does one whose arguments make no sense, as a time to live does that
/// is negative.
int refuse(shmstate_writer* writer) noexcept {
  if (writer == nullptr) return kInvalid;
  const SetOptions senseless{.ttl = std::chrono::nanoseconds(-1)};
  return code(writer->batch ? writer->batch->set("?", 0, senseless) : writer->writer.set("?", 0, senseless));
}

/// Calls `call(to, key)`, where `to` is the open batch, or the writer when there is none.
template <typename Call>
int mutate(shmstate_writer* writer, const char* key, std::size_t key_bytes, Call&& call) noexcept {
  if (writer == nullptr || key == nullptr) return refuse(writer);
  const std::string_view bytes = text(key, key_bytes);
  return code(writer->batch ? call(*writer->batch, bytes) : call(writer->writer, bytes));
}

int set(shmstate_writer* writer, const char* key, std::size_t key_bytes, ValueView value,
        const shmstate_set_options* options) noexcept {
  if (options == nullptr) {
    return mutate(writer, key, key_bytes, [&](auto& to, std::string_view bytes) { return to.set(bytes, value); });
  }
  shmstate_set_options known{};
  if (!take_struct(options, known)) return refuse(writer);
  SetOptions wanted{.ttl = std::chrono::nanoseconds(known.ttl_ns), .ephemeral = known.ephemeral != 0};
  if (known.has_version != 0) wanted.version = known.version;
  return mutate(writer, key, key_bytes, [&](auto& to, std::string_view bytes) { return to.set(bytes, value, wanted); });
}

int add(shmstate_writer* writer, const char* key, std::size_t key_bytes, ValueView delta) noexcept {
  return mutate(writer, key, key_bytes, [&](auto& to, std::string_view bytes) { return to.add(bytes, delta); });
}
int max(shmstate_writer* writer, const char* key, std::size_t key_bytes, ValueView value) noexcept {
  return mutate(writer, key, key_bytes, [&](auto& to, std::string_view bytes) { return to.max(bytes, value); });
}
int min(shmstate_writer* writer, const char* key, std::size_t key_bytes, ValueView value) noexcept {
  return mutate(writer, key, key_bytes, [&](auto& to, std::string_view bytes) { return to.min(bytes, value); });
}

}  // namespace

int shmstate_writer_open(const char* instance, const shmstate_writer_options* options,
                         shmstate_writer** writer) noexcept {
  return open_handle(instance, options, writer, [&](const shmstate_writer_options& known) {
    return new shmstate_writer{.writer = Writer(instance, to_options(known))};
  });
}

void shmstate_writer_close(shmstate_writer* writer) noexcept { delete writer; }

int shmstate_writer_set_int64(shmstate_writer* writer, const char* key, size_t key_bytes, int64_t value,
                              const shmstate_set_options* options) noexcept {
  return set(writer, key, key_bytes, value, options);
}
int shmstate_writer_set_float64(shmstate_writer* writer, const char* key, size_t key_bytes, double value,
                                const shmstate_set_options* options) noexcept {
  return set(writer, key, key_bytes, value, options);
}
int shmstate_writer_set_bytes(shmstate_writer* writer, const char* key, size_t key_bytes, const char* value,
                              size_t value_bytes, const shmstate_set_options* options) noexcept {
  if (value == nullptr && value_bytes != 0) return refuse(writer);
  return set(writer, key, key_bytes, text(value, value_bytes), options);
}

int shmstate_writer_erase(shmstate_writer* writer, const char* key, size_t key_bytes) noexcept {
  return mutate(writer, key, key_bytes, [](auto& to, std::string_view bytes) { return to.erase(bytes); });
}
int shmstate_writer_erase_version(shmstate_writer* writer, const char* key, size_t key_bytes,
                                  uint64_t version) noexcept {
  return mutate(writer, key, key_bytes, [&](auto& to, std::string_view bytes) { return to.erase(bytes, version); });
}

int shmstate_writer_add_int64(shmstate_writer* writer, const char* key, size_t key_bytes, int64_t delta) noexcept {
  return add(writer, key, key_bytes, delta);
}
int shmstate_writer_add_float64(shmstate_writer* writer, const char* key, size_t key_bytes, double delta) noexcept {
  return add(writer, key, key_bytes, delta);
}
int shmstate_writer_max_int64(shmstate_writer* writer, const char* key, size_t key_bytes, int64_t value) noexcept {
  return max(writer, key, key_bytes, value);
}
int shmstate_writer_max_float64(shmstate_writer* writer, const char* key, size_t key_bytes, double value) noexcept {
  return max(writer, key, key_bytes, value);
}
int shmstate_writer_min_int64(shmstate_writer* writer, const char* key, size_t key_bytes, int64_t value) noexcept {
  return min(writer, key, key_bytes, value);
}
int shmstate_writer_min_float64(shmstate_writer* writer, const char* key, size_t key_bytes, double value) noexcept {
  return min(writer, key, key_bytes, value);
}

uint64_t shmstate_writer_get_batch_max(const shmstate_writer* writer) noexcept {
  return writer == nullptr ? 0 : writer->writer.batch_max();
}
int shmstate_batch_begin(shmstate_writer* writer) noexcept {
  if (writer == nullptr || writer->batch) return kInvalid;
  return guarded([&] {
    writer->batch.emplace(writer->writer.batch());
    return SHMSTATE_OK;
  });
}
int shmstate_batch_commit(shmstate_writer* writer) noexcept {
  if (writer == nullptr || !writer->batch) return kInvalid;
  const Status status = writer->batch->commit();
  writer->batch.reset();
  return code(status);
}
void shmstate_batch_abort(shmstate_writer* writer) noexcept {
  if (writer != nullptr) writer->batch.reset();
}

uint64_t shmstate_writer_get_ticket(const shmstate_writer* writer) noexcept {
  return writer == nullptr ? 0 : writer->writer.ticket();
}
int shmstate_writer_flush(shmstate_writer* writer, int64_t timeout_ns) noexcept {
  return writer == nullptr ? kInvalid : code(writer->writer.flush(timeout(timeout_ns)));
}
int shmstate_writer_flush_ticket(shmstate_writer* writer, uint64_t ticket, int64_t timeout_ns) noexcept {
  return writer == nullptr ? kInvalid : code(writer->writer.flush(ticket, timeout(timeout_ns)));
}

int shmstate_writer_get_counters(const shmstate_writer* writer, shmstate_writer_counters* counters) noexcept {
  if (writer == nullptr || !has_size(counters)) return kInvalid;
  const shmstate::WriterCounters counted = writer->writer.counters();
  fill_struct({.struct_bytes = 0,
               .pushed = counted.pushed,
               .failed = counted.failed,
               .applied = counted.applied,
               .rejected = counted.rejected,
               .conflated = counted.conflated,
               .rejected_wrong_type = writer->writer.rejected(Status::kWrongType),
               .rejected_out_of_range = writer->writer.rejected(Status::kOutOfRange),
               .rejected_no_memory = writer->writer.rejected(Status::kNoMemory),
               .rejected_limit = writer->writer.rejected(Status::kLimit),
               .rejected_batch_too_big = writer->writer.rejected(Status::kMutationTooBig),
               .lost = counted.lost,
               .rejected_unknown = writer->writer.rejected(Status::kUnknown),
               .rejected_crowded = writer->writer.rejected(Status::kCrowded)},
              counters);
  return SHMSTATE_OK;
}
int shmstate_writer_get_status(shmstate_writer* writer, shmstate_writer_status* status) noexcept {
  if (writer == nullptr || !has_size(status)) return kInvalid;
  const shmstate::WriterStatus known = writer->writer.status();
  fill_struct({.struct_bytes = 0,
               .reopen_count = known.reopen_count,
               .merger_running = known.merger_running ? 1 : 0,
               .instance_gone = known.instance_gone ? 1 : 0,
               .ring_status = code(known.ring),
               .reserved = 0},
              status);
  return SHMSTATE_OK;
}
const char* shmstate_writer_get_path(const shmstate_writer* writer) noexcept {
  return writer == nullptr ? nullptr : writer->writer.path().c_str();
}
uint64_t shmstate_writer_get_ring_id(const shmstate_writer* writer) noexcept {
  return writer == nullptr ? 0 : writer->writer.ring_id();
}
