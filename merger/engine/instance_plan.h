// What a new instance is like: its options, where everything lies in its files, and who may open them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "files/geometry.h"
#include "layout/layout.h"

namespace shmstate::internal {

struct InstanceOptions {
  std::uint32_t buffer_count = 2;  ///< 2 to 8; the plain form
  /// Readers announce their pins, for which they need write access to a file of one word. Otherwise the merger asks the
  /// kernel in each turn.
  bool has_announced_pins = true;
  /// For all buffers together; 0: three quarters of the file system, at most 8 GiB.
  std::uint64_t memory_limit_bytes = 0;
  std::uint32_t ring_count_max = 1024;                       ///< 1 to 4,096
  std::uint64_t feed_record_count = std::uint64_t{1} << 18;  ///< a power of two; 16 bytes each
  /// Of the instance's directory; its files follow. What is not given stays as it is; in a new instance it is 0750 and
  /// the merger's own group.
  std::optional<unsigned> directory_mode{};
  std::optional<std::uint32_t> readers_group{};  ///< may open the instance's directory
  std::optional<std::uint32_t> writers_group{};  ///< may pass the gate inside it; its members must be readers, too
};

/// What the service makes by default: two buffers that swap, and a spare so that a held snapshot delays nobody.
inline constexpr std::uint32_t kBuffersDefault = 3;

inline constexpr std::uint64_t kBufferBytesMin = std::uint64_t{2} << 20;
inline constexpr std::uint64_t kFeedRecordsMin = 64;
inline constexpr std::uint64_t kSharedBytesMax = std::uint64_t{1} << 46;  // what a process can map

/// Throws `Error` (kInvalidArgument) for options that make no sense, alone or together.
void check_options(const InstanceOptions& options);

/// Where everything lies in the files of a new instance; its identifiers are random. Throws `Error` (kSystem).
[[nodiscard]] Geometry plan_instance(const InstanceOptions& options, const std::filesystem::path& path);
void write_identity(layout::Identity& identity, const Geometry& geometry, const layout::Id& boot_id);
void write_descriptions(layout::StatisticName* names);

// ---- modes: what the directory's mode means for the files

[[nodiscard]] inline bool names_groups(const InstanceOptions& options) {
  return options.readers_group || options.writers_group;
}
[[nodiscard]] inline bool is_open_to_group(unsigned mode) { return (mode & 0050) == 0050; }

/// Read bits for group and others follow the directory's; the owner may write.
[[nodiscard]] inline unsigned file_mode(unsigned directory_mode) { return 0600 | (directory_mode & 0044); }
[[nodiscard]] inline unsigned gate_mode(unsigned directory_mode) {
  return is_open_to_group(directory_mode) ? 0750 : 0700;
}
[[nodiscard]] inline unsigned doorbell_mode(unsigned directory_mode) {
  return is_open_to_group(directory_mode) ? 0666 : 0600;
}
[[nodiscard]] inline unsigned pins_mode(unsigned directory_mode) {
  const unsigned read = file_mode(directory_mode);  // who may read may announce a pin
  return read | (read & 0044) >> 1;
}
/// Set-group-ID: a ring belongs to its writer and the merger's own group, so that no other writer can open it. Sticky:
/// a writer cannot remove another writer's ring.
[[nodiscard]] inline unsigned rings_mode(unsigned directory_mode) {
  return is_open_to_group(directory_mode) ? 03773 : 03700;
}

}  // namespace shmstate::internal
