#include "engine/public_page.h"

#include <fcntl.h>

#include <exception>
#include <optional>

#include "engine/file_actions.h"

namespace shmstate::internal {
namespace {

constexpr std::size_t kBytes = 4096;

}  // namespace

PublicPage::PublicPage(const std::filesystem::path& path, unsigned mode, std::uint32_t gid) : path_(path) {
  const bool is_new = !exists_or_throw(path);
  const std::filesystem::path here = is_new ? std::filesystem::path(path.string() + ".new") : path;
  fd_ = open_or_throw(here, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
  map();
  apply_permissions(fd_, here, mode, gid);
  if (is_new) rename_or_throw(here, path);
}

void PublicPage::map() {
  resize_or_throw(fd_, path_, kBytes);
  commit_or_throw(fd_, path_, 0, kBytes);
  Mapping mapping(fd_, Access::kReadWrite, 0, kBytes, path_.string());
  guard_ = FaultGuard(mapping.data(), kBytes);
  mapping_ = std::move(mapping);
}

void PublicPage::repair() noexcept {
  const std::optional<os::FileInfo> info = os::file_info(fd_.get());
  if (info && info->bytes == kBytes && !guard_.has_faulted()) return;
  try {
    map();
  } catch (const std::exception&) {  // no memory now: what the guard mapped there serves until the next call
  }
}

}  // namespace shmstate::internal
