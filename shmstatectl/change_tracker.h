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
  /// Calls `visit` for every entry of one and the same snapshot. May throw.
  using Scan = std::function<void(const Visit& visit)>;

  /// The changes from the snapshot seen last to this one, by epoch and key. The first snapshot has none: it is where
  /// the watching starts. When `scan` throws, nothing was seen. Cost: all entries are visited; the keys are kept.
  [[nodiscard]] std::vector<Change> update(std::uint64_t epoch, const Scan& scan);

 private:
  struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
  };
  using KeySet = std::unordered_set<std::string, TextHash, std::equal_to<>>;

  [[nodiscard]] std::vector<Change> erased(std::uint64_t epoch, const Scan& scan) const;
  [[nodiscard]] std::size_t count_unknown(const std::vector<Change>& changes) const;
  void remember(const std::vector<Change>& changes);

  KeySet keys_;
  std::optional<std::uint64_t> last_epoch_;
};

}  // namespace shmstate::ctl
