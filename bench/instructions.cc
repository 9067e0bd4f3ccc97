// A known number of operations for callgrind to count: bench/run starts it with collection off and toggles it in
// `measured_…`. Instructions do not depend on what else the machine does.
#include <cstdio>
#include <string_view>

#include "own_engine.h"
#include "shmstate/reader.h"
#include "workload.h"

namespace {

using namespace shmstate::bench;

constexpr std::uint64_t kKeyCount = 10'000;
constexpr std::size_t kOperations = 10'000;
constexpr std::size_t kBatch = 16;
static_assert(kOperations % kBatch == 0);

}  // namespace

// Found by name, so neither inlined nor renamed.
extern "C" {

[[gnu::noinline]] void measured_push(shmstate::Writer& writer, const std::vector<Item>& stream) {
  for (const Item& item : stream) writer.set(item.name(), item.value);
}

[[gnu::noinline]] void measured_push_bound(shmstate::Writer& writer, std::vector<shmstate::Key>& keys) {
  for (shmstate::Key& key : keys) writer.set(key, 1);
}

[[gnu::noinline]] void measured_push_batches(shmstate::Writer& writer, const std::vector<Item>& stream) {
  for (std::size_t i = 0; i < stream.size(); i += kBatch) {
    shmstate::Batch batch = writer.batch();
    for (std::size_t j = i; j < i + kBatch; ++j) batch.set(stream[j].name(), stream[j].value);
    batch.commit();
  }
}

[[gnu::noinline]] void measured_apply(OwnEngine& own) { own.pump(); }

[[gnu::noinline]] void measured_apply_bound(OwnEngine& own) { own.pump(); }

[[gnu::noinline]] std::uint64_t measured_read(shmstate::Reader& reader, const std::vector<Item>& stream) {
  std::uint64_t sum = 0;
  for (const Item& item : stream) {
    std::int64_t value = 0;
    if (reader.read(item.name(), value) == shmstate::Status::kOk) sum += index_in(value);
  }
  return sum;
}
}

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s DIRECTORY (on a tmpfs; must be empty)\n", argv[0]);
    return 2;
  }
  const std::filesystem::path path = std::filesystem::path(argv[1]) / "instructions";
  OwnEngine own(path, kKeyCount);
  shmstate::Writer writer(path.string());
  shmstate::Reader reader(path.string());
  own.fill(writer, all_items(kKeyCount));
  const std::vector<Item> stream = make_stream(kKeyCount, kOperations, Distribution::kUniform, 1);
  measured_push(writer, stream);
  const std::uint64_t applied = own.engine().applied_count();
  measured_apply(own);
  const bool is_merged = own.engine().applied_count() == applied + kOperations;
  const bool is_read = measured_read(reader, stream) == index_sum(stream.data(), stream.size());
  std::vector<shmstate::Key> keys;
  for (const Item& item : stream) keys.emplace_back(item.name());
  for (int i = 0; i < 2; ++i) {  // so that they have ids, which the engine knows
    for (shmstate::Key& key : keys) writer.set(key, 1);
    own.pump();
  }
  measured_push_bound(writer, keys);
  measured_apply_bound(own);
  measured_push_batches(writer, stream);
  own.pump();
  const bool is_all_merged = own.engine().applied_count() == applied + 5 * kOperations;
  std::printf("%zu\n", kOperations);
  return is_merged && is_read && is_all_merged ? 0 : 1;
}
