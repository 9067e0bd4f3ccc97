// Who owns which memory of a buffer: pages for the directory, segments and the heap, and blocks within heap pages.
//
// All of this is private to the merger. Offsets are the same in every buffer, so one allocator serves them all. What is
// in use follows from the table, so a merger that starts rebuilds the allocator (`adopt`) instead of trusting lists in
// shared memory: nothing to corrupt, nothing to publish, and no leak survives a restart.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "engine/back_buffer.h"
#include "layout/layout.h"

namespace shmstate::internal {

/// Runs of 64 KiB pages: first fit from the front, neighbours joined on release.
class PageAllocator {
 public:
  /// Commits pages [first, end) of every buffer and notes that in the back buffer; false when there is no room.
  using Commit = std::function<bool(BackBuffer& back, std::uint64_t first, std::uint64_t end)>;

  PageAllocator(std::uint64_t first_page, std::uint64_t pages_max, Commit commit);

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
  [[nodiscard]] bool grow(BackBuffer& back, std::uint64_t count);

  std::uint64_t first_page_;
  std::uint64_t pages_max_;
  std::uint64_t committed_;
  std::uint64_t free_count_ = 0;
  std::map<std::uint64_t, std::uint64_t> free_runs_;  // first page -> count
  Commit commit_;
};

/// Blocks for long keys and values: sizes as `heap_block_bytes` rounds them; up to half a page they share pages of one
/// size, beyond that they are runs of pages. A page whose last block is freed is released.
class Heap {
 public:
  explicit Heap(PageAllocator& pages) : pages_(pages) {}

  /// The offset of a block that holds `bytes`; nothing when there is no memory.
  [[nodiscard]] std::optional<std::uint64_t> allocate(BackBuffer& back, std::size_t bytes);
  void release(std::uint64_t offset, std::size_t bytes);
  [[nodiscard]] std::uint64_t used_bytes() const noexcept { return used_bytes_; }

  /// At start: takes the block that an entry refers to; false when there cannot be one.
  [[nodiscard]] bool adopt(std::uint64_t offset, std::size_t bytes);

 private:
  static constexpr std::size_t kBlocksMax = layout::kPageBytes / layout::kLine;

  struct Span {
    std::uint64_t page = 0;
    std::size_t block_bytes = 0;
    std::size_t used_count = 0;
    std::size_t position = 0;  // in the list of its size, while it has a free block
    std::array<std::uint64_t, kBlocksMax / 64> used{};

    [[nodiscard]] std::size_t capacity() const noexcept { return layout::kPageBytes / block_bytes; }
    [[nodiscard]] bool is_full() const noexcept { return used_count == capacity(); }
    [[nodiscard]] std::size_t first_free() const noexcept;
  };
  using SpanList = std::vector<Span*>;

  Span& add_span(std::uint64_t page, std::size_t block_bytes);
  void list(Span& span);
  void unlist(Span& span);
  void take(Span& span, std::size_t index);

  PageAllocator& pages_;
  std::uint64_t used_bytes_ = 0;
  std::map<std::uint64_t, std::unique_ptr<Span>> spans_;  // by page
  std::map<std::size_t, SpanList> open_;                  // by block size: spans with a free block
};

}  // namespace shmstate::internal
