// Any bytes in a ring: they are applied up to the first that is no mutation, the ring is then quarantined, and neither
// the state nor another ring suffers. Also not when the merger is started again, nor when the writer goes.
#include <algorithm>

#include "judged_ring.h"
#include "served_instance.h"

namespace shmstate::fuzz {
using namespace internal;
namespace {

enum Mode : std::uint8_t { kPushInTwoParts = 1, kRestart = 2, kWriterGoes = 4, kImpossibleTail = 8, kTimePasses = 16 };

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
