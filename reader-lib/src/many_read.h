// Many keys in one buffer, a group at a time and in stages, so that what one key must wait for is fetched while the
// others are looked at:
//
//   begin          fetch the line of the tags, or of the entry where a bound key remembers it
//   match          find the tag; fetch the line of the entry
//   one            compare, and copy the value out
//
// Nothing that is found is believed before the caller has checked that the buffer was intact.
#pragma once

#include <array>

#include "point_read.h"

namespace shmstate::internal {

class ManyRead {
  struct Seen {
    std::uint64_t hash = 0;
    const layout::Segment* segment = nullptr;  // where the tags are to be matched
    const layout::Slot* slot = nullptr;        // where the key may be
    bool is_absent = false;
  };

 public:
  static constexpr std::size_t kAtOnce = 32;

  explicit ManyRead(const BufferView& view) noexcept
      : view_(view), pages_(view.page_count()), directory_(view.directory(pages_)) {}

  [[gnu::always_inline]] void begin(std::size_t i, const HashedKey& key, const Key* bound) noexcept {
    Seen& seen = seen_[i];
    seen = {.hash = key.hash};
    if (check_key(key.bytes) != Status::kOk || directory_.words == nullptr) return;
    if (bound != nullptr) {
      const Place at = KeyHints::location(*bound);
      if (BufferView::is_segment_page(at.page, pages_) && at.slot < layout::kSegmentSlots) {
        seen.slot = &view_.segment(at.page).slots[at.slot];
        __builtin_prefetch(seen.slot);
        return;
      }
    }
    const std::uint64_t page = directory_.page_of(key.hash);
    if (!BufferView::is_segment_page(page, pages_)) return;
    seen.segment = &view_.segment(page);
    __builtin_prefetch(&seen.segment->groups[home_group(key.hash)]);
  }
  [[gnu::always_inline]] void match(std::size_t i) noexcept {
    Seen& seen = seen_[i];
    if (seen.segment == nullptr) return;
    const std::uint32_t group = home_group(seen.hash);
    const TagWords tags(seen.segment->groups[group]);
    const std::uint32_t match = tags.match(tag_of(seen.hash));
    if (match != 0) {
      seen.slot = &seen.segment->slots[BufferView::first_slot(group, match)];
      __builtin_prefetch(seen.slot);
    } else {
      seen.is_absent = tags.overflow_count() == 0;
    }
  }

  /// One key of the group, as a point read.
  class One {
   public:
    One(const ManyRead& many, const Seen& seen, std::string_view key, Key* bound) noexcept
        : many_(many), seen_(seen), key_(key), bound_(bound) {}

    /// The number of a key that is plain, where it nearly always is. Anything but kNumber says nothing.
    [[nodiscard, gnu::always_inline]] PlainRead::Answer number(Type type) const noexcept {
      if (seen_.slot == nullptr) return {};
      const PlainRead::Answer answer = PlainRead::look_at(*seen_.slot, key_, type);
      if (bound_ != nullptr && answer.seen == PlainRead::Seen::kNumber) remember(many_.place_of(seen_.slot));
      return answer;
    }
    /// `take(buffer, slot, head)` copies the value out.
    template <typename Take>
    [[nodiscard]] Status take(Take&& take) const {
      if (const Status status = check_key(key_); status != Status::kOk) return status;
      if (seen_.is_absent) return Status::kNotFound;
      const HashedKey key{.bytes = key_, .hash = seen_.hash};
      const Place at = many_.place_of(seen_.slot);
      SlotHead head;
      if (!many_.view_.is_at(at, key, head)) return PointRead::look_up(many_.view_, key, take, bound_);
      if (bound_ != nullptr) remember(at);
      return PointRead::take_entry(many_.view_, at, head, take);
    }

   private:
    void remember(const Place& at) const noexcept {
      if (seen_.segment != nullptr) KeyHints::set_place(*bound_, at);
    }

    const ManyRead& many_;
    const Seen& seen_;
    std::string_view key_;
    Key* bound_;
  };
  [[nodiscard]] One one(std::size_t i, std::string_view key, Key* bound) const noexcept {
    return {*this, seen_[i], key, bound};
  }

 private:
  /// Of no slot: a place where nothing is.
  [[nodiscard]] Place place_of(const layout::Slot* slot) const noexcept {
    if (slot == nullptr) return {};
    const auto bytes = static_cast<std::size_t>(reinterpret_cast<const std::byte*>(slot) -
                                                reinterpret_cast<const std::byte*>(&view_.segment(0)));
    const std::size_t within = bytes % layout::kPageBytes - offsetof(layout::Segment, slots);
    return {.page = bytes / layout::kPageBytes, .slot = static_cast<std::uint32_t>(within / sizeof(layout::Slot))};
  }

  BufferView view_;
  std::uint64_t pages_;
  BufferView::Directory directory_;
  std::array<Seen, kAtOnce> seen_;
};

}  // namespace shmstate::internal
