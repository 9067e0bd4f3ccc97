#include "live/feed_sampler.h"

#include <algorithm>
#include <utility>

#include "feed_tail.h"

namespace shmstate::ctl {
using internal::FeedTail;

namespace {

constexpr std::uint64_t kRunRecords =
    16;  // of a sample: runs all over the feed, since a publish begins with its hottest
constexpr std::size_t kPlacesMax = HotKeys::kKeysMax;

}  // namespace

FeedSampler::FeedSampler(std::string instance) : instance_(std::move(instance)) {}
FeedSampler::~FeedSampler() = default;

std::vector<KeyCount> FeedSampler::take() {
  if (!feed_ || !feed_->is_current()) {
    feed_.reset();
    position_.reset();
    feed_ = std::make_unique<FeedTail>(instance_);
  }
  const std::optional<std::uint64_t> end = feed_->end();
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
    if (std::optional<std::string> key = feed_->key_at(place->first))
      changes.push_back({std::move(*key), static_cast<double>(place->second) * weight});
  }
  for (const auto& [key, count] : counts.erased) changes.push_back({key, static_cast<double>(count) * weight});
  return changes;
}

FeedSampler::Counts FeedSampler::count(std::uint64_t begin, std::uint64_t end) {
  const std::uint64_t first = std::max(begin, feed_->begin());
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
  feed_->visit(begin, end, feed_end, [&](const FeedTail::Item& item) {
    counts.seen += std::min(item.record_count, end - item.position);
    if (item.changed_place) ++counts.places[*item.changed_place];
    if (!item.erased_key.empty()) ++counts.erased[std::string(item.erased_key)];
  });
}

}  // namespace shmstate::ctl
