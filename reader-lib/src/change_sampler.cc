// Counts changes in the newest part of the feed, without a pin: what is overwritten meanwhile is not seen.
#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>

#include "attachment.h"
#include "entry.h"
#include "feed_cursor.h"
#include "shmstate/inspect.h"

namespace shmstate {

using namespace internal;
namespace {

constexpr std::uint64_t kRecordsMax = 32'768;  // that one call looks at; of more it takes a sample
constexpr std::uint64_t kRunRecords = 16;      // of a sample: runs all over, since a publish begins with its hottest
constexpr std::size_t kPlacesMax = 256;
constexpr int kTriesMax = 4;  // publishes may overtake one look at a buffer, but hardly several

struct Counts {
  std::unordered_map<std::uint64_t, std::uint64_t> places;
  std::unordered_map<std::string, std::uint64_t> erased;
  std::uint64_t seen = 0;
};

class Feed {
 public:
  explicit Feed(const std::string& instance)
      : files_(instance_path(instance), std::chrono::nanoseconds::zero(), true),
        view_(files_.snapshot.feed(), files_.control.geometry().feed_record_count, files_.control.heartbeat()) {}

  /// Whether the instance's directory still leads to these files, and they are whole.
  [[nodiscard]] bool is_current() const noexcept { return !files_.control.is_lost() && files_.control.is_current(); }

  [[nodiscard]] std::optional<std::uint64_t> end() const {
    std::uint64_t end = 0;
    Version version;
    const auto look = [&](const BufferView& buffer) { end = buffer.feed_end(); };
    return files_.look_unpinned(kTriesMax, version, look) == Status::kOk ? std::optional(end) : std::nullopt;
  }

  /// Of the records in [begin, end), or a sample; `call` makes each sample another one.
  [[nodiscard]] Counts count(std::uint64_t begin, std::uint64_t end, std::uint64_t call) const {
    const std::uint64_t first = std::max(begin, view_.begin());
    Counts counts;
    if (first >= end) return counts;
    const std::uint64_t available = end - first;
    if (available <= kRecordsMax) {
      count_run(first, end, end, counts);
      return counts;
    }
    const std::uint64_t step = available / (kRecordsMax / kRunRecords);
    const std::uint64_t shift = call * 0x9e37'79b9 % step;  // so that no key falls between the runs each time
    for (std::uint64_t run = first + shift; run + kRunRecords <= end; run += step) {
      count_run(run, run + kRunRecords, end, counts);
    }
    return counts;
  }

  /// The key of the entry at a place, which may be another one by now; nothing when none is.
  [[nodiscard]] std::optional<std::string> key_at(std::uint64_t place) const {
    const Place at = Place::unpack(place);
    std::optional<std::string> key;
    Version version;
    const Status looked = files_.look_unpinned(kTriesMax, version, [&](const BufferView& buffer) {
      const SlotHead head = buffer.head_at(at);
      key.reset();
      if (head.type != Type::kNone) key = take_key(buffer, buffer.slot(at), head);
    });
    return looked == Status::kOk ? key : std::nullopt;
  }

 private:
  // What was overwritten while it was read counts as not seen.
  void count_run(std::uint64_t begin, std::uint64_t end, std::uint64_t feed_end, Counts& counts) const {
    FeedCursor cursor(view_, begin, end, feed_end);
    FeedItem item;
    while (cursor.next(item)) {
      if (view_.begin() > item.position) continue;
      counts.seen += std::min(item.record_count, end - item.position);
      if (item.head.kind == FeedKind::kChanged) ++counts.places[item.place];
      if (item.names_key()) ++counts.erased[item.key];
    }
  }

  Attachment files_;
  FeedView view_;
};

}  // namespace

struct ChangeSampler::Impl {
  explicit Impl(std::string_view wanted) : instance(wanted) {}

  std::string instance;
  std::optional<Feed> feed;
  std::optional<std::uint64_t> position;  // up to which the feed has been counted
  std::uint64_t call_count = 0;
};

ChangeSampler::ChangeSampler(std::string_view instance) : impl_(std::make_unique<Impl>(instance)) {}
ChangeSampler::ChangeSampler(ChangeSampler&&) noexcept = default;
ChangeSampler& ChangeSampler::operator=(ChangeSampler&&) noexcept = default;
ChangeSampler::~ChangeSampler() = default;

std::vector<KeyCount> ChangeSampler::take() {
  Impl& impl = *impl_;
  if (!impl.feed || !impl.feed->is_current()) {
    impl.position.reset();
    impl.feed.reset();
    impl.feed.emplace(impl.instance);
  }
  const std::optional<std::uint64_t> end = impl.feed->end();
  const std::optional<std::uint64_t> begin = std::exchange(impl.position, end);
  if (!begin || !end || *end <= *begin) return {};

  const Counts counts = impl.feed->count(*begin, *end, ++impl.call_count);
  const double weight = counts.seen == 0 ? 0 : static_cast<double>(*end - *begin) / static_cast<double>(counts.seen);
  std::vector<std::pair<std::uint64_t, std::uint64_t>> places(counts.places.begin(), counts.places.end());
  const auto kept = static_cast<std::ptrdiff_t>(std::min(kPlacesMax, places.size()));
  std::partial_sort(places.begin(), places.begin() + kept, places.end(),
                    [](const auto& a, const auto& b) { return a.second > b.second; });
  std::vector<KeyCount> changes;
  for (auto place = places.begin(); place != places.begin() + kept; ++place) {
    if (std::optional<std::string> key = impl.feed->key_at(place->first)) {
      changes.push_back({.key = std::move(*key), .count = static_cast<double>(place->second) * weight});
    }
  }
  for (const auto& [key, count] : counts.erased) {
    changes.push_back({.key = key, .count = static_cast<double>(count) * weight});
  }
  return changes;
}

}  // namespace shmstate
