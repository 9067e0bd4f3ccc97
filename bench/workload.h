// What every contender is given: the same keys, the same values, in the same order.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace shmstate::bench {

/// A value says which key it belongs to, so that every read can be checked, and which write it comes from:
/// salt of the measurement | place in its stream, from 1 | number of the key.
inline constexpr unsigned kIndexBits = 24;
inline constexpr unsigned kPlaceBits = 21;
inline constexpr std::int64_t kIndexMask = (std::int64_t{1} << kIndexBits) - 1;
[[nodiscard]] constexpr std::uint64_t index_in(std::int64_t value) noexcept {
  return static_cast<std::uint64_t>(value & kIndexMask);
}
[[nodiscard]] constexpr std::int64_t salt_of(std::int64_t measurement) noexcept {
  return measurement << (kIndexBits + kPlaceBits);
}

/// One write: a 24-byte key and an 8-byte value.
struct Item {
  std::array<char, 24> key;
  std::int64_t value;

  [[nodiscard]] std::string_view name() const noexcept { return {key.data(), key.size()}; }
};

/// Room for the names of all bound keys of any size of the state; committed as used.
inline constexpr std::size_t kNamesBytes = std::size_t{512} << 20;

/// Writes of one burst fit every ring easily.
inline constexpr std::size_t kBurst = 4096;

enum class Distribution : std::uint8_t { kUniform, kZipf };

/// Key number `index`; its value is at place 0.
[[nodiscard]] Item item_of(std::uint64_t index) noexcept;

/// All keys once, in the order of their numbers.
[[nodiscard]] std::vector<Item> all_items(std::uint64_t key_count);

/// `length` draws from `key_count` keys. Zipf's exponent is 0.99, its ranks are scattered over the keys. The same
/// arguments give the same stream.
[[nodiscard]] std::vector<Item> make_stream(std::uint64_t key_count, std::size_t length, Distribution distribution,
                                            std::uint64_t seed);

/// The part of `stream` that belongs to one of several writers, with keys that no other writer has.
[[nodiscard]] std::vector<Item> writer_share(const std::vector<Item>& stream, std::uint64_t key_count, unsigned writer,
                                             unsigned writer_count);

/// The sum of the numbers of the items' keys.
[[nodiscard]] std::uint64_t index_sum(const Item* items, std::size_t count) noexcept;

/// Goes round and round over a stream, which must outlive it.
class Cycle {
 public:
  explicit Cycle(const std::vector<Item>& stream) : stream_(stream) {}
  /// The next `count` items, or all when there are fewer.
  [[nodiscard]] std::span<const Item> next(std::size_t count) noexcept;

 private:
  const std::vector<Item>& stream_;
  std::size_t place_ = 0;
};

}  // namespace shmstate::bench
