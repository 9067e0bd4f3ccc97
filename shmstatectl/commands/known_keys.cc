#include "commands/known_keys.h"

#include <utility>

namespace shmstate::ctl {

std::vector<Change> KnownKeys::changes_of(WatchBatch batch) {
  if (!batch.complete) {
    update_with(batch.changes);
    return std::move(batch.changes);
  }
  replace_by(batch);
  return std::exchange(has_begun_, true) ? std::move(batch.changes) : std::vector<Change>();
}

void KnownKeys::replace_by(WatchBatch& complete) {
  std::unordered_set<std::string> gone = std::exchange(keys_, {});
  for (const Change& change : complete.changes) {
    gone.erase(change.key);
    keys_.insert(change.key);
  }
  for (const std::string& key : gone) {
    complete.changes.push_back(
        {.key = key, .kind = ChangeKind::kErased, .epoch = complete.position.epoch, .value = {}});
  }
}

void KnownKeys::update_with(const std::vector<Change>& changes) {
  for (const Change& change : changes) {
    if (change.kind == ChangeKind::kSet) {
      keys_.insert(change.key);
    } else {
      keys_.erase(change.key);
    }
  }
}

}  // namespace shmstate::ctl
