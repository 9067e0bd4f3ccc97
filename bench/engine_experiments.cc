// The measurements that look inside shmstate: a merge engine in the measuring process.
#include <cmath>

#include "experiments.h"
#include "own_engine.h"
#include "shmstate/inspect.h"

namespace shmstate::bench {
using namespace internal;

Figures measure_publish(const std::filesystem::path& directory, const Workload& workload, std::size_t changed,
                        Slice slice) {
  return measure_apart([&] {
    OwnEngine own(directory / "publish", workload.key_count);
    Writer writer((directory / "publish").string());
    own.fill(writer, workload.items);
    Cycle cycle(workload.uniform);
    Durations durations(std::size_t{1} << 18);
    const std::uint64_t epoch = own.engine().epoch();
    for (const Stopwatch stopwatch; stopwatch.ns() < static_cast<double>(slice.time.count());) {
      for (const Item& item : cycle.next(changed)) writer.set(item.name(), item.value);
      const std::uint64_t now_ns = os::now_ns();
      const std::uint64_t start = ticks();
      const MergeEngine::Progress progress = own.engine().step(now_ns);
      durations.add(ticks() - start);
      must(progress == MergeEngine::Progress::kWorked, "a merge turn did nothing");
    }
    must(own.engine().epoch() >= epoch + durations.size(), "a merge turn did not publish");
    Figures figures = durations.percentiles();
    figures["count"] = static_cast<double>(durations.size());
    std::filesystem::remove_all(directory / "publish");
    return figures;
  });
}

Figures measure_growth(const std::filesystem::path& directory, std::uint64_t key_count) {
  return measure_apart([&]() -> Figures {
    constexpr int kSteps = 50;
    const std::string path = (directory / "growth").string();
    OwnEngine own(path, key_count);
    Writer writer(path);
    std::uint64_t count = 0;
    const auto grow_to = [&](std::uint64_t end) {
      for (; count < end; ++count) {
        const Item item = item_of(count);
        must(writer.set(item.name(), item.value) == Status::kOk, "a push failed");
        if (count % kBurst == 0) own.pump();
      }
      own.pump();
      return static_cast<double>(inspect(path).committed_bytes) / static_cast<double>(count);
    };
    double sum = 0;
    double bytes_per_key = 0;
    for (int step = 1; step <= kSteps; ++step) {
      const double share = std::pow(10.0, static_cast<double>(step - kSteps) / kSteps);
      bytes_per_key = grow_to(static_cast<std::uint64_t>(share * static_cast<double>(key_count)));
      sum += bytes_per_key;
    }
    std::filesystem::remove_all(path);
    return {{"mean", sum / kSteps}, {"end", bytes_per_key}};
  });
}

}  // namespace shmstate::bench
