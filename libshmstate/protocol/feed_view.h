// Reading the change feed while the merger appends to it. See feed.h for what the records mean.
#pragma once

#include <cstdint>
#include <optional>

#include "layout/feed_record.h"
#include "layout/layout.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {

class FeedView {
 public:
  FeedView(const layout::FeedRecord* records, std::uint64_t record_count, const layout::Heartbeat& heartbeat) noexcept
      : records_(records), record_count_(record_count), heartbeat_(heartbeat) {}

  /// The first position that is not overwritten, nor about to be. What was read from lower positions is void.
  [[nodiscard]] std::uint64_t begin() const {
    crash_point(CrashPoint::kFeedRead);
    const std::uint64_t reserved = heartbeat_.feed_reserved.load(std::memory_order_acquire);  // pair: feed records
    return reserved > record_count_ ? reserved - record_count_ : 0;
  }
  [[nodiscard]] std::uint64_t record_count() const noexcept { return record_count_; }
  [[nodiscard]] FeedHead head(std::uint64_t position) const {
    crash_point(CrashPoint::kFeedRead);
    return FeedHead::unpack(load_word(&at(position).head, std::memory_order_acquire));
  }
  [[nodiscard]] std::uint64_t body(std::uint64_t position) const {
    crash_point(CrashPoint::kFeedRead);
    return load_word(&at(position).body, std::memory_order_acquire);
  }

  /// Where what is newer than an epoch begins.
  struct Start {
    std::optional<std::uint64_t> position;  // nothing: it is overwritten, at least in part
    bool was_there = false;                 // whether all of it was there when it was looked for
  };
  /// Records lie in the order of epochs. Those at the beginning may be overwritten while they are looked at, and then
  /// look newer than they were, never older. So only who finds, afterwards, that what looked newer is still there, has
  /// found anything.
  [[nodiscard]] Start start_after(std::uint64_t epoch, std::uint64_t end) const {
    Start start;
    for (int tries = 0; tries < kTries; ++tries) {
      const std::uint64_t first_kept = begin();
      const bool reaches = first_kept == 0 || (first_kept < end && head(first_kept).epoch <= epoch);
      start.was_there = start.was_there || reaches;
      const std::uint64_t first = reaches ? first_after(epoch, first_kept, end) : first_kept;
      if (begin() > first) continue;
      if (reaches) start.position = first;
      break;
    }
    return start;
  }
  /// The oldest epoch that can be asked for now, of a feed up to `end` in the epoch `newest`: the first record may be
  /// in the middle of its epoch.
  [[nodiscard]] std::uint64_t oldest_epoch(std::uint64_t end, std::uint64_t newest) const {
    for (int tries = 0; tries < kTries; ++tries) {
      const std::uint64_t first_kept = begin();
      if (first_kept == 0) return 0;
      if (first_kept >= end) return newest;
      const std::uint64_t epoch = head(first_kept).epoch;
      if (begin() <= first_kept) return epoch < newest ? epoch : newest;
    }
    return newest;
  }

 private:
  static constexpr int kTries = 100;  // each fails only when the merger appends within a few loads

  [[nodiscard]] std::uint64_t first_after(std::uint64_t epoch, std::uint64_t begin, std::uint64_t end) const {
    while (begin < end) {
      const std::uint64_t middle = begin + (end - begin) / 2;
      if (head(middle).epoch > epoch) {
        end = middle;
      } else {
        begin = middle + 1;
      }
    }
    return begin;
  }
  [[nodiscard]] const layout::FeedRecord& at(std::uint64_t position) const noexcept {
    return records_[position & (record_count_ - 1)];
  }

  const layout::FeedRecord* records_;
  std::uint64_t record_count_;
  const layout::Heartbeat& heartbeat_;
};

}  // namespace shmstate::internal
