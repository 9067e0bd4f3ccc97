// An array of zeros that takes memory only where it is written to: for what belongs to the pages of a buffer, of which
// there may be millions, but seldom are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace shmstate::internal {

template <typename T>
class ZeroedArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit ZeroedArray(std::uint64_t count) : elements_(static_cast<T*>(std::calloc(count, sizeof(T)))) {
    if (!elements_) throw std::bad_alloc();
  }
  [[nodiscard]] T& operator[](std::uint64_t index) noexcept { return elements_[index]; }
  [[nodiscard]] const T& operator[](std::uint64_t index) const noexcept { return elements_[index]; }

 private:
  struct Free {
    void operator()(T* elements) const noexcept { std::free(elements); }
  };
  std::unique_ptr<T[], Free> elements_;
};

}  // namespace shmstate::internal
