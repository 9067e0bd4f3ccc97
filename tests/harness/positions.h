// Positions of the instance that a reader reads.
#pragma once

#include "shmstate/reader.h"

namespace shmstate::test {

[[nodiscard]] inline Position at_epoch(Reader& reader, Epoch epoch) noexcept {
  return {.instance = reader.position().instance, .epoch = epoch};
}

}  // namespace shmstate::test
