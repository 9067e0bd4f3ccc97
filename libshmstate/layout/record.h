// Mutations as records in a ring, as the merger reads them: validation, which trusts nothing. Encoding: ring_record.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "layout/visit_value.h"
#include "shmstate/detail/ring_record.h"

namespace shmstate::internal {

/// A record as the merger sees it. The head is a private copy; `key` and `value` still lie in the ring, where a hostile
/// writer may change them at any time.
struct RecordView {
  bool is_plain = false;  // a number, and neither ephemeral, nor with time to live or version
  Operation operation = Operation::kSet;
  Type type = Type::kNone;
  std::uint8_t flags = 0;
  std::uint16_t key_bytes = 0;
  std::uint32_t value_bytes = 0;
  std::size_t bytes = 0;  // of the whole record
  std::uint64_t ttl_ns = 0;
  std::uint64_t version = 0;
  std::uint64_t hint = 0;
  const std::uint64_t* key = nullptr;
  const std::uint64_t* value = nullptr;

  /// The mutation again, of a record in private memory.
  [[nodiscard]] Mutation mutation() const noexcept {
    Mutation made{.operation = operation,
                  .key = {reinterpret_cast<const char*>(key), key_bytes},
                  .value = {},
                  .flags = static_cast<std::uint8_t>(flags & ~kBatchContinues),
                  .ttl_ns = ttl_ns,
                  .version = version,
                  .hint = hint};
    made.value = visit_value(
        type, [this] { return *value; }, [](auto number) { return ValueView(number); },
        [this] { return ValueView(std::string_view(reinterpret_cast<const char*>(value), value_bytes)); }, ValueView());
    return made;
  }
};

/// Whether a kind says: set, add, max or min of a number.
[[nodiscard]] constexpr bool is_of_number(std::uint8_t kind) noexcept {
  constexpr unsigned kOperations =
      1U << static_cast<unsigned>(Operation::kSet) | 1U << static_cast<unsigned>(Operation::kAdd) |
      1U << static_cast<unsigned>(Operation::kMax) | 1U << static_cast<unsigned>(Operation::kMin);
  const unsigned type = kind >> 4;
  return (kOperations >> (kind & 0xf) & 1) != 0 &&
         (type == static_cast<unsigned>(Type::kInt64) || type == static_cast<unsigned>(Type::kFloat64));
}

/// Reads the record at `at`, of which `available` bytes were pushed. Returns false for anything that is not a mutation.
[[nodiscard]] inline bool parse_record(const std::byte* at, std::size_t available, RecordView& record) noexcept {
  layout::RecordHead head;
  if (available < sizeof head) return false;
  const std::uint64_t copy = load_word(reinterpret_cast<const std::uint64_t*>(at), std::memory_order_relaxed);
  std::memcpy(&head, &copy, sizeof head);
  record.operation = static_cast<Operation>(head.kind & 0xf);
  record.type = static_cast<Type>(head.kind >> 4);
  record.flags = head.flags;
  record.key_bytes = head.key_bytes;
  record.value_bytes = head.value_bytes;
  record.is_plain = is_of_number(head.kind) && (head.flags & ~(kWithHint | kBatchContinues)) == 0;
  if (record.is_plain && head.value_bytes == kWord && (head.flags & kWithHint) == 0) {  // nearly all are like that
    record.bytes = sizeof head + padded(head.key_bytes) + kWord;
    record.hint = 0;
    record.key = reinterpret_cast<const std::uint64_t*>(at + sizeof head);
    record.value = record.key + words_of(head.key_bytes);
    return head.key_bytes != 0 && head.key_bytes <= kKeyBytesMax && record.bytes <= available;
  }
  if (head.key_bytes == 0 || head.key_bytes > kKeyBytesMax || head.value_bytes > kValueBytesMax) return false;
  if ((head.flags & ~allowed_flags(record.operation)) != 0) return false;
  record.bytes = record_bytes(head.key_bytes, head.value_bytes, head.flags);
  if (record.bytes > available) return false;
  const auto* word = reinterpret_cast<const std::uint64_t*>(at + sizeof head);
  const auto take = [&](RecordFlag flag) {
    return (head.flags & flag) != 0 ? load_word(word++, std::memory_order_relaxed) : 0;
  };
  record.ttl_ns = take(kWithTtl);
  record.version = take(kWithVersion);
  record.hint = take(kWithHint);
  record.key = word;
  record.value = record.key + words_of(head.key_bytes);
  const bool is_number = (record.type == Type::kInt64 || record.type == Type::kFloat64) && head.value_bytes == kWord;
  switch (record.operation) {
    case Operation::kSet: return is_number || record.type == Type::kBytes;
    case Operation::kErase: return record.type == Type::kNone && head.value_bytes == 0;
    case Operation::kAdd:
    case Operation::kMax:
    case Operation::kMin: return is_number;
  }
  return false;
}

}  // namespace shmstate::internal
