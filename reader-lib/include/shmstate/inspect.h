// What an instance says about itself: identity, merger, buffers, rings, statistics. For tools and health checks;
// works on a stopped, half-created or foreign instance as far as it can be read.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shmstate/api.h"
#include "shmstate/status.h"

namespace shmstate {

struct BufferInfo {
  std::uint64_t epoch = 0;  ///< 0 while the merger writes it
  bool current = false;
  bool pinned = false;  ///< by any reader
};

struct RingInfo {
  std::uint64_t id = 0;
  std::string name;       ///< as the writer gave it
  std::uint32_t pid = 0;  ///< for display only: the writer's process as it saw itself
  std::uint32_t uid = 0;
  std::string state;              ///< "live", "finished" or "quarantined"
  std::string quarantine_reason;  ///< one phrase; empty unless quarantined
  std::uint64_t ring_bytes = 0;
  std::uint64_t pushed_bytes = 0;   ///< bytes pushed since the ring was created, when the merger last looked
  std::uint64_t applied_bytes = 0;  ///< of these, readable
  std::uint64_t applied_count = 0;  ///< mutations
  std::uint64_t rejected_count = 0;
};

/// One counter or gauge that the merger keeps; the instance itself describes it.
struct StatisticInfo {
  std::string name;     ///< for example "publishes"
  std::string unit;     ///< for example "ns", "bytes", or empty for a count
  std::string meaning;  ///< one sentence
  std::uint64_t value = 0;
};

struct InstanceInfo {
  std::string path;
  std::string id;  ///< 32 hex digits
  std::uint32_t layout_major = 0;
  std::uint32_t layout_minor = 0;
  bool merger_running = false;
  std::uint32_t merger_pid = 0;               ///< of the present or the last merger, for display only
  std::chrono::nanoseconds merger_silence{};  ///< since the merger's last heartbeat
  std::uint64_t epoch = 0;
  std::uint64_t entry_count = 0;
  std::chrono::nanoseconds age{};     ///< as `Reader::age`
  std::uint64_t committed_bytes = 0;  ///< memory that the buffers take now, without the change feed
  std::uint64_t limit_bytes = 0;      ///< and may take at most, as configured
  std::vector<BufferInfo> buffers;
  std::vector<RingInfo> rings;
  std::vector<StatisticInfo> statistics;
};

struct InspectOptions {
  bool survive_truncation = false;  ///< as in `ReaderOptions`: kDamaged instead of SIGBUS
};

/// Looks at an instance, by name or by the path of its directory. Throws `Error`.
[[nodiscard]] SHMSTATE_API InstanceInfo inspect(std::string_view instance, const InspectOptions& options = {});

/// A key, and in how many publishes it changed, as far as could be seen.
struct KeyCount {
  std::string key;
  double count = 0;
};

/// Which keys change most, sampled from the change feed: without a pin, so that looking delays no publish. Use it from
/// one thread; in a child of fork, make another.
class SHMSTATE_API ChangeSampler {
 public:
  /// By name or by the path of its directory; `take` attaches.
  explicit ChangeSampler(std::string_view instance);
  ChangeSampler(ChangeSampler&&) noexcept;
  ChangeSampler& operator=(ChangeSampler&&) noexcept;
  ~ChangeSampler();

  /// What changed since the previous call: the 256 keys that were set most, and all that were erased. When more than
  /// 32,768 records of the feed are new, counts are scaled up from a sample of as many. Nothing the first time, and
  /// after the instance was re-created. Throws `Error`.
  [[nodiscard]] std::vector<KeyCount> take();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The directories of the instances that this user can see.
[[nodiscard]] SHMSTATE_API std::vector<std::string> list_instances();

}  // namespace shmstate
