// Surviving a file that shrinks under a mapping: the next access to it then raises SIGBUS. While a range is guarded,
// the handler puts zero pages under all of it, remembers that, and execution goes on. A writer may truncate its own
// ring: zeros are no valid record, and the ring is quarantined. The merger's user may truncate anything: a reader that
// wants to survive that finds zeros where the epoch was, and the merger, whose state is gone, ends with a message.
#pragma once

#include <cstddef>
#include <utility>

namespace shmstate::internal {

/// Guards a mapped range while it lives. At most 8,192 ranges in a process; throws `Error` beyond that. The first guard
/// installs a process-wide SIGBUS handler, which leaves faults elsewhere to whatever was installed before.
class FaultGuard {
 public:
  FaultGuard() = default;
  FaultGuard(void* address, std::size_t bytes);
  /// A fault in this range puts zeros into the range of `other`, too, and there first. `other` must outlive it.
  FaultGuard(void* address, std::size_t bytes, const FaultGuard& other);
  /// A fault in this range writes `last_words` to standard error and ends the process with exit code 1. The text must
  /// outlive it.
  FaultGuard(void* address, std::size_t bytes, const char* last_words);
  FaultGuard(FaultGuard&& other) noexcept : place_(std::exchange(other.place_, -1)) {}
  FaultGuard& operator=(FaultGuard&& other) noexcept {
    std::swap(place_, other.place_);
    return *this;
  }
  ~FaultGuard();

  [[nodiscard]] bool is_active() const noexcept { return place_ >= 0; }
  /// Whether an access to the range has faulted, or to one that brought zeros into this one.
  [[nodiscard]] bool has_faulted() const noexcept;

 private:
  struct Reaction {
    int other = -1;
    const char* last_words = nullptr;
  };
  FaultGuard(void* address, std::size_t bytes, Reaction reaction);

  int place_ = -1;
};

}  // namespace shmstate::internal
