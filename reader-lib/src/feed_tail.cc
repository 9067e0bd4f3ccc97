#include "feed_tail.h"

#include "attachment.h"
#include "entry.h"
#include "feed_cursor.h"

namespace shmstate::internal {
namespace {

constexpr int kTriesMax = 4;  // publishes may overtake one look at a buffer, but hardly several

}  // namespace

struct FeedTail::Files {
  explicit Files(const std::string& instance)
      : attachment(instance_path(instance), std::chrono::nanoseconds::zero(), true),
        feed(attachment.snapshot.feed(), attachment.control.geometry().feed_record_count,
             attachment.control.heartbeat()) {}

  Attachment attachment;
  FeedView feed;
};

FeedTail::FeedTail(const std::string& instance) : files_(std::make_unique<Files>(instance)) {}
FeedTail::~FeedTail() = default;

bool FeedTail::is_current() const noexcept {
  return !files_->attachment.control.is_lost() && files_->attachment.control.is_current();
}

std::uint64_t FeedTail::begin() const { return files_->feed.begin(); }

std::optional<std::uint64_t> FeedTail::end() const {
  std::uint64_t end = 0;
  Version version;
  const auto look = [&](const BufferView& buffer) { end = buffer.feed_end(); };
  return files_->attachment.look_unpinned(kTriesMax, version, look) == Status::kOk ? std::optional(end) : std::nullopt;
}

void FeedTail::visit(std::uint64_t begin, std::uint64_t end, std::uint64_t feed_end,
                     const std::function<void(const Item&)>& take) const {
  FeedCursor cursor(files_->feed, begin, end, feed_end);
  FeedItem item;
  while (cursor.next(item)) {
    if (files_->feed.begin() > item.position) continue;
    const bool is_change = item.head.kind == FeedKind::kChanged;
    take({.position = item.position,
          .record_count = item.record_count,
          .changed_place = is_change ? std::optional(item.place) : std::nullopt,
          .erased_key = item.key});
  }
}

// The place may hold another entry by now, when a segment was split meanwhile.
std::optional<std::string> FeedTail::key_at(std::uint64_t place) const {
  const Place at = FeedItem{.place = place}.location();
  std::optional<std::string> key;
  Version version;
  const Status looked = files_->attachment.look_unpinned(kTriesMax, version, [&](const BufferView& buffer) {
    const SlotHead head = buffer.head_at(at);
    key.reset();
    if (head.type != Type::kNone) key = take_key(buffer, buffer.segment(at.page).slots[at.slot], head);
  });
  return looked == Status::kOk ? key : std::nullopt;
}

}  // namespace shmstate::internal
