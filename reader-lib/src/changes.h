// What changed after an epoch, from the change feed and the snapshot that it belongs to.
#pragma once

#include <memory>
#include <optional>

#include "attachment.h"
#include "shmstate/reader.h"

namespace shmstate::internal {

/// Without `since`: a gap. Throws `Error`.
[[nodiscard]] Changes collect_changes(const std::shared_ptr<Attachment>& files, std::optional<Epoch> since);

}  // namespace shmstate::internal
