// In which batches a dump is loaded: what was published together becomes visible together again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "show/entry.h"

namespace shmstate::ctl {

struct BatchLimits {
  std::size_t entries_max;  // what a batch can have at most
  std::size_t bytes_max;
  std::size_t entries;  // what is enough for one
  std::size_t bytes;
};

struct LoadPlan {
  std::vector<std::size_t> ends;  // where each batch ends, as an index of entries
  std::uint64_t split_count = 0;  // epochs with more entries than one batch can have
};

/// The bytes that a set of this entry takes in a ring, or more.
[[nodiscard]] std::size_t set_bytes(const Entry& entry);

/// For entries in the order of `changed_epoch`. The entries of one epoch are in one batch, and several epochs, as long
/// as the batch has not enough; an epoch that no batch can hold is split. Entries of epoch 0, of which it is not known,
/// belong to nobody.
[[nodiscard]] LoadPlan plan_batches(const std::vector<Entry>& entries, const BatchLimits& limits);

}  // namespace shmstate::ctl
