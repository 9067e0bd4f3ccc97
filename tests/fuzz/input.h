// What a fuzz target takes its decisions from, and how it says that a promise was broken.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

namespace shmstate::fuzz {

/// The fuzzer's bytes, taken from the front; zeros when there are none left.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t bytes) : rest_(data, bytes) {}

  [[nodiscard]] bool empty() const noexcept { return rest_.empty(); }
  template <typename T>
  [[nodiscard]] T take() noexcept {
    T value{};
    const auto bytes = take_bytes(sizeof value);
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  /// 0 to `count` - 1.
  [[nodiscard]] std::size_t below(std::size_t count) noexcept { return take<std::uint32_t>() % count; }
  [[nodiscard]] std::span<const std::uint8_t> take_bytes(std::size_t count) noexcept {
    const auto taken = rest_.first(count < rest_.size() ? count : rest_.size());
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  [[nodiscard]] std::span<const std::uint8_t> rest() const noexcept { return rest_; }

 private:
  std::span<const std::uint8_t> rest_;
};

/// Ends the process, so that every driver notices, when a promise does not hold.
inline void must(bool holds, const char* promise) {
  if (holds) return;
  std::fprintf(stderr, "shmstate: promise broken: %s\n", promise);
  std::abort();
}

}  // namespace shmstate::fuzz
