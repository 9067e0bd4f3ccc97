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
    const layout::IndexLine* line = nullptr;  // where the tags are to be matched
    Place place;                              // where the key may be; nowhere: not known
    bool is_absent = false;
  };

 public:
  static constexpr std::size_t kAtOnce = 32;

  explicit ManyRead(const BufferView& view) noexcept
      : view_(view), pages_(view.page_count()), directory_(view.directory(pages_)) {}

  [[gnu::always_inline]] void begin(std::size_t i, const HashedKey& key, const Key* bound) noexcept {
    Seen& seen = seen_[i];
    seen = Seen{};
    seen.hash = key.hash;
    if (check_key(key.bytes) != Status::kOk || directory_.words == nullptr) return;
    if (bound != nullptr && look_ahead(seen, KeyHints::location(*bound))) return;
    const std::uint64_t page = view_.segment_page(directory_, key.hash, pages_);
    if (page == 0) return;
    seen.line = &view_.segment(page).lines[home_line(key.hash)];
    __builtin_prefetch(seen.line);
  }
  [[gnu::always_inline]] void match(std::size_t i) noexcept {
    Seen& seen = seen_[i];
    if (seen.line == nullptr) return;
    const TagWords tags(*seen.line);
    const std::uint32_t match = tags.match(tag_of(seen.hash));
    if (match != 0) {
      fetch(seen, BufferView::first_place(*seen.line, match));
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
      if (seen_.place == Place{}) return {};
      const PlainRead::Answer answer = PlainRead::look_at(many_.view_.slot(seen_.place), key_, type);
      if (bound_ != nullptr && answer.seen == PlainRead::Seen::kNumber) remember();
      return answer;
    }
    /// `take(buffer, slot, head)` copies the value out.
    template <typename Take>
    [[nodiscard]] Status take(Take&& take) const {
      if (const Status status = check_key(key_); status != Status::kOk) return status;
      if (seen_.is_absent) return Status::kNotFound;
      const HashedKey key{.bytes = key_, .hash = seen_.hash};
      SlotHead head;
      if (!many_.view_.is_at(seen_.place, key, head)) return PointRead::look_up(many_.view_, key, take, bound_);
      if (bound_ != nullptr) remember();
      return PointRead::take_entry(many_.view_, seen_.place, head, take);
    }

   private:
    void remember() const noexcept {
      if (seen_.line != nullptr) KeyHints::set_place(*bound_, seen_.place);
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
  /// Fetches what may be the key's slot, unless that reaches beyond what is committed.
  void fetch(Seen& seen, Place place) noexcept {
    if (!BufferView::is_within(place, PlainNumber::kSlotBytesMax, pages_)) return;
    seen.place = place;
    const auto* const at = reinterpret_cast<const std::byte*>(&view_.slot(place));
    __builtin_prefetch(at);
    __builtin_prefetch(at + kUsualSlotBytes - 1);
  }
  /// The same for a place that a bound key remembers; false when there is no slot.
  [[nodiscard]] bool look_ahead(Seen& seen, Place place) noexcept {
    if (!view_.is_slot(place, pages_)) return false;
    fetch(seen, place);
    return seen.place != Place{};
  }

  static constexpr std::size_t kUsualSlotBytes = 48;  // which may lie in two lines

  BufferView view_;
  std::uint64_t pages_;
  BufferView::Directory directory_;
  std::array<Seen, kAtOnce> seen_;
};

}  // namespace shmstate::internal
