// What changed after a position, from the change feed and the snapshot that it belongs to.
#pragma once

#include <memory>

#include "attachment.h"
#include "shmstate/reader.h"

namespace shmstate::internal {

/// Throws `Error`.
[[nodiscard]] Changes collect_changes(const std::shared_ptr<Attachment>& files, const Position& since);

}  // namespace shmstate::internal
