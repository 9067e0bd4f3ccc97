// Mutations as records in a ring: encoding by the writer, validation by the merger, which trusts nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "core/layout.h"
#include "core/words.h"
#include "shmstate/status.h"
#include "shmstate/value.h"

namespace shmstate {

enum class Operation : std::uint8_t { kSet = 1, kErase = 2, kAdd = 3 };

struct Mutation {
  Operation operation = Operation::kSet;
  std::string_view key;
  ValueView value;  // type kNone for erase
};

enum RecordFlag : std::uint8_t {
  kBatchContinues = 1,  // the next record belongs to the same batch
};
inline constexpr std::uint8_t kKnownRecordFlags = kBatchContinues;

[[nodiscard]] constexpr std::size_t record_bytes(std::size_t key_bytes, std::size_t value_bytes) noexcept {
  return sizeof(layout::RecordHead) + padded(key_bytes) + padded(value_bytes);
}
inline constexpr std::size_t kRecordBytesMax = record_bytes(kKeyBytesMax, kValueBytesMax);

[[nodiscard]] inline std::size_t value_bytes_of(const ValueView& value) noexcept {
  switch (value.type()) {
    case Type::kBytes: return value.bytes().size();
    case Type::kNone: return 0;
    default: return kWord;
  }
}
[[nodiscard]] inline std::size_t record_bytes(const Mutation& mutation) noexcept {
  return record_bytes(mutation.key.size(), value_bytes_of(mutation.value));
}

/// What is wrong with a mutation before it is pushed.
[[nodiscard]] inline Status check(const Mutation& mutation) noexcept {
  if (mutation.key.empty()) return Status::kKeyEmpty;
  if (mutation.key.size() > kKeyBytesMax) return Status::kKeyTooLong;
  if (mutation.operation == Operation::kErase) return Status::kOk;
  switch (mutation.value.type()) {
    case Type::kNone: return Status::kOutOfRange;
    case Type::kBytes:
      if (mutation.operation == Operation::kAdd) return Status::kWrongType;
      return mutation.value.bytes().size() <= kValueBytesMax ? Status::kOk : Status::kValueTooBig;
    default: return Status::kOk;
  }
}

/// Writes a checked mutation to `at`, which has room for `record_bytes(mutation)`.
inline void encode_record(std::byte* at, const Mutation& mutation, std::uint8_t flags) noexcept {
  const Type type = mutation.value.type();
  const layout::RecordHead head{
      .value_bytes = static_cast<std::uint32_t>(value_bytes_of(mutation.value)),
      .key_bytes = static_cast<std::uint16_t>(mutation.key.size()),
      .kind = static_cast<std::uint8_t>(static_cast<unsigned>(mutation.operation) | static_cast<unsigned>(type) << 4),
      .flags = flags};
  std::memcpy(at, &head, sizeof head);
  auto* word = reinterpret_cast<std::uint64_t*>(at + sizeof head);
  for_each_word(mutation.key, [&](std::size_t i, std::uint64_t value) { word[i] = value; });
  word += words_of(mutation.key.size());
  switch (type) {
    case Type::kBytes: {
      const std::string_view bytes = mutation.value.bytes();
      std::memcpy(word, bytes.data(), bytes.size() / kWord * kWord);
      if (bytes.size() % kWord != 0) word[bytes.size() / kWord] = tail_word(bytes);
      break;
    }
    case Type::kFloat64: *word = std::bit_cast<std::uint64_t>(mutation.value.float64()); break;
    case Type::kInt64: *word = static_cast<std::uint64_t>(mutation.value.int64()); break;
    case Type::kNone: break;
  }
}

/// A record as the merger sees it. The head is a private copy; `key` and `value` still lie in the ring, where a hostile
/// writer may change them at any time.
struct RecordView {
  Operation operation = Operation::kSet;
  Type type = Type::kNone;
  std::uint8_t flags = 0;
  std::uint16_t key_bytes = 0;
  std::uint32_t value_bytes = 0;
  std::size_t bytes = 0;  // of the whole record
  const std::uint64_t* key = nullptr;
  const std::uint64_t* value = nullptr;
};

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
  if (head.key_bytes == 0 || head.key_bytes > kKeyBytesMax || head.value_bytes > kValueBytesMax) return false;
  if ((head.flags & ~kKnownRecordFlags) != 0) return false;
  record.bytes = record_bytes(head.key_bytes, head.value_bytes);
  if (record.bytes > available) return false;
  record.key = reinterpret_cast<const std::uint64_t*>(at + sizeof head);
  record.value = record.key + words_of(head.key_bytes);
  const bool is_number = (record.type == Type::kInt64 || record.type == Type::kFloat64) && head.value_bytes == kWord;
  switch (record.operation) {
    case Operation::kSet: return is_number || record.type == Type::kBytes;
    case Operation::kErase: return record.type == Type::kNone && head.value_bytes == 0;
    case Operation::kAdd: return is_number;
  }
  return false;
}

}  // namespace shmstate
