// The binary interface between merger and readers: which buffer is current, and what lies in one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shmstate/detail/layout_base.h"
#include "shmstate/detail/shared_word.h"

namespace shmstate::internal::layout {

// ---- control: what readers look at ---------------------------------------------------------------------------------

inline constexpr std::uint32_t kBuffersMax = 8;

/// The current buffer. The only lines that readers share with the running merger besides the buffers themselves.
struct alignas(kLine) Publication {
  Shared<std::uint64_t> epoch_word;  // merger: epoch << 3 | buffer; its low half is the futex readers wait on
  std::uint64_t reserved_0[7];
  Shared<std::uint64_t> stamps[kBuffersMax];  // merger: the epoch that a buffer holds (see kClaimed), or kWriting
};
inline constexpr std::uint64_t kWriting = 0;
/// Set in a stamp while the merger finds out whether a reader pins the buffer, which still holds that epoch.
inline constexpr std::uint64_t kClaimed = std::uint64_t{1} << 63;
inline constexpr unsigned kBufferBits = 3;

// ---- snapshot: a buffer ---------------------------------------------------------------------------------------------
//
//   page 0          BufferHeader (4 KiB), then RingCursor[ring_count_max]
//   first_page ...  pages of 64 KiB: the directory, segments, heap
//
// An offset inside a buffer counts from the buffer's start; a page number is offset / kPageBytes. Everything below
// `page_count` pages is committed memory.

inline constexpr std::size_t kPageBytes = std::size_t{64} << 10;
inline constexpr std::size_t kCursorOffset = 4096;

struct alignas(kLine) BufferHeader {
  std::uint64_t epoch;         // of the snapshot that this buffer holds when its stamp says so
  std::uint64_t published_ns;  // CLOCK_BOOTTIME
  std::uint64_t entry_count;
  std::uint64_t directory;   // page of the directory << 8 | log2 of its length
  std::uint64_t page_count;  // committed pages of this buffer, from its start
  std::uint64_t feed_end;    // number of feed records written up to this epoch
  std::uint64_t tombstone_count;
  std::uint64_t heap_bytes;  // in blocks that are in use
};

/// How far a ring has been applied to this buffer.
struct alignas(kLine) RingCursor {
  std::uint64_t ring_id;  // zero when free
  std::uint64_t cursor;   // bytes of the ring's stream
  std::uint64_t applied_count;
  std::uint64_t reserved[5];
  std::uint64_t rejected[kRejectCount];  // by Reject
};

// The table is extendible hashing: the low bits of a key's hash choose a directory entry (u32: page of a segment), the
// middle bits a group within the segment, the high bits a tag. A segment that fills splits in two.

inline constexpr unsigned kDirectoryLog2Max = 24;
inline constexpr std::size_t kGroupSlots = 15;
inline constexpr std::size_t kSegmentGroups = 67;
inline constexpr std::size_t kSegmentSlots = kGroupSlots * kSegmentGroups;

/// Fifteen tags, and how many entries whose home is this group or before it lie behind it (255 sticks).
struct alignas(16) TagGroup {
  std::uint8_t tags[kGroupSlots];  // zero when the slot is free
  std::uint8_t overflow_count;
};

/// One entry. The words hold, in this order: the value (its bytes, or the offset of a heap block), the key (its bytes,
/// or the offset of a heap block and the key's hash), and from the end backwards the optional words: expiry, version.
/// Bytes are padded with zeros to whole words.
struct alignas(kLine) Slot {
  std::uint64_t head;           // key_bytes:16 | owner:16 | value_bytes:22 | flags:6 | type:4, see buffer_slot.h
  std::uint64_t changed_epoch;  // the epoch that published the last change
  std::uint64_t words[6];
};

struct alignas(kLine) Segment {
  std::uint64_t depth;  // how many low bits of the hash its keys share
  std::uint64_t reserved[7];
  TagGroup groups[kSegmentGroups];
  Slot slots[kSegmentSlots];
  std::uint8_t unused[kLine];
};

}  // namespace shmstate::internal::layout
