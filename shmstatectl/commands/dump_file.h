// A whole dump, read and checked before anything of it is loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "show/entry.h"

namespace shmstate::ctl {

struct Dump {
  std::vector<Entry> entries;         // in the order of epochs, without the ephemeral ones
  std::uint64_t ephemeral_count = 0;  // left out: such an entry lives as long as its writer
  bool tells_epochs = true;           // a dump of version 1 does not
};

/// Reads a file, or standard input when `file` is empty or "-". Throws `UsageError` with the line that is wrong.
[[nodiscard]] Dump read_dump(const std::string& file);

}  // namespace shmstate::ctl
