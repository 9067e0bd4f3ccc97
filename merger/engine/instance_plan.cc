#include "engine/instance_plan.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <string>

#include "files/os.h"
#include "layout/statistics.h"
#include "shmstate/detail/words.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;
using layout::kPageBytes;

constexpr std::uint64_t kMemoryLimitDefaultMax = std::uint64_t{8} << 30;
constexpr std::uint64_t kBufferAlignment = os::kHugePageBytes;

// The default leaves a quarter of the file system to the feed and the rings: a full state keeps no writer out.
std::uint64_t memory_limit(const InstanceOptions& options, const fs::path& path) {
  if (options.memory_limit_bytes != 0) return options.memory_limit_bytes;
  struct statvfs space {};
  if (::statvfs(path.c_str(), &space) != 0) os::throw_errno("cannot tell the size of " + path.string(), errno);
  const std::uint64_t total = std::uint64_t{space.f_blocks} * space.f_frsize;
  return std::clamp(total / 4 * 3, options.buffer_count * kBufferBytesMin, kMemoryLimitDefaultMax);
}

}  // namespace

Geometry plan_instance(const InstanceOptions& options, const fs::path& path) {
  Geometry g;
  os::random_bytes(g.instance_id.data(), g.instance_id.size());
  os::random_bytes(&g.hash_seed, sizeof g.hash_seed);
  g.has_announced_pins = options.has_announced_pins;
  g.buffer_count = options.buffer_count;
  g.ring_count_max = options.ring_count_max;
  g.statistic_count = static_cast<std::uint32_t>(Stat::kCount);
  g.feed_record_count = options.feed_record_count;
  g.feed_offset = 0;
  g.buffer_offset = round_up(g.feed_record_count * sizeof(layout::FeedRecord), kBufferAlignment);
  g.buffer_stride = std::min(memory_limit(options, path) / g.buffer_count / kBufferAlignment * kBufferAlignment,
                             layout::kPagesMax * kPageBytes);
  g.snapshot_bytes = g.buffer_offset + g.buffer_count * g.buffer_stride;
  g.first_page = layout::kFirstPage;
  g.statistic_offset = round_up(sizeof(layout::ControlHeader), layout::kLine);
  g.value_offset = g.statistic_offset + g.statistic_count * sizeof(layout::StatisticName);
  g.ring_table_offset = round_up(g.value_offset + g.statistic_count * sizeof(std::uint64_t), layout::kLine);
  g.control_bytes = round_up(g.ring_table_offset + g.ring_count_max * sizeof(layout::RingStatus), 4096);
  return g;
}

void write_identity(layout::Identity& identity, const Geometry& g, const layout::Id& boot_id) {
  identity.layout_major = layout::kLayoutMajor;
  identity.layout_minor = layout::kLayoutMinor;
  identity.required_features = g.has_announced_pins ? layout::kAnnouncedPins : 0;
  identity.optional_features = layout::kOptionalFeatures;
  identity.control_bytes = g.control_bytes;
  identity.snapshot_bytes = g.snapshot_bytes;
  identity.instance_id = g.instance_id;
  identity.boot_id = boot_id;
  identity.hash_seed = g.hash_seed;
  identity.created_ns = os::realtime_ns();
  identity.buffer_offset = g.buffer_offset;
  identity.buffer_stride = g.buffer_stride;
  identity.buffer_count = g.buffer_count;
  identity.ring_count_max = g.ring_count_max;
  identity.first_page = g.first_page;
  identity.statistic_count = g.statistic_count;
  identity.feed_offset = g.feed_offset;
  identity.feed_record_count = g.feed_record_count;
  identity.statistic_offset = g.statistic_offset;
  identity.value_offset = g.value_offset;
  identity.ring_table_offset = g.ring_table_offset;
}

void write_descriptions(layout::StatisticName* names) {
  for (const StatDescription& description : kStatDescriptions) {
    description.name.copy(names->name, sizeof names->name - 1);
    description.unit.copy(names->unit, sizeof names->unit - 1);
    description.meaning.copy(names->meaning, sizeof names->meaning - 1);
    ++names;
  }
}

void check_options(const InstanceOptions& options) {
  const auto refuse = [](const std::string& what) { throw Error(Status::kInvalidArgument, "shmstate: " + what); };
  if (options.buffer_count < layout::kBuffersMin || options.buffer_count > layout::kBuffersMax) {
    refuse("the number of buffers must be 2 to 8, not " + std::to_string(options.buffer_count));
  }
  if (options.ring_count_max < 1 || options.ring_count_max > layout::kRingsMax) {
    refuse("the maximum number of rings must be 1 to 4096, not " + std::to_string(options.ring_count_max));
  }
  if (!std::has_single_bit(options.feed_record_count) || options.feed_record_count < kFeedRecordsMin) {
    refuse("the size of the feed must be a power of two of at least 1024 bytes, not " +
           std::to_string(options.feed_record_count * sizeof(layout::FeedRecord)));
  }
  const std::uint64_t feed_record_count_max = kSharedBytesMax / sizeof(layout::FeedRecord);
  if (options.memory_limit_bytes > kSharedBytesMax || options.feed_record_count > feed_record_count_max) {
    refuse("memory limit and feed must be at most 64 TiB, which is more than any machine has");
  }
  if (options.memory_limit_bytes != 0 && options.memory_limit_bytes < options.buffer_count * kBufferBytesMin) {
    refuse("the memory limit must be at least 2 MiB for each buffer, not " +
           std::to_string(options.memory_limit_bytes) + " bytes");
  }
  if (options.directory_mode && names_groups(options) && !is_open_to_group(*options.directory_mode)) {
    refuse("mode 0700 lets no group in, but groups are given; choose --mode 0750, or name no groups");
  }
}

}  // namespace shmstate::internal
