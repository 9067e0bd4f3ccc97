// The common point read in as few instructions as it can have: a number under a short key, at the first place where it
// can be, of the epoch that was read last. Everything else is for BufferView.
#pragma once

#include "core/buffer_view.h"
#include "core/publish.h"

namespace shmstate {

class PlainView {
 public:
  explicit PlainView(const layout::Publication& publication) noexcept : publication_(&publication) {}

  /// Reads that epoch from now on, as long as it is current.
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

  /// False says nothing: ask again in the general way.
  [[nodiscard, gnu::always_inline]] bool read(const HashedKey& key, Type type, std::uint64_t& bits) const noexcept {
    if (publication_->epoch_word.load(std::memory_order_acquire) != epoch_word_) return false;  // pair: epoch_word
    const std::uint64_t page = directory_.page_of(key.hash);
    if (!BufferView::is_segment_page(page, pages_)) return false;
    const Segment segment = buffer_.segment(page);
    const std::uint32_t group = home_group(key.hash);
    const std::uint32_t match = TagWords(segment.group(group)).match(tag_of(key.hash));
    if (match == 0) return false;
    const layout::Slot& slot = segment.slot(BufferView::first_slot(group, match));
    const std::uint64_t head = load_word(&slot.head, std::memory_order_acquire);
    if (!SlotHead::is_plain(head, type, key.bytes.size())) return false;
    if (!BufferView::equal_words(slot.words + 1, key.bytes)) return false;
    bits = load_word(slot.words, std::memory_order_acquire);
    return is_intact(*publication_, version_);
  }

 private:
  static constexpr std::uint64_t kNowhere = 0;  // two directory entries that name no segment

  const layout::Publication* publication_;
  Version version_;
  std::uint64_t epoch_word_ = 0;
  BufferView buffer_{nullptr, 0};
  std::uint64_t pages_ = 0;
  BufferView::Directory directory_{.words = &kNowhere};
};

}  // namespace shmstate
