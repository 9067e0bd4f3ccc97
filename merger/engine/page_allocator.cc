#include "engine/page_allocator.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

#include "protocol/invariant.h"
#include "shmstate/detail/buffer_slot.h"

namespace shmstate::internal {

using layout::kPageBytes;

// ---- PageAllocator

PageAllocator::PageAllocator(std::uint64_t first_page, std::uint64_t pages_max, Commit commit)
    : first_page_(first_page), pages_max_(pages_max), committed_(first_page), commit_(std::move(commit)) {}

std::optional<std::uint64_t> PageAllocator::allocate(BackBuffer& back, std::uint64_t count) {
  const auto fits = [count](const auto& run) { return run.second >= count; };
  auto run = std::find_if(free_runs_.begin(), free_runs_.end(), fits);
  if (run == free_runs_.end()) {
    if (!grow(back, count)) return std::nullopt;
    run = std::find_if(free_runs_.begin(), free_runs_.end(), fits);
  }
  const auto [page, length] = *run;
  free_runs_.erase(run);
  if (length > count) free_runs_.emplace(page + count, length - count);
  free_count_ -= count;
  return page;
}

void PageAllocator::release(std::uint64_t page, std::uint64_t count) {
  SHMSTATE_INVARIANT(page >= first_page_ && page + count <= committed_);
  free_count_ += count;
  auto next = free_runs_.lower_bound(page);
  SHMSTATE_INVARIANT(next == free_runs_.end() || next->first >= page + count);
  if (next != free_runs_.end() && next->first == page + count) {
    count += next->second;
    next = free_runs_.erase(next);
  }
  if (next != free_runs_.begin()) {
    const auto before = std::prev(next);
    SHMSTATE_INVARIANT(before->first + before->second <= page);
    if (before->first + before->second == page) {
      before->second += count;
      return;
    }
  }
  free_runs_.emplace(page, count);
}

// Commits a little more than is needed, in proportion to the size, so that growth is neither many small steps nor one
// long pause.
bool PageAllocator::grow(BackBuffer& back, std::uint64_t count) {
  const std::uint64_t ahead = std::clamp<std::uint64_t>(committed_ / 16, 1, 16);
  if (!free_runs_.empty()) {  // the free run at the end is part of it
    const auto [page, length] = *free_runs_.rbegin();
    if (page + length == committed_) count -= length;
  }
  for (const std::uint64_t wanted : {std::max(count, ahead), count}) {
    const std::uint64_t end = committed_ + wanted;
    if (end > pages_max_ || !commit_(back, committed_, end)) continue;
    release(std::exchange(committed_, end), wanted);
    return true;
  }
  return false;
}

void PageAllocator::start_from(std::uint64_t committed) {
  free_runs_.clear();
  free_count_ = 0;
  committed_ = committed;
  if (committed > first_page_) release(first_page_, committed - first_page_);
}

bool PageAllocator::adopt(std::uint64_t page, std::uint64_t count) {
  auto run = free_runs_.upper_bound(page);
  if (run == free_runs_.begin()) return false;
  --run;
  const auto [first, length] = *run;
  if (count == 0 || page + count > first + length || page + count < page) return false;
  free_runs_.erase(run);
  if (page > first) free_runs_.emplace(first, page - first);
  if (first + length > page + count) free_runs_.emplace(page + count, first + length - page - count);
  free_count_ -= count;
  return true;
}

// ---- Heap

std::size_t Heap::Span::first_free() const noexcept {
  std::size_t word = 0;
  while (~used[word] == 0) ++word;
  return word * 64 + static_cast<std::size_t>(std::countr_one(used[word]));
}

namespace {

bool has_pages_of_its_own(std::size_t block_bytes) { return block_bytes > kPageBytes / 2; }
std::uint64_t pages_of(std::size_t block_bytes) { return (block_bytes + kPageBytes - 1) / kPageBytes; }

}  // namespace

std::optional<std::uint64_t> Heap::allocate(BackBuffer& back, std::size_t bytes) {
  const std::size_t block_bytes = heap_block_bytes(bytes);
  if (has_pages_of_its_own(block_bytes)) {
    const std::optional<std::uint64_t> page = pages_.allocate(back, pages_of(block_bytes));
    if (!page) return std::nullopt;
    used_bytes_ += block_bytes;
    return *page * kPageBytes;
  }
  SpanList& open = open_[block_bytes];
  if (open.empty()) {
    const std::optional<std::uint64_t> page = pages_.allocate(back, 1);
    if (!page) return std::nullopt;
    add_span(*page, block_bytes);
  }
  Span& span = *open.back();
  const std::size_t index = span.first_free();
  take(span, index);
  return span.page * kPageBytes + index * block_bytes;
}

void Heap::release(std::uint64_t offset, std::size_t bytes) {
  const std::size_t block_bytes = heap_block_bytes(bytes);
  SHMSTATE_INVARIANT(used_bytes_ >= block_bytes);
  used_bytes_ -= block_bytes;
  if (has_pages_of_its_own(block_bytes)) return pages_.release(offset / kPageBytes, pages_of(block_bytes));
  const auto found = spans_.find(offset / kPageBytes);
  SHMSTATE_INVARIANT(found != spans_.end() && found->second->block_bytes == block_bytes);
  Span& span = *found->second;
  const std::size_t index = offset % kPageBytes / block_bytes;
  SHMSTATE_INVARIANT((span.used[index / 64] >> index % 64 & 1) == 1);
  if (span.is_full()) list(span);
  span.used[index / 64] &= ~(std::uint64_t{1} << index % 64);
  if (--span.used_count > 0) return;
  unlist(span);
  pages_.release(span.page, 1);
  spans_.erase(found);
}

bool Heap::adopt(std::uint64_t offset, std::size_t bytes) {
  const std::size_t block_bytes = heap_block_bytes(bytes);
  const std::uint64_t page = offset / kPageBytes;
  const std::size_t within = offset % kPageBytes;
  if (has_pages_of_its_own(block_bytes)) {
    if (within != 0 || !pages_.adopt(page, pages_of(block_bytes))) return false;
    used_bytes_ += block_bytes;
    return true;
  }
  const auto found = spans_.find(page);
  if (found == spans_.end() && !pages_.adopt(page, 1)) return false;
  Span& span = found == spans_.end() ? add_span(page, block_bytes) : *found->second;
  const std::size_t index = within / block_bytes;
  if (span.block_bytes != block_bytes || within % block_bytes != 0 || index >= span.capacity()) return false;
  if ((span.used[index / 64] >> index % 64 & 1) == 1) return false;
  take(span, index);
  return true;
}

Heap::Span& Heap::add_span(std::uint64_t page, std::size_t block_bytes) {
  auto& span = spans_[page];
  span = std::make_unique<Span>();
  span->page = page;
  span->block_bytes = block_bytes;
  list(*span);
  return *span;
}

void Heap::list(Span& span) {
  SpanList& open = open_[span.block_bytes];
  span.position = open.size();
  open.push_back(&span);
}

void Heap::unlist(Span& span) {
  SpanList& open = open_[span.block_bytes];
  open[span.position] = open.back();
  open[span.position]->position = span.position;
  open.pop_back();
}

void Heap::take(Span& span, std::size_t index) {
  span.used[index / 64] |= std::uint64_t{1} << index % 64;
  ++span.used_count;
  used_bytes_ += span.block_bytes;
  if (span.is_full()) unlist(span);
}

}  // namespace shmstate::internal
