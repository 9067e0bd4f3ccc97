// How old a snapshot was at many moments, in bounded memory: buckets no wider than 1/32 of their value.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace shmstate::demo {

class StalenessHistogram {
 public:
  void record(std::chrono::nanoseconds age) {
    const auto age_ns = static_cast<std::uint64_t>(std::max<std::int64_t>(age.count(), 0));
    ++buckets_[bucket_of(age_ns)];
    ++sample_count_;
    age_ns_max_ = std::max(age_ns_max_, age_ns);
  }

  /// The age that `share` of all samples did not exceed (0.5 is the median), rounded up to its bucket's end.
  [[nodiscard]] std::chrono::nanoseconds quantile(double share) const {
    const auto rank = static_cast<std::uint64_t>(share * static_cast<double>(sample_count_));
    std::uint64_t seen_count = 0;
    for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
      seen_count += buckets_[bucket];
      if (seen_count > rank) return std::chrono::nanoseconds(std::min(end_of(bucket) - 1, age_ns_max_));
    }
    return max();
  }

  [[nodiscard]] std::chrono::nanoseconds max() const { return std::chrono::nanoseconds(age_ns_max_); }
  [[nodiscard]] std::uint64_t sample_count() const { return sample_count_; }

 private:
  static constexpr std::size_t kStepBits = 5;  // 32 buckets for every power of two
  static constexpr std::uint64_t kSteps = 1U << kStepBits;

  static std::size_t bucket_of(std::uint64_t age_ns) {
    if (age_ns < kSteps) return age_ns;
    const std::size_t shift = static_cast<std::size_t>(std::bit_width(age_ns)) - 1 - kStepBits;
    return shift * kSteps + (age_ns >> shift);
  }

  static std::uint64_t end_of(std::size_t bucket) {
    if (bucket < kSteps) return bucket + 1;
    const std::size_t shift = bucket / kSteps - 1;
    return (bucket % kSteps + kSteps + 1) << shift;
  }

  std::array<std::uint64_t, (64 - kStepBits) * kSteps> buckets_{};
  std::uint64_t sample_count_ = 0;
  std::uint64_t age_ns_max_ = 0;
};

}  // namespace shmstate::demo
