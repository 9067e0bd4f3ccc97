// An instance's files as a writer has them mapped, and its ring among them.
//
// A writer is made of layers, each of which knows only those before it:
//
//   WriterFiles    the mapped files
//   WriterPlace    whether the instance is still there, or was re-created; waking the merger; counting across rings
//   RingRoom       room in the ring: waiting for it, committing its memory
//   RingAccess     writing records: alone, or behind the lock of a shared ring
//   Naming         the ids of bound keys
//   Conflating     what is retained while the ring is full
//   Batching       the open batch
//   Writer::Impl   what the public interface calls
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "files/control.h"
#include "files/ring_file.h"
#include "protocol/doorbell.h"
#include "shmstate/detail/ring_push.h"
#include "shmstate/writer.h"

namespace shmstate::internal {

struct WriterFiles {
  using Clock = std::chrono::steady_clock;

  /// Throws `Error`.
  WriterFiles(const std::filesystem::path& instance, const WriterOptions& options, std::chrono::nanoseconds timeout);

  /// The same, and again while it fails because the instance is being removed or re-created.
  [[nodiscard]] static WriterFiles open(const std::filesystem::path& instance, const WriterOptions& options);

  /// For the kernel only: others may have truncated the file.
  [[nodiscard]] const layout::Doorbell& doorbell() const noexcept {
    return *reinterpret_cast<const layout::Doorbell*>(doorbell_mapping.data());
  }
  /// Announces this ring to the merger.
  void announce() const noexcept;
  [[nodiscard]] std::uint64_t applied() const noexcept {
    return ring.header().applied_count.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t rejected(std::size_t reason) const noexcept {
    return ring.header().rejected[reason].load(std::memory_order_relaxed);
  }

  Control control;
  Mapping doorbell_mapping;
  RingFile ring;
  RingPusher pusher;
  std::string ring_path;
  MergerWaker waker{};
  Clock::time_point next_announcement{};  // of a ring that is not served
  std::chrono::nanoseconds announcement_pause = std::chrono::milliseconds(1);
  std::uint64_t committed_end = 0;  // stream position up to which memory is committed
  struct Names {
    std::uint64_t count = 0;
    std::uint64_t unnamed_count = 0;
    std::uint64_t begin = 0;  // in the area: in front of it is room
    std::uint64_t committed_index_end = 0;
    std::uint64_t committed_begin = 0;
  };
  Names names{};  // of bound keys
};

}  // namespace shmstate::internal
