// The changes of a watch, as they are shown.
#pragma once

#include <string>
#include <string_view>

#include "shmstate/reader.h"

namespace shmstate::ctl {

/// "set", "erase", "expire" or "owner_gone".
[[nodiscard]] std::string_view change_name(ChangeKind kind) noexcept;

/// One line, for a terminal.
[[nodiscard]] std::string change_text(const Change& change);

}  // namespace shmstate::ctl
