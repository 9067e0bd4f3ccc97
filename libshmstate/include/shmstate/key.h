// A key that is used again and again. With a reader it remembers its hash and where it was last seen, so that a hot key
// costs neither hashing nor probing. Both are hints, verified at every use: keys may be erased, set again, or get a
// value of another size, and the instance may be re-created. With a writer it gets an id at its second use: from then
// on the id is pushed in place of the bytes, and the merger neither hashes nor searches.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace shmstate {
namespace internal {
class KeyHints;
class KeyIds;
}  // namespace internal

inline namespace layout_2 {

class Reader;
template <typename Self>
class Verbs;

/// Use a key with one reader or writer at a time, from one thread at a time; keep one for each. A writer gives each of
/// its keys an id that is never given back: make a key once, not again and again.
class Key {
 public:
  explicit Key(std::string_view bytes) : bytes_(bytes) {}
  [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }

 private:
  friend class internal::KeyHints;
  friend class internal::KeyIds;
  friend class Reader;
  template <typename Self>
  friend class Verbs;
  using Id = std::array<std::uint8_t, 16>;

  std::string bytes_;

  // with a reader
  Id instance_id_{};  // that the rest belongs to
  std::uint64_t hash_ = 0;
  std::uint64_t place_ = 0;  // page << 16 | slot; zero: unknown

  // with a writer, by the random number of its ring
  std::uint32_t id_ = 0;          // in the ring `named_in_`
  std::uint64_t named_in_ = 0;    // zero: in none
  std::uint64_t unnamed_in_ = 0;  // the ring that has no ids, or no room for another one
  std::uint64_t pushed_to_ = 0;   // the ring to which it was pushed before
};

}  // namespace layout_2
}  // namespace shmstate
