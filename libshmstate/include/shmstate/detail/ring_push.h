// What is compiled into the programs that push: the hot path of a push, and of adding to a batch. Everything that needs
// a question (is there room, is this still the place, is this the process) is the library's, which is called for it.
//
// So this is part of the binary interface, as the layout is: it may change with the name of the inline namespace only.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "shmstate/detail/crash_point.h"
#include "shmstate/detail/ring_doorbell.h"
#include "shmstate/detail/ring_layout.h"
#include "shmstate/detail/ring_producer.h"
#include "shmstate/detail/ring_record.h"
#include "shmstate/status.h"
#include "shmstate/value.h"

namespace shmstate::internal {

struct Batching;

inline namespace layout_2 {

static_assert(layout::kLayoutMajor == 2, "the namespace has its name");

[[nodiscard, gnu::always_inline]] inline std::string_view bytes_of(const ValueView& value) noexcept {
  return value.type() == Type::kBytes ? value.bytes() : std::string_view();
}

/// What is done to a key, without attributes, in words. It is plain when nothing is wrong with it and its value is a
/// number: nearly all are like that.
class BareMutation {
 public:
  [[gnu::always_inline]] BareMutation(Operation operation, const ValueView& value) noexcept
      : kind_(kind_of(operation, value.type())), bits_(bits_of(value)) {
    const bool must_be_number = value.type() == Type::kFloat64 && operation != Operation::kSet;
    is_plain_ =
        must_be_number ? !std::isnan(value.float64()) : value.type() == Type::kInt64 || value.type() == Type::kFloat64;
  }

  [[nodiscard]] bool is_plain() const noexcept { return is_plain_; }
  [[nodiscard]] std::uint8_t kind() const noexcept { return kind_; }
  /// Of the number.
  [[nodiscard]] std::uint64_t bits() const noexcept { return bits_; }

 protected:
  [[gnu::always_inline]] static void put(std::byte* at, std::uint64_t word) noexcept { std::memcpy(at, &word, kWord); }

 private:
  [[gnu::always_inline]] static std::uint64_t bits_of(const ValueView& value) noexcept {
    switch (value.type()) {
      case Type::kFloat64: return std::bit_cast<std::uint64_t>(value.float64());
      case Type::kInt64: return static_cast<std::uint64_t>(value.int64());
      default: return 0;
    }
  }

  std::uint8_t kind_;
  bool is_plain_ = false;
  std::uint64_t bits_;
};

/// By the key's bytes.
class TextMutation : public BareMutation {
 public:
  [[gnu::always_inline]] TextMutation(Operation operation, std::string_view key, const ValueView& value) noexcept
      : BareMutation(operation, value), key_(key) {}

  [[nodiscard]] bool is_plain() const noexcept { return BareMutation::is_plain() && key_.size() - 1 < kKeyBytesMax; }
  /// Of the record.
  [[nodiscard]] std::size_t bytes() const noexcept { return record_bytes(key_.size(), kWord, 0); }
  [[gnu::always_inline]] void encode(std::byte* at, std::uint8_t batch_flag) const noexcept {
    put(at, head_word(kWord, key_.size(), kind(), batch_flag));
    copy_padded(at + sizeof(layout::RecordHead), key_);
    put(at + bytes() - kWord, bits());
  }

 private:
  std::string_view key_;
};

/// By the id that the key has in the ring.
class NamedMutation : public BareMutation {
 public:
  [[gnu::always_inline]] NamedMutation(Operation operation, std::uint32_t id, const ValueView& value) noexcept
      : BareMutation(operation, value), id_(id) {}

  [[nodiscard]] static constexpr std::size_t bytes() noexcept { return record_bytes(0, kWord, kById); }
  [[gnu::always_inline]] void encode(std::byte* at, std::uint8_t batch_flag) const noexcept {
    put(at, named_head_word(id_, kWord, kind(), batch_flag));
    put(at + sizeof(layout::NamedRecordHead), bits());
  }

 private:
  std::uint32_t id_;
};

/// A writer's ring, as far as a push that needs no question must know it.
class RingPusher : public RingProducer<layout::RingHeader> {
 public:
  RingPusher(layout::RingHeader& header, std::byte* data, std::uint64_t data_bytes, const layout::Sleep& sleep) noexcept
      : RingProducer(header, data_bytes), ring_id(header.ring_id), data_(data), mask_(data_bytes - 1), sleep_(&sleep) {}

  /// False when a question must be asked first; then nothing was pushed.
  template <typename Bare>
  [[nodiscard, gnu::always_inline]] bool try_push(const Bare& mutation) noexcept {
    const std::size_t bytes = mutation.bytes();
    if (!may_push(bytes)) return false;
    __builtin_prefetch(here() + kPrefetchBytes, 1);
    mutation.encode(here(), 0);
    publish(bytes, 1);
    return true;
  }
  /// Whether that needs no question: never in a shared ring, in a child of fork, or while mutations are conflated.
  [[nodiscard]] bool may_push(std::size_t bytes) const noexcept { return tail() + bytes <= *unasked_end; }
  /// Where the next record begins; all the ring's bytes are contiguous from there.
  [[nodiscard]] std::byte* here() const noexcept { return data_ + (tail() & mask_); }
  /// Publishes the records of `count` mutations.
  void publish(std::size_t bytes, std::uint64_t count) noexcept {
    crash_point(CrashPoint::kRecordWritten);
    push(bytes);
    crash_point(CrashPoint::kTailMoved);
    pushed += count;
  }
  /// After each push; if it is not, somebody must wake it.
  [[nodiscard]] bool is_merger_awake() const noexcept { return phase_after_push(*sleep_) % 2 == 0; }

  std::uint64_t ring_id;                       // ids of keys belong to it
  const std::uint64_t* unasked_end = nullptr;  // the word with the position below which records may be pushed
  std::uint64_t pushed = 0;                    // mutations

 private:
  static constexpr std::size_t kPrefetchBytes = 1024;  // lines that the merger had last

  std::byte* data_;
  std::uint64_t mask_;
  const layout::Sleep* sleep_;
};

/// The records of a writer's open batch, in private memory. It belongs to the writer and its batches, and outlives the
/// writer while there are batches.
struct OpenBatch {
  /// False when a question must be asked first.
  template <typename Bare>
  [[nodiscard, gnu::always_inline]] bool try_add(std::uint64_t to, const Bare& mutation) noexcept {
    const std::size_t end = bytes + mutation.bytes();
    if (to != number || count >= unasked_count || end > *unasked_bytes) return false;
    mutation.encode(records + bytes, kBatchContinues);
    last = bytes;
    bytes = end;
    ++count;
    return true;
  }

  std::uint64_t number = 0;  // of the batch that is open; 0: none is
  std::byte* records = nullptr;
  std::size_t bytes = 0;
  std::size_t last = 0;  // where the last record begins
  std::uint64_t count = 0;
  std::uint64_t unasked_count = 0;               // how many mutations it may have
  const std::uint64_t* unasked_bytes = nullptr;  // and how many bytes; zero in a child of fork
  const RingPusher* pusher = nullptr;
  Batching* writer = nullptr;  // none once it is gone
};

}  // namespace layout_2
}  // namespace shmstate::internal
