// The common point read in as few instructions as it can have: a number under a short key, at the first place where it
// can be, of the epoch that was read last. Everything else is for BufferView.
#pragma once

#include "protocol/buffer_view.h"
#include "protocol/publish.h"

namespace shmstate::internal {

class FastPlace {
 public:
  explicit FastPlace(const layout::Publication& publication) noexcept : publication_(&publication) {}

  /// From now on looks in that epoch, as long as it is current.
  void aim(Version version, const BufferView& buffer) noexcept {
    const std::uint64_t pages = buffer.page_count();
    const BufferView::Directory directory = buffer.directory(pages);
    if (directory.words == nullptr || !is_intact(*publication_, version)) return;
    version_ = version;
    epoch_word_ = version.pack();
    buffer_ = buffer;
    pages_ = pages;
    directory_ = directory;
  }

  // False means nothing: ask again in the general way.

  /// Takes the number that lies where the hash says.
  [[nodiscard, gnu::always_inline]] bool take_at_home(const HashedKey& key, Type type,
                                                      std::uint64_t& bits) const noexcept {
    if (!is_current()) return false;
    const std::uint64_t page = directory_.page_of(key.hash);
    if (!BufferView::is_segment_page(page, pages_)) return false;
    const layout::Segment& segment = buffer_.segment(page);
    const std::uint32_t group = home_group(key.hash);
    const std::uint32_t match = TagWords(segment.groups[group]).match(tag_of(key.hash));
    if (match == 0) return false;
    return take_from(segment.slots[BufferView::first_slot(group, match)], key.bytes, type, bits);
  }
  /// Takes the number that lies where the key was seen before, in this instance.
  [[nodiscard, gnu::always_inline]] bool take_at(const Place& at, std::string_view key, Type type,
                                                 std::uint64_t& bits) const noexcept {
    if (!is_current()) return false;
    if (!BufferView::is_segment_page(at.page, pages_) || at.slot >= layout::kSegmentSlots) return false;
    return take_from(buffer_.segment(at.page).slots[at.slot], key, type, bits);
  }

 private:
  [[nodiscard]] bool is_current() const noexcept {
    return publication_->epoch_word.load(std::memory_order_acquire) == epoch_word_;  // pair: epoch_word
  }
  [[nodiscard, gnu::always_inline]] bool take_from(const layout::Slot& slot, std::string_view key, Type type,
                                                   std::uint64_t& bits) const noexcept {
    const std::uint64_t head = load_word(&slot.head, std::memory_order_acquire);
    if (!PlainNumber::is(head, type, key.size())) return false;
    if (!BufferView::equal_words(PlainNumber::key_words(slot), key)) return false;
    bits = load_word(PlainNumber::value_word(slot), std::memory_order_acquire);
    return is_intact(*publication_, version_);
  }

  static constexpr std::uint64_t kNowhere = 0;  // two directory entries that name no segment

  const layout::Publication* publication_;
  Version version_;
  std::uint64_t epoch_word_ = 0;
  BufferView buffer_{nullptr, 0};
  std::uint64_t pages_ = 0;  // so that no place is within it
  BufferView::Directory directory_{.words = &kNowhere};
};

}  // namespace shmstate::internal
