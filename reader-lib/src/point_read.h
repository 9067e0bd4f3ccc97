// A point read, in steps that each leave to the next one what they cannot answer:
//
//   check     whether this can be a key at all                               check_key
//   plain     a number, or no such key, in the epoch that was read last      PlainRead; compiled into the program
//   current   look up in the current buffer, again if a publish overtook     on_current, look_up
//   pinned    after kTriesMax of that, in a pinned buffer: a read is bounded on_pinned
#pragma once

#include <memory>

#include "attachment.h"
#include "protocol/key_hints.h"
#include "shmstate/detail/buffer_plain_read.h"

namespace shmstate::internal {

[[nodiscard]] inline Status check_key(std::string_view key) noexcept {
  if (key.empty()) return Status::kKeyEmpty;
  return key.size() <= kKeyBytesMax ? Status::kOk : Status::kKeyTooLong;
}

class PointRead {
 public:
  /// `plain` goes on with these files.
  PointRead(std::shared_ptr<Attachment> files, PlainRead& plain) : files_(std::move(files)), plain_(&plain) {
    plain.attach(files_->publication(), geometry().instance_id, geometry().hash_seed);
  }

  [[nodiscard]] const std::shared_ptr<Attachment>& files() const noexcept { return files_; }
  [[nodiscard]] const Geometry& geometry() const noexcept { return files_->control.geometry(); }
  [[nodiscard]] HashedKey hashed(std::string_view bytes) const noexcept {
    return {.bytes = bytes, .hash = hash_of(bytes.data(), bytes.size(), geometry().hash_seed)};
  }
  [[nodiscard]] HashedKey hashed(Key& bound) const noexcept {
    return KeyHints::hashed(bound, geometry().instance_id, geometry().hash_seed);
  }

  // ---- current, then pinned

  /// Runs `look(buffer)` on the current buffer until that was intact afterwards, and returns what it returned.
  template <typename Look>
  Status on_current(Look&& look, Epoch* epoch = nullptr) {
    Version version;
    Status found = Status::kOk;
    const Status looked =
        files_->look_unpinned(kTriesMax, version, [&](const BufferView& buffer) { found = look(buffer); });
    if (looked != Status::kOk) return looked == Status::kExpired ? on_pinned(look, epoch) : looked;
    plain_->aim(version, files_->snapshot.buffer(version.buffer));
    if (epoch != nullptr) *epoch = version.epoch;
    return found;
  }

  /// Where `bound` has seen the key, or else where it is. `take(buffer, slot, head)` copies the value out.
  template <typename Take>
  static Status look_up_hinted(const BufferView& view, const HashedKey& key, Take&& take, Key* bound) {
    if (bound != nullptr) {
      SlotHead head;
      const Place at = KeyHints::location(*bound);
      if (view.is_at(at, key, head)) return take_entry(view, at, head, take);
    }
    return look_up(view, key, take, bound);
  }
  template <typename Take>
  [[gnu::always_inline]] static Status look_up(const BufferView& view, const HashedKey& key, Take&& take,
                                               Key* bound = nullptr) {
    Place at;
    SlotHead head;
    switch (view.find(key, at, head)) {
      case BufferView::Found::kNo: return Status::kNotFound;
      case BufferView::Found::kDamaged: return Status::kDamaged;
      case BufferView::Found::kYes: break;
    }
    if (bound != nullptr) KeyHints::set_place(*bound, at);
    return take_entry(view, at, head, take);
  }

  template <typename Take>
  static Status take_entry(const BufferView& view, const Place& at, const SlotHead& head, Take&& take) {
    if (head.type == kTombstone) return Status::kNotFound;
    return take(view, view.slot(at), head);
  }

 private:
  static constexpr int kTriesMax = 8;

  template <typename Look>
  [[gnu::noinline, gnu::cold]] Status on_pinned(Look& look, Epoch* epoch) {
    const layout::Publication& publication = files_->publication();
    Version version;
    if (const Status pinned = files_->pin_current(version); pinned != Status::kOk) return pinned;
    const Status status = look(files_->snapshot.buffer(version.buffer));
    const bool kept = is_kept(publication, version);
    files_->snapshot.unpin(version.buffer);
    if (epoch != nullptr) *epoch = version.epoch;
    return kept ? status : Status::kExpired;
  }
  std::shared_ptr<Attachment> files_;
  PlainRead* plain_;
};

}  // namespace shmstate::internal
