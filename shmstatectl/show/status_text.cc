#include "show/status_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "show/text.h"

namespace shmstate::ctl {

namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string merger_text(const InstanceInfo& info) {
  const std::string silence = format_duration(info.merger_silence);
  if (info.merger_running) return fmt::format("running, pid {}, last heartbeat {} ago", info.merger_pid, silence);
  return fmt::format("not running, silent for {} (was pid {})", silence, info.merger_pid);
}

std::string rates_text(const Rates& rates) {
  return fmt::format("{}/s mutations, {}/s publishes, {}/s rejected", format_rate(rates.mutations_per_s),
                     format_rate(rates.publishes_per_s), format_rate(rates.rejections_per_s));
}

std::string instance_text(const InstanceInfo& info, const std::optional<Rates>& rates) {
  Rows rows = {
      {"instance", escaped(info.path)},
      {"id", escaped(info.id)},
      {"layout", fmt::format("{}.{}", info.layout_major, info.layout_minor)},
      {"merger", merger_text(info)},
      {"epoch", fmt::to_string(info.epoch)},
      {"entries", fmt::to_string(info.entry_count)},
      {"age", format_duration(info.age)},
      {"memory", fmt::format("{} committed of {}", format_bytes(info.committed_bytes), format_bytes(info.limit_bytes))},
  };
  if (rates) rows.push_back({"rates", rates_text(*rates)});
  return format_columns(rows);
}

// "yes" when only the kernel knows by whom.
std::string pinned_text(const BufferInfo& buffer, std::size_t index, const std::vector<PinHolder>& holders) {
  std::string text;
  for (const PinHolder& holder : holders) {
    if (holder.buffer == index)
      text += fmt::format("{}pid {} ({})", text.empty() ? "by " : ", ", holder.pid, escaped(holder.program));
  }
  if (!text.empty()) return text;
  return buffer.pinned ? "yes" : "no";
}

std::string buffers_text(const std::vector<BufferInfo>& buffers, const std::vector<PinHolder>& holders) {
  Rows rows = {{"BUFFER", "EPOCH", "CURRENT", "PINNED"}};
  for (const BufferInfo& buffer : buffers) {
    const std::string epoch = buffer.epoch == 0 ? "being written" : fmt::to_string(buffer.epoch);
    const std::size_t index = rows.size() - 1;
    rows.push_back({fmt::to_string(index), epoch, buffer.current ? "yes" : "no", pinned_text(buffer, index, holders)});
  }
  return format_columns(rows);
}

// The tail of a quarantined ring may be any number.
std::string backlog_text(const RingInfo& ring) {
  return ring.quarantine_reason.empty() ? format_bytes(backlog_bytes(ring)) : "-";
}

std::string rate_text(const RingInfo& ring, const std::optional<Rates>& rates) {
  if (!rates || !rates->ring_mutations_per_s.contains(ring.id)) return "-";
  return format_rate(rates->ring_mutations_per_s.at(ring.id)) + "/s";
}

std::string quarantine_text(const std::vector<RingInfo>& rings) {
  std::string text;
  for (const RingInfo& ring : rings) {
    if (ring.quarantine_reason.empty()) continue;
    text += fmt::format("ring {:016x} is quarantined: {}\n", ring.id, escaped(ring.quarantine_reason));
  }
  return text;
}

std::string rings_text(const std::vector<RingInfo>& rings, const std::optional<Rates>& rates) {
  if (rings.empty()) return "no rings\n";
  Rows rows = {{"RING", "NAME", "PID", "UID", "STATE", "BACKLOG", "RATE", "APPLIED", "REJECTED"}};
  for (const RingInfo& ring : rings) {
    rows.push_back({fmt::format("{:016x}", ring.id), escaped(ring.name), fmt::to_string(ring.pid),
                    fmt::to_string(ring.uid), escaped(ring.state), backlog_text(ring), rate_text(ring, rates),
                    fmt::to_string(ring.applied_count), fmt::to_string(ring.rejected_count)});
  }
  return format_columns(rows) + quarantine_text(rings);
}

std::string statistic_value_text(const StatisticInfo& statistic) {
  if (statistic.unit == "ns") return format_duration(std::chrono::nanoseconds(statistic.value));
  constexpr std::uint64_t kPageBytes = 4096;
  if (statistic.unit == "4KiB") return format_bytes(statistic.value * kPageBytes);
  if (statistic.unit == "bytes") return format_bytes(statistic.value);
  const std::string count = fmt::to_string(statistic.value);
  return statistic.unit.empty() ? count : count + ' ' + escaped(statistic.unit);
}

std::string statistics_text(const std::vector<StatisticInfo>& statistics, bool verbose) {
  Rows rows = {{"STATISTIC", "VALUE"}};
  if (verbose) rows[0].push_back("MEANING");
  for (const StatisticInfo& statistic : statistics) {
    rows.push_back({escaped(statistic.name), statistic_value_text(statistic)});
    if (verbose) rows.back().push_back(escaped(statistic.meaning));
  }
  return format_columns(rows);
}

}  // namespace

std::string status_text(const InstanceInfo& info, bool verbose, const StatusExtras& extras) {
  return instance_text(info, extras.rates) + '\n' + buffers_text(info.buffers, extras.pin_holders) + '\n' +
         rings_text(info.rings, extras.rates) + '\n' + statistics_text(info.statistics, verbose);
}

}  // namespace shmstate::ctl
