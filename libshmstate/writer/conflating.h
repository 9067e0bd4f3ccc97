// A writer that retains what its ring has no room for (`WhenFull::kConflate`), and pushes it later.
#pragma once

#include <span>

#include "writer/conflation.h"
#include "writer/naming.h"

namespace shmstate::internal {

struct Conflating : Naming {
  Conflating(std::string_view instance, WriterOptions wanted);

  /// Writes, unless earlier mutations are still retained.
  template <typename Fill>
  [[nodiscard]] Status write_in_order(std::uint64_t bytes, std::uint64_t count, Fill&& fill) noexcept {
    return conflation.empty() ? write(bytes, count, fill) : Status::kRingFull;
  }
  [[nodiscard]] bool must_conflate(Status status) const noexcept {
    return status == Status::kRingFull && options.when_full == WhenFull::kConflate;
  }
  /// Retains mutations that belong together, and pushes what there is room for.
  [[nodiscard]] Status conflate(std::span<const Mutation> mutations) noexcept;
  /// Pushes all that is retained, waiting for room.
  [[nodiscard]] Status flush_conflated(std::chrono::nanoseconds timeout) noexcept;

  Conflation conflation;

 private:
  Status push_conflated() noexcept;
};

}  // namespace shmstate::internal
