// The publish protocol: which buffer is current, and whether what was read from it was whole.
//
//   merger                                              reader
//   1 choose a back buffer b; stamp[b] |= kClaimed      1 w = epoch word (acquire); b = buffer of w
//   2 if a reader pins b: take that back, choose again  2 read, every load an acquire, every offset bounds-checked
//   3 stamp[b] = kWriting                               3 if stamp[b] != epoch of w: start again
//   4 catch up, apply; every store a release
//   5 stamp[b] = e + 1
//   6 epoch word = (e + 1, b) (release)
//   7 move the heads of the rings (release)
//
// Why step 3 of the reader suffices: if a load in step 2 saw anything that the merger stored in its step 4, that load
// acquired that release store, and with it step 3 of the merger came before; so the reader's later load of the stamp
// sees kWriting, or a later epoch. The order lies on the accesses, not on fences. The stamp itself orders nothing: only
// its value counts, and the stamp of an epoch was stored before the epoch word that leads to it.
//
// What readers do without a lock is in buffer_version.h, which their programs inline.
//
// Templates, so that a model checker can run exactly this code on its own atomics: `P` has `epoch_word` and `stamps[]`
// with load and store; `Locks` asks or takes the kernel's locks on the byte of a buffer.
#pragma once

#include <atomic>
#include <cstdint>

#include "layout/layout.h"
#include "shmstate/detail/buffer_version.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {

// ---- reader

/// Tries once to pin the current buffer. On success the merger will not write it before `locks.unpin`.
template <typename P, typename Locks>
[[nodiscard]] bool try_pin(const P& publication, Locks& locks, Version& version) {
  version = current_version(publication);
  if (!locks.pin(version.buffer)) return false;
  if (is_intact(publication, version)) return true;
  locks.unpin(version.buffer);  // the merger claimed it before it could see the pin
  return false;
}

// ---- merger

/// Steps 1 to 3. The fences of `locks` order the pin of a reader and the merger's look for pins: either the merger sees
/// the pin here, or the reader sees kClaimed after it. With `force`, pins are overridden.
template <typename P, typename Locks>
[[nodiscard]] bool try_claim(P& publication, Locks& locks, std::uint32_t buffer, bool force) {
  auto& stamp = publication.stamps[buffer];
  if (!force) {
    const std::uint64_t held = stamp.load(std::memory_order_relaxed) & ~layout::kClaimed;  // of one that died here
    stamp.store(held | layout::kClaimed, std::memory_order_relaxed);                       // pair: stamp
    crash_point(CrashPoint::kBufferClaimed);
    if (locks.is_pinned(buffer)) {
      stamp.store(held, std::memory_order_relaxed);
      return false;
    }
  }
  stamp.store(layout::kWriting, std::memory_order_relaxed);  // pair: stamp; ordered by step 4
  crash_point(CrashPoint::kBufferTaken);
  return true;
}

/// Whether a buffer has been claimed, and not been published since.
template <typename P>
[[nodiscard]] bool is_being_written(const P& publication, std::uint32_t buffer) noexcept {
  return publication.stamps[buffer].load(std::memory_order_relaxed) == layout::kWriting;
}

/// Steps 5 and 6.
template <typename P>
void publish_version(P& publication, Version version) noexcept {
  publication.stamps[version.buffer].store(version.epoch, std::memory_order_relaxed);  // pair: stamp
  crash_point(CrashPoint::kStampWritten);
  publication.epoch_word.store(version.pack(), std::memory_order_release);  // pair: epoch_word; and of stamp
  crash_point(CrashPoint::kEpochWritten);
}

}  // namespace shmstate::internal
