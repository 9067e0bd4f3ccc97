#include "writer/conflating.h"

#include <new>
#include <utility>

namespace shmstate::internal {
namespace {

/// What a conflating writer keeps for later; anything else will not become better.
bool is_for_now(Status status) noexcept {
  return status == Status::kRingFull || status == Status::kTimeout || status == Status::kRingRefused ||
         status == Status::kNoMemory;
}

}  // namespace

Conflating::Conflating(std::string_view instance, WriterOptions wanted)
    : Naming(instance, std::move(wanted)),
      conflation(options.conflate_bytes_max, static_cast<std::size_t>(ring.data_bytes())) {}

Status Conflating::conflate(std::span<const Mutation> mutations) noexcept {
  try {
    const std::uint64_t ring_id = pusher.ring_id;
    if (const Status status = push_conflated(); !is_for_now(status) && status != Status::kOk) return status;
    if (pusher.ring_id != ring_id) return Status::kNoInstance;  // where the names of `mutations` may be
    for (const Mutation& mutation : mutations) {
      if (record_bytes(mutation) > ring.data_bytes()) return Status::kMutationTooBig;
    }
    if (!conflation.add(mutations, batch_max())) return full_status();
    counters.conflated += mutations.size();
    push_conflated();
    return Status::kOk;
  } catch (const std::bad_alloc&) {
    return Status::kNoMemory;
  }
}

// As much as there is room for, oldest first.
Status Conflating::push_conflated() noexcept {
  while (!conflation.empty()) {
    const Status status =
        write(conflation.front_bytes(), conflation.front_count(), [&](std::byte* at) { conflation.encode_front(at); });
    if (status != Status::kOk) {
      wiped().push_end = 0;  // what is smaller might still fit, and must not overtake what is retained
      return status;
    }
    conflation.pop_front();
  }
  return Status::kOk;
}

Status Conflating::flush_conflated(std::chrono::nanoseconds timeout) noexcept {
  return wait_for_head(timeout, [&](std::uint64_t) {
    static_cast<void>(push_conflated());
    return conflation.empty();
  });
}

}  // namespace shmstate::internal
