// Where one buffer differs from another: in whole lines, and in entries of which only the value and the epoch of change
// do. Most mutations change nothing else, and then 16 bytes have to be copied instead of a line.
//
// Lines are a set. Entries are a list, since the epoch of change in the entry itself says whether this turn has changed
// it before; so a list of several turns may have an entry several times, and is limited.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/line_set.h"
#include "layout/layout.h"
#include "shmstate/detail/buffer_place.h"

namespace shmstate::internal {

class Differences {
 public:
  /// Entries of several turns; beyond that, their lines count as changed.
  static constexpr std::size_t kEntriesMax = 1 << 16;

  explicit Differences(std::uint64_t line_count) : lines_(line_count) {}

  void add_line(std::uint32_t line) { lines_.insert(line); }
  /// The entry at that place; once in a turn.
  void add_entry(Place place) { entries_.push_back(place); }
  /// What another turn has changed.
  void add(const Differences& turn) {
    for (const std::uint32_t line : turn.lines()) lines_.insert(line);
    entries_.insert(entries_.end(), turn.entries().begin(), turn.entries().end());
    if (entries_.size() <= kEntriesMax) return;
    for (const Place place : entries_) lines_.insert(line_of_value(place));
    entries_.clear();
  }
  void clear() noexcept {
    lines_.clear();
    entries_.clear();
  }
  [[nodiscard]] const std::vector<std::uint32_t>& lines() const noexcept { return lines_.lines(); }
  [[nodiscard]] const std::vector<Place>& entries() const noexcept { return entries_; }
  [[nodiscard]] std::size_t size() const noexcept { return lines().size() + entries().size(); }

  /// Where an entry's epoch of change lies, and behind it in the same line its value.
  [[nodiscard]] static constexpr std::uint64_t value_offset(Place place) noexcept {
    return place.offset() + offsetof(layout::Slot, changed_epoch);
  }

 private:
  [[nodiscard]] static constexpr std::uint32_t line_of_value(Place place) noexcept {
    return static_cast<std::uint32_t>(value_offset(place) / layout::kLine);
  }

  LineSet lines_;
  std::vector<Place> entries_;
};

}  // namespace shmstate::internal
