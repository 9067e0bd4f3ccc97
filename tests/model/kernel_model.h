// The kernel under the checker. It promises as little as is documented, or as its code is known to do; what the library
// relies on beyond that would show as a fault.
#pragma once

#include "checked_memory.h"
#include "protocol/pin_news.h"

namespace shmstate::model {

/// Futexes: a wait compares and sleeps in one step as far as wakes are concerned, and orders nothing else. So the value
/// that it compares with may be stale, but not older than what a wake before it was called for.
class Futexes {
 public:
  template <typename T>
  void wait(CheckedAtomic<T>& word, T expected) {
    touch(rl::mo_relaxed);  // others may run before the step
    if (is_changed(word, expected)) return;
    word.raw().wait(rl::ctx(), false, false, RL_INFO);
  }
  template <typename T>
  void wake_all(CheckedAtomic<T>& word) {
    touch(rl::mo_release);
    word.raw().wake(rl::ctx(), kEverybody, RL_INFO);
  }
  /// FUTEX_WAKE_OP: changes the word and wakes, all in the kernel.
  void add_and_wake(CheckedAtomic<std::uint32_t>& word) {
    word.raw().rmw(rl::rmw_type_t<rl::rmw_type_add>(), 1U, rl::mo_relaxed, RL_INFO);
    wake_all(word);
  }

 private:
  static constexpr rl::thread_id_t kEverybody = 100;

  template <typename T>
  bool is_changed(CheckedAtomic<T>& word, T expected) {
    const rl::preemption_disabler one_step(rl::ctx());
    touch(rl::mo_acquire);
    return word.raw().load(rl::mo_relaxed, RL_INFO) != expected;
  }
  void touch(rl::memory_order order) { bucket_.rmw(rl::rmw_type_t<rl::rmw_type_add>(), 0U, order, RL_INFO); }

  rl::atomic<unsigned> bucket_{0U};
};

/// A lock on an open file description, held by one at a time: taking and releasing it is a step in the kernel under a
/// spinlock.
class ExclusiveLock {
 public:
  [[nodiscard]] bool try_lock() {
    unsigned expected = 0;
    return holder_.compare_exchange(rl::bool_t<false>(), expected, 1U, rl::mo_acquire, RL_INFO);
  }
  void lock() {
    while (!try_lock()) rl::yield(1, RL_INFO);
  }
  void unlock() { holder_.store(0U, rl::mo_release, RL_INFO); }

 private:
  rl::atomic<unsigned> holder_{0U};
};

/// The readers' shared locks on the bytes of the buffers, with `os::try_lock` and `os::is_locked` around them, where
/// the merger asks in each turn (--pins ask). The kernel changes its list under a spinlock, but a question finds a list
/// empty without taking it; so nothing orders these calls against the stamps but the fences of our own, which are
/// weakened like any other access.
template <unsigned kBuffers>
class AskedPins {
 public:
  void init() {}
  [[nodiscard]] bool pin(std::uint32_t buffer) {
    count_[buffer].rmw(rl::rmw_type_t<rl::rmw_type_add>(), 1U, rl::mo_acq_rel, RL_INFO);
    full_fence();  // os::try_lock, after the call
    return true;
  }
  void unpin(std::uint32_t buffer) {
    count_[buffer].rmw(rl::rmw_type_t<rl::rmw_type_sub>(), 1U, rl::mo_acq_rel, RL_INFO);
  }
  [[nodiscard]] bool is_pinned(std::uint32_t buffer) {
    full_fence();  // os::is_locked, before the call
    return count_[buffer].load(rl::mo_acquire, RL_INFO) != 0;
  }

 private:
  struct Zero : rl::atomic<unsigned> {
    Zero() : rl::atomic<unsigned>(0U) {}
  };
  Zero count_[kBuffers];
};

/// The same, with announcements: SnapshotFile::pin, and Pins::is_pinned of the engine.
template <unsigned kBuffers>
class AnnouncedPins {
 public:
  void init() { set_count(0); }
  /// As anybody does who may announce.
  void set_count(std::uint32_t count) { announced_.store(count, std::memory_order_relaxed); }
  [[nodiscard]] bool pin(std::uint32_t buffer) {
    announced_.raw().rmw(rl::rmw_type_t<rl::rmw_type_add>(), 1U, rl::mo_relaxed, RL_INFO);
    return locks_.pin(buffer);
  }
  void unpin(std::uint32_t buffer) { locks_.unpin(buffer); }
  [[nodiscard]] bool is_pinned(std::uint32_t buffer) { return news_.is_pinned(announced_, buffer, Kernel{*this}); }

 private:
  struct Kernel {
    static void fence() { full_fence(); }
    [[nodiscard]] bool is_locked(std::uint32_t buffer) const { return pins.locks_.is_pinned(buffer); }

    AnnouncedPins& pins;
  };

  AskedPins<kBuffers> locks_;
  CheckedAtomic<std::uint32_t> announced_;
  internal::PinNews news_;  // the merger's own
};

}  // namespace shmstate::model
