// An instance's change feed for tools that look at the newest of it: without a pin, so that looking delays no publish.
// They may miss what is overwritten or moved meanwhile.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace shmstate::internal {

class FeedTail {
 public:
  struct Item {
    std::uint64_t position = 0;
    std::uint64_t record_count = 0;
    std::optional<std::uint64_t> changed_place;  // for `key_at`
    std::string_view erased_key;
  };

  /// Survives that files are truncated. Throws `Error`.
  explicit FeedTail(const std::string& instance);
  FeedTail(const FeedTail&) = delete;
  FeedTail& operator=(const FeedTail&) = delete;
  ~FeedTail();

  /// Whether the instance's directory still leads to these files, and they are whole.
  [[nodiscard]] bool is_current() const noexcept;
  /// The records that are there are those of [begin, end).
  [[nodiscard]] std::uint64_t begin() const;
  [[nodiscard]] std::optional<std::uint64_t> end() const;

  /// Calls `take` for each item that begins in [begin, end) of a feed up to `feed_end`, unless it was overwritten while
  /// it was read.
  void visit(std::uint64_t begin, std::uint64_t end, std::uint64_t feed_end,
             const std::function<void(const Item&)>& take) const;
  /// The key of the entry at a place; nothing when none is there any more.
  [[nodiscard]] std::optional<std::string> key_at(std::uint64_t place) const;

 private:
  struct Files;
  std::unique_ptr<Files> files_;
};

}  // namespace shmstate::internal
