// Why the merger refused mutations, and what people can do about it.
#pragma once

#include <string>

#include "shmstate/writer.h"

namespace shmstate::ctl {

/// One of the reasons for which this writer's mutations were refused; kRejected when none is counted.
[[nodiscard]] Status reason_of_rejection(const Writer& writer);
[[nodiscard]] std::string rejection_text(Status reason);

}  // namespace shmstate::ctl
