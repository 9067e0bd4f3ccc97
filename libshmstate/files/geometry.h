// Where what lies in the files of one instance: read from `control` once, and checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "layout/layout.h"
#include "shmstate/status.h"

namespace shmstate::internal {

/// The constant part of `control`, copied and checked once, so that nothing that changes later is trusted.
struct Geometry {
  layout::Id instance_id{};
  std::uint64_t hash_seed = 0;
  bool has_announced_pins = false;
  std::uint64_t control_bytes = 0;
  std::uint64_t snapshot_bytes = 0;
  std::uint64_t buffer_offset = 0;
  std::uint64_t buffer_stride = 0;
  std::uint32_t buffer_count = 0;
  std::uint32_t ring_count_max = 0;
  std::uint32_t first_page = 0;
  std::uint32_t statistic_count = 0;
  std::uint64_t feed_offset = 0;
  std::uint64_t feed_record_count = 0;
  std::uint64_t statistic_offset = 0;
  std::uint64_t value_offset = 0;
  std::uint64_t ring_table_offset = 0;

  /// Pages that a buffer may have at most.
  [[nodiscard]] std::uint64_t pages_max() const noexcept { return buffer_stride / layout::kPageBytes; }
};

/// Checks an identity against this build and the sizes of its files. Throws `Error` (kVersionMismatch, kDamaged).
[[nodiscard]] Geometry check_identity(const layout::Identity& identity, std::uint64_t control_file_bytes,
                                      const std::filesystem::path& instance);

}  // namespace shmstate::internal
