// Steps of making and opening an instance's files. All throw `Error` that names the path.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "files/os.h"

namespace shmstate::internal {

/// For an open that failed.
[[noreturn]] void throw_closed(const std::filesystem::path& path);
[[nodiscard]] os::Fd open_or_throw(const std::filesystem::path& path, int flags, unsigned mode);
[[nodiscard]] os::FileInfo info_or_throw(const std::filesystem::path& path);
[[nodiscard]] os::FileInfo info_or_throw(const os::Fd& fd, const std::filesystem::path& path);
/// Throws when that cannot be told.
[[nodiscard]] bool exists_or_throw(const std::filesystem::path& path);
void commit_or_throw(const os::Fd& fd, const std::filesystem::path& path, std::uint64_t offset, std::uint64_t bytes);
void resize_or_throw(const os::Fd& fd, const std::filesystem::path& path, std::uint64_t bytes);
void rename_or_throw(const std::filesystem::path& from, const std::filesystem::path& to);
/// A file or an empty directory.
void remove_if_there(const std::filesystem::path& path);

/// Sets mode and group, whatever the umask is and whatever they were.
void apply_permissions(const os::Fd& fd, const std::filesystem::path& path, unsigned mode, std::uint32_t gid);
void apply_permissions(const std::filesystem::path& directory, unsigned mode, std::uint32_t gid);
/// Returns whether the directory is new.
bool make_directory(const std::filesystem::path& path, unsigned mode);
/// Makes a directory, unless it exists, that has its mode and group from its first moment on; another process may be
/// doing the same.
void make_whole_directory(const std::filesystem::path& path, unsigned mode, std::optional<std::uint32_t> gid);

}  // namespace shmstate::internal
