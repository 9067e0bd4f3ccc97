// A ring's file: its name, how a writer creates it, how the merger opens and checks it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "files/fault_guard.h"
#include "files/fork.h"
#include "files/mapping.h"
#include "files/os.h"
#include "layout/layout.h"
#include "layout/ring_names.h"

namespace shmstate::internal {

inline constexpr std::uint64_t kRingBytesMin = std::uint64_t{64} << 10;
inline constexpr std::uint64_t kRingBytesMax = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kNamesBytesMax = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kNamesBytesStep = 4096;

/// 16 hex digits, and back; nothing for any other name.
[[nodiscard]] std::string ring_name(std::uint64_t id);
[[nodiscard]] std::optional<std::uint64_t> ring_id_of(const std::string& name);
/// The second name of the shared ring of a user.
[[nodiscard]] std::string shared_ring_name(std::uint32_t uid);
/// Whether somebody put something else there, so that the user cannot use that name.
[[nodiscard]] bool is_taken_from(std::uint32_t uid, const std::filesystem::path& shared_ring);

class RingFile {
 public:
  struct Description {
    std::uint64_t data_bytes;       // a power of two
    std::uint64_t names_bytes = 0;  // a multiple of kNamesBytesStep
    std::uint32_t flags;
    std::string name;
    layout::Id instance_id;
  };
  /// For a writer: creates the file without a name, locks it, fills it, then gives it its name, so that nobody ever
  /// sees half a ring. Throws `Error`.
  static RingFile create(const std::filesystem::path& rings, const Description& description);

  /// For a writer: opens the shared ring of this user, or creates it. Who has it open holds a shared lock on it. A ring
  /// that only this process uses when another user has taken the name.
  static RingFile open_shared(const std::filesystem::path& rings, const Description& description);

  /// For the merger: opens and checks a ring that somebody created; nothing if there is none, or it is not one of this
  /// instance. Throws `Error` when that cannot be told: kNoPermission when its writer does not let the merger open it,
  /// another status when something has run out or does not work.
  static std::optional<RingFile> open(const std::filesystem::path& rings, std::uint64_t id,
                                      const layout::Id& instance_id);

  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] std::uint64_t data_bytes() const noexcept { return data_bytes_; }
  /// What may name keys.
  [[nodiscard]] RingNames names() const noexcept { return {mapping_.behind(), names_bytes_}; }
  /// Where they begin in the file.
  [[nodiscard]] std::uint64_t names_offset() const noexcept { return layout::kRingHeaderBytes + data_bytes_; }
  /// The user that the file belongs to; the header's is only what the writer says.
  [[nodiscard]] std::uint32_t owner_uid() const noexcept { return owner_uid_; }
  /// As the writer says, fit to be shown.
  [[nodiscard]] std::string writer_name() const;
  [[nodiscard]] layout::RingHeader& header() const noexcept {
    return *reinterpret_cast<layout::RingHeader*>(mapping_.header());
  }
  /// Where a position of the stream lies; `data_bytes()` bytes are contiguous from there.
  [[nodiscard]] std::byte* at(std::uint64_t position) const noexcept {
    return mapping_.data() + (position & (data_bytes_ - 1));
  }
  /// From now on, a file that is truncated under the mapping reads as zeros instead of raising SIGBUS. The merger has
  /// that from the beginning.
  void survive_truncation() { guard_ = FaultGuard(mapping_.header(), mapping_.size()); }
  [[nodiscard]] bool has_faulted() const noexcept { return guard_.has_faulted(); }
  /// Whether it is too short now, touched or not. A system call.
  [[nodiscard]] bool is_truncated() const noexcept;
  /// Whether the writer's process has gone (merger only). A system call.
  [[nodiscard]] bool is_abandoned() const noexcept;
  /// Removes the file, unless somebody holds it (merger only).
  [[nodiscard]] bool try_remove(const std::filesystem::path& rings, bool anyway, std::uint64_t merged) const noexcept;
  /// Removes what has a ring's name but is none and belongs to nobody any more, not what may be one; with `anyway`,
  /// whoever holds it.
  static void remove_broken(const std::filesystem::path& rings, std::uint64_t id, bool anyway) noexcept;
  /// Removes what cannot be in use in the directory of rings, whoever put it there; returns whether it did.
  static bool remove_junk(const std::filesystem::path& rings, const std::string& name) noexcept;
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

 private:
  [[nodiscard]] static std::optional<RingFile> try_open_shared(const std::filesystem::path& path,
                                                               const layout::Id& instance_id);
  [[nodiscard]] static std::optional<RingFile> open_checked(OwnFd fd, std::optional<std::uint64_t> id,
                                                            const layout::Id& instance_id);
  RingFile(OwnFd fd, std::uint64_t id, std::uint64_t data_bytes, std::uint64_t names_bytes, const std::string& what);
  [[nodiscard]] std::uint64_t file_bytes() const noexcept { return names_offset() + names_bytes_; }

  OwnFd fd_;
  MirroredMapping mapping_;
  FaultGuard guard_;
  std::uint64_t id_;
  std::uint64_t data_bytes_;
  std::uint64_t names_bytes_;
  std::uint32_t owner_uid_;
};

}  // namespace shmstate::internal
