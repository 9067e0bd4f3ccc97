// A page of memory with a name that others write to: the doorbell, and the word that announces pins. Whoever may write
// it may also truncate it; so it is guarded, and made whole again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

#include "files/fault_guard.h"
#include "files/mapping.h"
#include "files/os.h"

namespace shmstate::internal {

class PublicPage {
 public:
  PublicPage() = default;
  /// Opens or makes the file. A new one gets its name only once others may open it: they already see an instance that
  /// is resumed. Throws `Error`.
  PublicPage(const std::filesystem::path& path, unsigned mode, std::uint32_t gid);

  [[nodiscard]] std::byte* data() const noexcept { return mapping_.data(); }
  /// Whether it was truncated, so that zeros may stand here instead of what others wrote.
  [[nodiscard]] bool is_lost() const noexcept { return guard_.has_faulted(); }
  /// Restores the file's size and this mapping. Without memory for that, `is_lost` stays true until a later call
  /// succeeds.
  void repair() noexcept;

 private:
  void map();

  std::filesystem::path path_;
  os::Fd fd_;
  Mapping mapping_;
  FaultGuard guard_;
};

}  // namespace shmstate::internal
