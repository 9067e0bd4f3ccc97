// What is compiled into the programs that read: the plain point read, which is a number under a short key, or no such
// key, in the epoch that was read last. Everything else is the library's, which is called for it.
//
// So this is part of the binary interface, as the layout is. Its inline namespace has the name of the layout, and so
// have the symbols of what it calls: a program that was compiled for another one does not find them. Change what is
// compiled into programs in any other way only under another name of it.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "shmstate/api.h"
#include "shmstate/detail/buffer_version.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate::internal {

inline namespace layout_2 {
static_assert(layout::kLayoutMajor == 2);

/// The hash of a key, as `hash_key`: the one call that a plain read makes.
[[nodiscard, gnu::pure]] SHMSTATE_API std::uint64_t hash_of(const char* key, std::size_t key_bytes,
                                                            std::uint64_t seed) noexcept;

/// What a reader knows of the epoch that it read last. All zeros, as in a child of fork, it answers nothing.
class PlainRead {
 public:
  enum class Seen : std::uint8_t { kOther, kNumber, kAbsent };
  /// kOther means nothing: ask in the general way.
  struct Answer {
    Seen seen = Seen::kOther;
    std::uint64_t bits = 0;  // of the number
  };

  // ---- the library's

  /// Forgets the epoch; from now on it is one of this instance.
  void attach(const layout::Publication& publication, const layout::Id& instance_id, std::uint64_t hash_seed) noexcept {
    *this = PlainRead();
    publication_ = &publication;
    hash_seed_ = hash_seed;
    instance_id_ = std::bit_cast<IdWords>(instance_id);
    stamp_ = &publication.stamps[0];
    directory_.words = &kNowhere;
  }
  /// From now on looks in that epoch, as long as it is current.
  void aim(Version version, const BufferView& buffer) noexcept {
    const std::uint64_t pages = buffer.page_count();
    const BufferView::Directory directory = buffer.directory(pages);
    if (directory.words == nullptr || !is_intact(*publication_, version)) return;
    stamp_ = &publication_->stamps[version.buffer];
    epoch_ = version.epoch;
    epoch_word_ = version.pack();
    buffer_ = buffer;
    pages_ = pages;
    places_end_ = (pages * layout::kPageBytes - PlainNumber::kSlotBytesMax) / layout::kSlotUnitBytes;
    directory_ = directory;
  }
  /// So many reads may go by before the library is asked whether these are the files to read.
  void allow(std::int32_t reads) noexcept { reads_left_ = reads; }
  /// Counts a read. False when the library is to be asked, which then allows some.
  [[nodiscard, gnu::always_inline]] bool count() noexcept { return --reads_left_ >= 0; }

  // ---- a read

  [[nodiscard, gnu::always_inline]] Answer look_up(std::string_view key, Type type) noexcept {
    if (!is_short(key) || !count()) [[unlikely]]
      return {};
    const std::uint64_t hash = hash_of(key.data(), key.size(), hash_seed_);
    return is_current() ? validated(look_at_home({.bytes = key, .hash = hash}, type)) : Answer{};
  }
  /// The same for a key whose hash and place are remembered, if they are of this instance. That it lies elsewhere is
  /// for the library, too, which remembers the place.
  [[nodiscard, gnu::always_inline]] Answer look_up(const HashedKey& key, const Place& place, const layout::Id& instance,
                                                   Type type) noexcept {
    if (!is_short(key.bytes) || std::bit_cast<IdWords>(instance) != instance_id_ || !count()) [[unlikely]]
      return {};
    if (!is_current() || place.unit >= places_end_ || !buffer_.is_slot(place, pages_)) return {};
    Answer answer = look_at(buffer_.slot(place), key.bytes, type);
    if (answer.seen != Seen::kNumber) [[unlikely]] {
      answer = look_at_home(key, type);
      if (answer.seen != Seen::kAbsent) return {};
    }
    return validated(answer);
  }

  /// The number in a slot, if it is the key's; kAbsent if the slot is another key's.
  [[nodiscard, gnu::always_inline]] static Answer look_at(const layout::Slot& slot, std::string_view key,
                                                          Type type) noexcept {
    const std::uint64_t head = load_word(&slot.head, std::memory_order_acquire);
    if (!PlainNumber::is(head, type, key.size())) [[unlikely]]
      return {.seen = PlainNumber::key_bytes_of(head) == key.size() ? Seen::kOther : Seen::kAbsent, .bits = 0};
    if (!BufferView::equal_words(PlainNumber::key_words(slot), key)) [[unlikely]]
      return {.seen = Seen::kAbsent, .bits = 0};
    return {.seen = Seen::kNumber, .bits = load_word(PlainNumber::value_word(slot), std::memory_order_acquire)};
  }

 private:
  using IdWords = std::array<std::uint64_t, 2>;

  [[nodiscard]] static bool is_short(std::string_view key) noexcept {
    return key.size() - 1 < PlainNumber::kKeyBytesMax;
  }
  [[nodiscard]] bool is_current() const noexcept {
    return publication_->epoch_word.load(std::memory_order_acquire) == epoch_word_;  // pair: epoch_word
  }
  [[nodiscard, gnu::always_inline]] Answer validated(const Answer& answer) const noexcept {
    return is_stamp_of(*stamp_, epoch_) ? answer : Answer{};
  }

  /// Looks where the hash says: nearly always, the first cell of the home line that has the key's tag is the one.
  [[nodiscard, gnu::always_inline]] Answer look_at_home(const HashedKey& key, Type type) const noexcept {
    const std::uint64_t page = directory_.entry_of(key.hash);
    if (!BufferView::is_segment_page(page, pages_)) [[unlikely]]
      return {};
    const layout::Segment& segment = buffer_.segment(page);
    const layout::IndexLine& line = segment.lines[home_line(key.hash)];
    const TagWords tags(line);
    const std::uint32_t match = tags.match(tag_of(key.hash));
    if (match != 0) {
      const Place place = BufferView::first_place(line, match);
      if (place.unit >= places_end_) [[unlikely]]
        return {};
      const Answer answer = look_at(buffer_.slot(place), key.bytes, type);
      if (answer.seen == Seen::kNumber) [[likely]]
        return answer;
    } else if (tags.overflow_count() == 0) {
      return {.seen = Seen::kAbsent, .bits = 0};
    }
    return look_further(buffer_, places_end_, segment, key, type);
  }
  /// The whole search in a segment, up to the key, or to what proves that it is absent.
  [[nodiscard, gnu::noinline]] static Answer look_further(BufferView buffer, std::uint64_t places_end,
                                                          const layout::Segment& segment, HashedKey key,
                                                          Type type) noexcept {
    const std::uint8_t tag = tag_of(key.hash);
    std::uint32_t line = home_line(key.hash);
    for (std::size_t probes = 0; probes < layout::kSegmentLines; ++probes) {
      const TagWords tags(segment.lines[line]);
      for (std::uint32_t match = tags.match(tag); match != 0; match &= match - 1) {
        const Place place = BufferView::first_place(segment.lines[line], match);
        if (place.unit >= places_end) return {};
        const Answer answer = look_at(buffer.slot(place), key.bytes, type);
        if (answer.seen != Seen::kAbsent) return answer;
      }
      if (tags.overflow_count() == 0) break;
      line = (line + 1) % layout::kSegmentLines;
    }
    return {.seen = Seen::kAbsent, .bits = 0};
  }

  static constexpr std::uint64_t kNowhere = 0;  // two directory entries that name no segment

  const layout::Publication* publication_ = nullptr;
  std::uint64_t epoch_word_ = 0;
  std::uint64_t epoch_ = 0;
  const Shared<std::uint64_t>* stamp_ = nullptr;  // of its buffer
  std::uint64_t hash_seed_ = 0;
  BufferView::Directory directory_;
  std::uint64_t pages_ = 0;       // so that no place is within it
  std::uint64_t places_end_ = 0;  // of those where a plain number lies within the committed pages, whatever its key
  BufferView buffer_{nullptr, 0};
  std::int32_t reads_left_ = 0;  // below zero: none
  IdWords instance_id_{};
};

}  // namespace layout_2
}  // namespace shmstate::internal
