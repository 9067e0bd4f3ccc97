// A ring that the merge engine serves.
#pragma once

#include <cstdint>
#include <utility>

#include "engine/ring_ids.h"
#include "files/ring_file.h"
#include "layout/layout.h"
#include "protocol/ring.h"

namespace shmstate::internal {

struct ServedRing {
  ServedRing(RingFile ring_file, std::uint32_t ring_index, std::uint64_t cursor)
      : file(std::move(ring_file)),
        index(ring_index),
        consumer(file.header(), file.data_bytes(), cursor),
        ids(file.names().count_max()),
        published_cursor(cursor),
        age_mark(cursor) {}

  RingFile file;
  std::uint32_t index;  // of its cursor in each buffer
  RingConsumer<layout::RingHeader> consumer;
  RingIds ids;
  std::uint64_t published_cursor;  // where head is

  std::uint64_t age_mark;  // see age_marks.h
  bool is_behind_mark = false;

  std::uint64_t unlimited_until = 0;  // batches that begin before were pushed under a higher limit: any size is merged
  bool is_refusing = false;           // the batch at the cursor, which is too big
  std::uint64_t refused_until = 0;    // what was seen of it
  std::uint64_t refused_count = 0;

  std::uint64_t unnamed_count = 0;  // as its writer counts: what the statistics have of it

  bool is_abandoned = false;
  bool is_quarantined = false;
  layout::QuarantineReason quarantine_reason = layout::QuarantineReason::kNone;
};

}  // namespace shmstate::internal
