// The state inside a buffer, as the merger changes it. Readers look at it through BufferView; docs/layout.md draws it.
//
// Extendible hashing (Fagin et al. 1979, as in Go 1.24's map) over segments of 67 groups; a group has 15 slots and 16
// tag bytes (Swiss tables; the overflow count that ends a search without tombstones is that of Folly's F14). A full
// segment splits in two, so that no mutation ever pays for the whole state.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/buffer_view.h"
#include "core/feed.h"
#include "core/layout.h"
#include "core/page_allocator.h"
#include "core/replica.h"
#include "core/slot.h"

namespace shmstate {

/// The value half of a mutation, with bytes as words that need not be padded.
struct NewValue {
  Type type = Type::kNone;
  std::uint64_t number = 0;  // the bits of an int64 or float64
  std::string_view bytes;
};

class Table {
 public:
  Table(Replicas& replicas, PageAllocator& pages, Feed& feed, std::uint64_t hash_seed, std::uint64_t pages_max);

  /// Makes the empty table in the back buffer. Returns false when there is no memory.
  [[nodiscard]] bool create();
  /// Takes over the table of a buffer (identical to the back buffer later on); false when it is damaged.
  [[nodiscard]] bool resume(const std::byte* buffer);

  // Mutations of the back buffer. Nothing means it was applied; otherwise nothing changed. `epoch` is the one being
  // written. A key's bytes are private to the merger.
  [[nodiscard]] std::optional<layout::Reject> set(const Key& key, const NewValue& value, std::uint64_t epoch);
  [[nodiscard]] std::optional<layout::Reject> add(const Key& key, const NewValue& delta, std::uint64_t epoch);
  void erase(const Key& key, std::uint64_t epoch, EraseReason reason);

  /// Asks the caches for the first, then the second line that a mutation of this key will touch.
  void prefetch_tags(std::uint64_t hash) const noexcept;
  void prefetch_slot(std::uint64_t hash) const noexcept;

  [[nodiscard]] std::uint64_t entry_count() const noexcept { return entry_count_; }
  [[nodiscard]] std::uint64_t segment_count() const noexcept { return segment_count_; }
  [[nodiscard]] std::uint64_t split_count() const noexcept { return split_count_; }
  [[nodiscard]] const Heap& heap() const noexcept { return heap_; }

 private:
  // A segment splits when a further entry would leave fewer free slots than this: searches stay short.
  static constexpr std::uint32_t kSegmentEntriesMax = layout::kSegmentSlots * 19 / 20;

  [[nodiscard]] BufferView view() const noexcept { return {replicas_.back(), pages_max_}; }
  [[nodiscard]] layout::Segment& segment(std::uint64_t page) const noexcept;
  [[nodiscard]] layout::Slot& slot(const Location& location) const noexcept;

  [[nodiscard]] std::optional<layout::Reject> insert(const Key& key, const NewValue& value, std::uint64_t epoch);
  [[nodiscard]] std::optional<layout::Reject> replace(const Location& location, const SlotHead& old, const Key& key,
                                                      const NewValue& value, std::uint64_t epoch);
  /// Allocates what `wanted` needs in the heap and `old` does not bring along; false when there is no memory.
  struct Blocks {
    std::uint64_t value = 0;
    std::uint64_t key = 0;
  };
  [[nodiscard]] bool allocate_blocks(const layout::Slot* slot, const SlotHead& old, const SlotHead& wanted, Blocks& blocks);
  void write_entry(layout::Slot& slot, const SlotHead& head, const Key& key, const NewValue& value, const Blocks& blocks);
  void write_value(layout::Slot& slot, const SlotHead& head, const NewValue& value, const Blocks& blocks);
  void changed(const Location& location, std::uint64_t epoch);

  void set_tag(std::uint64_t page, std::uint32_t group, std::size_t index, std::uint8_t tag);
  [[nodiscard]] std::uint32_t claim_slot(std::uint64_t page, std::uint64_t hash);
  void free_slot(const Location& location, std::uint64_t hash);
  void release_blocks(const layout::Slot& slot, const SlotHead& head, const Blocks& keep);

  [[nodiscard]] std::uint64_t page_of(std::uint64_t hash) const noexcept;
  void clear_segment(std::uint64_t page, unsigned depth);
  void set_directory_entry(std::uint32_t index, std::uint64_t page);
  [[nodiscard]] bool split(std::uint64_t page, std::uint64_t hash);
  void move_half(std::uint64_t from, std::uint64_t to, unsigned bit);
  [[nodiscard]] bool double_directory();
  [[nodiscard]] std::uint64_t hash_of(const layout::Slot& slot, const SlotHead& head) const noexcept;
  [[nodiscard]] bool adopt_segment(const BufferView& buffer, std::uint64_t page, std::uint32_t index, unsigned depth);

  Replicas& replicas_;
  PageAllocator& pages_;
  Heap heap_;
  Feed& feed_;
  std::uint64_t hash_seed_;
  std::uint64_t pages_max_;
  std::uint64_t entry_count_ = 0;
  std::uint64_t segment_count_ = 0;
  std::uint64_t split_count_ = 0;
  std::vector<std::uint16_t> entries_of_page_;  // entries of the segment in a page
};

}  // namespace shmstate
