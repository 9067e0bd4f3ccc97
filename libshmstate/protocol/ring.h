// The ring: one writer's bounded SPSC byte queue (after Lamport; with cached indices as in rigtorp's SPSCQueue and
// MCRingBuffer: each side looks at the other's index only when its private copy says full or empty).
//
//   producer: owns tail; writes a record behind it, then moves it with one release store
//   merger:   owns head; applies records, publishes, then moves it with one release store
//
// Positions only grow; they are bytes of the stream, and the data is mapped twice, so a record never wraps. A batch is
// many records and one store of tail: atomic by construction, and a producer that dies before that store has pushed
// nothing. Templates, so that a model checker can run exactly this code: `H` has `tail`, `head` and `waiting`.
#pragma once

#include <algorithm>
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
