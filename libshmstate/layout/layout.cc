#include "layout/layout.h"

#include <type_traits>

namespace shmstate::internal::layout {

template <typename T, std::size_t kBytes>
constexpr bool is_plain() {
  return std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T> && sizeof(T) == kBytes &&
         std::has_unique_object_representations_v<T>;
}

static_assert(is_plain<Shared<std::uint64_t>, 8>() && is_plain<Shared<std::uint32_t>, 4>());

static_assert(is_plain<Identity, 3 * kLine>());
static_assert(offsetof(Identity, magic) == 0);
static_assert(offsetof(Identity, layout_major) == 8);
static_assert(offsetof(Identity, required_features) == 16);
static_assert(offsetof(Identity, control_bytes) == 32);
static_assert(offsetof(Identity, snapshot_bytes) == 40);
static_assert(offsetof(Identity, instance_id) == 48);
static_assert(offsetof(Identity, boot_id) == 64);
static_assert(offsetof(Identity, hash_seed) == 80);
static_assert(offsetof(Identity, created_ns) == 88);
static_assert(offsetof(Identity, buffer_offset) == 96);
static_assert(offsetof(Identity, buffer_stride) == 104);
static_assert(offsetof(Identity, buffer_count) == 112);
static_assert(offsetof(Identity, ring_count_max) == 116);
static_assert(offsetof(Identity, first_page) == 120);
static_assert(offsetof(Identity, statistic_count) == 124);
static_assert(offsetof(Identity, feed_offset) == 128);
static_assert(offsetof(Identity, feed_record_count) == 136);
static_assert(offsetof(Identity, statistic_offset) == 144);
static_assert(offsetof(Identity, value_offset) == 152);
static_assert(offsetof(Identity, ring_table_offset) == 160);

static_assert(is_plain<Publication, 2 * kLine>() && offsetof(Publication, stamps) == 64);
static_assert(is_plain<Heartbeat, kLine>());
static_assert(offsetof(Heartbeat, beat_ns) == 0 && offsetof(Heartbeat, current_as_of_ns) == 8);
static_assert(offsetof(Heartbeat, feed_reserved) == 16 && offsetof(Heartbeat, merger_pid) == 24);
static_assert(offsetof(Heartbeat, retired) == 28 && offsetof(Heartbeat, started_ns) == 32);
static_assert(is_plain<Sleep, kLine>() && offsetof(Sleep, phase) == 0 && offsetof(Sleep, batch_max) == 8);
static_assert(is_plain<ControlHeader, 7 * kLine>());
static_assert(offsetof(ControlHeader, publication) == 192 && offsetof(ControlHeader, heartbeat) == 320);
static_assert(offsetof(ControlHeader, sleep) == 384);

static_assert(is_plain<StatisticName, 2 * kLine>());
static_assert(offsetof(StatisticName, unit) == 32 && offsetof(StatisticName, meaning) == 48);
static_assert(is_plain<RingStatus, 2 * kLine>());
static_assert(offsetof(RingStatus, state) == 8 && offsetof(RingStatus, owner_pid) == 12);
static_assert(offsetof(RingStatus, owner_uid) == 16 && offsetof(RingStatus, quarantine_reason) == 20);
static_assert(offsetof(RingStatus, tail) == 24);
static_assert(offsetof(RingStatus, head) == 32 && offsetof(RingStatus, applied_count) == 40);
static_assert(offsetof(RingStatus, rejected_count) == 48 && offsetof(RingStatus, ring_bytes) == 56);
static_assert(offsetof(RingStatus, name) == 64);

static_assert(is_plain<BufferHeader, 2 * kLine>());
static_assert(offsetof(BufferHeader, epoch) == 0 && offsetof(BufferHeader, published_ns) == 8);
static_assert(offsetof(BufferHeader, entry_count) == 16 && offsetof(BufferHeader, directory) == 24);
static_assert(offsetof(BufferHeader, page_count) == 32 && offsetof(BufferHeader, feed_end) == 40);
static_assert(offsetof(BufferHeader, tombstone_count) == 48 && offsetof(BufferHeader, block_bytes) == 56);
static_assert(offsetof(BufferHeader, small_directory) == 64 && offsetof(BufferHeader, more_cursors) == 96);
static_assert(is_plain<RingCursor, 2 * kLine>() && kFirstCursors == 31 && kPageCursors == 32);
static_assert(offsetof(RingCursor, cursor) == 8 && offsetof(RingCursor, applied_count) == 16);
static_assert(offsetof(RingCursor, rejected) == 64);

static_assert(is_plain<PageMap, kPageBytes>() && kPageUnits == 255 && kSlotUnitsMax == 127);
static_assert(is_plain<Slot, 24>() && offsetof(Slot, changed_epoch) == 8 && offsetof(Slot, words) == 16);
// Epoch of change and value lie in one line.
static_assert(kFirstSlotOffset % kSlotUnitBytes + offsetof(Slot, changed_epoch) == kSlotUnitBytes);
static_assert(is_plain<IndexLine, kLine>() && offsetof(IndexLine, overflow_count) == 12);
static_assert(offsetof(IndexLine, depth) == 13 && offsetof(IndexLine, places) == 16);
static_assert(sizeof(Segment) == kPageBytes && std::is_trivially_copyable_v<Segment>);
static_assert(kPageBytes / sizeof(std::uint32_t) == std::size_t{1} << kNodeBits);
static_assert(kPagesMax * kPageBytes / kSlotUnitBytes == std::uint64_t{1} << 32);  // a place has 32 bits
// Between two parts of the map there is room for the largest directory.
static_assert((sizeof(std::uint32_t) << kDirectoryLog2Max) < kPageBytes * (kPageBytes - 1));
static_assert(is_plain<FeedRecord, 16>() && offsetof(FeedRecord, body) == 8);

static_assert(sizeof(RingHeader) <= kRingHeaderBytes && std::is_trivially_copyable_v<RingHeader>);
static_assert(offsetof(RingHeader, magic) == 0 && offsetof(RingHeader, layout_major) == 8);
static_assert(offsetof(RingHeader, ring_id) == 16 && offsetof(RingHeader, data_bytes) == 24);
static_assert(offsetof(RingHeader, instance_id) == 32 && offsetof(RingHeader, owner_pid) == 48);
static_assert(offsetof(RingHeader, owner_uid) == 52 && offsetof(RingHeader, flags) == 56);
static_assert(offsetof(RingHeader, names_bytes) == 60 && offsetof(RingHeader, required_features) == 120);
static_assert(offsetof(RingHeader, name) == 64 && offsetof(RingHeader, created_ns) == 112);
static_assert(offsetof(RingHeader, tail) == 128 && offsetof(RingHeader, name_count) == 136);
static_assert(offsetof(RingHeader, unnamed_count) == 144);
static_assert(offsetof(RingHeader, waiting) == 256 && offsetof(RingHeader, head) == 384);
static_assert(offsetof(RingHeader, verdict) == 392 && offsetof(RingHeader, applied_count) == 400);
static_assert(offsetof(RingHeader, rejected) == 448);
static_assert(is_plain<NameEntry, 8>() && offsetof(NameEntry, key_bytes) == 4);
static_assert(is_plain<RecordHead, 8>() && offsetof(RecordHead, key_bytes) == 4 && offsetof(RecordHead, kind) == 6);
static_assert(is_plain<NamedRecordHead, 8>() && offsetof(NamedRecordHead, value_bytes) == 4);
static_assert(offsetof(NamedRecordHead, kind) == 6 && offsetof(NamedRecordHead, flags) == 7);
static_assert(is_plain<Doorbell, kLine>() && offsetof(Doorbell, registrations) == 4);
static_assert(is_plain<PinWord, kLine>() && offsetof(PinWord, announced) == 0);

}  // namespace shmstate::internal::layout
