// Reading the change feed while the merger appends to it. See feed.h for what the records mean.
#pragma once

#include <cstdint>

#include "core/feed_record.h"
#include "core/layout.h"

namespace shmstate {

class FeedView {
 public:
  FeedView(const layout::FeedRecord* records, std::uint64_t record_count, const layout::Heartbeat& heartbeat) noexcept
      : records_(records), record_count_(record_count), heartbeat_(heartbeat) {}

  /// The first position that is not overwritten, nor about to be. What was read from lower positions is void.
  [[nodiscard]] std::uint64_t begin() const noexcept {
    const std::uint64_t reserved = heartbeat_.feed_reserved.load(std::memory_order_acquire);  // pair: feed records
    return reserved > record_count_ ? reserved - record_count_ : 0;
  }
  [[nodiscard]] std::uint64_t record_count() const noexcept { return record_count_; }
  [[nodiscard]] FeedHead head(std::uint64_t position) const noexcept {
    return FeedHead::unpack(load_word(&at(position).head, std::memory_order_acquire));
  }
  [[nodiscard]] std::uint64_t body(std::uint64_t position) const noexcept {
    return load_word(&at(position).body, std::memory_order_acquire);
  }

  /// The first position in [begin, end) whose epoch is newer; records lie in the order of epochs.
  [[nodiscard]] std::uint64_t first_after(std::uint64_t epoch, std::uint64_t begin, std::uint64_t end) const noexcept {
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

 private:
  [[nodiscard]] const layout::FeedRecord& at(std::uint64_t position) const noexcept {
    return records_[position & (record_count_ - 1)];
  }

  const layout::FeedRecord* records_;
  std::uint64_t record_count_;
  const layout::Heartbeat& heartbeat_;
};

}  // namespace shmstate
