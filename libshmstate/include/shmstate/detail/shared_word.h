// Words in shared memory that one process may read while another writes them.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace shmstate::internal {

static_assert(std::endian::native == std::endian::little, "the layout is little-endian");
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);

/// A field of a shared structure that is only ever accessed atomically. Unlike `std::atomic` it is trivially copyable,
/// so the structures around it are plain data. Loading works on a read-only mapping.
template <typename T>
class Shared {
 public:
  [[nodiscard]] T load(std::memory_order order) const noexcept { return ref().load(order); }
  void store(T value, std::memory_order order) noexcept { ref().store(value, order); }
  T exchange(T value, std::memory_order order) noexcept { return ref().exchange(value, order); }
  T fetch_add(T value, std::memory_order order) noexcept { return ref().fetch_add(value, order); }
  /// The 32 bits to sleep on: of a 64-bit word its low half, which changes with every change of a counter.
  [[nodiscard]] const std::uint32_t* futex() const noexcept {
    static_assert(sizeof(T) == sizeof(std::uint32_t) || sizeof(T) == sizeof(std::uint64_t));
    return reinterpret_cast<const std::uint32_t*>(&value_);  // little-endian
  }

 private:
  [[nodiscard]] std::atomic_ref<T> ref() const noexcept { return std::atomic_ref<T>(value_); }
  mutable T value_;
};

/// Bulk data is read and written as 64-bit words in place.
[[nodiscard]] inline std::uint64_t load_word(const std::uint64_t* word, std::memory_order order) noexcept {
  return std::atomic_ref<std::uint64_t>(const_cast<std::uint64_t&>(*word)).load(order);  // loading does not modify
}
inline void store_word(std::uint64_t* word, std::uint64_t value, std::memory_order order) noexcept {
  std::atomic_ref<std::uint64_t>(*word).store(value, order);
}

}  // namespace shmstate::internal
