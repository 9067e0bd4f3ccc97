// Bytes as whole words: keys and values are stored padded with zeros, so they can be copied and compared by words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace shmstate::internal {

inline constexpr std::size_t kWord = sizeof(std::uint64_t);

[[nodiscard]] constexpr std::size_t words_of(std::size_t bytes) noexcept { return (bytes + kWord - 1) / kWord; }
[[nodiscard]] constexpr std::size_t padded(std::size_t bytes) noexcept { return words_of(bytes) * kWord; }
[[nodiscard]] constexpr std::size_t round_up(std::size_t bytes, std::size_t unit) noexcept {
  return (bytes + unit - 1) / unit * unit;
}

[[nodiscard]] inline std::uint64_t unaligned_word(const void* at) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, at, kWord);
  return word;
}

/// The last, partial word of `bytes` (1 to 7 of them are in it), zero-padded.
[[nodiscard]] inline std::uint64_t tail_word(std::string_view bytes) noexcept {
  const std::size_t rest = bytes.size() % kWord;
  if (bytes.size() >= kWord) {  // the word that ends with the bytes, shifted down: one load, no loop
    return unaligned_word(bytes.data() + bytes.size() - kWord) >> (8 * (kWord - rest));
  }
  std::uint64_t word = 0;
  for (std::size_t i = rest; i-- > 0;) word = word << 8 | static_cast<std::uint8_t>(bytes[i]);
  return word;
}

/// Calls `put(index, word)` for each word of `bytes`, the last one padded.
template <typename Put>
inline void for_each_word(std::string_view bytes, Put&& put) {
  const std::size_t whole = bytes.size() / kWord;
  for (std::size_t i = 0; i < whole; ++i) put(i, unaligned_word(bytes.data() + i * kWord));
  if (bytes.size() % kWord != 0) put(whole, tail_word(bytes));
}

}  // namespace shmstate::internal
