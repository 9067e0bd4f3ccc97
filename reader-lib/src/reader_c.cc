#include "shmstate/reader_c.h"

#include <bit>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "c_api/c_api.h"
#include "shmstate/reader.h"
#include "shmstate/watch.h"
#include "shmstate/watch_c.h"

using shmstate::Change;
using shmstate::ChangeKind;
using shmstate::Changes;
using shmstate::EntryInfo;
using shmstate::EntryView;
using shmstate::Error;
using shmstate::GapReason;
using shmstate::Lookup;
using shmstate::Position;
using shmstate::Reader;
using shmstate::Snapshot;
using shmstate::Status;
using shmstate::Watch;
using shmstate::WatchBatch;
using namespace shmstate::internal::c_api;

static_assert(SHMSTATE_CHANGE_SET == static_cast<int>(ChangeKind::kSet) &&
              SHMSTATE_CHANGE_ERASED == static_cast<int>(ChangeKind::kErased) &&
              SHMSTATE_CHANGE_EXPIRED == static_cast<int>(ChangeKind::kExpired) &&
              SHMSTATE_CHANGE_OWNER_GONE == static_cast<int>(ChangeKind::kOwnerGone));

static_assert(SHMSTATE_GAP_FELL_BEHIND == static_cast<int>(GapReason::kFellBehind) &&
              SHMSTATE_GAP_OVERTAKEN == static_cast<int>(GapReason::kOvertaken) &&
              SHMSTATE_GAP_RECREATED == static_cast<int>(GapReason::kRecreated) &&
              SHMSTATE_GAP_DAMAGED == static_cast<int>(GapReason::kDamaged));

struct shmstate_reader {
  Reader reader;
  GapReason gap_reason = GapReason::kNone;  // of the last call for changes
  std::vector<Lookup> lookups{};            // of the last call of get_many
};

struct shmstate_snapshot {
  Snapshot snapshot;
  std::optional<Snapshot::Iterator> place{};  // of the entry handed out last
  int next_status = SHMSTATE_OK;              // sticks when it is not that, until rewound
};

struct shmstate_changes {
  std::vector<Change> changes;
  std::size_t next = 0;
};

struct shmstate_watch {
  Watch watch;
};

namespace {

shmstate::ReaderOptions to_options(const shmstate_reader_options& known) noexcept {
  shmstate::ReaderOptions options;
  options.attach_timeout = timeout_or(known.attach_timeout_ns, options.attach_timeout);
  options.prefault = known.prefault != 0;
  options.survive_truncation = known.survive_truncation != 0;
  return options;
}

static_assert(sizeof(shmstate_position) == sizeof(Position));

shmstate_position to_position(const Position& position) noexcept { return std::bit_cast<shmstate_position>(position); }
Position from_position(const shmstate_position& position) noexcept { return std::bit_cast<Position>(position); }

shmstate_watch_batch to_batch(const WatchBatch& news) noexcept {
  return {.struct_bytes = 0,
          .position = to_position(news.position),
          .change_count = news.changes.size(),
          .complete = news.complete ? 1 : 0,
          .conflated = news.conflated ? 1 : 0,
          .gap_reason = static_cast<std::int32_t>(news.gap_reason),
          .reserved = 0};
}

shmstate_entry to_entry(const EntryView& entry) noexcept {
  return {.struct_bytes = 0,
          .key = entry.key.data(),
          .key_bytes = entry.key.size(),
          .value = value_of(entry.value),
          .changed_epoch = entry.changed_epoch,
          .version = entry.version,
          .expiry_ns = entry.expiry_ns,
          .ephemeral = entry.ephemeral ? 1 : 0,
          .reserved = 0};
}

shmstate_change to_change(const Change& change) noexcept {
  return {.struct_bytes = 0,
          .key = change.key.data(),
          .key_bytes = change.key.size(),
          .value = change.value ? value_of(*change.value) : shmstate_value{},
          .epoch = change.epoch,
          .kind = static_cast<std::int32_t>(change.kind),
          .reserved = 0};
}

[[nodiscard]] bool is_sound(const shmstate_lookup& asked) noexcept {
  return asked.key != nullptr && (asked.buffer != nullptr || asked.buffer_bytes == 0);
}

/// What makes no sense becomes the empty key, which no entry has.
Lookup to_lookup(const shmstate_lookup& asked) noexcept {
  if (!is_sound(asked)) return {};
  return {.key = text(asked.key, asked.key_bytes), .buffer = {asked.buffer, asked.buffer_bytes}};
}

void fill_found(const Lookup& found, shmstate_lookup& out) noexcept {
  out.status = is_sound(out) ? code(found.status) : kInvalid;
  out.value = found.status == Status::kOk ? value_of(found.value) : shmstate_value{};
  if (found.status == Status::kBufferTooSmall) out.value.value_bytes = found.value_bytes;
  out.reserved = 0;
}

template <typename T>
int get(shmstate_reader* reader, const char* key, std::size_t key_bytes, T* value) noexcept {
  if (reader == nullptr || key == nullptr || value == nullptr) return kInvalid;
  return code(reader->reader.read(text(key, key_bytes), *value));
}

}  // namespace

int shmstate_reader_open(const char* instance, const shmstate_reader_options* options,
                         shmstate_reader** reader) noexcept {
  return open_handle(instance, options, reader, [&](const shmstate_reader_options& known) {
    return new shmstate_reader{.reader = Reader(instance, to_options(known))};
  });
}

void shmstate_reader_close(shmstate_reader* reader) noexcept { delete reader; }

int shmstate_reader_get_int64(shmstate_reader* reader, const char* key, size_t key_bytes, int64_t* value) noexcept {
  return get(reader, key, key_bytes, value);
}
int shmstate_reader_get_float64(shmstate_reader* reader, const char* key, size_t key_bytes, double* value) noexcept {
  return get(reader, key, key_bytes, value);
}
int shmstate_reader_get_float64_only(shmstate_reader* reader, const char* key, size_t key_bytes,
                                     double* value) noexcept {
  shmstate::Float64 found;
  const int status = get(reader, key, key_bytes, value == nullptr ? nullptr : &found);
  if (status == SHMSTATE_OK) *value = found.value;
  return status;
}
int shmstate_reader_get_bytes(shmstate_reader* reader, const char* key, size_t key_bytes, char* buffer,
                              size_t buffer_bytes, size_t* value_bytes) noexcept {
  const bool has_buffer = buffer != nullptr || buffer_bytes == 0;
  if (reader == nullptr || key == nullptr || !has_buffer || value_bytes == nullptr) return kInvalid;
  return code(reader->reader.read(text(key, key_bytes), std::span(buffer, buffer_bytes), *value_bytes));
}

int shmstate_reader_get_info(shmstate_reader* reader, const char* key, size_t key_bytes,
                             shmstate_entry_info* info) noexcept {
  if (reader == nullptr || key == nullptr || !has_size(info)) return kInvalid;
  EntryInfo known;
  const Status status = reader->reader.read(text(key, key_bytes), known);
  if (status != Status::kOk) return code(status);
  fill_struct({.struct_bytes = 0,
               .type = static_cast<std::int32_t>(known.type),
               .ephemeral = known.ephemeral ? 1 : 0,
               .value_bytes = known.value_bytes,
               .changed_epoch = known.changed_epoch,
               .version = known.version,
               .ttl_ns = known.time_to_live ? known.time_to_live->count() : -1},
              info);
  return SHMSTATE_OK;
}

int shmstate_reader_get_many(shmstate_reader* reader, shmstate_lookup* lookups, size_t lookup_count,
                             shmstate_position* position) noexcept {
  if (reader == nullptr || (lookups == nullptr && lookup_count != 0)) return kInvalid;
  return guarded([&] {
    const std::span<shmstate_lookup> asked(lookups, lookup_count);
    reader->lookups.clear();
    for (const shmstate_lookup& one : asked) reader->lookups.push_back(to_lookup(one));
    const Position found = reader->reader.get_many(std::span(reader->lookups));
    for (std::size_t i = 0; i < lookup_count; ++i) fill_found(reader->lookups[i], asked[i]);
    if (position != nullptr) *position = to_position(found);
    return SHMSTATE_OK;
  });
}

uint64_t shmstate_reader_get_epoch(shmstate_reader* reader) noexcept {
  return reader == nullptr ? 0 : reader->reader.epoch();
}
int shmstate_reader_get_position(shmstate_reader* reader, shmstate_position* position) noexcept {
  if (reader == nullptr || position == nullptr) return kInvalid;
  *position = to_position(reader->reader.position());
  return SHMSTATE_OK;
}
int shmstate_reader_wait(shmstate_reader* reader, const shmstate_position* position, int64_t timeout_ns) noexcept {
  if (reader == nullptr || position == nullptr) return kInvalid;
  const Position known = from_position(*position);
  return reader->reader.wait(known, timeout(timeout_ns)) <= known ? SHMSTATE_TIMEOUT : SHMSTATE_OK;
}
int64_t shmstate_reader_get_age(shmstate_reader* reader) noexcept {
  return reader == nullptr ? kInvalid : reader->reader.age().count();
}

int shmstate_reader_get_status(shmstate_reader* reader, shmstate_reader_status* status) noexcept {
  if (reader == nullptr || !has_size(status)) return kInvalid;
  const shmstate::ReaderStatus known = reader->reader.status();
  fill_struct({.struct_bytes = 0,
               .age_ns = known.age.count(),
               .reattach_count = known.reattach_count,
               .merger_running = known.merger_running ? 1 : 0,
               .instance_gone = known.instance_gone ? 1 : 0},
              status);
  return SHMSTATE_OK;
}
const char* shmstate_reader_get_path(const shmstate_reader* reader) noexcept {
  return reader == nullptr ? nullptr : reader->reader.path().c_str();
}

int shmstate_snapshot_open(shmstate_reader* reader, shmstate_snapshot** snapshot) noexcept {
  if (snapshot == nullptr) return kInvalid;
  *snapshot = nullptr;
  if (reader == nullptr) return kInvalid;
  return guarded([&] {
    *snapshot = new shmstate_snapshot{.snapshot = reader->reader.snapshot()};
    return SHMSTATE_OK;
  });
}

void shmstate_snapshot_close(shmstate_snapshot* snapshot) noexcept { delete snapshot; }

uint64_t shmstate_snapshot_get_epoch(const shmstate_snapshot* snapshot) noexcept {
  return snapshot == nullptr ? 0 : snapshot->snapshot.epoch();
}
int shmstate_snapshot_get_position(const shmstate_snapshot* snapshot, shmstate_position* position) noexcept {
  if (snapshot == nullptr || position == nullptr) return kInvalid;
  *position = to_position(snapshot->snapshot.position());
  return SHMSTATE_OK;
}
int shmstate_snapshot_get_entry_count(const shmstate_snapshot* snapshot, uint64_t* entry_count) noexcept {
  if (snapshot == nullptr || entry_count == nullptr) return kInvalid;
  return guarded([&] {
    *entry_count = snapshot->snapshot.size();
    return SHMSTATE_OK;
  });
}
int shmstate_snapshot_check(const shmstate_snapshot* snapshot) noexcept {
  if (snapshot == nullptr) return kInvalid;
  if (!snapshot->snapshot.expired()) return SHMSTATE_OK;
  std::uint64_t ignored = 0;
  const int why = shmstate_snapshot_get_entry_count(snapshot, &ignored);
  return why == SHMSTATE_FORKED ? why : SHMSTATE_EXPIRED;
}

int shmstate_snapshot_get(const shmstate_snapshot* snapshot, const char* key, size_t key_bytes,
                          shmstate_entry* entry) noexcept {
  if (snapshot == nullptr || key == nullptr || !has_size(entry)) return kInvalid;
  const std::string_view bytes = text(key, key_bytes);
  if (bytes.empty()) return SHMSTATE_KEY_EMPTY;
  if (bytes.size() > shmstate::kKeyBytesMax) return SHMSTATE_KEY_TOO_LONG;
  return guarded([&]() -> int {
    const std::optional<EntryView> found = snapshot->snapshot.find(bytes);
    if (!found) return SHMSTATE_NOT_FOUND;
    fill_struct(to_entry(*found), entry);
    return SHMSTATE_OK;
  });
}

int shmstate_snapshot_next(shmstate_snapshot* snapshot, shmstate_entry* entry) noexcept {
  if (snapshot == nullptr || !has_size(entry)) return kInvalid;
  if (snapshot->next_status != SHMSTATE_OK) return snapshot->next_status;
  snapshot->next_status = guarded([&]() -> int {
    if (snapshot->place) {
      ++*snapshot->place;
    } else {
      snapshot->place = snapshot->snapshot.begin();
    }
    if (*snapshot->place == snapshot->snapshot.end()) return SHMSTATE_NOT_FOUND;
    fill_struct(to_entry(**snapshot->place), entry);
    return SHMSTATE_OK;
  });
  return snapshot->next_status;
}

void shmstate_snapshot_rewind(shmstate_snapshot* snapshot) noexcept {
  if (snapshot == nullptr) return;
  snapshot->place.reset();
  snapshot->next_status = SHMSTATE_OK;
}

int shmstate_changes_open(shmstate_reader* reader, shmstate_position* position, shmstate_changes** changes) noexcept {
  if (changes == nullptr) return kInvalid;
  *changes = nullptr;
  if (reader == nullptr || position == nullptr) return kInvalid;
  return guarded([&]() -> int {
    Changes found = reader->reader.changes(from_position(*position));
    reader->gap_reason = found.gap_reason;
    if (!found.gap) *changes = new shmstate_changes{.changes = std::move(found.changes)};
    *position = to_position(found.position);
    return *changes == nullptr ? SHMSTATE_GAP : SHMSTATE_OK;
  });
}

int shmstate_reader_get_gap_reason(const shmstate_reader* reader) noexcept {
  return reader == nullptr ? kInvalid : static_cast<int>(reader->gap_reason);
}

void shmstate_changes_close(shmstate_changes* changes) noexcept { delete changes; }

int shmstate_changes_next(shmstate_changes* changes, shmstate_change* change) noexcept {
  if (changes == nullptr || !has_size(change)) return kInvalid;
  if (changes->next == changes->changes.size()) return SHMSTATE_NOT_FOUND;
  fill_struct(to_change(changes->changes[changes->next++]), change);
  return SHMSTATE_OK;
}

int shmstate_watch_open(const char* instance, const char* prefix, size_t prefix_bytes,
                        const shmstate_reader_options* options, shmstate_watch** watch) noexcept {
  const shmstate_position nowhere{};
  return shmstate_watch_open_since(instance, prefix, prefix_bytes, &nowhere, options, watch);
}

int shmstate_watch_open_since(const char* instance, const char* prefix, size_t prefix_bytes,
                              const shmstate_position* since, const shmstate_reader_options* options,
                              shmstate_watch** watch) noexcept {
  return open_handle(instance, options, watch, [&](const shmstate_reader_options& known) {
    if (since == nullptr)
      throw Error(Status::kInvalidArgument, "shmstate: the position is NULL; shmstate_watch_open needs none");
    const Position position = from_position(*since);
    return new shmstate_watch{.watch = Watch(instance, text(prefix, prefix_bytes), position, to_options(known))};
  });
}

void shmstate_watch_close(shmstate_watch* watch) noexcept { delete watch; }

int shmstate_watch_next(shmstate_watch* watch, int64_t timeout_ns, shmstate_watch_batch* batch,
                        shmstate_changes** changes) noexcept {
  if (changes == nullptr) return kInvalid;
  *changes = nullptr;
  if (watch == nullptr || (batch != nullptr && !has_size(batch))) return kInvalid;
  return guarded([&]() -> int {
    auto handle = std::make_unique<shmstate_changes>();  // first: what was taken from the watch must reach the caller
    WatchBatch news = watch->watch.next(timeout(timeout_ns));
    const bool is_news = news.complete || !news.changes.empty();
    if (batch != nullptr) fill_struct(to_batch(news), batch);
    if (!is_news) return SHMSTATE_TIMEOUT;
    handle->changes = std::move(news.changes);
    *changes = handle.release();
    return SHMSTATE_OK;
  });
}

int shmstate_watch_get_fd(shmstate_watch* watch) noexcept {
  if (watch == nullptr) return kInvalid;
  return guarded([&] { return watch->watch.fd(); });
}
