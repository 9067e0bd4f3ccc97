// Finds what changed between one look at the state and the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "shmstate/value.h"

namespace shmstate::ctl {

/// What `watch` prints: a key got a value, or (without one) was erased.
struct Change {
  std::uint64_t epoch = 0;  ///< of the change; for an erased key, of the snapshot that no longer had it
  std::string key;
  std::optional<Value> value;
};

/// One line, for a terminal.
[[nodiscard]] std::string change_text(const Change& change);

class ChangeTracker {
 public:
  using Visit = std::function<void(std::string_view key, ValueView value, std::uint64_t changed_epoch)>;
  /// One snapshot: `scan` calls `visit` for every entry. Both functions may throw.
  struct Look {
    std::uint64_t epoch = 0;
    std::function<void(const Visit& visit)> scan;
    std::function<bool(std::string_view key)> contains;
  };

  /// What a snapshot has that the one accepted last had not, by epoch and key. Remembers nothing, so a look at a
  /// snapshot that turns out to have expired does no harm. Cost: all entries are visited.
  [[nodiscard]] std::vector<Change> compare(const Look& look) const;
  /// Remembers a snapshot by the changes that `compare` found, and returns those to report: none for the first
  /// snapshot, which is where the watching starts. Cost: the keys are kept.
  [[nodiscard]] std::vector<Change> accept(std::uint64_t epoch, std::vector<Change> changes);

 private:
  struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
  };
  using KeySet = std::unordered_set<std::string, TextHash, std::equal_to<>>;

  [[nodiscard]] bool is_new(std::uint64_t changed_epoch) const { return !last_epoch_ || changed_epoch > *last_epoch_; }
  [[nodiscard]] std::vector<Change> erased(const Look& look) const;
  [[nodiscard]] std::size_t count_unknown(const std::vector<Change>& changes) const;
  void remember(const std::vector<Change>& changes);

  KeySet keys_;
  std::optional<std::uint64_t> last_epoch_;
};

}  // namespace shmstate::ctl
