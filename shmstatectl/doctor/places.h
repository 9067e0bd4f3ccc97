// Where instances lie, and where one may lie that this user cannot see.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace shmstate::ctl {

/// What -i takes for the instance at this path: its name; the path where the name leads elsewhere, or cannot be one.
[[nodiscard]] std::string instance_name(const std::filesystem::path& instance);

/// A root of instances, or a directory in it, that this user cannot search.
struct ClosedDirectory {
  std::string path;
  std::string text;  // the path, with its mode, user and group
  std::string remedy;
};
[[nodiscard]] std::vector<ClosedDirectory> closed_directories();

}  // namespace shmstate::ctl
