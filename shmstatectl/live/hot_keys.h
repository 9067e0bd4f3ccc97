// Which keys changed most of late: counts over a sliding window, in bounded memory.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "shmstate/inspect.h"

namespace shmstate::ctl {

class HotKeys {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  static constexpr std::size_t kParts = 10;         // that the window moves by
  static constexpr std::size_t kKeysMax = 256;      // remembered of each part: the hottest
  static constexpr std::size_t kKeyBytesMax = 256;  // of a key, so that long ones take no memory: the rest is cut off

  explicit HotKeys(std::chrono::nanoseconds window = std::chrono::seconds(10)) : window_(window) {}

  /// What was counted since the previous call; the first call only begins.
  void take(const std::vector<KeyCount>& counts, TimePoint now);
  void clear() noexcept { parts_.clear(); }

  /// Changes per second over the window, the hottest first.
  [[nodiscard]] std::vector<KeyCount> hottest(std::size_t count_max) const;

 private:
  struct Part {
    TimePoint begin;
    TimePoint end;
    std::vector<KeyCount> counts;
  };

  std::chrono::nanoseconds window_;
  std::deque<Part> parts_;
};

}  // namespace shmstate::ctl
