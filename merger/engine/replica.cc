#include "engine/replica.h"

#include <new>
#include <utility>

#include "layout/words.h"
#include "protocol/crash_point.h"

namespace shmstate::internal {
namespace {

constexpr std::size_t kPrefetchAhead = 16;  // lines; covers the latency of memory at the speed of copying

std::uint64_t line_count(const Geometry& geometry) { return geometry.buffer_stride / layout::kLine; }

}  // namespace

LineSet::LineSet(std::uint64_t line_count)
    : bits_(static_cast<std::uint64_t*>(std::calloc(line_count / 64 + 1, sizeof(std::uint64_t)))) {
  if (!bits_) throw std::bad_alloc();
}

Replicas::Replicas(InstanceOwner& owner)
    : owner_(owner), buffer_count_(owner.geometry().buffer_count), written_(line_count(owner.geometry())) {
  for (std::uint32_t b = 0; b < buffer_count_; ++b) stale_.emplace_back(line_count(owner.geometry()));
  lacks_all_.assign(buffer_count_, false);
}

void Replicas::store_bytes(std::uint64_t* words, std::string_view bytes) {
  for_each_word(bytes,
                [&](std::size_t i, std::uint64_t word) { store_word(words + i, word, std::memory_order_release); });
  for (std::size_t i = 0; i < words_of(bytes.size()); i += layout::kLine / kWord) mark(words + i);
  if (!bytes.empty()) mark(words + words_of(bytes.size()) - 1);
}

void Replicas::start_from(std::uint32_t current) {
  current_index_ = current;
  current_ = owner_.buffer(current);
  for (std::uint32_t b = 0; b < buffer_count_; ++b) lacks_all_[b] = b != current;
}

void Replicas::copy_line(std::uint32_t line, std::byte* to) const noexcept {
  crash_point(CrashPoint::kLineCopied);
  const std::size_t offset = std::size_t{line} * layout::kLine;
  const auto* const from_words = reinterpret_cast<const std::uint64_t*>(current_ + offset);
  auto* const to_words = reinterpret_cast<std::uint64_t*>(to + offset);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < layout::kLine / kWord; ++i) {
    store_word(to_words + i, from_words[i], std::memory_order_release);
  }
}

std::uint64_t Replicas::begin_writing(std::uint32_t buffer) {
  back_index_ = buffer;
  back_ = owner_.buffer(buffer);
  std::uint64_t copied = 0;
  if (lacks_all_[buffer]) {
    const std::uint64_t pages = reinterpret_cast<const layout::BufferHeader*>(current_)->page_count;
    const std::uint64_t lines = pages * layout::kPageBytes / layout::kLine;
    for (; copied < lines; ++copied) copy_line(static_cast<std::uint32_t>(copied), back_);
    lacks_all_[buffer] = false;
  } else {
    const std::vector<std::uint32_t>& lines = stale_[buffer].lines();
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (i + kPrefetchAhead < lines.size()) {
        const std::size_t ahead = std::size_t{lines[i + kPrefetchAhead]} * layout::kLine;
        __builtin_prefetch(current_ + ahead, 0);
        __builtin_prefetch(back_ + ahead, 1);
      }
      copy_line(lines[i], back_);
    }
    copied = lines.size();
  }
  stale_[buffer].clear();
  return copied;
}

void Replicas::published() {
  current_ = back_;
  current_index_ = back_index_;
  if (buffer_count_ == 2) {  // the other buffer was the current one until now and lacked nothing
    std::swap(stale_[1 - current_index_], written_);
    return;
  }
  for (std::uint32_t b = 0; b < buffer_count_; ++b) {
    if (b == current_index_ || lacks_all_[b]) continue;
    for (const std::uint32_t line : written_.lines()) stale_[b].insert(line);
  }
  written_.clear();
}

}  // namespace shmstate::internal
