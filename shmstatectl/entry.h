// An entry that owns its bytes, so that it outlives the snapshot it was read from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shmstate/value.h"

namespace shmstate::ctl {

struct Entry {
  std::string key;
  Value value;
  std::uint64_t changed_epoch = 0;
};

/// A line per entry, for a terminal: key and value in columns, or only the key.
[[nodiscard]] std::string entries_text(const std::vector<Entry>& entries, bool keys_only = false);

}  // namespace shmstate::ctl
