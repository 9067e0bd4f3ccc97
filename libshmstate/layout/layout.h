// The binary interface: everything that processes share, byte by byte. docs/layout.md explains it, layout.cc proves
// the offsets, tests/unit/layout_test.cc freezes them.
//
//   <instance>/control      this header, statistics, ring table     written by the merger
//   <instance>/snapshot     change feed, then the buffers           written by the merger
//   <instance>/writers/     the gate: who passes it may write
//     rings/<id>            one ring                                written by its writer; `head` etc. by the merger
//     doorbell              wakes a sleeping merger                 written by everybody who may write
//
// Conventions: little-endian; every structure starts on a 64-byte line; offsets instead of pointers; zero means free
// or absent; `Shared<T>` fields change while others look at them, plain fields are constant once `magic` is stored,
// or (inside a buffer) change only while the buffer's stamp is `kWriting`.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "layout/shared_word.h"

namespace shmstate::internal::layout {

inline constexpr std::size_t kLine = 64;
inline constexpr std::uint64_t kControlMagic = 0x314c'5254'434d'4853;  // "SHMCTRL1"
inline constexpr std::uint64_t kRingMagic = 0x3147'4e49'524d'4853;     // "SHMRING1"

/// A reader or writer of another major version must refuse; a newer minor version only adds.
inline constexpr std::uint32_t kLayoutMajor = 1;
inline constexpr std::uint32_t kLayoutMinor = 1;
/// Feature bits: an unknown required bit must be refused, an unknown optional bit may be ignored.
inline constexpr std::uint64_t kRequiredFeatures = 0;
inline constexpr std::uint64_t kOptionalFeatures = 0;

inline constexpr std::uint32_t kBuffersMin = 2;
inline constexpr std::uint32_t kBuffersMax = 8;
inline constexpr std::uint32_t kRingsMax = 4096;

using Id = std::array<std::uint8_t, 16>;

// ---- control -------------------------------------------------------------------------------------------------------

/// What an instance is. Line 0 and 1: identity; line 2: geometry; all constant after creation.
struct alignas(kLine) Identity {
  Shared<std::uint64_t> magic;  // merger: stored last at creation
  std::uint32_t layout_major;
  std::uint32_t layout_minor;
  std::uint64_t required_features;
  std::uint64_t optional_features;
  std::uint64_t control_bytes;   // size of this file
  std::uint64_t snapshot_bytes;  // size of the snapshot file: address space, not memory
  Id instance_id;                // random

  Id boot_id;                     // of the boot that the timestamps belong to
  std::uint64_t hash_seed;        // random
  std::uint64_t created_ns;       // CLOCK_REALTIME
  std::uint64_t buffer_offset;    // in the snapshot file, of buffer 0
  std::uint64_t buffer_stride;    // bytes from one buffer to the next, and the limit of one buffer's size
  std::uint32_t buffer_count;     // 2 to 8
  std::uint32_t ring_count_max;   // entries of the ring table, and of the cursors in each buffer
  std::uint32_t first_page;       // of a buffer: the first page behind its header and cursors
  std::uint32_t statistic_count;  // entries of both statistics arrays

  std::uint64_t feed_offset;        // in the snapshot file
  std::uint64_t feed_record_count;  // a power of two
  std::uint64_t statistic_offset;   // in control: StatisticName[statistic_count]
  std::uint64_t value_offset;       // in control: Shared<u64>[statistic_count]
  std::uint64_t ring_table_offset;  // in control: RingStatus[ring_count_max]
  std::uint64_t reserved[3];
};

/// The current buffer. The only lines that readers share with the running merger besides the buffers themselves.
struct alignas(kLine) Publication {
  Shared<std::uint64_t> epoch_word;  // merger: epoch << 3 | buffer; its low half is the futex readers wait on
  std::uint64_t reserved_0[7];
  Shared<std::uint64_t> stamps[kBuffersMax];  // merger: the epoch that a buffer holds (see kClaimed), or kWriting
};
inline constexpr std::uint64_t kWriting = 0;
/// Set in a stamp while the merger asks whether a reader pins the buffer, which still holds that epoch.
inline constexpr std::uint64_t kClaimed = std::uint64_t{1} << 63;
inline constexpr unsigned kBufferBits = 3;

/// Signs of life.
struct alignas(kLine) Heartbeat {
  Shared<std::uint64_t> beat_ns;           // merger: CLOCK_BOOTTIME of its last step
  Shared<std::uint64_t> current_as_of_ns;  // merger: when it last knew that the snapshot holds all that was pushed
  Shared<std::uint64_t> feed_reserved;     // merger: feed records below this minus feed_record_count may be overwritten
  Shared<std::uint32_t> merger_pid;        // merger: for display only; whether it lives is told by its lock
  Shared<std::uint32_t> retired;           // merger: 1 when the directory no longer leads to these files
  Shared<std::uint64_t> started_ns;        // merger: CLOCK_BOOTTIME
  std::uint64_t reserved[3];
};

/// What writers must know: whether to ring the doorbell, and how much goes into a batch. Apart from all that changes
/// while data flows: each push looks here.
struct alignas(kLine) Sleep {
  // merger: +1 before it sleeps, +1 when it is awake again: odd while it sleeps, and once it retired
  Shared<std::uint64_t> phase;
  Shared<std::uint64_t> batch_max;  // merger: mutations in a batch; zero: no limit (since minor 1)
  std::uint64_t reserved[6];
};

struct ControlHeader {
  Identity identity;
  Publication publication;
  Heartbeat heartbeat;
  Sleep sleep;
};

/// One counter or gauge, described where it lies, so that a tool can print what it has never heard of.
struct alignas(kLine) StatisticName {
  char name[32];     // NUL-terminated
  char unit[16];     // NUL-terminated, empty for a count
  char meaning[80];  // NUL-terminated
};

enum class RingState : std::uint32_t { kFree = 0, kLive = 1, kFinished = 2, kQuarantined = 3 };

/// Why nothing more is read of a ring. What is not a mutation lies at its head.
enum class QuarantineReason : std::uint32_t { kNone = 0, kTruncated = 1, kImpossibleTail = 2, kNoMutation = 3 };

/// What the merger knows about a ring, for display; refreshed about ten times a second.
struct alignas(kLine) RingStatus {
  Shared<std::uint64_t> ring_id;  // merger: zero when free
  Shared<std::uint32_t> state;    // merger: RingState
  Shared<std::uint32_t> owner_pid;
  Shared<std::uint32_t> owner_uid;
  Shared<std::uint32_t> quarantine_reason;  // merger: QuarantineReason
  Shared<std::uint64_t> tail;               // bytes pushed
  Shared<std::uint64_t> head;               // bytes applied and published
  Shared<std::uint64_t> applied_count;
  Shared<std::uint64_t> rejected_count;
  Shared<std::uint64_t> ring_bytes;
  Shared<std::uint64_t> name[6];  // 48 characters as the writer gave them; NUL-terminated
  std::uint64_t reserved[2];
};

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

/// Reasons of the merger for refusing a mutation: indices of RingCursor::rejected.
enum class Reject : std::uint8_t { kWrongType = 0, kOutOfRange = 1, kNoMemory = 2, kLimit = 3, kBatchTooBig = 4 };
inline constexpr std::size_t kRejectCount = 8;

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
  std::uint64_t head;           // key_bytes:16 | owner:16 | value_bytes:22 | flags:6 | type:4, see slot.h
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

/// One record of the change feed; see docs/layout.md for the kinds.
struct FeedRecord {
  std::uint64_t head;  // epoch << 12 | kind:4 << 8 | detail:8
  std::uint64_t body;
};

// ---- rings/<id> ----------------------------------------------------------------------------------------------------
//
// 4 KiB of header, then `data_bytes` of records. Positions only grow; a position's place is position % data_bytes.

inline constexpr std::size_t kRingHeaderBytes = 4096;
inline constexpr std::uint32_t kRingShared = 1;  // flag: many processes push, behind a lock on byte 1 of the file

struct RingHeader {
  // line 0 and 1: constant once the file has its name
  alignas(kLine) std::uint64_t magic;
  std::uint32_t layout_major;
  std::uint32_t layout_minor;
  std::uint64_t ring_id;  // random, also the file's name
  std::uint64_t data_bytes;
  Id instance_id;
  std::uint32_t owner_pid;
  std::uint32_t owner_uid;
  std::uint32_t flags;
  std::uint32_t reserved_0;
  char name[48];
  std::uint64_t created_ns;  // CLOCK_REALTIME

  // the producer's line
  alignas(2 * kLine) Shared<std::uint64_t> tail;  // bytes pushed

  // the producer's, apart: the merger looks at it after each publish
  alignas(2 * kLine) Shared<std::uint32_t> waiting;  // 1 while the producer sleeps on `head`

  // the merger's line
  alignas(2 * kLine) Shared<std::uint64_t> head;  // bytes published; its low half is the futex the producer sleeps on
  Shared<std::uint32_t> verdict;                  // RingVerdict
  std::uint32_t reserved_1;
  Shared<std::uint64_t> applied_count;
  Shared<std::uint64_t> reserved_2[5];
  Shared<std::uint64_t> rejected[kRejectCount];
};

enum class RingVerdict : std::uint32_t { kPending = 0, kServed = 1, kRefused = 2, kQuarantined = 3 };

/// A mutation in a ring: the head, the optional words in this order, the key, the value; bytes padded to whole words.
struct RecordHead {
  std::uint32_t value_bytes;  // of bytes; 8 for numbers; 0 for erase
  std::uint16_t key_bytes;    // 1 to 4,096
  std::uint8_t kind;          // operation:4 | type:4, see record.h
  std::uint8_t flags;
};

// ---- doorbell ------------------------------------------------------------------------------------------------------

// Whoever may write it may also truncate it. So writers never touch it: the kernel does, by FUTEX_WAKE_OP, and returns
// an error where they would get SIGBUS. The merger guards its mapping, and makes the file whole again.

struct alignas(kLine) Doorbell {
  Shared<std::uint32_t> wakes;          // writers: +1 to wake the merger; the futex that it sleeps on
  Shared<std::uint32_t> registrations;  // writers: +1 after a ring file appeared
  std::uint64_t reserved[7];
};

}  // namespace shmstate::internal::layout
