// Reads from a snapshot, and only believes it when the snapshot was still there at the end.
#pragma once

#include <fmt/format.h>

#include "shmstate/reader.h"
#include "show/entry.h"
#include "show/text.h"

namespace shmstate::ctl {

[[nodiscard]] inline Entry copy_of(const EntryView& entry) {
  return {.key = std::string(entry.key),
          .value = entry.value.to_value(),
          .changed_epoch = entry.changed_epoch,
          .version = entry.version,
          .time_to_live = entry.time_to_live(),
          .ephemeral = entry.ephemeral};
}

/// What `read(snapshot)` returns, from a snapshot that did not expire meanwhile. Throws `Error` (kExpired) when the
/// merger took the buffer back every time, and what `read` throws.
template <typename Read>
auto with_stable_snapshot(Reader& reader, const Read& read) {
  constexpr int kTriesMax = 5;
  for (int tries = 0; tries < kTriesMax; ++tries) {
    try {
      const Snapshot snapshot = reader.snapshot();
      auto result = read(snapshot);
      if (!snapshot.expired()) return result;
    } catch (const Error& error) {
      if (error.status() != Status::kExpired) throw;
    }
  }
  throw Error(Status::kExpired,
              fmt::format("instance {}: the merger took the snapshot back {} times before it was read; "
                          "ask for less, or configure a longer maximum pin time",
                          in_quotes(reader.path()), kTriesMax));
}

}  // namespace shmstate::ctl
