// Surviving a file that shrinks under a mapping. A writer may truncate its own ring; the merger's next access to it
// then raises SIGBUS. While a range is guarded, the handler puts zero pages under the fault, remembers it, and
// execution goes on: zeros are no valid record, and the ring is quarantined.
#pragma once

#include <cstddef>
#include <utility>

namespace shmstate {

/// Guards a mapped range while it lives. At most 8,192 ranges in a process; throws `Error` beyond that. The first guard
/// installs a process-wide SIGBUS handler, which leaves faults elsewhere to whatever was installed before.
class FaultGuard {
 public:
  FaultGuard() = default;
  FaultGuard(void* address, std::size_t bytes);
  FaultGuard(FaultGuard&& other) noexcept : place_(std::exchange(other.place_, -1)) {}
  FaultGuard& operator=(FaultGuard&& other) noexcept {
    std::swap(place_, other.place_);
    return *this;
  }
  ~FaultGuard();

  /// Whether an access to the range has faulted.
  [[nodiscard]] bool has_faulted() const noexcept;

 private:
  int place_ = -1;
};

}  // namespace shmstate
