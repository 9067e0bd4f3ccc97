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

namespace shmstate::internal {

class Differences {
 public:
  /// Entries of several turns; beyond that, their lines count as changed.
  static constexpr std::size_t kEntriesMax = 1 << 16;

  explicit Differences(std::uint64_t line_count) : lines_(line_count) {}

  void add_line(std::uint32_t line) { lines_.insert(line); }
  /// The entry whose slot is that line; once in a turn.
  void add_entry(std::uint32_t line) { entries_.push_back(line); }
  /// What another turn has changed.
  void add(const Differences& turn) {
    for (const std::uint32_t line : turn.lines()) lines_.insert(line);
    entries_.insert(entries_.end(), turn.entries().begin(), turn.entries().end());
    if (entries_.size() <= kEntriesMax) return;
    for (const std::uint32_t line : entries_) lines_.insert(line);
    entries_.clear();
  }
  void clear() noexcept {
    lines_.clear();
    entries_.clear();
  }
  [[nodiscard]] const std::vector<std::uint32_t>& lines() const noexcept { return lines_.lines(); }
  [[nodiscard]] const std::vector<std::uint32_t>& entries() const noexcept { return entries_; }
  [[nodiscard]] std::size_t size() const noexcept { return lines().size() + entries().size(); }

 private:
  LineSet lines_;
  std::vector<std::uint32_t> entries_;  // by the line of the slot
};

}  // namespace shmstate::internal
