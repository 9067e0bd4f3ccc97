// What programs inline of going over the entries of a snapshot.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "shmstate/detail/buffer_slot.h"
#include "shmstate/detail/shared_word.h"
#include "shmstate/value.h"

namespace shmstate::internal {

inline namespace layout_2 {

/// Views the entry in a slot with that head, if it is a `PlainNumber`. `entry` has the members of an EntryView.
template <typename Entry>
[[nodiscard, gnu::always_inline]] inline bool view_plain_number(const layout::Slot& slot, std::uint64_t word,
                                                                Entry& entry) noexcept {
  if (!PlainNumber::is(word)) return false;
  const SlotHead head = SlotHead::unpack(word);
  const std::uint64_t bits = load_word(PlainNumber::value_word(slot), std::memory_order_acquire);
  entry.key = {reinterpret_cast<const char*>(PlainNumber::key_words(slot)), head.key_bytes()};
  entry.value = head.type == Type::kInt64 ? ValueView(static_cast<std::int64_t>(bits)) : std::bit_cast<double>(bits);
  entry.changed_epoch = load_word(&slot.changed_epoch, std::memory_order_acquire);
  entry.version = 0;
  entry.expiry_ns = 0;
  entry.ephemeral = head.has(SlotHead::kOwned);
  return true;
}

}  // namespace layout_2
}  // namespace shmstate::internal
