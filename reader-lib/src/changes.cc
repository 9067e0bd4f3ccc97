#include "changes.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "entry.h"
#include "feed_cursor.h"
#include "layout/hash.h"
#include "pinned.h"

namespace shmstate {

using namespace internal;
namespace {

ChangeKind kind_of(std::uint8_t reason) {
  switch (static_cast<EraseReason>(reason)) {
    case EraseReason::kExpiry: return ChangeKind::kExpired;
    case EraseReason::kOwnerGone: return ChangeKind::kOwnerGone;
    default: return ChangeKind::kErased;
  }
}

class Collector {
 public:
  Collector(const Pinned& pinned, Epoch since)
      : view_(pinned.view()),
        bytes_left_(view_.page_count() * layout::kPageBytes),
        since_(since),
        hash_seed_(pinned.files().control.geometry().hash_seed),
        feed_(pinned.files().snapshot.feed(), pinned.files().control.geometry().feed_record_count,
              pinned.files().control.heartbeat()) {}

  [[nodiscard]] Epoch oldest_epoch(Epoch newest) const { return feed_.oldest_epoch(view_.feed_end(), newest); }

  /// Returns why not all of it is known, if so.
  [[nodiscard]] GapReason collect(Changes& news) {
    const std::uint64_t end = view_.feed_end();
    const FeedView::Start start = feed_.start_after(since_, end);
    if (!start.position) return start.was_there ? GapReason::kOvertaken : GapReason::kFellBehind;
    const bool is_sound = end - *start.position <= feed_.record_count()  // the feed can hold no more
                          && take_all(FeedCursor(feed_, *start.position, end, end), news);
    if (feed_.begin() > *start.position) return GapReason::kOvertaken;
    if (!is_sound) return GapReason::kDamaged;
    take_erased(news);
    std::stable_sort(news.changes.begin(), news.changes.end(),
                     [](const Change& a, const Change& b) { return a.epoch < b.epoch; });
    return GapReason::kNone;
  }

 private:
  /// False when there is something that is not a record.
  [[nodiscard]] bool take_all(FeedCursor cursor, Changes& news) {
    FeedItem item;
    while (cursor.next(item)) {
      if (item.names_key()) {
        erased_[std::move(item.key)] = item.head;
      } else if (!item.names_place() || !take_place(item, news)) {
        return false;
      }
    }
    return true;
  }

  // The place may hold another entry by now, or none; then the record of that entry, or of its key, says more.
  [[nodiscard]] bool take_place(const FeedItem& item, Changes& news) {
    const Place at = item.location();
    const SlotHead head = view_.head_at(at);
    if (!is_readable(head.type) || !places_.insert(item.place).second) return true;
    EntryView entry;
    if (!view_entry(view_, view_.slot(at), head, entry)) return false;
    if (entry.changed_epoch <= since_) return true;
    const std::uint64_t bytes = std::uint64_t{head.key_bytes()} + head.value_bytes;
    if (bytes > bytes_left_) return false;  // entries that share their bytes: a damaged buffer
    bytes_left_ -= bytes;
    news.changes.push_back({.key = std::string(entry.key),
                            .kind = ChangeKind::kSet,
                            .epoch = entry.changed_epoch,
                            .value = entry.value.to_value()});
    return true;
  }

  // A key that exists again has a record of its own.
  void take_erased(Changes& news) const {
    for (const auto& [key, head] : erased_) {
      Place at;
      SlotHead found;
      const HashedKey hashed{.bytes = key, .hash = hash_key(key, hash_seed_)};
      if (view_.find(hashed, at, found) == BufferView::Found::kYes && found.type != kTombstone) continue;
      news.changes.push_back({.key = key, .kind = kind_of(head.detail), .epoch = head.epoch, .value = std::nullopt});
    }
  }

  BufferView view_;
  std::uint64_t bytes_left_;  // of keys and values that the buffer can hold
  Epoch since_;
  std::uint64_t hash_seed_;
  FeedView feed_;
  std::unordered_set<std::uint64_t> places_;
  std::unordered_map<std::string, FeedHead> erased_;
};

}  // namespace

Changes internal::collect_changes(const std::shared_ptr<Attachment>& files, const Position& since) {
  const Pinned pinned(files);
  Changes news;
  news.position = pinned.position();
  Collector collector(pinned, since.epoch);
  news.oldest = {.instance = news.position.instance, .epoch = collector.oldest_epoch(news.position.epoch)};
  if (!(since <= news.position)) {  // it is not one of this instance
    news.gap_reason = GapReason::kRecreated;
  } else if (since != news.position) {
    news.gap_reason = collector.collect(news);
    if (!pinned.is_kept()) news.gap_reason = GapReason::kOvertaken;
  }
  news.gap = news.gap_reason != GapReason::kNone;
  if (news.gap) news.changes.clear();
  return news;
}

}  // namespace shmstate
