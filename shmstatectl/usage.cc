#include "usage.h"

#include <fmt/format.h>

#include "shmstate/value.h"

namespace shmstate::ctl {

void check_key(std::string_view key) {
  if (!key.empty() && key.size() <= kKeyBytesMax) return;
  throw UsageError(
      fmt::format("a key has 1 to {} bytes, this one has {}; choose another KEY", kKeyBytesMax, key.size()));
}

}  // namespace shmstate::ctl
