// The binary interface: everything that processes share, byte by byte. docs/layout.md explains it, layout.cc proves
// the offsets, tests/unit/layout_test.cc freezes them.
//
//   <instance>/control      this header, statistics, ring table     written by the merger
//   <instance>/snapshot     change feed, then the buffers           written by the merger
//   <instance>/pins         announces pins to the merger            counted up by readers
//   <instance>/writers/     the gate: who passes it may write
//     rings/<id>            one ring                                written by its writer; `head` etc. by the merger
//     doorbell              wakes a sleeping merger                 written by everybody who may write
//
// What the inline parts of the public headers need lies in include/shmstate/detail/: layout_base.h (conventions,
// version), buffer_layout.h (the current buffer, and what lies in one), ring_layout.h (rings and their records). The
// rest is here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shmstate/detail/buffer_layout.h"
#include "shmstate/detail/layout_base.h"
#include "shmstate/detail/ring_layout.h"
#include "shmstate/detail/shared_word.h"

namespace shmstate::internal::layout {

inline constexpr std::uint64_t kControlMagic = 0x314c'5254'434d'4853;  // "SHMCTRL1"
/// Feature bits: an unknown required bit must be refused, an unknown optional bit may be ignored.
inline constexpr std::uint64_t kAnnouncedPins = 1;                  // who pins must announce it in `pins`
inline constexpr std::uint64_t kRequiredFeatures = kAnnouncedPins;  // all that are known
inline constexpr std::uint64_t kOptionalFeatures = 0;

inline constexpr std::uint32_t kBuffersMin = 2;
inline constexpr std::uint32_t kRingsMax = 4096;

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

// ---- snapshot: the change feed. The buffers: buffer_layout.h; rings/<id>: ring_layout.h ----------------------------

/// One record of the change feed; see docs/layout.md for the kinds.
struct FeedRecord {
  std::uint64_t head;  // epoch << 12 | kind:4 << 8 | detail:8
  std::uint64_t body;
};

// ---- doorbell, pins -------------------------------------------------------------------------------------------------

// Whoever may write these may also truncate them. So writers and readers never touch them: the kernel does, by
// FUTEX_WAKE_OP, and returns an error where they would get SIGBUS. The merger guards its mappings, and makes the files
// whole again.

struct alignas(kLine) Doorbell {
  Shared<std::uint32_t> wakes;          // writers: +1 to wake the merger; the futex that it sleeps on
  Shared<std::uint32_t> registrations;  // writers: +1 after a ring file appeared
  std::uint64_t reserved[7];
};

struct alignas(kLine) PinWord {
  Shared<std::uint32_t> announced;  // readers: +1 before each pin
  std::uint32_t reserved_0;
  std::uint64_t reserved[7];
};

}  // namespace shmstate::internal::layout
