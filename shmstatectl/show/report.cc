#include "show/report.h"

#include <fmt/format.h>

#include <cstdio>

#include "show/text.h"

namespace shmstate::ctl {

// Standard error that takes nothing changes nothing: the exit code says it all the same.
void report(std::string_view message) {
  constexpr std::string_view kPrefix = "shmstate: ";
  if (message.starts_with(kPrefix)) message.remove_prefix(kPrefix.size());
  const std::string line = fmt::format("{}{}\n", kPrefix, printable(message));
  static_cast<void>(std::fwrite(line.data(), 1, line.size(), stderr));
}

}  // namespace shmstate::ctl
