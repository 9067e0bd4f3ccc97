#include "workload.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

namespace shmstate::bench {
namespace {

constexpr std::string_view kPrefix = "plant/pump/";
constexpr std::size_t kDigits = 24 - kPrefix.size();
constexpr double kZipfExponent = 0.99;

std::vector<double> zipf_sums(std::uint64_t key_count) {
  std::vector<double> sums(key_count);
  double sum = 0;
  for (std::uint64_t rank = 0; rank < key_count; ++rank) {
    sum += std::pow(static_cast<double>(rank + 1), -kZipfExponent);
    sums[rank] = sum;
  }
  return sums;
}

/// A permutation of the keys, as long as their number is no multiple of the prime.
std::uint64_t scatter(std::uint64_t rank, std::uint64_t key_count) { return rank * 2'654'435'761 % key_count; }

}  // namespace

Item item_of(std::uint64_t index) noexcept {
  Item item{};
  std::memcpy(item.key.data(), kPrefix.data(), kPrefix.size());
  item.value = static_cast<std::int64_t>(index);
  for (std::size_t i = 0; i < kDigits; ++i, index /= 10) {
    item.key[item.key.size() - 1 - i] = static_cast<char>('0' + index % 10);
  }
  return item;
}

std::vector<Item> all_items(std::uint64_t key_count) {
  std::vector<Item> items(key_count);
  for (std::uint64_t i = 0; i < key_count; ++i) items[i] = item_of(i);
  return items;
}

std::vector<Item> make_stream(std::uint64_t key_count, std::size_t length, Distribution distribution,
                              std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Item> stream(length);
  const std::vector<double> sums = distribution == Distribution::kZipf ? zipf_sums(key_count) : std::vector<double>();
  std::uniform_real_distribution<double> share(0.0, sums.empty() ? 1.0 : sums.back());
  for (std::size_t i = 0; i < length; ++i) {
    const auto draw = [&] {
      if (sums.empty()) return random() % key_count;
      const auto rank =
          static_cast<std::uint64_t>(std::lower_bound(sums.begin(), sums.end(), share(random)) - sums.begin());
      return scatter(std::min(rank, key_count - 1), key_count);
    };
    stream[i] = item_of(draw());
    stream[i].value |= (static_cast<std::int64_t>(i) + 1) << kIndexBits;
  }
  return stream;
}

std::vector<Item> writer_share(const std::vector<Item>& stream, std::uint64_t key_count, unsigned writer,
                               unsigned writer_count) {
  std::vector<Item> share(stream.size() / writer_count);
  const std::uint64_t rows = std::max<std::uint64_t>(key_count / writer_count, 1);
  for (std::size_t i = 0; i < share.size(); ++i) {
    const Item& drawn = stream[writer * share.size() + i];
    share[i] = item_of(index_in(drawn.value) / writer_count % rows * writer_count + writer);
    share[i].value |= drawn.value & ~kIndexMask;
  }
  return share;
}

std::uint64_t index_sum(const Item* items, std::size_t count) noexcept {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += index_in(items[i].value);
  return sum;
}

std::span<const Item> Cycle::next(std::size_t count) noexcept {
  count = std::min(count, stream_.size());
  if (place_ + count > stream_.size()) place_ = 0;
  const std::span<const Item> part(stream_.data() + place_, count);
  place_ += count;
  return part;
}

}  // namespace shmstate::bench
