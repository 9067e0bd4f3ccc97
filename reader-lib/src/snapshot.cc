#include <bit>

#include "entry.h"
#include "pinned.h"
#include "shmstate/reader.h"

namespace shmstate {

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
bool Snapshot::expired() const noexcept { return !impl_->is_intact(); }

std::size_t Snapshot::size() const {
  const std::uint64_t count = impl_->view().entry_count();
  impl_->check_intact();
  return static_cast<std::size_t>(count);
}

std::optional<EntryView> Snapshot::find(std::string_view key) const {
  if (key.empty() || key.size() > kKeyBytesMax) return std::nullopt;
  const BufferView view = impl_->view();
  const HashedKey hashed{.bytes = key, .hash = hash_key(key, impl_->files().control.geometry().hash_seed)};
  Location at;
  SlotHead head;
  const BufferView::Found found = view.find(hashed, at, head);
  if (found == BufferView::Found::kDamaged) impl_->fail_damaged();
  std::optional<EntryView> entry;
  if (found == BufferView::Found::kYes && head.type != kTombstone) {
    entry = impl_->entry(view.segment(at.page).slots[at.slot], head);
  }
  impl_->check_intact();
  return entry;
}

Snapshot::Iterator Snapshot::begin() const {
  Iterator first;
  first.snapshot_ = this;
  first.segments_left_ = impl_->view().page_count();
  first.bytes_left_ = first.segments_left_ * layout::kPageBytes;
  first.slot_ = layout::kSegmentSlots;  // the end of no segment: the next one is that of directory entry 0
  ++first;
  return first;
}

// Within a segment by slots, then on to the next segment.
Snapshot::Iterator& Snapshot::Iterator::operator++() {
  const Impl& impl = *snapshot_->impl_;
  const BufferView view = impl.view();
  while (!find_in_segment(view)) {
    if (next_segment(view)) continue;
    snapshot_ = nullptr;
    break;
  }
  impl.check_intact();
  return *this;
}

bool Snapshot::Iterator::find_in_segment(const BufferView& view) {
  const Impl& impl = *snapshot_->impl_;
  while (slot_ < layout::kSegmentSlots) {
    const layout::Segment& segment = view.segment(page_);
    const auto group = static_cast<std::uint32_t>(slot_ / layout::kGroupSlots);
    const std::uint32_t occupied = TagWords(segment.groups[group]).occupied() >> slot_ % layout::kGroupSlots;
    if (occupied == 0) {  // nothing left in this group
      slot_ = static_cast<std::uint32_t>((group + 1) * layout::kGroupSlots);
      continue;
    }
    slot_ += static_cast<std::uint32_t>(std::countr_zero(occupied));
    const layout::Slot& slot = segment.slots[slot_++];
    const SlotHead head = BufferView::head_of(slot);
    if (head.type == Type::kNone) impl.fail_damaged();
    if (head.type == kTombstone) continue;
    entry_ = impl.entry(slot, head);
    const std::uint64_t bytes = std::uint64_t{head.key_bytes} + head.value_bytes;
    if (bytes > bytes_left_) impl.fail_damaged();  // entries that share their bytes
    bytes_left_ -= bytes;
    return true;
  }
  return false;
}

// Segments are visited at the first directory entry that names them, which is the one whose index has no more bits than
// the segment is deep.
bool Snapshot::Iterator::next_segment(const BufferView& view) {
  const Impl& impl = *snapshot_->impl_;
  const std::uint64_t pages = view.page_count();
  const unsigned depth = view.directory_depth();
  if (depth > layout::kDirectoryLog2Max) impl.fail_damaged();
  for (; directory_index_ < 1U << depth; ++directory_index_) {
    const std::optional<std::uint64_t> page = view.segment_page(directory_index_, pages);
    if (!page) impl.fail_damaged();
    const std::uint64_t segment_depth = load_word(&view.segment(*page).depth, std::memory_order_acquire);
    if (segment_depth > depth) impl.fail_damaged();
    if (directory_index(directory_index_, static_cast<unsigned>(segment_depth)) != directory_index_) continue;
    if (segments_left_-- == 0) impl.fail_damaged();  // segments that are named twice
    ++directory_index_;
    page_ = *page;
    slot_ = 0;
    return true;
  }
  return false;
}

}  // namespace shmstate
