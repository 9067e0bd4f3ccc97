// A key that is used again and again: it remembers its hash and where it was last seen, so that a hot key costs neither
// hashing nor probing. Both are hints, verified at every use: keys may be erased, set again, or moved by growth, and
// the instance may be re-created.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "shmstate/detail/ring_record.h"

namespace shmstate {
namespace internal {
class KeyHints;
}  // namespace internal

inline namespace layout_1 {

class Reader;
template <typename Self>
class Verbs;

/// Use a key with one reader or writer at a time, from one thread at a time; keep one for each.
class Key {
 public:
  explicit Key(std::string_view bytes) : bytes_(bytes) { remember(0); }
  [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }

 private:
  friend class internal::KeyHints;
  friend class Reader;
  template <typename Self>
  friend class Verbs;
  using Id = std::array<std::uint8_t, 16>;
  /// One use of what is remembered of an instance; false when it is another one, or time to look where the key is.
  [[nodiscard]] bool recall(const Id& instance_id) noexcept {
    using internal::unaligned_word;  // of an id that is random, half is enough for what is a hint
    return unaligned_word(instance_id_.data()) == unaligned_word(instance_id.data()) && --uses_left_ >= 0;
  }

  void remember(std::uint64_t place) noexcept {
    const unsigned flags = place != 0 ? unsigned{internal::kWithHint} : 0U;
    const bool is_valid = !bytes_.empty() && bytes_.size() <= kKeyBytesMax;
    place_ = place;
    record_head_ = internal::head_word(internal::kWord, bytes_.size(), 0, flags);
    record_bytes_ = is_valid ? internal::record_bytes(bytes_.size(), internal::kWord, flags) : kNever;
  }
  [[nodiscard]] internal::RecordPlan plan() const noexcept { return {bytes_, record_head_, record_bytes_, place_}; }

  static constexpr std::size_t kNever = std::size_t{1} << 32;  // bytes that no ring has room for
  std::string bytes_;
  Id instance_id_{};  // that the rest belongs to
  std::uint64_t hash_ = 0;
  std::uint64_t place_ = 0;        // page << 16 | slot; zero: unknown
  std::uint64_t record_head_ = 0;  // of the record that sets it, or whatever is done to it
  std::size_t record_bytes_ = 0;
  std::int32_t uses_left_ = 0;  // until it is looked for again
};

}  // namespace layout_1
}  // namespace shmstate
