#include "shmstatectl/change_tracker.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "shmstatectl/text.h"
#include "shmstatectl/value_text.h"

namespace shmstate::ctl {

std::string change_text(const Change& change) {
  if (!change.value) return fmt::format("{} erase {}\n", change.epoch, escaped(change.key));
  return fmt::format("{} set {} {}\n", change.epoch, escaped(change.key), value_text(*change.value));
}

std::vector<Change> ChangeTracker::compare(const Look& look) const {
  std::vector<Change> changes;
  std::size_t entry_count = 0;
  look.scan([&](std::string_view key, ValueView value, std::uint64_t changed_epoch) {
    ++entry_count;
    if (is_new(changed_epoch)) changes.push_back({changed_epoch, std::string(key), value.to_value()});
  });
  // The known keys are looked up only when the number of entries shows that some are gone.
  if (keys_.size() + count_unknown(changes) != entry_count) {
    for (Change& change : erased(look)) changes.push_back(std::move(change));
  }
  std::sort(changes.begin(), changes.end(),
            [](const Change& a, const Change& b) { return std::tie(a.epoch, a.key) < std::tie(b.epoch, b.key); });
  return changes;
}

std::vector<Change> ChangeTracker::accept(std::uint64_t epoch, std::vector<Change> changes) {
  const bool is_first = !last_epoch_;
  remember(changes);
  last_epoch_ = epoch;
  if (is_first) changes.clear();
  return changes;
}

std::vector<Change> ChangeTracker::erased(const Look& look) const {
  std::vector<Change> changes;
  for (const std::string& key : keys_) {
    if (!look.contains(key)) changes.push_back({look.epoch, key, std::nullopt});
  }
  return changes;
}

std::size_t ChangeTracker::count_unknown(const std::vector<Change>& changes) const {
  return static_cast<std::size_t>(
      std::count_if(changes.begin(), changes.end(), [&](const Change& change) { return !keys_.contains(change.key); }));
}

void ChangeTracker::remember(const std::vector<Change>& changes) {
  for (const Change& change : changes) {
    if (change.value) {
      keys_.insert(change.key);
    } else {
      keys_.erase(change.key);
    }
  }
}

}  // namespace shmstate::ctl
