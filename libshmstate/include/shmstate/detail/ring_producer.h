// The ring: one writer's bounded SPSC byte queue (after Lamport; with cached indices as in rigtorp's SPSCQueue and
// MCRingBuffer: each side looks at the other's index only when its private copy says full or empty).
//
//   producer: owns tail; writes a record behind it, then moves it with one release store
//   merger:   owns head; applies records, publishes, then moves it with one release store (protocol/ring.h)
//
// Positions only grow; they are bytes of the stream, and the data is mapped twice, so a record never wraps. A batch is
// many records and one store of tail: atomic by construction, and a producer that dies before that store has pushed
// nothing. Templates, so that a model checker can run exactly this code: `H` has `tail`, `head` and `waiting`.
#pragma once

#include <atomic>
#include <cstdint>

namespace shmstate::internal {

template <typename H>
class RingProducer {
 public:
  RingProducer(H& header, std::uint64_t data_bytes) noexcept
      : header_(&header), data_bytes_(data_bytes), tail_(header.tail.load(std::memory_order_relaxed)) {
    refresh();
  }

  [[nodiscard]] std::uint64_t tail() const noexcept { return tail_; }
  /// In a shared ring, after taking its lock: others have pushed meanwhile.
  void take_over() noexcept {
    tail_ = header_->tail.load(std::memory_order_relaxed);  // the lock orders the pushers
    refresh();
  }
  /// The position below which records may be written, as far as this side knows.
  [[nodiscard]] std::uint64_t room_end() const noexcept { return room_end_; }
  [[nodiscard]] bool has_room(std::uint64_t bytes) const noexcept { return tail_ + bytes <= room_end_; }

  /// Looks at the merger's index. A head beyond the tail is a lie and is not believed.
  void refresh() noexcept {
    const std::uint64_t head = header_->head.load(std::memory_order_acquire);  // pair: ring.head, frees the bytes
    if (head <= tail_ && tail_ - head <= data_bytes_) room_end_ = head + data_bytes_;
  }

  /// Publishes `bytes` that were written at `tail()`.
  void push(std::uint64_t bytes) noexcept {
    tail_ += bytes;
    header_->tail.store(tail_, std::memory_order_release);  // pair: ring.tail, publishes the records
  }

  /// Before sleeping on `head`: after this, a head that moves wakes us, or `refresh` sees it moved.
  void announce_wait() noexcept { header_->waiting.store(1, std::memory_order_seq_cst); }  // pair: ring.waiting
  [[nodiscard]] std::uint64_t head_before_sleep() const noexcept {
    return header_->head.load(std::memory_order_seq_cst);  // pair: ring.waiting
  }
  void end_wait() noexcept { header_->waiting.store(0, std::memory_order_relaxed); }

 private:
  H* header_;
  std::uint64_t data_bytes_;
  std::uint64_t tail_;
  std::uint64_t room_end_ = 0;
};

}  // namespace shmstate::internal
