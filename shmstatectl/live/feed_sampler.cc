#include "live/feed_sampler.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "files/instance.h"
#include "files/snapshot_file.h"
#include "protocol/buffer_view.h"
#include "protocol/feed_view.h"
#include "protocol/publish.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

constexpr std::uint64_t kRunRecords =
    16;  // of a sample: runs all over the feed, since a publish begins with its hottest
constexpr std::size_t kPlacesMax = HotKeys::kKeysMax;
constexpr int kTries = 4;  // publishes may overtake one look at a buffer, but hardly several

std::string bytes_of(const std::uint64_t* words, std::size_t byte_count) {
  std::string bytes(padded(byte_count), '\0');
  for (std::size_t i = 0; i < words_of(byte_count); ++i) {
    const std::uint64_t word = load_word(words + i, std::memory_order_acquire);
    std::memcpy(bytes.data() + i * kWord, &word, kWord);
  }
  bytes.resize(byte_count);
  return bytes;
}

}  // namespace

struct FeedSampler::Files {
  explicit Files(const std::string& instance)
      : control(instance_path(instance), std::chrono::nanoseconds::zero(), WhenTruncated::kReadZeros),
        snapshot(control),
        feed(snapshot.feed(), control.geometry().feed_record_count, control.heartbeat()) {}

  // What `look(buffer)` returns, once the buffer was whole meanwhile.
  template <typename Look>
  auto with_current(const Look& look) const -> std::optional<decltype(look(std::declval<const BufferView&>()))> {
    for (int tries = 0; tries < kTries; ++tries) {
      const Version version = current_version(control.publication());
      if (!snapshot.is_possible(version)) return std::nullopt;
      auto result = look(snapshot.buffer(version.buffer));
      if (is_intact(control.publication(), version)) return result;
    }
    return std::nullopt;
  }

  Control control;
  SnapshotFile snapshot;
  FeedView feed;
};

FeedSampler::FeedSampler(std::string instance) : instance_(std::move(instance)) {}
FeedSampler::~FeedSampler() = default;

std::vector<KeyCount> FeedSampler::take() {
  if (!files_ || files_->control.is_lost() || !files_->control.is_current()) {
    files_.reset();
    position_.reset();
    files_ = std::make_unique<Files>(instance_);
  }
  const std::optional<std::uint64_t> end = feed_end();
  const std::optional<std::uint64_t> begin = std::exchange(position_, end);
  if (!begin || !end || *end <= *begin) return {};

  const Counts counts = count(*begin, *end);
  const double weight = counts.seen == 0 ? 0 : static_cast<double>(*end - *begin) / static_cast<double>(counts.seen);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places(counts.places.begin(), counts.places.end());
  const auto kept = static_cast<std::ptrdiff_t>(std::min(kPlacesMax, places.size()));
  std::partial_sort(places.begin(), places.begin() + kept, places.end(),
                    [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<KeyCount> changes;
  for (auto place = places.begin(); place != places.begin() + kept; ++place) {
    if (std::optional<std::string> key = key_at(place->first))
      changes.push_back({std::move(*key), static_cast<double>(place->second) * weight});
  }
  for (const auto& [key, count] : counts.erased) changes.push_back({key, static_cast<double>(count) * weight});
  return changes;
}

std::optional<std::uint64_t> FeedSampler::feed_end() const {
  return files_->with_current([](const BufferView& buffer) { return buffer.feed_end(); });
}

FeedSampler::Counts FeedSampler::count(std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t first = std::max(begin, files_->feed.begin());
  Counts counts;
  if (first >= end) return counts;
  const std::uint64_t available = end - first;
  if (available <= kRecordsMax) {
    count_run(first, end, end, counts);
    return counts;
  }
  const std::uint64_t step = available / (kRecordsMax / kRunRecords);
  const std::uint64_t shift = ++call_count_ * 0x9e37'79b9 % step;  // so that no key falls between the runs each time
  for (std::uint64_t run = first + shift; run + kRunRecords <= end; run += step)
    count_run(run, run + kRunRecords, end, counts);
  return counts;
}

// What was overwritten while it was read counts as not seen.
void FeedSampler::count_run(std::uint64_t begin, std::uint64_t end, std::uint64_t feed_end, Counts& counts) const {
  const FeedView& feed = files_->feed;
  for (std::uint64_t position = begin; position < end; ++position) {
    const FeedHead head = feed.head(position);
    const std::uint64_t body = feed.body(position);
    std::optional<std::string> erased;
    if (head.kind == FeedKind::kErased) erased = erased_key(position + 1, body, feed_end);
    if (feed.begin() > position) continue;
    ++counts.seen;
    if (head.kind == FeedKind::kChanged) ++counts.places[body];
    if (erased) ++counts.erased[*erased];
  }
}

std::optional<std::string> FeedSampler::erased_key(std::uint64_t position, std::uint64_t key_bytes,
                                                   std::uint64_t feed_end) const {
  if (key_bytes == 0 || key_bytes > shmstate::kKeyBytesMax || position + words_of(key_bytes) > feed_end)
    return std::nullopt;
  std::string key(padded(key_bytes), '\0');
  for (std::size_t i = 0; i < words_of(key_bytes); ++i) {
    const std::uint64_t word = files_->feed.body(position + i);
    std::memcpy(key.data() + i * kWord, &word, kWord);
  }
  key.resize(key_bytes);
  return key;
}

// The place may hold another entry by now, when a segment was split meanwhile: a short-lived error of what is shown.
std::optional<std::string> FeedSampler::key_at(std::uint64_t place) const {
  const Location at{.page = place >> 16, .slot = static_cast<std::uint32_t>(place & 0xffff)};
  const auto key = files_->with_current([&at](const BufferView& buffer) -> std::optional<std::string> {
    const SlotHead head = buffer.head_at(at);
    if (head.type == Type::kNone) return std::nullopt;
    const layout::Slot& slot = buffer.segment(at.page).slots[at.slot];
    const std::uint64_t* const words = buffer.key_words(slot, head);
    return words == nullptr ? std::nullopt : std::optional(bytes_of(words, head.key_bytes));
  });
  return key ? *key : std::nullopt;
}

}  // namespace shmstate::ctl
