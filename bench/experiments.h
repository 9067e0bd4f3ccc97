// What is measured. Each function measures one contender once, checks that the work was really done, and returns
// figures: times in ns, rates per second, memory in bytes. Who repeats and alternates is main.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "contender.h"

namespace shmstate::bench {

struct Workload {
  Workload(std::uint64_t keys, std::size_t stream_length);
  std::uint64_t key_count;
  std::vector<Item> items;  // each key once
  std::vector<Item> uniform;
  std::vector<Item> zipf;
};

/// How long one measurement of one contender takes.
struct Slice {
  std::chrono::nanoseconds time;
};

/// What a write costs its writer, in bursts that are consumed before the next one: mean, p50, p99, p99.9.
Figures measure_push(Contender& contender, const std::vector<Item>& stream, Slice slice);

/// Pushes where the kernel ends the process at its first system call, while the merger keeps up.
Figures measure_system_calls(Contender& contender, const std::vector<Item>& stream);

/// Mutations per second from so many writers, from the first push until a reader finds the last one.
Figures measure_throughput(Contender& contender, const Workload& workload, unsigned writer_count, Slice slice);

/// Point reads while nobody writes, or while a writer writes as fast as it can on the other core.
Figures measure_read(Contender& contender, const std::vector<Item>& stream, Slice slice);
Figures measure_read_flood(Contender& contender, const std::vector<Item>& stream, Slice slice);

/// From before a write until a reader that is not the merger has the new value. The reader polls: beside the writer
/// when a merger or server has the other core, else on the other core.
Figures measure_latency(Contender& contender, const std::vector<Item>& stream, Slice slice);

/// All entries as of one instant.
Figures measure_scan(Contender& contender, const Workload& workload, Slice slice);

/// How long a write takes to be accepted and to be readable at worst, while a reader holds one view for `hold`.
Figures measure_held_view(Contender& contender, const std::vector<Item>& stream, std::chrono::nanoseconds hold);

/// One merge turn with `changed` changed keys, in the measuring process itself: drain, apply, publish, catch up.
Figures measure_publish(const std::filesystem::path& directory, const Workload& workload, std::size_t changed,
                        Slice slice);

/// Memory of the snapshot per key while it grows to `key_count` keys: the mean over geometric steps of the last factor
/// of ten, and at the end.
Figures measure_growth(const std::filesystem::path& directory, std::uint64_t key_count);

/// Writers that push once and then keep their rings, in a process of their own.
class IdleRings {
 public:
  IdleRings(const std::string& instance, unsigned count);
  ~IdleRings();

 private:
  struct Shared;
  std::unique_ptr<Board<Shared>> board_;
  Party party_;
};

/// Builds, reads and scans one very large instance.
Figures measure_large(const std::filesystem::path& directory, std::uint64_t key_count, Slice slice);

// ---- limits of the machine

/// Moving a line from one core to the other, one way.
Figures measure_line_transfer(Slice slice);
/// Random reads of whole lines over so many bytes: each address from the line before, and each known early enough to be
/// prefetched.
Figures measure_random_access(std::size_t bytes, Slice slice);
/// Copying and reading memory that does not fit the caches; bytes per second.
Figures measure_bandwidth(Slice slice);

}  // namespace shmstate::bench
