// Options of the merge engine.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>

namespace shmstate::internal {

struct MergeOptions {
  std::chrono::nanoseconds publish_interval = std::chrono::milliseconds(1);  ///< of a turn, and so between publishes
  std::chrono::nanoseconds pin_time_max = std::chrono::seconds(5);        ///< then a buffer is reclaimed; zero: never
  std::chrono::nanoseconds tombstone_time = std::chrono::minutes(1);      ///< how long a versioned erase is remembered
  std::uint64_t entries_max = std::numeric_limits<std::uint64_t>::max();  ///< entries and tombstones of the instance
  std::uint64_t ring_bytes_max = std::uint64_t{1} << 30;                  ///< larger rings are refused
  std::uint64_t batch_max = 32'768;                                       ///< mutations; larger batches are refused
};

}  // namespace shmstate::internal
