// Following the changes of all keys with a prefix, on top of the change feed.
//
//   shmstate::Watch watch{"plant", "pump/"};
//   for (;;) for (const auto& change : watch.next(1s).changes) ...
//
// From C, this is watch_c.h.
#pragma once

#ifndef __cplusplus
#include "shmstate/watch_c.h"
#else

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shmstate/api.h"
#include "shmstate/position.h"
#include "shmstate/reader.h"

namespace shmstate {

struct WatchBatch {
  std::vector<Change> changes;  ///< each key once, in the order of epochs; empty after a timeout
  Position position{};          ///< up to here everything has been delivered; nowhere before the first state
  /// `changes` is the complete state (all keys with the prefix that exist): at first, unless the watch continues from a
  /// position, after falling behind the change feed, and when the instance was re-created. A key that is not in it does
  /// not exist.
  bool complete = false;
  /// Several epochs are delivered at once, so states in between may have been skipped.
  bool conflated = false;
  /// Why `changes` is the complete state although a state was delivered before, or the watch continues from a position.
  GapReason gap_reason = GapReason::kNone;
};

/// Delivers the latest state of every key that changes, at least once, in the order of epochs. Use it from one thread.
/// In a child of fork it continues by itself from where it stood; the descriptor of `fd` is closed there: ask for
/// another.
class SHMSTATE_API Watch {
 public:
  /// Begins with the present state. Throws `Error`.
  Watch(std::string_view instance, std::string_view prefix, ReaderOptions options = {});
  /// Continues after `since`, for example where another watch stopped (`WatchBatch::position`), also in another
  /// process: begins with what changed after it, or with the present state when that is not known
  /// (`WatchBatch::gap_reason`) or `since` is nowhere. Throws `Error`.
  Watch(std::string_view instance, std::string_view prefix, const Position& since, ReaderOptions options = {});
  Watch(Watch&&) noexcept;
  Watch& operator=(Watch&&) noexcept;
  ~Watch();

  /// The next changes: at once when there are some, otherwise after waiting for at most `timeout`. When the merger
  /// keeps reclaiming buffers from readers, no complete state may be available within `timeout`: then the batch is
  /// empty, and the next call tries again. Throws `Error` (kDamaged, kSystem), as for a reader.
  [[nodiscard]] WatchBatch next(std::chrono::nanoseconds timeout);

  /// A descriptor that becomes readable when `next` has something to look at: for poll, epoll and event loops. `next`
  /// makes it unreadable again. Costs a thread, from the first call on, which takes none of the program's signals.
  /// Throws `Error`.
  [[nodiscard]] int fd();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shmstate

#endif  // __cplusplus
