// Mutations as records in a ring, as the merger reads them: validation, which trusts nothing. Encoding: ring_record.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "layout/visit_value.h"
#include "shmstate/detail/ring_record.h"

namespace shmstate::internal {

/// The first word of a record, which alone says how the rest is made. The merger loads it once and decides by that
/// copy: a hostile writer may change what lies in the ring at any time.
class MutationHead {
 public:
  MutationHead() = default;
  explicit MutationHead(std::uint64_t word) noexcept : word_(word) {}
  [[nodiscard]] static MutationHead take(const std::byte* at) noexcept {
    return MutationHead(load_word(reinterpret_cast<const std::uint64_t*>(at), std::memory_order_relaxed));
  }

  /// Whether there is an id in place of a key.
  [[nodiscard]] bool is_named() const noexcept { return has(kById); }
  [[nodiscard]] std::uint32_t id() const noexcept { return static_cast<std::uint32_t>(word_); }
  [[nodiscard]] std::uint32_t value_bytes() const noexcept {
    return static_cast<std::uint32_t>(is_named() ? word_ >> 32 & 0xffff : word_);
  }
  /// When there is a key.
  [[nodiscard]] std::size_t key_bytes() const noexcept { return word_ >> 32 & 0xffff; }
  [[nodiscard]] Operation operation() const noexcept { return static_cast<Operation>(word_ >> 48 & 0xf); }
  [[nodiscard]] Type type() const noexcept { return static_cast<Type>(word_ >> 52 & 0xf); }
  [[nodiscard]] unsigned flags() const noexcept { return static_cast<unsigned>(word_ >> 56); }
  [[nodiscard]] bool has(RecordFlag flag) const noexcept { return (word_ >> 56 & flag) != 0; }

  /// A number by text, and neither ephemeral, nor with time to live or version: just the key and the value follow.
  [[nodiscard]] bool is_plain() const noexcept { return (word_ & (kFlagsButBatch | kValueBytesOfText)) == kWord; }
  /// By id, without attributes and with a value of one word, whatever that is and is done with it.
  [[nodiscard]] bool is_word_by_id() const noexcept {
    constexpr std::uint64_t kPlain = std::uint64_t{kById} << 56 | std::uint64_t{kWord} << 32;
    return (word_ & (kFlagsButBatch | kValueBytesOfNamed)) == kPlain;
  }
  /// The same of what is known: a number, or a set of eight bytes.
  [[nodiscard]] bool is_plain_by_id() const noexcept {
    constexpr std::uint64_t kLargeKind = std::uint64_t{0xc0} << 48;  // one question with those before
    constexpr std::uint64_t kPlain = std::uint64_t{kById} << 56 | std::uint64_t{kWord} << 32;
    return (word_ & (kFlagsButBatch | kValueBytesOfNamed | kLargeKind)) == kPlain &&
           ((kKindsOfNumber | kSetOfBytes) >> (word_ >> 48 & 63) & 1) != 0;
  }
  /// A set of bytes without attributes.
  [[nodiscard]] bool is_plain_bytes() const noexcept {
    return type() == Type::kBytes && (flags() & ~unsigned{kBatchContinues | kById}) == 0;
  }
  /// Set, add, max or min of a number, set of bytes, or erase, with what belongs to it. Of anything else only the
  /// length is known.
  [[nodiscard]] bool is_known() const noexcept {
    if ((flags() & ~unsigned{allowed_flags(operation())}) != 0) return false;
    const bool is_bytes = operation() == Operation::kSet && type() == Type::kBytes;
    const bool is_erase = operation() == Operation::kErase && type() == Type::kNone && value_bytes() == 0;
    return is_bytes || is_erase || (is_of_number() && value_bytes() == kWord);
  }

  /// Of the whole record; zero when that is no mutation, not even an unknown one.
  [[nodiscard]] std::size_t record_bytes() const noexcept {
    const std::size_t bytes = usual_record_bytes();
    return bytes != 0 ? bytes : other_record_bytes();
  }
  /// Of the whole record when it is just a number and a key, as nearly all are; zero when it is another one, or none.
  [[nodiscard]] std::size_t usual_record_bytes() const noexcept {
    if (!is_plain() || !is_of_number() || key_bytes() - 1 >= kKeyBytesMax) return 0;
    return sizeof *this + padded(key_bytes()) + kWord;
  }
  /// Between the head and the key.
  [[nodiscard]] std::size_t optional_words() const noexcept { return internal::optional_words(flags()); }

 private:
  /// Set, add, max or min of a number: a bit for each `kind` that says so.
  [[nodiscard]] bool is_of_number() const noexcept {
    const std::uint64_t kind = word_ >> 48 & 0xff;
    return kind < 64 && (kKindsOfNumber >> kind & 1) != 0;
  }
  static constexpr std::uint64_t kKindsOfNumber = [] {
    constexpr std::uint64_t kOperations =
        1U << static_cast<unsigned>(Operation::kSet) | 1U << static_cast<unsigned>(Operation::kAdd) |
        1U << static_cast<unsigned>(Operation::kMax) | 1U << static_cast<unsigned>(Operation::kMin);
    return kOperations << 16 * static_cast<unsigned>(Type::kInt64) | kOperations
                                                                         << 16 * static_cast<unsigned>(Type::kFloat64);
  }();
  static constexpr std::uint64_t kSetOfBytes = std::uint64_t{1} << kind_of(Operation::kSet, Type::kBytes);
  [[nodiscard, gnu::noinline]] std::size_t other_record_bytes() const noexcept {
    if (is_named()) return internal::record_bytes(0, value_bytes(), flags());
    if (key_bytes() - 1 >= kKeyBytesMax || value_bytes() > kValueBytesMax) return 0;
    return internal::record_bytes(key_bytes(), value_bytes(), flags());
  }

  static constexpr std::uint64_t kFlagsButBatch = std::uint64_t{0xff & ~unsigned{kBatchContinues}} << 56;
  static constexpr std::uint64_t kValueBytesOfText = 0xffff'ffff;
  static constexpr std::uint64_t kValueBytesOfNamed = std::uint64_t{0xffff} << 32;

  std::uint64_t word_ = 0;
};

/// A record as the merger sees it. The head is a private copy; `key` and `value` still lie in the ring, where a hostile
/// writer may change them at any time.
struct RecordView {
  Operation operation = Operation::kSet;
  Type type = Type::kNone;
  std::uint8_t flags = 0;
  std::uint16_t key_bytes = 0;
  std::uint32_t value_bytes = 0;
  std::size_t bytes = 0;  // of the whole record, when it was parsed
  std::uint64_t ttl_ns = 0;
  std::uint64_t version = 0;
  std::uint32_t id = 0;
  const std::uint64_t* key = nullptr;  // where it would be, of one by id
  const std::uint64_t* value = nullptr;

  /// The mutation again, of a record in private memory.
  [[nodiscard]] Mutation mutation() const noexcept {
    Mutation made{.operation = operation,
                  .key = {reinterpret_cast<const char*>(key), key_bytes},
                  .value = {},
                  .flags = static_cast<std::uint8_t>(flags & ~kBatchContinues),
                  .ttl_ns = ttl_ns,
                  .version = version,
                  .id = id};
    made.value = visit_value(
        type, [this] { return *value; }, [](auto number) { return ValueView(number); },
        [this] { return ValueView(std::string_view(reinterpret_cast<const char*>(value), value_bytes)); }, ValueView());
    return made;
  }
};

/// The record whose key lies there; `head` was taken from it, and is that of a mutation.
[[nodiscard]] inline RecordView view_of(MutationHead head, const std::uint64_t* key) noexcept {
  RecordView record{.operation = head.operation(),
                    .type = head.type(),
                    .flags = static_cast<std::uint8_t>(head.flags()),
                    .key_bytes = static_cast<std::uint16_t>(head.is_named() ? 0 : head.key_bytes()),
                    .value_bytes = head.value_bytes()};
  const std::uint64_t* word = key - head.optional_words();
  const auto take = [&](RecordFlag flag) { return head.has(flag) ? load_word(word++, std::memory_order_relaxed) : 0; };
  record.ttl_ns = take(kWithTtl);
  record.version = take(kWithVersion);
  record.id = head.is_named() ? head.id() : 0;
  record.key = key;
  record.value = key + words_of(record.key_bytes);
  return record;
}

/// Reads the record at `at`, of which `available` bytes were pushed. Returns false for anything that is not a mutation.
[[nodiscard]] inline bool parse_record(const std::byte* at, std::size_t available, RecordView& record) noexcept {
  if (available < sizeof(MutationHead)) return false;
  const MutationHead head = MutationHead::take(at);
  const std::size_t bytes = head.record_bytes();
  if (bytes == 0 || bytes > available) return false;
  record = view_of(head, reinterpret_cast<const std::uint64_t*>(at) + 1 + head.optional_words());
  record.bytes = bytes;
  return true;
}

}  // namespace shmstate::internal
