// What must become of a ring, whatever bytes are in it.
#pragma once

#include <cstdint>

#include "files/ring_file.h"
#include "input.h"
#include "layout/record.h"
#include "served_instance.h"

namespace shmstate::fuzz {
using namespace internal;

/// What is good in a ring: the mutations of all whole batches before the first that is no mutation.
struct Valid {
  std::uint64_t mutations = 0;
  bool is_all = false;
};

inline Valid valid_prefix(const RingFile& ring, std::uint64_t tail) {
  Valid valid;
  RecordView record;
  std::uint64_t position = 0;
  std::uint64_t records = 0;
  bool batch_is_open = false;
  while (position < tail && parse_record(ring.at(position), static_cast<std::size_t>(tail - position), record)) {
    position += record.bytes;
    ++records;
    batch_is_open = (record.flags & kBatchContinues) != 0;
    if (!batch_is_open) valid.mutations = records;
  }
  valid.is_all = position == tail && !batch_is_open;
  return valid;
}

inline std::uint64_t taken(const layout::RingHeader& header) {
  std::uint64_t count = header.applied_count.load(std::memory_order_relaxed);
  for (const auto& rejected : header.rejected) count += rejected.load(std::memory_order_relaxed);
  return count;
}

inline bool is_quarantined(const layout::RingHeader& header) {
  return header.verdict.load(std::memory_order_relaxed) ==
         static_cast<std::uint32_t>(layout::RingVerdict::kQuarantined);
}

inline void must_be_judged_rightly(const RingFile& ring) {
  const layout::RingHeader& header = ring.header();
  const std::uint64_t tail = header.tail.load(std::memory_order_relaxed);
  const bool is_possible = tail <= ServedInstance::kRingBytes;
  const Valid valid = valid_prefix(ring, is_possible ? tail : 0);
  must(is_quarantined(header) == (!is_possible || !valid.is_all), "a ring is quarantined when it holds garbage");
  if (is_possible)
    must(taken(header) == valid.mutations, "all whole batches before the garbage are taken, and no more");
}

}  // namespace shmstate::fuzz
