// The right to write one buffer. Only a claim makes one (`Replicas::claim`), and a publish consumes it, so nothing that
// changes a buffer compiles without the claim. It notes the 64-byte lines and the entries that it stores to: by those,
// the other buffers are stale after the publish.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "engine/differences.h"
#include "layout/layout.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/shared_word.h"

namespace shmstate::internal {

class BackBuffer {
 public:
  BackBuffer(BackBuffer&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)),
        epoch_(other.epoch_),
        index_(other.index_),
        written_(std::move(other.written_)) {}
  BackBuffer& operator=(BackBuffer&&) = delete;
  BackBuffer(const BackBuffer&) = delete;
  BackBuffer& operator=(const BackBuffer&) = delete;
  ~BackBuffer() = default;

  /// The epoch that its publish begins.
  [[nodiscard]] std::uint64_t epoch() const noexcept { return epoch_; }
  [[nodiscard]] std::uint32_t index() const noexcept { return index_; }
  /// Whether it differs from the current buffer by more than its epoch.
  [[nodiscard]] bool is_changed() const noexcept { return written_.size() > 1; }

  [[nodiscard]] std::byte* base() const noexcept { return base_; }
  template <typename T>
  [[nodiscard]] T* at(std::uint64_t offset) const noexcept {
    return reinterpret_cast<T*>(base_ + offset);
  }
  [[nodiscard]] layout::BufferHeader& header() const noexcept { return *at<layout::BufferHeader>(0); }
  [[nodiscard]] layout::RingCursor& cursor(std::uint32_t ring_index) const noexcept {
    return ring_cursor(base_, ring_index);
  }

  /// The only ways to change the buffer.
  void store(std::uint64_t& word, std::uint64_t value) {
    mark(&word);
    store_word(&word, value, std::memory_order_release);
  }
  /// Changes a number, in an entry whose epoch of change is true. Returns whether it is the entry's first
  /// change since the claim.
  bool store_value(layout::Slot& slot, std::uint64_t value) {
    const bool is_first = slot.changed_epoch != epoch_;
    if (is_first) {
      written_.add_entry(Place::at_offset(offset_of(&slot)));
      store_word(&slot.changed_epoch, epoch_, std::memory_order_release);
    }
    store_word(&slot.words[0], value, std::memory_order_release);
    return is_first;
  }
  /// Copies `bytes` to a word-aligned place and pads the last word with zeros.
  void store_bytes(std::uint64_t* words, std::string_view bytes);

 private:
  friend class Replicas;
  BackBuffer(std::byte* base, std::uint32_t index, std::uint64_t epoch, Differences&& empty) noexcept
      : base_(base), epoch_(epoch), index_(index), written_(std::move(empty)) {}

  [[nodiscard]] std::uint64_t offset_of(const void* address) const noexcept {
    return static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(address) - base_);
  }
  void mark(const void* address) { written_.add_line(static_cast<std::uint32_t>(offset_of(address) / layout::kLine)); }

  std::byte* base_;
  std::uint64_t epoch_;
  std::uint32_t index_;
  Differences written_;  // since the claim
};

}  // namespace shmstate::internal
