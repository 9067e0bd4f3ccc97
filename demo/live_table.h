// What the live view shows of the merged state: the busiest keys of each area. Pure: entries in, rows out.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "shmstate/value.h"

namespace shmstate::demo {

struct LiveRow {
  std::string key;
  std::string value;
  std::string change_per_s;  // empty for what is not a number
};

/// Sees every entry of one snapshot after another.
class LiveTable {
 public:
  void start_refresh(std::chrono::nanoseconds since_last);
  void observe(std::string_view key, const ValueView& value);
  /// Forgets what was not observed since `start_refresh`.
  void finish_refresh();

  /// At most `row_count_max` rows, shared out evenly among the areas (the keys' first parts), in the order of keys.
  [[nodiscard]] std::vector<LiveRow> busiest_rows(std::size_t row_count_max) const;

  /// Every batch of a producer counts one sample in a sum over all producers and in a key of its own: they differ only
  /// in a snapshot that holds a part of a batch.
  [[nodiscard]] bool batches_are_whole() const { return sum_of_samples_ == samples_; }
  /// The mutations that the producers say they printed.
  [[nodiscard]] std::uint64_t produced_mutations() const { return static_cast<std::uint64_t>(produced_mutations_); }

 private:
  struct Entry {
    Value value;
    double change_per_s = 0;
    double activity = 0;  // how often the value changed of late
    std::uint64_t refresh = 0;
  };
  using Entries = std::map<std::string, Entry, std::less<>>;

  void count_samples(std::string_view key, std::int64_t value);
  [[nodiscard]] std::vector<std::vector<Entries::const_iterator>> entries_of_areas() const;
  [[nodiscard]] LiveRow row_of(Entries::const_iterator entry) const;
  [[nodiscard]] std::string process_name(std::string_view key) const;

  Entries entries_;
  double since_last_s_ = 0;
  std::uint64_t refresh_ = 0;
  std::int64_t samples_ = 0;
  std::int64_t sum_of_samples_ = 0;
  std::int64_t produced_mutations_ = 0;
};

/// 1234567 as "1,234,567".
[[nodiscard]] std::string grouped(std::int64_t number);
/// Bytes that a terminal may show: all but printable ASCII become '?'.
[[nodiscard]] std::string printable(std::string_view bytes);

}  // namespace shmstate::demo
