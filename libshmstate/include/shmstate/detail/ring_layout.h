// The binary interface between writers and merger: a ring and its records.
#pragma once

#include <cstddef>
#include <cstdint>

#include "shmstate/detail/layout_base.h"
#include "shmstate/detail/shared_word.h"

namespace shmstate::internal::layout {

// ---- control: what writers look at ---------------------------------------------------------------------------------

/// What writers must know: whether to ring the doorbell, and how much goes into a batch. Apart from all that changes
/// while data flows: each push looks here.
struct alignas(kLine) Sleep {
  // merger: +1 before it sleeps, +1 when it is awake again: odd while it sleeps, and once it retired
  Shared<std::uint64_t> phase;
  Shared<std::uint64_t> batch_max;  // merger: mutations in a batch; zero: no limit (since minor 1)
  std::uint64_t reserved[6];
};

// ---- rings/<id> ----------------------------------------------------------------------------------------------------
//
// 4 KiB of header, then `data_bytes` of records, then `names_bytes` of names. Positions only grow; a position's place
// is position % data_bytes.

inline constexpr std::uint64_t kRingMagic = 0x3147'4e49'524d'4853;  // "SHMRING1"
inline constexpr std::size_t kRingHeaderBytes = 4096;
inline constexpr std::uint32_t kRingShared = 1;  // flag: many processes push, behind a lock on byte 1 of the file
/// Features that a merger must know: it takes no ring with another one.
inline constexpr std::uint64_t kRingNames = 1;              // records may name keys by ids
inline constexpr std::uint64_t kRingFeatures = kRingNames;  // all that are known

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
  std::uint32_t names_bytes;  // whole pages of 4 KiB; only with kRingNames
  char name[48];
  std::uint64_t created_ns;  // CLOCK_REALTIME
  std::uint64_t required_features;

  // the producer's line
  alignas(2 * kLine) Shared<std::uint64_t> tail;  // bytes pushed
  Shared<std::uint64_t> name_count;               // names that have an id, for display
  Shared<std::uint64_t> unnamed_count;            // bound keys for whose names there was no room, for display

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

/// An entry of the index of names, which begins the area: the one at `id` words says where that name lies, further
/// back. Zero: nobody has this id. A name is stored padded to whole words.
struct NameEntry {
  std::uint32_t offset;     // in the area; a multiple of 8
  std::uint16_t key_bytes;  // 1 to 4,096
  std::uint16_t reserved;
};

/// A mutation in a ring: the head, the optional words in this order, the key, the value; bytes padded to whole words.
struct RecordHead {
  std::uint32_t value_bytes;  // of bytes; 8 for numbers; 0 for erase
  std::uint16_t key_bytes;    // 1 to 4,096
  std::uint8_t kind;          // operation:4 | type:4, see ring_record.h
  std::uint8_t flags;
};

/// The same by id: no key follows.
struct NamedRecordHead {
  std::uint32_t id;
  std::uint16_t value_bytes;
  std::uint8_t kind;
  std::uint8_t flags;  // with kById
};

}  // namespace shmstate::internal::layout
