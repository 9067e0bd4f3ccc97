// How often which keys changed, out of the change feed: without a pin, so that looking delays no publish.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "live/hot_keys.h"

namespace shmstate::internal {
class FeedTail;
}  // namespace shmstate::internal

namespace shmstate::ctl {

class FeedSampler {
 public:
  /// Records that one call looks at; of more it takes a sample, and scales its counts.
  static constexpr std::uint64_t kRecordsMax = 32'768;

  explicit FeedSampler(std::string instance);
  ~FeedSampler();
  FeedSampler(const FeedSampler&) = delete;
  FeedSampler& operator=(const FeedSampler&) = delete;

  /// In how many publishes keys changed since the previous call, at least the hottest of them; nothing the first time,
  /// and after the instance was re-created. Throws `Error`.
  [[nodiscard]] std::vector<KeyCount> take();

 private:
  struct Counts {
    std::unordered_map<std::uint64_t, std::uint64_t> places;
    std::unordered_map<std::string, std::uint64_t> erased;
    std::uint64_t seen = 0;
  };

  [[nodiscard]] Counts count(std::uint64_t begin, std::uint64_t end);
  void count_run(std::uint64_t begin, std::uint64_t end, std::uint64_t feed_end, Counts& counts) const;

  std::string instance_;
  std::unique_ptr<internal::FeedTail> feed_;
  std::optional<std::uint64_t> position_;  // up to which the feed has been counted
  std::uint64_t call_count_ = 0;
};

}  // namespace shmstate::ctl
