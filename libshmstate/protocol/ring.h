// The merger's side of a ring. What a ring is, and the producer's side: shmstate/detail/ring_producer.h.
#pragma once

#include <atomic>
#include <cstdint>

#include "shmstate/detail/ring_producer.h"

namespace shmstate::internal {

template <typename H>
class RingConsumer {
 public:
  RingConsumer(H& header, std::uint64_t data_bytes, std::uint64_t cursor) noexcept
      : header_(&header), data_bytes_(data_bytes), cursor_(cursor) {}

  /// Up to where records have been pushed.
  [[nodiscard]] std::uint64_t tail() const noexcept {
    return header_->tail.load(std::memory_order_acquire);  // pair: ring.tail, sees the records
  }
  /// Whether a tail is possible at all; anything else was not written by our producer.
  [[nodiscard]] bool is_sane(std::uint64_t tail) const noexcept {
    return tail >= cursor_ && tail - cursor_ <= data_bytes_ && tail % sizeof(std::uint64_t) == 0;
  }
  [[nodiscard]] std::uint64_t cursor() const noexcept { return cursor_; }
  void advance(std::uint64_t bytes) noexcept { cursor_ += bytes; }

  /// Gives everything before the cursor back to the producer. Returns true when it sleeps and must be woken.
  [[nodiscard]] bool release() noexcept {
    header_->head.exchange(cursor_, std::memory_order_seq_cst);    // pair: ring.head, and ring.waiting
    return header_->waiting.load(std::memory_order_seq_cst) != 0;  // pair: ring.waiting
  }

 private:
  H* header_;
  std::uint64_t data_bytes_;
  std::uint64_t cursor_;
};

}  // namespace shmstate::internal
