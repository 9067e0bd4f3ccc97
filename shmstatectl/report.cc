#include "shmstatectl/report.h"

#include <fmt/format.h>

#include <cstdio>

#include "shmstatectl/text.h"

namespace shmstate::ctl {

void report(std::string_view message) {
  constexpr std::string_view kPrefix = "shmstate: ";
  if (message.starts_with(kPrefix)) message.remove_prefix(kPrefix.size());
  fmt::print(stderr, "{}{}\n", kPrefix, printable(message));
}

}  // namespace shmstate::ctl
