// Messages for people on standard error.
#pragma once

#include <string_view>

namespace shmstate::ctl {

/// Prints one line that begins with "shmstate: ", whether or not `message` already does.
void report(std::string_view message);

}  // namespace shmstate::ctl
