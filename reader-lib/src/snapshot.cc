#include <bit>

#include "entry.h"
#include "pinned.h"
#include "shmstate/detail/crash_point.h"
#include "shmstate/reader.h"

namespace shmstate {

using namespace internal;

namespace {

constexpr std::size_t kGroupsAhead = 2;  // that are fetched while one is looked at

}  // namespace

struct Snapshot::Impl : Pinned {
  using Pinned::Pinned;

  [[nodiscard]] EntryView entry(const layout::Slot& slot, const SlotHead& head) const {
    EntryView entry;
    if (!view_plain_number(slot, entry) && !view_entry(view(), slot, head, entry)) fail_damaged();
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
  if (found == BufferView::Found::kYes && head.type != kTombstone) {
    entry = impl_->entry(view.segment(at.page).slots[at.slot], head);
  }
  impl_->check_kept();
  return entry;
}

Snapshot::Iterator Snapshot::begin() const { return begin_at(0); }

Snapshot::Iterator Snapshot::begin_at(std::uint32_t segment) const {
  Iterator first = before_first(segment);
  first.look_up_more();
  return first;
}

Snapshot::Iterator Snapshot::before_first(std::uint32_t segment) const {
  Iterator before;
  before.directory_index_ = segment;
  before.impl_ = impl_.get();
  before.publication_ = &impl_->files().publication();
  before.version_ = impl_->version();
  before.segments_left_ = impl_->view().page_count();
  before.bytes_left_ = before.segments_left_ * layout::kPageBytes;
  before.group_ = layout::kSegmentGroups;  // the end of no segment: the next one is that of `segment`
  return before;
}

// The entries of the next group that has any.
void Snapshot::Iterator::look_up_more() {
  static_assert(std::tuple_size_v<decltype(entries_)> == layout::kGroupSlots);
  at_ = 0;
  entry_count_ = 0;
  while (entry_count_ == 0) {
    if (!next_group()) {
      impl_ = nullptr;
      return;
    }
    for (std::uint32_t occupied = occupied_; occupied != 0; occupied &= occupied - 1) {
      if (take(first_of(occupied), entries_[entry_count_])) ++entry_count_;
    }
  }
  impl_->check_kept();
}

// Within a segment by groups, then on to the next segment.
bool Snapshot::Iterator::next_group() {
  const BufferView view = impl_->view();
  occupied_ = 0;
  while (occupied_ == 0) {
    if (group_ == layout::kSegmentGroups && !next_segment(view)) break;
    crash_point(CrashPoint::kGroupRead);
    const layout::Segment& segment = view.segment(page_);
    const std::uint32_t group = group_++;
    const layout::Slot* const ahead = segment.slots + (group + kGroupsAhead) * layout::kGroupSlots;
    for (std::size_t i = 0; i < layout::kGroupSlots; ++i) __builtin_prefetch(ahead + i);  // past the end: no harm
    slots_ = segment.slots + group * layout::kGroupSlots;
    occupied_ = TagWords(segment.groups[group]).occupied();
  }
  impl_->check_kept();
  return occupied_ != 0;
}

bool Snapshot::Iterator::take_other(const layout::Slot& slot, EntryView& entry) {
  const SlotHead head = SlotHead::unpack(load_word(&slot.head, std::memory_order_acquire));
  if (!head.is_sane()) impl_->fail_damaged();
  if (head.type == kTombstone) return false;
  if (!view_entry(impl_->view(), slot, head, entry)) impl_->fail_damaged();
  const std::uint64_t bytes = std::uint64_t{head.key_bytes} + head.value_bytes;
  if (bytes > bytes_left_) impl_->fail_damaged();  // entries that share their bytes
  bytes_left_ -= bytes;
  return true;
}

void Snapshot::Iterator::fail_unkept() const {
  impl_->check_kept();
  impl_->fail(Status::kDamaged);  // a stamp does not come back
}

// Segments are visited at the first directory entry that names them, which is the one whose index has no more bits than
// the segment is deep.
bool Snapshot::Iterator::next_segment(const BufferView& view) {
  const Impl& impl = *impl_;
  const std::uint64_t pages = view.page_count();
  const BufferView::Directory directory = view.directory(pages);
  if (directory.words == nullptr) impl.fail_damaged();
  for (; directory_index_ <= directory.mask; ++directory_index_) {
    const std::uint64_t page = directory.page_of(directory_index_);
    if (!BufferView::is_segment_page(page, pages)) impl.fail_damaged();
    const std::uint64_t segment_depth = load_word(&view.segment(page).depth, std::memory_order_acquire);
    if (segment_depth > directory.depth()) impl.fail_damaged();
    if (directory_index(directory_index_, static_cast<unsigned>(segment_depth)) != directory_index_) continue;
    if (segments_left_-- == 0) impl.fail_damaged();  // segments that are named twice
    ++directory_index_;
    page_ = page;
    group_ = 0;
    return true;
  }
  return false;
}

}  // namespace shmstate
