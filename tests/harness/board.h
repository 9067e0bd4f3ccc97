// Memory that a process shares with those that it forks later on.
#pragma once

#include <sys/mman.h>

#include <cerrno>
#include <cstddef>
#include <new>
#include <system_error>
#include <type_traits>

namespace shmstate::test {

[[nodiscard]] inline void* map_shared(std::size_t bytes) {
  void* const address = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap");
  return address;
}
inline void unmap_shared(void* address, std::size_t bytes) noexcept { ::munmap(address, bytes); }

/// A `T` of atomics there.
template <typename T>
class Board {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  Board() : shared_(new (map_shared(sizeof(T))) T()) {}
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;
  ~Board() { unmap_shared(shared_, sizeof(T)); }

  T* operator->() const noexcept { return shared_; }
  T& operator*() const noexcept { return *shared_; }

 private:
  T* shared_;
};

}  // namespace shmstate::test
