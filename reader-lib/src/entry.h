// Taking entries and values out of a buffer. `kDamaged` may only mean that the merger is writing it. A slot that is
// handed on here lies within the committed pages, as far as its head says.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <type_traits>

#include "layout/visit_value.h"
#include "shmstate/detail/buffer_view.h"
#include "shmstate/reader.h"

namespace shmstate::internal {

[[nodiscard]] inline std::uint64_t number_bits(const layout::Slot& slot) noexcept {
  return load_word(slot.words, std::memory_order_acquire);
}

template <typename Number>
inline constexpr Type kTypeOf = std::is_same_v<Number, std::int64_t> ? Type::kInt64 : Type::kFloat64;

/// A double is also what an integer becomes, rounded where a double has no room for all its digits.
template <typename Number>
Status take_number(const layout::Slot& slot, const SlotHead& head, Number& value) noexcept {
  constexpr bool kTakesIntegers = std::is_same_v<Number, double>;
  if (head.type != kTypeOf<Number> && !(kTakesIntegers && head.type == Type::kInt64)) return Status::kWrongType;
  const std::uint64_t bits = number_bits(slot);
  if constexpr (kTakesIntegers) {
    const bool is_integer = head.type == Type::kInt64;
    value = is_integer ? static_cast<double>(static_cast<std::int64_t>(bits)) : std::bit_cast<double>(bits);
  } else {
    value = std::bit_cast<Number>(bits);
  }
  return Status::kOk;
}

inline void copy_words(const std::uint64_t* words, std::size_t bytes, char* out) noexcept {
  for (; bytes > 0; ++words) {
    const std::uint64_t word = load_word(words, std::memory_order_acquire);
    const std::size_t part = std::min(bytes, kWord);
    std::memcpy(out, &word, part);
    out += part;
    bytes -= part;
  }
}

inline Status take_bytes(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head, char* out) noexcept {
  const std::uint64_t* const words = buffer.value_words(slot, head);
  if (words == nullptr) return Status::kDamaged;
  copy_words(words, head.value_bytes, out);
  return Status::kOk;
}

inline Status take_string(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head,
                          std::string& value) {
  if (head.type != Type::kBytes) return Status::kWrongType;
  value.resize(head.value_bytes);
  return take_bytes(buffer, slot, head, value.data());
}

inline Status take_value(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head, Value& value) {
  return visit_value(
      head.type, [&] { return number_bits(slot); },
      [&](auto number) {
        value = number;
        return Status::kOk;
      },
      [&] {
        std::string* const held = std::get_if<std::string>(&value);
        return take_string(buffer, slot, head, held != nullptr ? *held : value.emplace<std::string>());
      },
      Status::kWrongType);
}

inline Status take_into(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head, Lookup& lookup) {
  return visit_value(
      head.type, [&] { return number_bits(slot); },
      [&](auto number) {
        lookup.value = number;
        return Status::kOk;
      },
      [&] {
        lookup.value_bytes = head.value_bytes;
        if (head.value_bytes > lookup.buffer.size()) return Status::kBufferTooSmall;
        lookup.value = std::string_view(lookup.buffer.data(), head.value_bytes);
        return take_bytes(buffer, slot, head, lookup.buffer.data());
      },
      Status::kWrongType);
}

/// Nothing when it is out of bounds.
[[nodiscard]] inline std::optional<std::string> take_key(const BufferView& buffer, const layout::Slot& slot,
                                                         const SlotHead& head) {
  const std::uint64_t* const words = buffer.key_words(slot, head);
  if (words == nullptr) return std::nullopt;
  std::string key(head.key_bytes(), '\0');
  copy_words(words, key.size(), key.data());
  return key;
}

[[nodiscard]] inline std::uint64_t optional_word(const layout::Slot& slot, const SlotHead& head,
                                                 SlotHead::Flag flag) noexcept {
  return head.has(flag) ? load_word(slot.words + head.word_of(flag), std::memory_order_acquire) : 0;
}
[[nodiscard]] inline std::uint64_t expiry_of(const layout::Slot& slot, const SlotHead& head) noexcept {
  return optional_word(slot, head, SlotHead::kHasExpiry);
}
[[nodiscard]] inline std::uint64_t version_of(const layout::Slot& slot, const SlotHead& head) noexcept {
  return optional_word(slot, head, SlotHead::kHasVersion);
}

/// Views into the buffer; false when something is out of bounds.
[[nodiscard]] inline bool view_entry(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head,
                                     EntryView& entry) noexcept {
  const std::uint64_t* const key = buffer.key_words(slot, head);
  const std::uint64_t* const value = buffer.value_words(slot, head);
  if (key == nullptr || value == nullptr) return false;
  entry.key = {reinterpret_cast<const char*>(key), head.key_bytes()};
  entry.changed_epoch = BufferView::changed_epoch(slot);
  entry.version = version_of(slot, head);
  entry.expiry_ns = expiry_of(slot, head);
  entry.ephemeral = head.has(SlotHead::kOwned);
  entry.value = visit_value(
      head.type, [&] { return load_word(value, std::memory_order_acquire); },
      [](auto number) { return ValueView(number); },
      [&] { return ValueView(std::string_view(reinterpret_cast<const char*>(value), head.value_bytes)); }, ValueView());
  return true;
}

}  // namespace shmstate::internal
