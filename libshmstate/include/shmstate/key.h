// A key that is used again and again: it remembers its hash and where it was last seen, so that a hot key costs neither
// hashing nor probing. Both are hints, verified at every use: keys may be erased, set again, or moved by growth, and
// the instance may be re-created.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace shmstate {
namespace internal {
class KeyHints;
}  // namespace internal

/// Use a key with one reader or writer at a time, from one thread at a time; keep one for each.
class Key {
 public:
  explicit Key(std::string_view bytes) : bytes_(bytes) {}
  [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }

 private:
  friend class internal::KeyHints;
  std::string bytes_;
  std::array<std::uint8_t, 16> instance_id_{};  // that the rest belongs to
  std::uint64_t hash_ = 0;
  std::uint64_t place_ = 0;  // page << 16 | slot; zero: unknown
  std::uint32_t uses_ = 0;
};

}  // namespace shmstate
