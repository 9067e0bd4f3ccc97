#include "shmstate/inspect.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>

#include "files/control.h"
#include "files/errors.h"
#include "layout/quarantine.h"
#include "protocol/publish.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate {

using namespace internal;
namespace {

namespace fs = std::filesystem;

template <std::size_t N>
std::string text(const char (&field)[N]) {
  return {field, std::find(field, field + N, '\0')};
}

template <std::size_t N>
std::string text(const Shared<std::uint64_t> (&words)[N]) {
  char copy[N * sizeof(std::uint64_t)];
  for (std::size_t i = 0; i < N; ++i) {
    const std::uint64_t word = words[i].load(std::memory_order_relaxed);
    std::memcpy(copy + i * sizeof word, &word, sizeof word);
  }
  return text(copy);
}

std::string hex(const layout::Id& id) {
  std::string digits;
  for (const std::uint8_t byte : id) {
    digits += "0123456789abcdef"[byte >> 4];
    digits += "0123456789abcdef"[byte & 0xf];
  }
  return digits;
}

std::string state_name(std::uint32_t state) {
  switch (static_cast<layout::RingState>(state)) {
    case layout::RingState::kFree: return "free";
    case layout::RingState::kLive: return "live";
    case layout::RingState::kFinished: return "finished";
    case layout::RingState::kQuarantined: return "quarantined";
  }
  return "unknown";
}

std::chrono::nanoseconds since(std::uint64_t then_ns) {
  const std::uint64_t now = os::now_ns();
  return std::chrono::nanoseconds(now > then_ns ? now - then_ns : 0);
}

std::vector<RingInfo> rings_of(const Control& control) {
  std::vector<RingInfo> rings;
  const auto* const table =
      reinterpret_cast<const layout::RingStatus*>(control.data() + control.geometry().ring_table_offset);
  for (std::uint32_t i = 0; i < control.geometry().ring_count_max; ++i) {
    const layout::RingStatus& status = table[i];
    const std::uint64_t id = status.ring_id.load(std::memory_order_acquire);  // pair: ring_status.ring_id
    if (id == 0) continue;
    const auto reason = static_cast<layout::QuarantineReason>(status.quarantine_reason.load(std::memory_order_relaxed));
    const std::uint64_t applied_bytes = status.head.load(std::memory_order_relaxed);
    rings.push_back({.id = id,
                     .name = text(status.name),
                     .pid = status.owner_pid.load(std::memory_order_relaxed),
                     .uid = status.owner_uid.load(std::memory_order_relaxed),
                     .state = state_name(status.state.load(std::memory_order_relaxed)),
                     .quarantine_reason = describe(reason, applied_bytes),
                     .ring_bytes = status.ring_bytes.load(std::memory_order_relaxed),
                     .pushed_bytes = status.tail.load(std::memory_order_relaxed),
                     .applied_bytes = applied_bytes,
                     .applied_count = status.applied_count.load(std::memory_order_relaxed),
                     .rejected_count = status.rejected_count.load(std::memory_order_relaxed)});
  }
  return rings;
}

std::vector<StatisticInfo> statistics_of(const Control& control) {
  const Geometry& g = control.geometry();
  const auto* const names = reinterpret_cast<const layout::StatisticName*>(control.data() + g.statistic_offset);
  const auto* const values = reinterpret_cast<const Shared<std::uint64_t>*>(control.data() + g.value_offset);
  std::vector<StatisticInfo> statistics;
  for (std::uint32_t i = 0; i < g.statistic_count; ++i) {
    statistics.push_back({.name = text(names[i].name),
                          .unit = text(names[i].unit),
                          .meaning = text(names[i].meaning),
                          .value = values[i].load(std::memory_order_relaxed)});
  }
  return statistics;
}

// What only the snapshot file shows. Without permission to read it, the rest is still worth showing.
void inspect_snapshot(const Control& control, Version current, InstanceInfo& info) {
  const Geometry& g = control.geometry();
  const os::Fd fd = os::open_file(control.path() / "snapshot", O_RDONLY);
  const std::optional<os::FileInfo> file = fd.is_open() ? os::file_info(fd.get()) : std::nullopt;
  if (!file) return;
  info.committed_bytes = file->committed_bytes - std::min(file->committed_bytes, g.buffer_offset);
  for (std::uint32_t b = 0; b < g.buffer_count; ++b) info.buffers[b].pinned = os::is_locked(fd.get(), kPinByte + b);
  if (file->bytes < g.snapshot_bytes) throw error_of(InstanceError::kSnapshotTruncated, control.path());
  if (current.buffer >= g.buffer_count) return;
  const Mapping header(fd, Access::kReadOnly, g.buffer_offset + current.buffer * g.buffer_stride, layout::kPageBytes,
                       "snapshot");
  FaultGuard guard;
  if (control.guard().is_active()) guard = FaultGuard(header.data(), header.size(), control.guard());
  info.entry_count = BufferView(header.data(), 1).entry_count();
}

}  // namespace

InstanceInfo inspect(std::string_view instance, const InspectOptions& options) {
  const Control control(instance_path(instance), std::chrono::nanoseconds::zero(),
                        options.survive_truncation ? WhenTruncated::kReadZeros : WhenTruncated::kDie);
  const Geometry& g = control.geometry();
  const Version current = current_version(control.publication());
  InstanceInfo info;
  info.path = control.path().string();
  info.id = hex(g.instance_id);
  info.layout_major = control.identity().layout_major;
  info.layout_minor = control.identity().layout_minor;
  info.merger_running = control.merger_running();
  info.merger_pid = control.heartbeat().merger_pid.load(std::memory_order_relaxed);
  info.merger_silence = since(control.heartbeat().beat_ns.load(std::memory_order_relaxed));
  info.age = since(control.heartbeat().current_as_of_ns.load(std::memory_order_relaxed));
  info.epoch = current.epoch;
  info.limit_bytes = g.buffer_count * g.buffer_stride;
  for (std::uint32_t b = 0; b < g.buffer_count; ++b) {
    info.buffers.push_back(
        {.epoch = control.publication().stamps[b].load(std::memory_order_relaxed) & ~layout::kClaimed,
         .current = b == current.buffer,
         .pinned = false});
  }
  inspect_snapshot(control, current, info);
  info.rings = rings_of(control);
  info.statistics = statistics_of(control);
  if (control.is_lost()) throw error_of(InstanceError::kFilesTruncated, control.path());
  return info;
}

std::vector<std::string> list_instances() {
  std::vector<std::string> instances;
  for (const fs::path& root : instance_roots()) {
    if (why_untrusted(root)) continue;
    std::error_code error;
    for (fs::directory_iterator entry(root, error), end; !error && entry != end; entry.increment(error)) {
      std::error_code ignored;
      if (!is_instance_name(entry->path().filename().string())) continue;
      if (fs::exists(entry->path() / "control", ignored)) instances.push_back(entry->path().string());
    }
  }
  std::sort(instances.begin(), instances.end());
  return instances;
}

}  // namespace shmstate
