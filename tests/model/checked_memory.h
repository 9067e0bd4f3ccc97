// Atomics and plain words that relacy checks, for running the production headers under it, and the means to weaken one
// memory order at a time: each access knows the line of the sources it stands on.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

// Not relacy.hpp, whose macros replace `new`, `assert` and std's memory orders in everything that follows.
#include <relacy/base.hpp>
//
#include <relacy/atomic.hpp>
#include <relacy/atomic_fence.hpp>
#include <relacy/backoff.hpp>
#include <relacy/context.hpp>
#include <relacy/context_base_impl.hpp>
#include <relacy/stdlib/condition_variable.hpp>
#include <relacy/stdlib/event.hpp>
#include <relacy/stdlib/mutex.hpp>
#include <relacy/stdlib/semaphore.hpp>
#include <relacy/test_suite.hpp>
#include <relacy/var.hpp>
#undef $

namespace shmstate::model {

/// A place in the sources: that of the call, as a default argument. clang 14 has no Here.
struct Here {
  const char* file;
  const char* function;
  unsigned line;

  static constexpr Here current(const char* file = __builtin_FILE(), const char* function = __builtin_FUNCTION(),
                                unsigned line = __builtin_LINE()) {
    return {file, function, line};
  }
};

enum class Access : std::uint8_t { kLoad, kStore, kExchange, kFence };

/// An access that was met, by its place in the sources.
struct Site {
  const char* file = "";
  const char* function = "";
  unsigned line = 0;
  Access access = Access::kLoad;
  std::memory_order order = std::memory_order_relaxed;

  [[nodiscard]] std::string file_name() const {
    const std::string_view path = file;
    return std::string(path.substr(path.rfind('/') + 1));
  }
};

/// All accesses that were met so far, and the one that is weakened. Allocates nothing: it is used inside the checker.
class Orders {
 public:
  [[nodiscard]] static std::memory_order of(Access access, std::memory_order order, const Here& at) {
    const Site& site = met(access, order, at);
    return &site == weakened ? weaker : order;
  }
  /// A fence has only one weaker form: none.
  [[nodiscard]] static bool is_fence_there(const Here& at) {
    return &met(Access::kFence, std::memory_order_seq_cst, at) != weakened;
  }

  [[nodiscard]] static std::size_t count() { return site_count; }
  [[nodiscard]] static const Site& site(std::size_t index) { return sites.at(index); }
  static void weaken(const Site& site, std::memory_order order) {
    weakened = &site;
    weaker = order;
  }
  static void restore() { weakened = nullptr; }

 private:
  static const Site& met(Access access, std::memory_order order, const Here& at) {
    for (std::size_t i = 0; i < site_count; ++i) {
      Site& known = sites[i];
      if (known.line == at.line && known.access == access && std::strcmp(known.file, at.file) == 0) return known;
    }
    sites.at(site_count) = {at.file, at.function, at.line, access, order};
    return sites[site_count++];
  }

  static inline std::array<Site, 64> sites{};
  static inline std::size_t site_count = 0;
  static inline const Site* weakened = nullptr;
  static inline std::memory_order weaker = std::memory_order_relaxed;
};

[[nodiscard]] inline rl::memory_order to_relacy(std::memory_order order) {
  switch (order) {
    case std::memory_order_relaxed: return rl::mo_relaxed;
    case std::memory_order_consume: return rl::mo_consume;
    case std::memory_order_acquire: return rl::mo_acquire;
    case std::memory_order_release: return rl::mo_release;
    case std::memory_order_acq_rel: return rl::mo_acq_rel;
    case std::memory_order_seq_cst: break;
  }
  return rl::mo_seq_cst;
}

[[nodiscard]] inline rl::debug_info to_relacy(const Here& at) { return {at.function, at.file, at.line}; }

/// What `Shared<T>` is in production.
template <typename T>
class CheckedAtomic {
 public:
  [[nodiscard]] T load(std::memory_order order, const Here& at = Here::current()) const {
    return atomic_.load(to_relacy(Orders::of(Access::kLoad, order, at)), to_relacy(at));
  }
  void store(T value, std::memory_order order, const Here& at = Here::current()) {
    atomic_.store(value, to_relacy(Orders::of(Access::kStore, order, at)), to_relacy(at));
  }
  T exchange(T value, std::memory_order order, const Here& at = Here::current()) {
    const auto checked = to_relacy(Orders::of(Access::kExchange, order, at));
    return atomic_.rmw(rl::rmw_type_t<rl::rmw_type_swap>(), value, checked, to_relacy(at));
  }
  T fetch_add(T value, std::memory_order order, const Here& at = Here::current()) {
    const auto checked = to_relacy(Orders::of(Access::kExchange, order, at));
    return atomic_.rmw(rl::rmw_type_t<rl::rmw_type_add>(), value, checked, to_relacy(at));
  }

  // For the kernel, as it is modelled: not an access of ours, so nothing to weaken.
  [[nodiscard]] rl::atomic<T>& raw() { return atomic_; }

 private:
  rl::atomic<T> atomic_;
};

/// Plain memory: relacy reports every race on it.
template <typename T>
class CheckedWord {
 public:
  [[nodiscard]] T read(const Here& at = Here::current()) const { return word_(to_relacy(at)); }
  void write(T value, const Here& at = Here::current()) { word_(to_relacy(at)) = value; }

 private:
  rl::var<T> word_;
};

/// A full barrier of ours; weakened, it is not there.
inline void full_fence(const Here& at = Here::current()) {
  if (Orders::is_fence_there(at)) rl::atomic_thread_fence(rl::mo_seq_cst, to_relacy(at));
}

}  // namespace shmstate::model
