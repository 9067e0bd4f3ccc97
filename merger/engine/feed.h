// The change feed: one record for each key that changed in an epoch, in a ring of fixed-size records.
//
// It lies outside the buffers, in a single copy, and is only appended to. For a changed key, a record that names the
// place is enough, because the snapshot holds the key; an erased key is spelled out. `feed_reserved` moves before
// records are overwritten, so a reader that finds it beyond its position after reading knows that it read too late.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "engine/back_buffer.h"
#include "engine/instance_owner.h"
#include "layout/feed_record.h"
#include "layout/layout.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/crash_point.h"
#include "shmstate/detail/words.h"

namespace shmstate::internal {

class Feed {
 public:
  explicit Feed(InstanceOwner& owner)
      : owner_(owner), records_(owner.feed()), mask_(owner.geometry().feed_record_count - 1) {}

  /// Records that a merger had reserved beyond `end` when it died may already be overwritten.
  void start_from(std::uint64_t end) noexcept {
    end_ = end;
    reserved_ = std::max(end, owner_.heartbeat().feed_reserved.load(std::memory_order_relaxed));
  }
  /// The number of records ever written.
  [[nodiscard]] std::uint64_t end() const noexcept { return end_; }

  void changed(const BackBuffer& back, const Place& place) {
    append(back.epoch(), FeedKind::kChanged, 0, place.pack());
  }
  void erased(const BackBuffer& back, EraseReason reason, std::string_view key) {
    append(back.epoch(), FeedKind::kErased, static_cast<std::uint8_t>(reason), key.size());
    for_each_word(key, [&](std::size_t, std::uint64_t word) { append(back.epoch(), FeedKind::kKey, 0, word); });
  }

 private:
  static constexpr std::uint64_t kReserveStep = 16;

  void append(std::uint64_t epoch, FeedKind kind, std::uint8_t detail, std::uint64_t body) {
    if (end_ == reserved_) {
      reserved_ += kReserveStep;
      owner_.heartbeat().feed_reserved.store(reserved_, std::memory_order_relaxed);  // ordered by the stores below
      crash_point(CrashPoint::kFeedReserved);
    }
    layout::FeedRecord& record = records_[end_++ & mask_];
    const FeedHead head{.epoch = epoch, .kind = kind, .detail = detail};
    store_word(&record.head, head.pack(), std::memory_order_release);  // pair: feed records
    crash_point(CrashPoint::kFeedHeadWritten);
    store_word(&record.body, body, std::memory_order_release);  // pair: feed records
  }

  InstanceOwner& owner_;
  layout::FeedRecord* records_;
  std::uint64_t mask_;
  std::uint64_t end_ = 0;
  std::uint64_t reserved_ = 0;
};

}  // namespace shmstate::internal
