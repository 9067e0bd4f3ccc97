#include "files/geometry.h"

#include "files/errors.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;
using layout::kPageBytes;

// Whether `count` elements of `bytes` each lie within `limit` from `offset`, without overflow.
bool fits(std::uint64_t offset, std::uint64_t count, std::uint64_t bytes, std::uint64_t limit) {
  return offset <= limit && count <= (limit - offset) / bytes;
}

std::string version_text(std::uint32_t major, std::uint32_t minor) {
  return std::to_string(major) + "." + std::to_string(minor);
}

}  // namespace

Geometry check_identity(const layout::Identity& identity, std::uint64_t control_file_bytes, const fs::path& instance) {
  if (const std::uint64_t unknown = identity.required_features & ~layout::kRequiredFeatures; unknown != 0) {
    throw error_of(InstanceError::kUnknownFeatures, instance, {std::to_string(unknown)});
  }
  if (identity.layout_major != layout::kLayoutMajor) {
    throw error_of(InstanceError::kOtherLayout, instance,
                   {version_text(identity.layout_major, identity.layout_minor),
                    version_text(layout::kLayoutMajor, layout::kLayoutMinor)});
  }
  const Geometry g{.instance_id = identity.instance_id,
                   .hash_seed = identity.hash_seed,
                   .has_announced_pins = (identity.required_features & layout::kAnnouncedPins) != 0,
                   .control_bytes = identity.control_bytes,
                   .snapshot_bytes = identity.snapshot_bytes,
                   .buffer_offset = identity.buffer_offset,
                   .buffer_stride = identity.buffer_stride,
                   .buffer_count = identity.buffer_count,
                   .ring_count_max = identity.ring_count_max,
                   .first_page = identity.first_page,
                   .statistic_count = identity.statistic_count,
                   .feed_offset = identity.feed_offset,
                   .feed_record_count = identity.feed_record_count,
                   .statistic_offset = identity.statistic_offset,
                   .value_offset = identity.value_offset,
                   .ring_table_offset = identity.ring_table_offset};
  if (g.control_bytes > control_file_bytes) throw error_of(InstanceError::kControlTruncated, instance);
  const bool sound =
      g.buffer_count >= layout::kBuffersMin && g.buffer_count <= layout::kBuffersMax && g.ring_count_max >= 1 &&
      g.ring_count_max <= layout::kRingsMax && g.buffer_stride % kPageBytes == 0 && g.buffer_offset % kPageBytes == 0 &&
      g.first_page == layout::kFirstPage && g.first_page < g.pages_max() && g.pages_max() <= layout::kPagesMax &&
      fits(g.buffer_offset, g.buffer_count, g.buffer_stride, g.snapshot_bytes) && g.feed_record_count >= 1 &&
      (g.feed_record_count & (g.feed_record_count - 1)) == 0 && g.feed_offset % layout::kLine == 0 &&
      fits(g.feed_offset, g.feed_record_count, sizeof(layout::FeedRecord), g.buffer_offset) &&
      g.statistic_offset % layout::kLine == 0 && g.value_offset % layout::kLine == 0 &&
      g.ring_table_offset % layout::kLine == 0 &&
      fits(g.statistic_offset, g.statistic_count, sizeof(layout::StatisticName), g.control_bytes) &&
      fits(g.value_offset, g.statistic_count, sizeof(std::uint64_t), g.control_bytes) &&
      fits(g.ring_table_offset, g.ring_count_max, sizeof(layout::RingStatus), g.control_bytes);
  if (!sound) throw error_of(InstanceError::kControlImpossible, instance);
  return g;
}

}  // namespace shmstate::internal
