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
//   page 0      BufferHeader, with the directory as long as that is small, and the first cursors
//   page 1      PageMap: which pages have slots; page 4096, 8192, ... for the pages from there on
//   page 2 ...  one pool: segments of the index, slabs of slots, blocks, a larger directory and its nodes, more cursors
//
// An offset inside a buffer counts from the buffer's start; a page number is offset / kPageBytes. Everything below
// `page_count` pages is committed memory.

inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::uint64_t kPagesMax = std::uint64_t{1} << 24;  // of a buffer
inline constexpr std::uint32_t kFirstPage = 2;

inline constexpr unsigned kSmallDirectoryLog2 = 3;

struct alignas(kLine) BufferHeader {
  std::uint64_t epoch;         // of the snapshot that this buffer holds when its stamp says so
  std::uint64_t published_ns;  // CLOCK_BOOTTIME
  std::uint64_t entry_count;
  std::uint64_t directory;   // line where the directory begins << 8 | log2 of its length
  std::uint64_t page_count;  // committed pages of this buffer, from its start
  std::uint64_t feed_end;    // number of feed records written up to this epoch
  std::uint64_t tombstone_count;
  std::uint64_t block_bytes;  // in blocks that are in use
  std::uint64_t small_directory[(1U << kSmallDirectoryLog2) / 2];
  std::uint64_t more_cursors;  // first page of those behind the first ones << 16 | how many pages
  std::uint64_t reserved[3];
};

/// How far a ring has been applied to this buffer.
struct alignas(kLine) RingCursor {
  std::uint64_t ring_id;  // zero when free
  std::uint64_t cursor;   // bytes of the ring's stream
  std::uint64_t applied_count;
  std::uint64_t reserved[5];
  std::uint64_t rejected[kRejectCount];  // by Reject
};
inline constexpr std::uint32_t kFirstCursors = (kPageBytes - sizeof(BufferHeader)) / sizeof(RingCursor);
inline constexpr std::uint32_t kPageCursors = kPageBytes / sizeof(RingCursor);

/// For each of so many pages a byte: the size of its slots in units, or zero when it is no slab.
struct PageMap {
  std::uint8_t slot_units[kPageBytes];
};

// Slots lie in slabs: pages of slots of one size. They begin 8 bytes behind a multiple of 16, so that the epoch of
// change and a number behind it are in one line.

inline constexpr std::size_t kSlotUnitBytes = 16;
inline constexpr std::size_t kFirstSlotOffset = 8;
inline constexpr unsigned kPageUnits = kPageBytes / kSlotUnitBytes - 1;  // that slots may take
inline constexpr unsigned kSlotUnitsMin = 2;
inline constexpr unsigned kSlotUnitsMax = kPageUnits / 2;

/// One entry. The words hold, in this order: the value (its bytes, or the offset of a block), the key (its bytes, or
/// the offset of a block and the key's hash), the optional words. Bytes are padded with zeros to whole words.
struct Slot {
  std::uint64_t head;           // see buffer_slot.h; zero when free
  std::uint64_t changed_epoch;  // the epoch that published the last change
  std::uint64_t words[1];       // as many as the slot has room for
};

// The index is extendible hashing: the low bits of a key's hash choose a directory entry (u32: page of a segment), the
// middle bits a line within the segment, the high bits a tag. A segment that fills splits in two. Where the directory
// would have to be far larger than the number of entries asks for, nodes take its place: a page of 1,024 directory
// entries, chosen by the next ten bits of the hash.

inline constexpr unsigned kDirectoryLog2Max = 21;
inline constexpr unsigned kNodeBits = 10;
inline constexpr unsigned kNodeLevels = 3;
inline constexpr unsigned kDepthMax = kNodeBits * kNodeLevels;  // low bits of the hash that keys of a segment share
inline constexpr std::size_t kLineCells = 12;
inline constexpr std::size_t kSegmentLines = kPageBytes / kLine;
inline constexpr std::size_t kSegmentCells = kLineCells * kSegmentLines;

/// Twelve tags, with the places of their entries.
struct alignas(kLine) IndexLine {
  std::uint8_t tags[kLineCells];  // zero when the cell is free
  std::uint8_t overflow_count;    // entries whose home is this line or before it, and that lie behind it (255 sticks)
  std::uint8_t depth;             // in the first line of a segment: how many low bits of the hash its keys share
  std::uint8_t reserved[2];
  std::uint32_t places[kLineCells];
};

struct Segment {
  IndexLine lines[kSegmentLines];
};

}  // namespace shmstate::internal::layout
