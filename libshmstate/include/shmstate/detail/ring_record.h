// Mutations as records in a ring: what a writer encodes.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "shmstate/detail/ring_layout.h"
#include "shmstate/detail/words.h"
#include "shmstate/status.h"
#include "shmstate/value.h"

namespace shmstate::internal {

enum class Operation : std::uint8_t { kSet = 1, kErase = 2, kAdd = 3, kMax = 4, kMin = 5 };

struct Mutation {
  Operation operation = Operation::kSet;
  std::string_view key;
  ValueView value;            // type kNone for erase
  std::uint8_t flags = 0;     // RecordFlag, except kBatchContinues
  std::uint64_t ttl_ns = 0;   // with kWithTtl
  std::uint64_t version = 0;  // with kWithVersion
  std::uint64_t hint = 0;     // with kWithHint: a packed Place, where the key was last seen
};

enum RecordFlag : std::uint8_t {
  kBatchContinues = 1,  // the next record belongs to the same batch
  kEphemeral = 2,       // set: the key goes when this ring's writer goes
  kWithTtl = 4,         // set: a word with nanoseconds, counted by the merger
  kWithVersion = 8,     // set, erase: a word; applied only if it is higher than that of the entry
  kWithHint = 16,       // a word that says where the merger may find the key; it looks before it believes
};
inline constexpr std::uint8_t kOptionalWordFlags = kWithTtl | kWithVersion | kWithHint;

[[nodiscard]] constexpr std::uint8_t allowed_flags(Operation operation) noexcept {
  switch (operation) {
    case Operation::kSet: return kBatchContinues | kEphemeral | kWithTtl | kWithVersion | kWithHint;
    case Operation::kErase: return kBatchContinues | kWithVersion | kWithHint;
    default: return kBatchContinues | kWithHint;
  }
}

[[nodiscard]] constexpr std::size_t record_bytes(std::size_t key_bytes, std::size_t value_bytes,
                                                 unsigned flags) noexcept {
  const std::size_t optional_words =
      (flags & kWithTtl ? 1U : 0U) + (flags & kWithVersion ? 1U : 0U) + (flags & kWithHint ? 1U : 0U);
  return sizeof(layout::RecordHead) + optional_words * kWord + padded(key_bytes) + padded(value_bytes);
}

inline constexpr std::size_t kRecordBytesMax = record_bytes(kKeyBytesMax, kValueBytesMax, kOptionalWordFlags);

[[nodiscard]] inline std::size_t value_bytes_of(const ValueView& value) noexcept {
  switch (value.type()) {
    case Type::kBytes: return value.bytes().size();
    case Type::kNone: return 0;
    default: return kWord;
  }
}
[[nodiscard]] inline std::size_t record_bytes(const Mutation& mutation) noexcept {
  return record_bytes(mutation.key.size(), value_bytes_of(mutation.value), mutation.flags);
}

/// What is wrong with a mutation before it is pushed.
[[nodiscard]] inline Status check(const Mutation& mutation) noexcept {
  if (mutation.key.empty()) return Status::kKeyEmpty;
  if (mutation.key.size() > kKeyBytesMax) return Status::kKeyTooLong;
  if (mutation.operation == Operation::kErase) return Status::kOk;
  switch (mutation.value.type()) {
    case Type::kNone: return Status::kOutOfRange;
    case Type::kBytes:
      if (mutation.operation != Operation::kSet) return Status::kWrongType;
      return mutation.value.bytes().size() <= kValueBytesMax ? Status::kOk : Status::kValueTooBig;
    case Type::kFloat64: {
      const bool combines = mutation.operation != Operation::kSet;
      return combines && std::isnan(mutation.value.float64()) ? Status::kOutOfRange : Status::kOk;
    }
    case Type::kInt64: return Status::kOk;
  }
  return Status::kInvalidArgument;
}

/// Writes a checked mutation to `at`, which has room for `record_bytes(mutation)`.
inline void encode_record(std::byte* at, const Mutation& mutation, std::uint8_t batch_flag) noexcept {
  const Type type = mutation.value.type();
  const layout::RecordHead head{
      .value_bytes = static_cast<std::uint32_t>(value_bytes_of(mutation.value)),
      .key_bytes = static_cast<std::uint16_t>(mutation.key.size()),
      .kind = static_cast<std::uint8_t>(static_cast<unsigned>(mutation.operation) | static_cast<unsigned>(type) << 4),
      .flags = static_cast<std::uint8_t>(mutation.flags | batch_flag)};
  std::memcpy(at, &head, sizeof head);
  auto* word = reinterpret_cast<std::uint64_t*>(at + sizeof head);
  if ((mutation.flags & kWithTtl) != 0) *word++ = mutation.ttl_ns;
  if ((mutation.flags & kWithVersion) != 0) *word++ = mutation.version;
  if ((mutation.flags & kWithHint) != 0) *word++ = mutation.hint;
  for_each_word(mutation.key, [&](std::size_t i, std::uint64_t value) { word[i] = value; });
  word += words_of(mutation.key.size());
  switch (type) {
    case Type::kBytes: {
      const std::string_view bytes = mutation.value.bytes();
      if (bytes.size() >= kWord) std::memcpy(word, bytes.data(), bytes.size() / kWord * kWord);  // data() may be null
      if (bytes.size() % kWord != 0) word[bytes.size() / kWord] = tail_word(bytes);
      break;
    }
    case Type::kFloat64: *word = std::bit_cast<std::uint64_t>(mutation.value.float64()); break;
    case Type::kInt64: *word = static_cast<std::uint64_t>(mutation.value.int64()); break;
    case Type::kNone: break;
  }
}

}  // namespace shmstate::internal
