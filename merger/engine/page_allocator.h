// Who owns which pages of a buffer: one pool, whatever they are used for.
//
// All of this is private to the merger. Offsets are the same in every buffer, so one allocator serves them all. What is
// in use follows from the table, so a merger that starts rebuilds the allocator (`adopt`) instead of trusting lists in
// shared memory: nothing to corrupt, nothing to publish, and no leak survives a restart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "engine/back_buffer.h"
#include "layout/layout.h"

namespace shmstate::internal {

/// Runs of pages: single ones from the front, longer runs where they fit best; neighbours are joined on release. The
/// pages of the map are nobody's.
class PageAllocator {
 public:
  /// Commits pages [first, end) of every buffer and notes that in the back buffer; false when there is no room.
  using Commit = std::function<bool(BackBuffer& back, std::uint64_t first, std::uint64_t end)>;
  /// Releases what is only kept for later; false when there is nothing.
  using Reclaim = std::function<bool(BackBuffer& back)>;

  PageAllocator(std::uint64_t pages_max, Commit commit);
  void set_reclaim(Reclaim reclaim) { reclaim_ = std::move(reclaim); }

  /// Pages below this are committed.
  [[nodiscard]] std::uint64_t committed() const noexcept { return committed_; }
  [[nodiscard]] std::uint64_t free_count() const noexcept { return free_count_; }

  [[nodiscard]] std::optional<std::uint64_t> allocate(BackBuffer& back, std::uint64_t count);
  void release(std::uint64_t page, std::uint64_t count);

  /// At start: pages up to `committed` exist, all free until adopted.
  void start_from(std::uint64_t committed);
  /// Takes specific free pages; false when they are not free.
  [[nodiscard]] bool adopt(std::uint64_t page, std::uint64_t count);

 private:
  using Runs = std::map<std::uint64_t, std::uint64_t>;  // first page -> count

  [[nodiscard]] std::optional<std::uint64_t> take(std::uint64_t count);
  [[nodiscard]] bool grow(BackBuffer& back, std::uint64_t count);
  void release_committed(std::uint64_t first, std::uint64_t end);
  void insert(std::uint64_t page, std::uint64_t count);
  Runs::iterator erase(Runs::iterator run);

  std::uint64_t pages_max_;
  std::uint64_t committed_ = layout::kFirstPage;
  std::uint64_t free_count_ = 0;
  Runs free_runs_;
  std::set<std::pair<std::uint64_t, std::uint64_t>> by_length_;  // of the same runs: count, first page
  Commit commit_;
  Reclaim reclaim_;
};

/// Blocks for long keys and values: runs of pages.
class Blocks {
 public:
  explicit Blocks(PageAllocator& pages) : pages_(pages) {}

  /// The offset of a block that holds `bytes`; nothing when there is no memory.
  [[nodiscard]] std::optional<std::uint64_t> allocate(BackBuffer& back, std::size_t bytes);
  void release(std::uint64_t offset, std::size_t bytes);
  /// The bytes of all pages in use.
  [[nodiscard]] std::uint64_t used_bytes() const noexcept { return used_pages_ * layout::kPageBytes; }

  /// At start: takes the block that an entry refers to; false when there cannot be one.
  [[nodiscard]] bool adopt(std::uint64_t offset, std::size_t bytes);

 private:
  PageAllocator& pages_;
  std::uint64_t used_pages_ = 0;
};

}  // namespace shmstate::internal
