// The client of a queue, and the consumer in a process of its own that takes everything and applies nothing.
#pragma once

#include <atomic>
#include <cstring>

#include "contender.h"

namespace shmstate::bench {

/// What its consumer has taken.
struct Consumed {
  alignas(64) std::atomic<std::uint64_t> count{0};
  std::atomic<std::uint64_t> sum{0};
};

[[nodiscard]] inline std::uint64_t sum_of(const Item& item) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, item.key.data() + 16, sizeof word);
  return word ^ static_cast<std::uint64_t>(item.value);
}

/// Pushes, and at the end waits until exactly that has been taken.
template <typename Push>
class QueueClient final : public ClientOf<QueueClient<Push>> {
 public:
  QueueClient(Push push, const Consumed& consumed)
      : push_(std::move(push)),
        consumed_(consumed),
        count_(consumed.count.load(std::memory_order_acquire)),
        sum_(consumed.sum.load(std::memory_order_relaxed)) {}

  void set(std::string_view key, std::int64_t value) {
    Item item;
    std::memcpy(item.key.data(), key.data(), item.key.size());
    item.value = value;
    push_(item);
    ++count_;
  }
  void set_all(std::span<const Item> items, std::int64_t salt) override {
    ClientOf<QueueClient>::set_all(items, salt);
    add_sums(items, salt);
  }
  void set_each(std::span<const Item> items, std::int64_t salt, Durations& durations) override {
    ClientOf<QueueClient>::set_each(items, salt, durations);
    add_sums(items, salt);
  }
  [[nodiscard]] bool has_arrived(const Item&, std::int64_t) override {
    return consumed_.count.load(std::memory_order_acquire) == count_;
  }
  void finish() override {
    while (consumed_.count.load(std::memory_order_acquire) != count_) relax();
    must(consumed_.sum.load(std::memory_order_relaxed) == sum_, "the queue's consumer took something else");
  }

 private:
  void add_sums(std::span<const Item> items, std::int64_t salt) {
    for (Item item : items) {
      item.value += salt;
      sum_ += sum_of(item);
    }
  }

  Push push_;
  const Consumed& consumed_;
  std::uint64_t count_;
  std::uint64_t sum_;
};

template <typename Pop>
void consume(Consumed& consumed, Pop&& pop) {
  std::uint64_t count = 0;
  std::uint64_t sum = 0;
  for (Item item{};;) {
    if (pop(item)) {
      ++count;
      sum += sum_of(item);
      continue;
    }
    consumed.sum.store(sum, std::memory_order_relaxed);
    consumed.count.store(count, std::memory_order_release);
    relax();
  }
}

}  // namespace shmstate::bench
