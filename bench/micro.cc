// Single operations in one process, by Google Benchmark: where time goes in shmstate, not how it compares. The merge
// engine runs in the benchmark's own thread, so no line moves between cores.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <map>
#include <optional>
#include <span>

#include "layout/hash.h"
#include "own_engine.h"
#include "shmstate/reader.h"
#include "workload.h"

namespace shmstate::bench {
using namespace internal;
namespace {

constexpr std::size_t kStreamLength = std::size_t{1} << 18;
constexpr std::size_t kBatch = 16;

/// A directory under /dev/shm that is removed at the end.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = "/dev/shm/shmstate-micro-XXXXXX";
    must(::mkdtemp(name.data()) != nullptr, "cannot create " + name);
    path_ = name;
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

/// A full instance of one size, with a stream of keys for each distribution.
class Plant {
 public:
  explicit Plant(std::uint64_t key_count)
      : path_(directory_.path() / "plant"),
        own_(path_, key_count),
        writer_(path_.string(), WriterOptions{.names_bytes = kNamesBytes}),
        reader_(path_.string(), {.prefault = true}),
        streams_{make_stream(key_count, kStreamLength, Distribution::kUniform, 1),
                 make_stream(key_count, kStreamLength, Distribution::kZipf, 2)} {
    own_.fill(writer_, all_items(key_count));
  }

  [[nodiscard]] OwnEngine& own() { return own_; }
  [[nodiscard]] Writer& writer() { return writer_; }
  [[nodiscard]] Reader& reader() { return reader_; }
  [[nodiscard]] std::string path() const { return path_.string(); }
  [[nodiscard]] const std::vector<Item>& stream(std::int64_t distribution) const {
    return streams_.at(static_cast<std::size_t>(distribution));
  }

 private:
  TemporaryDirectory directory_;
  std::filesystem::path path_;
  OwnEngine own_;
  Writer writer_;
  Reader reader_;
  std::array<std::vector<Item>, 2> streams_;
};

/// The plant of this size; the one before is given up when the size changes.
Plant& plant_of(const benchmark::State& state) {
  static std::unique_ptr<Plant> plant;
  static std::int64_t key_count = 0;
  if (key_count != state.range(0)) {
    plant.reset();
    key_count = state.range(0);
    plant = std::make_unique<Plant>(static_cast<std::uint64_t>(key_count));
  }
  return *plant;
}

[[nodiscard]] std::vector<Key> bound_keys(std::span<const Item> items) {
  std::vector<Key> keys;
  keys.reserve(items.size());
  for (const Item& item : items) keys.emplace_back(item.name());
  return keys;
}

void expect(benchmark::State& state, bool holds, const char* otherwise) {
  if (!holds) state.SkipWithError(otherwise);
}

void count_operations(benchmark::State& state, std::size_t in_each_iteration) {
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(in_each_iteration));
}

/// Bursts of pushes; merging them is not timed.
template <typename PushBurst>
void push_bursts(benchmark::State& state, PushBurst&& push_burst) {
  Plant& plant = plant_of(state);
  const std::vector<Item>& stream = plant.stream(state.range(1));
  std::size_t place = 0;
  for (auto _ : state) {
    push_burst(plant.writer(), std::span<const Item>(&stream[place], kBurst), place);
    state.PauseTiming();
    plant.own().pump();
    place = (place + kBurst) % stream.size();
    state.ResumeTiming();
  }
  expect(state, plant.writer().counters().failed == 0, "a push failed");
  count_operations(state, kBurst);
}

void push(benchmark::State& state) {
  push_bursts(state, [](Writer& writer, std::span<const Item> items, std::size_t) {
    for (const Item& item : items) writer.set(item.name(), item.value);
  });
}

void push_bound(benchmark::State& state) {
  std::vector<Key> keys = bound_keys(plant_of(state).stream(state.range(1)));
  push_bursts(state, [&](Writer& writer, std::span<const Item> items, std::size_t place) {
    for (std::size_t i = 0; i < items.size(); ++i) writer.set(keys[place + i], items[i].value);
  });
}

void push_batches(benchmark::State& state) {
  push_bursts(state, [](Writer& writer, std::span<const Item> items, std::size_t) {
    for (std::size_t i = 0; i < items.size(); i += kBatch) {
      Batch batch = writer.batch();
      for (const Item& item : items.subspan(i, kBatch)) batch.set(item.name(), item.value);
      batch.commit();
    }
  });
}

/// A ring that nobody drains: what each policy costs once it is full.
template <WhenFull kWhenFull>
void push_to_full_ring(benchmark::State& state) {
  Plant& plant = plant_of(state);
  const std::vector<Item>& stream = plant.stream(state.range(1));
  WriterOptions options;
  options.ring_bytes = std::size_t{64} << 10;
  options.when_full = kWhenFull;
  options.full_timeout = std::chrono::nanoseconds::zero();
  options.conflate_bytes_max = std::size_t{1} << 30;
  Writer writer(plant.path(), options);
  const auto is_full = [&] { return writer.counters().failed + writer.counters().conflated != 0; };
  for (std::size_t i = 0; !is_full(); ++i) writer.set(stream[i].name(), stream[i].value);
  std::size_t place = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(writer.set(stream[place].name(), stream[place].value));
    place = (place + 1) % stream.size();
  }
  count_operations(state, 1);
  plant.own().pump();
}

/// Drain, apply, publish and catch up, per mutation of a burst.
void merge(benchmark::State& state) {
  Plant& plant = plant_of(state);
  const std::vector<Item>& stream = plant.stream(state.range(1));
  std::size_t place = 0;
  const std::uint64_t applied = plant.own().engine().applied_count();
  for (auto _ : state) {
    state.PauseTiming();
    for (std::size_t i = 0; i < kBurst; ++i) plant.writer().set(stream[place + i].name(), stream[place + i].value);
    place = (place + kBurst) % stream.size();
    state.ResumeTiming();
    plant.own().pump();
  }
  const auto merged = static_cast<benchmark::IterationCount>(plant.own().engine().applied_count() - applied);
  expect(state, merged == state.iterations() * static_cast<benchmark::IterationCount>(kBurst), "not all was merged");
  count_operations(state, kBurst);
}

/// One merge turn, as a function of how many keys changed.
void publish(benchmark::State& state) {
  Plant& plant = plant_of(state);
  const std::vector<Item>& stream = plant.stream(0);
  const auto changed = static_cast<std::size_t>(state.range(1));
  std::size_t place = 0;
  for (auto _ : state) {
    state.PauseTiming();
    if (place + changed > stream.size()) place = 0;
    for (std::size_t i = 0; i < changed; ++i) plant.writer().set(stream[place + i].name(), stream[place + i].value);
    place += changed;
    const std::uint64_t now_ns = os::now_ns();
    state.ResumeTiming();
    expect(state, plant.own().engine().step(now_ns) == MergeEngine::Progress::kWorked, "a turn did nothing");
  }
  plant.own().pump();
  count_operations(state, changed);
}

template <typename Read>
void read_stream(benchmark::State& state, std::size_t in_each_iteration, Read&& read) {
  Plant& plant = plant_of(state);
  const std::vector<Item>& stream = plant.stream(state.range(1));
  std::size_t place = 0;
  bool found = true;
  for (auto _ : state) {
    found &= read(plant.reader(), stream, place);
    place += in_each_iteration;
    if (place + in_each_iteration > stream.size()) place = 0;
  }
  expect(state, found, "a key is missing");
  count_operations(state, in_each_iteration);
}

void read(benchmark::State& state) {
  read_stream(state, 1, [](Reader& reader, const std::vector<Item>& stream, std::size_t place) {
    std::int64_t value = 0;
    const bool found = reader.read(stream[place].name(), value) == Status::kOk;
    benchmark::DoNotOptimize(value);
    return found;
  });
}

void read_bound(benchmark::State& state) {
  std::vector<Key> keys = bound_keys(plant_of(state).stream(state.range(1)));
  read_stream(state, 1, [&](Reader& reader, const std::vector<Item>&, std::size_t place) {
    std::int64_t value = 0;
    const bool found = reader.read(keys[place], value) == Status::kOk;
    benchmark::DoNotOptimize(value);
    return found;
  });
}

void get_many(benchmark::State& state) {
  std::array<std::string_view, kBatch> keys;
  std::vector<std::optional<Value>> values;
  read_stream(state, kBatch, [&](Reader& reader, const std::vector<Item>& stream, std::size_t place) {
    for (std::size_t i = 0; i < kBatch; ++i) keys[i] = stream[place + i].name();
    reader.get_many(keys, values);
    return values.front().has_value() && values.back().has_value();
  });
}

void pin(benchmark::State& state) {
  Plant& plant = plant_of(state);
  for (auto _ : state) benchmark::DoNotOptimize(plant.reader().snapshot().epoch());
}

void scan(benchmark::State& state) {
  Plant& plant = plant_of(state);
  std::uint64_t count = 0;
  for (auto _ : state) {
    count = 0;
    for (const auto& [key, value] : plant.reader().snapshot()) {
      ++count;
      benchmark::DoNotOptimize(value.int64());
    }
  }
  expect(state, count == static_cast<std::uint64_t>(state.range(0)), "a scan missed keys");
  count_operations(state, count);
}

void hash(benchmark::State& state) {
  Item item = item_of(1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(item);
    benchmark::DoNotOptimize(hash_key(item.name(), 42));
  }
}

// ---- what runs at which sizes

const std::vector<std::int64_t> kKeyCounts{1'000, 100'000, 1'000'000};

using Function = void (*)(benchmark::State&);

void add_for_streams(const char* name, Function function, std::int64_t key_count) {
  benchmark::RegisterBenchmark(name, function)->ArgNames({"keys", "zipf"})->Args({key_count, 0})->Args({key_count, 1});
}

/// All of one size after the other, so that each instance is filled once.
void add_all() {
  benchmark::RegisterBenchmark("hash", hash);
  for (const std::int64_t key_count : kKeyCounts) {
    add_for_streams("push", push, key_count);
    add_for_streams("push/bound", push_bound, key_count);
    add_for_streams("push/batches_of_16", push_batches, key_count);
    add_for_streams("merge", merge, key_count);
    for (const std::int64_t changed : {1, 10, 100, 1000}) {
      benchmark::RegisterBenchmark("publish", publish)->ArgNames({"keys", "changed"})->Args({key_count, changed});
    }
    add_for_streams("read", read, key_count);
    add_for_streams("read/bound", read_bound, key_count);
    add_for_streams("get_many/16", get_many, key_count);
    benchmark::RegisterBenchmark("pin", pin)->ArgName("keys")->Arg(key_count);
    benchmark::RegisterBenchmark("scan", scan)->ArgName("keys")->Arg(key_count)->Unit(benchmark::kMicrosecond);
    add_for_streams("push/full_ring_fails", push_to_full_ring<WhenFull::kFail>, key_count);
    add_for_streams("push/full_ring_times_out", push_to_full_ring<WhenFull::kBlock>, key_count);
    add_for_streams("push/full_ring_conflates", push_to_full_ring<WhenFull::kConflate>, key_count);
  }
}

}  // namespace
}  // namespace shmstate::bench

int main(int argc, char** argv) {
  shmstate::bench::pin_to_core(shmstate::bench::kMeasuredCore);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  shmstate::bench::add_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
