// What --check looks at besides the options themselves: whether a merger that is started with them here could serve.
#pragma once

#include <optional>

#include "service.h"
#include "unit.h"

namespace shmstate::merger {

/// Touches nothing. Throws `Error` (kInvalidArgument) for what a start would refuse, and for what could not work. Of
/// what cannot be told beforehand, nothing is said.
void check_start(const ServiceOptions& options, const std::optional<Unit>& unit);

}  // namespace shmstate::merger
