#include "engine/back_buffer.h"

#include <type_traits>

#include "shmstate/detail/words.h"

namespace shmstate::internal {

// A claim cannot be copied, nor made out of nothing.
static_assert(!std::is_copy_constructible_v<BackBuffer> && !std::is_copy_assignable_v<BackBuffer>);
static_assert(std::is_nothrow_move_constructible_v<BackBuffer> && !std::is_move_assignable_v<BackBuffer>);
static_assert(!std::is_default_constructible_v<BackBuffer>);
static_assert(!std::is_constructible_v<BackBuffer, std::byte*, std::uint32_t, std::uint64_t, Differences&&>);

void BackBuffer::store_bytes(std::uint64_t* words, std::string_view bytes) {
  for_each_word(bytes,
                [&](std::size_t i, std::uint64_t word) { store_word(words + i, word, std::memory_order_release); });
  for (std::size_t i = 0; i < words_of(bytes.size()); i += layout::kLine / kWord) mark(words + i);
  if (!bytes.empty()) mark(words + words_of(bytes.size()) - 1);
}

}  // namespace shmstate::internal
