#include <bit>

#include "entry.h"
#include "pinned.h"
#include "shmstate/detail/crash_point.h"
#include "shmstate/reader.h"

namespace shmstate {

using namespace internal;

struct Snapshot::Impl : Pinned {
  using Pinned::Pinned;

  [[nodiscard]] EntryView entry(const layout::Slot& slot, const SlotHead& head) const {
    EntryView entry;
    if (!view_entry(view(), slot, head, entry)) fail_damaged();
    return entry;
  }
};

Snapshot::Snapshot(std::shared_ptr<Attachment> files) : impl_(std::make_unique<Impl>(std::move(files))) {}
Snapshot::Snapshot(Snapshot&&) noexcept = default;
Snapshot& Snapshot::operator=(Snapshot&&) noexcept = default;
Snapshot::~Snapshot() = default;

Epoch Snapshot::epoch() const noexcept { return impl_->version().epoch; }
Position Snapshot::position() const noexcept { return impl_->position(); }
bool Snapshot::expired() const noexcept { return !impl_->is_kept(); }

std::size_t Snapshot::size() const {
  const std::uint64_t count = impl_->view().entry_count();
  impl_->check_kept();
  return static_cast<std::size_t>(count);
}

std::optional<EntryView> Snapshot::find(std::string_view key) const {
  if (key.empty() || key.size() > kKeyBytesMax) return std::nullopt;
  const BufferView view = impl_->view();
  const HashedKey hashed{.bytes = key,
                         .hash = hash_of(key.data(), key.size(), impl_->files().control.geometry().hash_seed)};
  Place at;
  SlotHead head;
  const BufferView::Found found = view.find(hashed, at, head);
  if (found == BufferView::Found::kDamaged) impl_->fail_damaged();
  std::optional<EntryView> entry;
  if (found == BufferView::Found::kYes && is_readable(head.type)) {
    entry = impl_->entry(view.slot(at), head);
  }
  impl_->check_kept();
  return entry;
}

Snapshot::Iterator Snapshot::begin() const { return begin_at(0); }

Snapshot::Iterator Snapshot::begin_at(std::uint64_t page) const {
  Iterator first = before_first(page);
  first.look_up_more();
  return first;
}

Snapshot::Iterator Snapshot::before_first(std::uint64_t page) const {
  Iterator before;
  before.impl_ = impl_.get();
  before.publication_ = &impl_->files().publication();
  before.version_ = impl_->version();
  before.next_page_ = page;
  before.bytes_left_ = impl_->view().page_count() * layout::kPageBytes;
  return before;
}

// Some entries of this slab, or of the next one that has any.
void Snapshot::Iterator::look_up_more() {
  at_ = 0;
  entry_count_ = 0;
  while (entry_count_ == 0) {
    if (slots_left_ == 0 && !next_slab()) {
      impl_ = nullptr;
      return;
    }
    for (; slots_left_ > 0 && entry_count_ < entries_.size(); --slots_left_) {
      if (take(next_slot(), entries_[entry_count_])) ++entry_count_;
    }
  }
  impl_->check_kept();
}

// By the map, eight pages at a time.
bool Snapshot::Iterator::next_slab() {
  crash_point(CrashPoint::kSlabRead);
  const BufferView view = impl_->view();
  const std::uint64_t pages = view.page_count();
  for (std::uint64_t page = next_page_; page < pages; page = round_up(page + 1, kWord)) {
    const std::uint64_t word = view.map_word(page / kWord * kWord) >> page % kWord * 8;
    if (word == 0) continue;
    page_ = page + static_cast<unsigned>(std::countr_zero(word)) / 8;
    if (page_ >= pages) break;
    const unsigned units = view.slot_units_of(page_);
    if (units == 0 || units > layout::kPageUnits) break;  // the merger writes it
    next_page_ = page_ + 1;
    slot_bytes_ = units * std::uint32_t{layout::kSlotUnitBytes};
    slots_left_ = layout::kPageUnits / units;
    slot_ = &view.slot(Place::at_offset(page_ * layout::kPageBytes));
    impl_->check_kept();
    return true;
  }
  impl_->check_kept();
  return false;
}

bool Snapshot::Iterator::take_other(const layout::Slot& slot, EntryView& entry) {
  const SlotHead head = SlotHead::unpack(load_word(&slot.head, std::memory_order_acquire));
  if (!head.is_sane() || head.slot_bytes() > slot_bytes_) impl_->fail_damaged();
  if (!is_readable(head.type)) return false;
  if (!view_entry(impl_->view(), slot, head, entry)) impl_->fail_damaged();
  const std::uint64_t bytes = std::uint64_t{head.key_bytes()} + head.value_bytes;
  if (bytes > bytes_left_) impl_->fail_damaged();  // entries that share their bytes
  bytes_left_ -= bytes;
  return true;
}

void Snapshot::Iterator::fail_unkept() const {
  impl_->check_kept();
  impl_->fail(Status::kDamaged);  // a stamp does not come back
}

}  // namespace shmstate
