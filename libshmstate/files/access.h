// What keeps a user from the files of an instance, and how to get in: for error messages, and for `shmstatectl doctor`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "shmstate/status.h"

namespace shmstate::internal {

/// What is in the way: a directory that this user cannot search, or the file itself.
struct Obstacle {
  std::filesystem::path path;
  unsigned group_bit = 0;  // the mode that would let the group in
  int error = 0;           // of errno
};

/// What is in the way of an access (R_OK, W_OK, X_OK, F_OK), for the effective user.
[[nodiscard]] std::optional<Obstacle> obstacle_to(const std::filesystem::path& file, int access);
/// "/run/shmstate/plant: mode 0750, user 990, group shmstate-readers".
[[nodiscard]] std::string description(const std::filesystem::path& path);
[[nodiscard]] std::string description(const Obstacle& obstacle);

enum class Purpose : std::uint8_t { kRead, kWrite };
/// What this user, or root, does about it: for example "adduser alice shmstate-readers, and log in again".
[[nodiscard]] std::string remedy_of(const Obstacle& obstacle, const std::filesystem::path& instance, Purpose purpose);

/// The error (kNoPermission) of an open that was refused. `instance` is named, then what is in the way, then the
/// remedy.
[[nodiscard]] Error refusal(const std::filesystem::path& instance, const std::filesystem::path& file, Purpose purpose);

/// The roots and the directories in them that this user cannot search: an instance may be there, and not be found.
[[nodiscard]] std::vector<Obstacle> closed_directories();
[[nodiscard]] std::string remedy_of_closed(const Obstacle& closed);
/// Where an instance of this name may be, in a root that this user cannot search.
[[nodiscard]] std::optional<std::filesystem::path> closed_path_of(const std::string& name);

}  // namespace shmstate::internal
