// Iterates over the records of the change feed, each with what belongs to it. The merger may overwrite them meanwhile:
// an item counts only if `FeedView::begin` is not beyond its position after it was read.
#pragma once

#include <cstring>
#include <string>

#include "protocol/feed_view.h"
#include "shmstate/detail/buffer_view.h"
#include "shmstate/detail/words.h"
#include "shmstate/value.h"

namespace shmstate::internal {

struct FeedItem {
  std::uint64_t position = 0;  // of its first record
  std::uint64_t record_count = 1;
  FeedHead head{};
  std::uint64_t place = 0;  // kChanged
  std::string key{};        // kErased; empty: these are not records

  [[nodiscard]] bool names_place() const noexcept { return head.kind == FeedKind::kChanged; }
  [[nodiscard]] bool names_key() const noexcept { return head.kind == FeedKind::kErased && !key.empty(); }
  [[nodiscard]] Place location() const noexcept { return Place::unpack(place); }
};

class FeedCursor {
 public:
  /// Over the items that begin in [begin, end), of a feed that ends at `feed_end`.
  FeedCursor(const FeedView& feed, std::uint64_t begin, std::uint64_t end, std::uint64_t feed_end) noexcept
      : feed_(&feed), position_(begin), end_(end), feed_end_(feed_end) {}

  /// False at the end.
  [[nodiscard]] bool next(FeedItem& item) {
    if (position_ >= end_) return false;
    item.position = position_;
    item.head = feed_->head(position_);
    const std::uint64_t body = feed_->body(position_);
    item.record_count = 1;
    item.place = body;
    item.key.clear();
    if (item.head.kind == FeedKind::kErased) take_key(body, item);
    position_ += item.record_count;
    return true;
  }

 private:
  void take_key(std::uint64_t key_bytes, FeedItem& item) {
    const std::uint64_t left = feed_end_ - position_ - 1;
    if (key_bytes == 0 || key_bytes > kKeyBytesMax || words_of(key_bytes) > left) return;
    item.key.resize(padded(key_bytes));
    for (std::size_t i = 0; i < words_of(key_bytes); ++i) {
      const std::uint64_t word = feed_->body(position_ + 1 + i);
      std::memcpy(item.key.data() + i * kWord, &word, kWord);
    }
    item.key.resize(key_bytes);
    item.record_count += words_of(key_bytes);
  }

  const FeedView* feed_;
  std::uint64_t position_;
  std::uint64_t end_;
  std::uint64_t feed_end_;
};

}  // namespace shmstate::internal
