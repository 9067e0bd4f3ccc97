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
  std::uint32_t id = 0;       // with kById: of the key, in this ring
};

enum RecordFlag : std::uint8_t {
  kBatchContinues = 1,  // the next record belongs to the same batch
  kEphemeral = 2,       // set: the key goes when this ring's writer goes
  kWithTtl = 4,         // set: a word with nanoseconds, counted by the merger
  kWithVersion = 8,     // set, erase: a word; applied only if it is higher than that of the entry
  kById = 32,           // the head has the key's id, and no key follows
};
inline constexpr std::uint8_t kUnknownWordFlags = 64 | 128;  // stand for a word each, whatever they will mean
inline constexpr std::uint8_t kOptionalWordFlags = kWithTtl | kWithVersion | kUnknownWordFlags;
inline constexpr std::size_t kNamedValueBytesMax = 0xffff;  // of bytes that are set by id

[[nodiscard]] constexpr std::uint8_t allowed_flags(Operation operation) noexcept {
  switch (operation) {
    case Operation::kSet: return kBatchContinues | kEphemeral | kWithTtl | kWithVersion | kById;
    case Operation::kErase: return kBatchContinues | kWithVersion | kById;
    default: return kBatchContinues | kById;
  }
}

/// Between the head and the key: a word for each such flag.
[[nodiscard]] constexpr std::size_t optional_words(unsigned flags) noexcept {
  std::size_t words = 0;
  for (unsigned left = flags & kOptionalWordFlags; left != 0; left &= left - 1) ++words;
  return words;
}
/// `key_bytes`: none of a key that has an id.
[[nodiscard]] constexpr std::size_t record_bytes(std::size_t key_bytes, std::size_t value_bytes,
                                                 unsigned flags) noexcept {
  return sizeof(layout::RecordHead) + optional_words(flags) * kWord + padded(key_bytes) + padded(value_bytes);
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
  const std::size_t key_bytes = (mutation.flags & kById) != 0 ? 0 : mutation.key.size();
  return record_bytes(key_bytes, value_bytes_of(mutation.value), mutation.flags);
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

/// Copies `count` bytes, from `kEach` to twice as many, without a loop: the ends, which may overlap.
template <std::size_t kEach>
[[gnu::always_inline]] inline void copy_ends(std::byte* at, const char* from, std::size_t count) noexcept {
  std::memcpy(at, from, kEach);
  std::memcpy(at + count - kEach, from + count - kEach, kEach);
}

/// Copies bytes, one at least, and zeros behind them to the end of a word. Nearly all keys have 4 to 32 bytes.
[[gnu::always_inline]] inline void copy_padded(std::byte* at, std::string_view bytes) noexcept {
  const std::size_t count = bytes.size();
  std::memset(at + padded(count) - kWord, 0, kWord);
  if (count >= 16 && count <= 32) {
    copy_ends<16>(at, bytes.data(), count);
  } else if (count >= 8 && count < 16) {
    copy_ends<8>(at, bytes.data(), count);
  } else if (count >= 4 && count < 8) {
    copy_ends<4>(at, bytes.data(), count);
  } else {
    std::memcpy(at, bytes.data(), count);
  }
}

[[nodiscard]] constexpr std::uint8_t kind_of(Operation operation, Type type) noexcept {
  return static_cast<std::uint8_t>(static_cast<unsigned>(operation) | static_cast<unsigned>(type) << 4);
}

/// A layout::RecordHead as a word: made by shifting, since compilers make a mess of it otherwise.
[[nodiscard]] constexpr std::uint64_t head_word(std::size_t value_bytes, std::size_t key_bytes, std::uint8_t kind,
                                                unsigned flags) noexcept {
  return value_bytes | std::uint64_t{key_bytes} << 32 | std::uint64_t{kind} << 48 | std::uint64_t{flags} << 56;
}

/// The same of a layout::NamedRecordHead.
[[nodiscard]] constexpr std::uint64_t named_head_word(std::uint32_t id, std::size_t value_bytes, std::uint8_t kind,
                                                      unsigned flags) noexcept {
  return head_word(id, value_bytes, kind, flags | kById);
}

/// Writes a checked mutation to `at`, which has room for `record_bytes(mutation)`.
inline void encode_record(std::byte* at, const Mutation& mutation, std::uint8_t batch_flag) noexcept {
  const auto put = [&at](std::uint64_t word) {
    std::memcpy(at, &word, kWord);
    at += kWord;
  };
  const std::uint8_t kind = kind_of(mutation.operation, mutation.value.type());
  const unsigned flags = unsigned{mutation.flags} | batch_flag;
  const std::size_t value_bytes = value_bytes_of(mutation.value);
  const bool is_named = (mutation.flags & kById) != 0;
  put(is_named ? named_head_word(mutation.id, value_bytes, kind, flags)
               : head_word(value_bytes, mutation.key.size(), kind, flags));
  if ((mutation.flags & kWithTtl) != 0) put(mutation.ttl_ns);
  if ((mutation.flags & kWithVersion) != 0) put(mutation.version);
  if (!is_named) {
    copy_padded(at, mutation.key);
    at += padded(mutation.key.size());
  }
  switch (mutation.value.type()) {
    case Type::kBytes:
      if (!mutation.value.bytes().empty()) copy_padded(at, mutation.value.bytes());
      break;
    case Type::kFloat64: put(std::bit_cast<std::uint64_t>(mutation.value.float64())); break;
    case Type::kInt64: put(static_cast<std::uint64_t>(mutation.value.int64())); break;
    case Type::kNone: break;
  }
}

}  // namespace shmstate::internal
