#include "engine/page_allocator.h"

#include <algorithm>
#include <iterator>

#include "protocol/invariant.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/buffer_slot.h"

namespace shmstate::internal {
namespace {

constexpr std::uint64_t kPagesPerMapPage = layout::kPageBytes;

// From `page` on, the first part of the map that lies among the pages of the pool.
std::uint64_t next_map_page(std::uint64_t page) {
  return (page + kPagesPerMapPage - 1) / kPagesPerMapPage * kPagesPerMapPage;
}

}  // namespace

// ---- PageAllocator

PageAllocator::PageAllocator(std::uint64_t pages_max, Commit commit)
    : pages_max_(pages_max), commit_(std::move(commit)) {}

std::optional<std::uint64_t> PageAllocator::allocate(BackBuffer& back, std::uint64_t count) {
  if (const std::optional<std::uint64_t> page = take(count)) return page;
  if (reclaim_ && reclaim_(back)) {
    if (const std::optional<std::uint64_t> page = take(count)) return page;
  }
  return grow(back, count) ? take(count) : std::nullopt;
}

std::optional<std::uint64_t> PageAllocator::take(std::uint64_t count) {
  const auto fitting = by_length_.lower_bound({count, 0});
  if (fitting == by_length_.end()) return std::nullopt;
  const auto run = count == 1 ? free_runs_.begin() : free_runs_.find(fitting->second);
  const auto [page, length] = *run;
  erase(run);
  if (length > count) insert(page + count, length - count);
  return page;
}

void PageAllocator::insert(std::uint64_t page, std::uint64_t count) {
  free_runs_.emplace(page, count);
  by_length_.emplace(count, page);
  free_count_ += count;
}

PageAllocator::Runs::iterator PageAllocator::erase(Runs::iterator run) {
  free_count_ -= run->second;
  by_length_.erase({run->second, run->first});
  return free_runs_.erase(run);
}

void PageAllocator::release(std::uint64_t page, std::uint64_t count) {
  SHMSTATE_INVARIANT(page >= layout::kFirstPage && page + count <= committed_);
  SHMSTATE_INVARIANT(next_map_page(page) >= page + count);
  auto next = free_runs_.lower_bound(page);
  SHMSTATE_INVARIANT(next == free_runs_.end() || next->first >= page + count);
  if (next != free_runs_.end() && next->first == page + count) {
    count += next->second;
    next = erase(next);
  }
  if (next != free_runs_.begin()) {
    const auto before = std::prev(next);
    SHMSTATE_INVARIANT(before->first + before->second <= page);
    if (before->first + before->second == page) {
      page = before->first;
      count += before->second;
      erase(before);
    }
  }
  insert(page, count);
}

// Commits a little more than is needed, in proportion to the size, so that growth is neither many small steps nor one
// long pause.
bool PageAllocator::grow(BackBuffer& back, std::uint64_t count) {
  const std::uint64_t ahead = std::clamp<std::uint64_t>(committed_ / 64, 1, 256);
  std::uint64_t begin = committed_;
  if (!free_runs_.empty()) {  // the free run at the end is part of it
    const auto [page, length] = *free_runs_.rbegin();
    if (page + length == committed_) begin = page;
  }
  if (next_map_page(begin) < begin + count) begin = next_map_page(begin) + 1;
  for (const std::uint64_t end : {std::max(begin + count, committed_ + ahead), begin + count}) {
    if (end > pages_max_ || !commit_(back, committed_, end)) continue;
    release_committed(std::exchange(committed_, end), end);
    return true;
  }
  return false;
}

void PageAllocator::release_committed(std::uint64_t first, std::uint64_t end) {
  while (first < end) {
    const std::uint64_t run_end = std::min(next_map_page(first), end);
    if (run_end > first) release(first, run_end - first);
    first = run_end + 1;
  }
}

void PageAllocator::start_from(std::uint64_t committed) {
  free_runs_.clear();
  by_length_.clear();
  free_count_ = 0;
  committed_ = committed;
  release_committed(layout::kFirstPage, committed);
}

bool PageAllocator::adopt(std::uint64_t page, std::uint64_t count) {
  auto run = free_runs_.upper_bound(page);
  if (run == free_runs_.begin()) return false;
  --run;
  const auto [first, length] = *run;
  if (count == 0 || page + count > first + length || page + count < page) return false;
  erase(run);
  if (page > first) insert(first, page - first);
  if (first + length > page + count) insert(page + count, first + length - page - count);
  return true;
}

// ---- Blocks

std::optional<std::uint64_t> Blocks::allocate(BackBuffer& back, std::size_t bytes) {
  const std::optional<std::uint64_t> page = pages_.allocate(back, block_pages(bytes));
  if (!page) return std::nullopt;
  used_pages_ += block_pages(bytes);
  return *page * layout::kPageBytes;
}

void Blocks::release(std::uint64_t offset, std::size_t bytes) {
  SHMSTATE_INVARIANT(offset % layout::kPageBytes == 0 && used_pages_ >= block_pages(bytes));
  used_pages_ -= block_pages(bytes);
  pages_.release(offset / layout::kPageBytes, block_pages(bytes));
}

bool Blocks::adopt(std::uint64_t offset, std::size_t bytes) {
  if (offset % layout::kPageBytes != 0 || !pages_.adopt(offset / layout::kPageBytes, block_pages(bytes))) return false;
  used_pages_ += block_pages(bytes);
  return true;
}

}  // namespace shmstate::internal
