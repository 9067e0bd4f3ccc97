// The keys that a watch has told of, so that a complete state can be told as changes.
#pragma once

#include <string>
#include <unordered_set>
#include <vector>

#include "shmstate/watch.h"

namespace shmstate::ctl {

class KnownKeys {
 public:
  /// With `tells_initial`, the first complete state is told, too.
  explicit KnownKeys(bool tells_initial = false) : has_begun_(tells_initial) {}

  /// What to print of a batch. The first complete state is nothing new: it is where the watching starts. A later one
  /// means that changes were missed: every key that exists is told again, and every known one that does not as erased.
  [[nodiscard]] std::vector<Change> changes_of(WatchBatch batch);

 private:
  void replace_by(WatchBatch& complete);
  void update_with(const std::vector<Change>& changes);

  std::unordered_set<std::string> keys_;
  bool has_begun_;
};

}  // namespace shmstate::ctl
