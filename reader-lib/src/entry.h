// Taking entries and values out of a buffer. `kDamaged` may only mean that the merger is writing it.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "protocol/buffer_view.h"
#include "shmstate/reader.h"

namespace shmstate::internal {

inline Status take_number(Type type, const layout::Slot& slot, const SlotHead& head, std::uint64_t& bits) noexcept {
  if (head.type != type) return Status::kWrongType;
  bits = load_word(slot.words, std::memory_order_acquire);
  return Status::kOk;
}

/// Also of an integer, rounded where a double has no room for all its digits.
inline Status take_double(const layout::Slot& slot, const SlotHead& head, double& value) noexcept {
  if (head.type != Type::kFloat64 && head.type != Type::kInt64) return Status::kWrongType;
  const std::uint64_t bits = load_word(slot.words, std::memory_order_acquire);
  const bool is_integer = head.type == Type::kInt64;
  value = is_integer ? static_cast<double>(static_cast<std::int64_t>(bits)) : std::bit_cast<double>(bits);
  return Status::kOk;
}

inline Status take_bytes(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head, char* out) noexcept {
  const std::uint64_t* const words = buffer.value_words(slot, head);
  if (words == nullptr) return Status::kDamaged;
  std::size_t left = head.value_bytes;
  for (std::size_t i = 0; left > 0; ++i) {
    const std::uint64_t word = load_word(words + i, std::memory_order_acquire);
    const std::size_t bytes = std::min(left, kWord);
    std::memcpy(out, &word, bytes);
    out += bytes;
    left -= bytes;
  }
  return Status::kOk;
}

inline Status take_string(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head,
                          std::string& value) {
  if (head.type != Type::kBytes) return Status::kWrongType;
  value.resize(head.value_bytes);
  return take_bytes(buffer, slot, head, value.data());
}

inline Status take_value(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head, Value& value) {
  switch (head.type) {
    case Type::kInt64: value = static_cast<std::int64_t>(load_word(slot.words, std::memory_order_acquire)); break;
    case Type::kFloat64: value = std::bit_cast<double>(load_word(slot.words, std::memory_order_acquire)); break;
    case Type::kBytes: {
      std::string* const held = std::get_if<std::string>(&value);
      return take_string(buffer, slot, head, held != nullptr ? *held : value.emplace<std::string>());
    }
    default: return Status::kDamaged;
  }
  return Status::kOk;
}

[[nodiscard]] inline std::uint64_t expiry_of(const layout::Slot& slot, const SlotHead& head) noexcept {
  return head.has(SlotHead::kHasExpiry) ? load_word(slot.words + head.expiry_word(), std::memory_order_acquire) : 0;
}
[[nodiscard]] inline std::uint64_t version_of(const layout::Slot& slot, const SlotHead& head) noexcept {
  return head.has(SlotHead::kHasVersion) ? load_word(slot.words + head.version_word(), std::memory_order_acquire) : 0;
}

/// Of a slot whose head says `SlotHead::is_plain_number`.
inline void view_plain_number(const layout::Slot& slot, const SlotHead& head, EntryView& entry) noexcept {
  const std::uint64_t bits = load_word(slot.words, std::memory_order_acquire);
  entry.key = {reinterpret_cast<const char*>(slot.words + 1), head.key_bytes};
  entry.value = head.type == Type::kInt64 ? ValueView(static_cast<std::int64_t>(bits)) : std::bit_cast<double>(bits);
  entry.changed_epoch = BufferView::changed_epoch(slot);
  entry.version = 0;
  entry.expiry_ns = 0;
  entry.ephemeral = head.owner != 0;
}

/// Views into the buffer; false when something is out of bounds.
[[nodiscard]] inline bool view_entry(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head,
                                     EntryView& entry) noexcept {
  const std::uint64_t* const key = buffer.key_words(slot, head);
  const std::uint64_t* const value = buffer.value_words(slot, head);
  if (key == nullptr || value == nullptr) return false;
  entry.key = {reinterpret_cast<const char*>(key), head.key_bytes};
  entry.changed_epoch = BufferView::changed_epoch(slot);
  entry.version = version_of(slot, head);
  entry.expiry_ns = expiry_of(slot, head);
  entry.ephemeral = head.owner != 0;
  switch (head.type) {
    case Type::kInt64: entry.value = static_cast<std::int64_t>(load_word(value, std::memory_order_acquire)); break;
    case Type::kFloat64: entry.value = std::bit_cast<double>(load_word(value, std::memory_order_acquire)); break;
    default: entry.value = std::string_view(reinterpret_cast<const char*>(value), head.value_bytes); break;
  }
  return true;
}

}  // namespace shmstate::internal
