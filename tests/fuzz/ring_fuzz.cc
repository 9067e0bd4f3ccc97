// Any bytes in a ring: they are applied up to the first that is no mutation, the ring is then quarantined, and neither
// the state nor another ring suffers. Also not when the merger is started again, nor when the writer goes.
#include <algorithm>

#include "layout/record.h"
#include "served_instance.h"

namespace shmstate::fuzz {
using namespace internal;
namespace {

enum Mode : std::uint8_t { kPushInTwoParts = 1, kRestart = 2, kWriterGoes = 4, kImpossibleTail = 8, kTimePasses = 16 };

/// What is good in a ring: the mutations of all whole batches before the first that is no mutation.
struct Valid {
  std::uint64_t mutations = 0;
  bool is_all = false;
};

Valid valid_prefix(const RingFile& ring, std::uint64_t tail) {
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

std::uint64_t taken(const layout::RingHeader& header) {
  std::uint64_t count = header.applied_count.load(std::memory_order_relaxed);
  for (const auto& rejected : header.rejected) count += rejected.load(std::memory_order_relaxed);
  return count;
}

bool is_quarantined(const layout::RingHeader& header) {
  return header.verdict.load(std::memory_order_relaxed) ==
         static_cast<std::uint32_t>(layout::RingVerdict::kQuarantined);
}

// The bytes as one push or two; a part that ends within a record is garbage of its own.
void push(ServedInstance& served, RingFile& ring, std::span<const std::uint8_t> bytes, std::uint8_t mode) {
  const std::size_t tail = std::min(bytes.size(), ServedInstance::kRingBytes) / kWord * kWord;
  if (tail > 0) std::memcpy(ring.at(0), bytes.data(), tail);
  layout::RingHeader& header = ring.header();
  if ((mode & kPushInTwoParts) != 0) {
    header.tail.store(tail / 2 / kWord * kWord, std::memory_order_release);
    served.pump();
    if (is_quarantined(header)) return;
  }
  header.tail.store((mode & kImpossibleTail) != 0 ? tail + ServedInstance::kRingBytes + 1 : tail,
                    std::memory_order_release);
  served.pump();
}

void must_be_judged_rightly(const RingFile& ring) {
  const layout::RingHeader& header = ring.header();
  const std::uint64_t tail = header.tail.load(std::memory_order_relaxed);
  const bool is_possible = tail <= ServedInstance::kRingBytes;
  const Valid valid = valid_prefix(ring, is_possible ? tail : 0);
  must(is_quarantined(header) == (!is_possible || !valid.is_all), "a ring is quarantined when it holds garbage");
  if (is_possible)
    must(taken(header) == valid.mutations, "all whole batches before the garbage are taken, and no more");
}

void run(Input input) {
  ServedInstance served;
  const auto mode = input.take<std::uint8_t>();
  std::optional<Writer> hostile(served.instance().writer(test::ring_of(ServedInstance::kRingBytes)));
  served.push_honestly();
  served.pump();
  RingFile ring = served.instance().open_ring(*hostile);
  must(os::commit(ring.fd(), layout::kRingHeaderBytes, ServedInstance::kRingBytes) == 0, "there is memory");
  push(served, ring, input.rest(), mode);
  must_be_judged_rightly(ring);
  served.must_serve_everybody();
  if ((mode & kTimePasses) != 0) served.instance().step(std::chrono::hours(1));
  if ((mode & kRestart) != 0) served.instance().restart();
  served.must_serve_everybody();
  if ((mode & kWriterGoes) == 0) return;
  const std::uint64_t id = hostile->ring_id();
  hostile.reset();
  served.pass_rounds();
  must(!served.instance().has_ring_file(id), "a ring goes with its writer");
  served.must_serve_everybody();
}

}  // namespace
}  // namespace shmstate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  shmstate::fuzz::run({data, bytes});
  return 0;
}
