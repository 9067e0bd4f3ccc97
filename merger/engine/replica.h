// The buffers as byte replicas of each other, and the recorder that keeps them so.
//
// All changes go to the back buffer, through `store`, which marks the 64-byte line as dirty. After a publish, every
// other buffer is stale by exactly those lines, and catching up copies just them, at the same offsets. The recorder
// knows nothing about tables, so whatever is laid out in a buffer is replicated; the cost is that of what changed.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>
#include <vector>

#include "engine/instance_owner.h"
#include "layout/layout.h"
#include "layout/shared_word.h"

namespace shmstate::internal {

/// A set of line numbers: a bit for each line, and a list of those that are set.
class LineSet {
 public:
  explicit LineSet(std::uint64_t line_count);

  void insert(std::uint32_t line) {
    std::uint64_t& word = bits_[line / 64];
    const std::uint64_t bit = std::uint64_t{1} << line % 64;
    if ((word & bit) != 0) return;
    word |= bit;
    lines_.push_back(line);
  }
  [[nodiscard]] bool contains(std::uint32_t line) const noexcept { return (bits_[line / 64] >> line % 64 & 1) != 0; }
  void clear() noexcept {
    for (const std::uint32_t line : lines_) bits_[line / 64] = 0;
    lines_.clear();
  }
  [[nodiscard]] const std::vector<std::uint32_t>& lines() const noexcept { return lines_; }

 private:
  struct Free {
    void operator()(std::uint64_t* bits) const noexcept { std::free(bits); }
  };
  std::unique_ptr<std::uint64_t[], Free> bits_;  // calloc: memory only where lines are marked
  std::vector<std::uint32_t> lines_;
};

class Replicas {
 public:
  explicit Replicas(InstanceOwner& owner);

  // ---- the back buffer; valid between `begin_writing` and `published`

  [[nodiscard]] std::byte* back() const noexcept { return back_; }
  [[nodiscard]] std::uint32_t back_index() const noexcept { return back_index_; }
  template <typename T>
  [[nodiscard]] T* at(std::uint64_t offset) const noexcept {
    return reinterpret_cast<T*>(back_ + offset);
  }
  [[nodiscard]] layout::BufferHeader& header() const noexcept { return *at<layout::BufferHeader>(0); }

  /// The only ways to change the back buffer.
  void store(std::uint64_t& word, std::uint64_t value) {
    mark(&word);
    store_word(&word, value, std::memory_order_release);
  }
  template <typename T>
  void store(T& small, T value) {
    mark(&small);
    std::atomic_ref<T>(small).store(value, std::memory_order_release);
  }
  /// For a line that has been stored to since the last publish.
  void store_again(std::uint64_t& word, std::uint64_t value) {
    assert(written_.contains(line_of(&word)));
    store_word(&word, value, std::memory_order_release);
  }
  /// Copies `bytes` to a word-aligned place and pads the last word with zeros.
  void store_bytes(std::uint64_t* words, std::string_view bytes);

  // ---- the cycle

  /// Brings a claimed buffer up to the newest epoch. Returns the number of lines copied.
  std::uint64_t begin_writing(std::uint32_t buffer);
  /// The back buffer is now the current one; the others are stale by what was written to it.
  void published();
  /// At start: which buffer is current (nothing else is trusted), or none in a new instance.
  void start_from(std::uint32_t current);

 private:
  [[nodiscard]] std::uint32_t line_of(const void* address) const noexcept {
    const auto offset = static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(address) - back_);
    return static_cast<std::uint32_t>(offset / layout::kLine);
  }
  void mark(const void* address) { written_.insert(line_of(address)); }
  void copy_line(std::uint32_t line, std::byte* to) const noexcept;

  InstanceOwner& owner_;
  std::uint32_t buffer_count_;
  std::byte* back_ = nullptr;
  std::uint32_t back_index_ = 0;
  std::byte* current_ = nullptr;
  std::uint32_t current_index_ = 0;
  LineSet written_;             // since the last publish
  std::vector<LineSet> stale_;  // by buffer: what it lacks
  std::vector<bool> lacks_all_;
};

}  // namespace shmstate::internal
