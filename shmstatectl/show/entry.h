// An entry that owns its bytes, so that it outlives the snapshot it was read from.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shmstate/value.h"

namespace shmstate::ctl {

struct Entry {
  std::string key;
  Value value;
  std::uint64_t changed_epoch = 0;
  std::uint64_t version = 0;  // 0: none
  std::optional<std::chrono::nanoseconds> time_to_live = {};
  bool ephemeral = false;
};

/// A line per entry, for a terminal: key and value in columns, or only the key.
[[nodiscard]] std::string entries_text(const std::vector<Entry>& entries, bool keys_only = false);

/// The same as a table with all that an entry has: type, epoch of its last change, version, how long it lives.
[[nodiscard]] std::string entries_table(const std::vector<Entry>& entries);

}  // namespace shmstate::ctl
