// Room for the cursors of rings: the first lie in the page of the buffer's header, more of them in pages of the pool.
#pragma once

#include <cstdint>

#include "engine/back_buffer.h"
#include "engine/page_allocator.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate::internal {

class Cursors {
 public:
  explicit Cursors(PageAllocator& pages) : pages_(pages) {}

  /// How many rings have a cursor, free or not.
  [[nodiscard]] std::uint64_t capacity() const noexcept { return more_.capacity(); }
  /// Makes sure that the ring of that index has one; false when there is no memory.
  [[nodiscard]] bool reserve(BackBuffer& back, std::uint32_t ring_index);
  /// Takes over those of a buffer; false when that is damaged.
  [[nodiscard]] bool resume(const BufferView& buffer);

 private:
  PageAllocator& pages_;
  CursorPages more_;
};

}  // namespace shmstate::internal
