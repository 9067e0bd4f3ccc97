// Any bytes in the names of a ring, beside records by id: an id that has an impossible name, or none, is a rejection,
// and no key changes that is not a name, nor the key of a record. Also not when names change while they are used, when
// the merger is started again, nor when the ring is merged in parts.
#include <algorithm>
#include <set>
#include <string>

#include "judged_ring.h"
#include "served_instance.h"

namespace shmstate::fuzz {
using namespace internal;
namespace {

enum Mode : std::uint8_t { kNamesChange = 1, kRestart = 2, kPushInTwoParts = 4, kSplit = 8 };

constexpr std::uint64_t kNamesBytes = ServedInstance::kRingBytes / 4;
constexpr std::size_t kIndexedMax = 64;

std::byte* names_of(const RingFile& ring) { return ring.at(0) + 2 * ring.data_bytes(); }

// The first bytes become the index, the others names, from behind.
void fill_names(const RingFile& ring, Input& input, std::set<std::string>& names) {
  const auto index = input.take_bytes(8 * (1 + input.below(kIndexedMax)));
  const auto text = input.take_bytes(input.below(1024));
  std::byte* const area = names_of(ring);
  std::copy(index.begin(), index.end(), reinterpret_cast<std::uint8_t*>(area));
  std::copy(text.begin(), text.end(), reinterpret_cast<std::uint8_t*>(area + kNamesBytes - text.size()));
  std::array<std::uint64_t, kKeyBytesMax / kWord> words{};
  for (std::uint32_t id = 0; id < ring.names().count_max(); ++id) {
    if (const auto name = ring.names().copy(id, words.data())) names.emplace(*name);
  }
}

void add_keys_of_records(const RingFile& ring, std::uint64_t tail, std::set<std::string>& names) {
  RecordView record;
  for (std::uint64_t position = 0;
       position < tail && parse_record(ring.at(position), static_cast<std::size_t>(tail - position), record);
       position += record.bytes) {
    names.emplace(reinterpret_cast<const char*>(record.key), record.key_bytes);
  }
}

void push(ServedInstance& served, const RingFile& ring, std::uint64_t tail, bool in_parts) {
  if (in_parts) {
    ring.header().tail.store(tail / 2 / kWord * kWord, std::memory_order_release);
    served.pump();
    if (is_quarantined(ring.header())) return;
  }
  ring.header().tail.store(tail, std::memory_order_release);
  served.pump();
}

void run(Input input) {
  ServedInstance served;
  const auto mode = input.take<std::uint8_t>();
  Writer hostile = served.instance().writer(test::ring_of(ServedInstance::kRingBytes));
  served.push_honestly();
  served.pump();
  const RingFile ring = served.instance().open_ring(hostile);
  must(os::commit(ring.fd(), layout::kRingHeaderBytes, ServedInstance::kRingBytes + kNamesBytes) == 0,
       "there is memory");
  std::set<std::string> names{"honest"};
  fill_names(ring, input, names);
  Input other_names = input;  // the same bytes, cut otherwise
  const auto records = input.rest();
  const std::size_t tail = std::min(records.size(), ServedInstance::kRingBytes) / kWord * kWord;
  if (tail > 0) std::memcpy(ring.at(0), records.data(), tail);
  add_keys_of_records(ring, tail, names);
  if ((mode & kSplit) != 0) {  // so that entries move, and slots are used again
    for (int i = 0; i < 1200; ++i) served.push_honestly("split/" + std::to_string(i));
  }
  push(served, ring, tail / 2 / kWord * kWord, (mode & kPushInTwoParts) != 0);
  if ((mode & kRestart) != 0) served.instance().restart();
  if ((mode & kNamesChange) != 0) fill_names(ring, other_names, names);
  if (!is_quarantined(ring.header())) push(served, ring, tail, (mode & kPushInTwoParts) != 0);
  must_be_judged_rightly(ring);
  served.must_serve_everybody();
  Reader reader = served.instance().reader();
  for (const EntryView& entry : reader.snapshot()) {
    const bool is_named = names.contains(std::string(entry.key)) || entry.key.starts_with("split/");
    must(is_named, "no key changes that nobody named");
  }
}

}  // namespace
}  // namespace shmstate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  shmstate::fuzz::run({data, bytes});
  return 0;
}
