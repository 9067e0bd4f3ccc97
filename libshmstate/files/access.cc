#include "files/access.h"

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <system_error>

#include "files/errors.h"
#include "files/os.h"
#include "files/paths.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;
using NameBuffer = std::array<char, 4096>;

std::string group_name(std::uint32_t gid) {
  group entry{};
  group* found = nullptr;
  NameBuffer buffer;
  const int error_number = ::getgrgid_r(gid, &entry, buffer.data(), buffer.size(), &found);
  return error_number == 0 && found != nullptr ? entry.gr_name : std::to_string(gid);
}

bool is_group(const char* name) {
  group entry{};
  group* found = nullptr;
  NameBuffer buffer;
  return ::getgrnam_r(name, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr;
}

/// Nothing in a container, where users may have no name.
std::optional<std::string> own_name() {
  passwd entry{};
  passwd* found = nullptr;
  NameBuffer buffer;
  const int error_number = ::getpwuid_r(::geteuid(), &entry, buffer.data(), buffer.size(), &found);
  return error_number == 0 && found != nullptr ? std::optional<std::string>(entry.pw_name) : std::nullopt;
}

bool may(const fs::path& path, int access) { return ::faccessat(AT_FDCWD, path.c_str(), access, AT_EACCESS) == 0; }

bool is_below(const fs::path& path, const fs::path& directory) {
  return std::mismatch(directory.begin(), directory.end(), path.begin(), path.end()).first == directory.end();
}

std::string joined(const std::vector<std::string>& words, const std::string& separator) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text;
}

std::string join_remedy(const std::vector<std::string>& groups) {
  const std::optional<std::string> user = own_name();
  if (!user) {
    return "user " + std::to_string(::geteuid()) + " has no name here: give its processes the group " +
           joined(groups, " and the group ");
  }
  std::vector<std::string> commands;
  for (const std::string& group : groups) commands.push_back("adduser " + *user + " " + group);
  return joined(commands, " && ") + ", and log in again";
}

bool lets_group_in(const Obstacle& obstacle) {
  const auto info = os::file_info(obstacle.path);
  return info && (info->mode & obstacle.group_bit) == obstacle.group_bit && info->gid != 0;
}

// Who cannot even enter does not see the group of writers; that of the packaged service is known.
std::string remedy_of_who_writes(const fs::path& instance, const std::string& readers) {
  const char* const packaged_writers = "shmstate-writers";
  if (instance.parent_path() == "/run/shmstate" && is_group(packaged_writers)) {
    return join_remedy({readers, packaged_writers});
  }
  return join_remedy({readers}) + "; and the same with the group of its writers, which doctor names to readers";
}

bool is_closed(const fs::path& directory) { return !may(directory, X_OK) && errno == EACCES; }

// A root that cannot be read for another reason, as for want of descriptors, tells nothing, and that is no answer.
void note_closed(const fs::path& root, std::vector<Obstacle>& closed) {
  if (is_closed(root)) closed.push_back({root, S_IXGRP, EACCES});
  std::error_code error;
  for (fs::directory_iterator entry(root, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (!is_instance_name(entry->path().filename().string())) continue;
    if (entry->is_directory(ignored) && is_closed(entry->path())) closed.push_back({entry->path(), S_IXGRP, EACCES});
  }
  if (error == std::errc::permission_denied) {
    if (!is_closed(root)) closed.push_back({root, S_IRGRP, EACCES});
  } else if (error && error != std::errc::no_such_file_or_directory) {
    os::throw_errno("cannot look into " + root.string(), error.value());
  }
}

}  // namespace

std::optional<Obstacle> obstacle_to(const fs::path& file, int access) {
  fs::path way;
  for (const fs::path& part : file.parent_path()) {
    way /= part;
    if (!may(way, X_OK)) return Obstacle{way, S_IXGRP, errno};
  }
  if (!may(file, access)) return Obstacle{file, static_cast<unsigned>(access) << 3, errno};
  return std::nullopt;
}

std::string description(const fs::path& path) {
  const auto info = os::file_info(path);
  if (!info) return path.string() + ": " + std::generic_category().message(errno);
  std::array<char, 8> mode;
  std::snprintf(mode.data(), mode.size(), "%04o", info->mode);
  return path.string() + ": mode " + mode.data() + ", user " + std::to_string(info->uid) + ", group " +
         group_name(info->gid);
}

std::string description(const Obstacle& obstacle) {
  const std::string text = description(obstacle.path);
  return obstacle.error == EROFS ? text + ", on a file system that is mounted read-only" : text;
}

std::string remedy_of(const Obstacle& obstacle, const fs::path& instance, Purpose purpose) {
  if (obstacle.error == ENOENT) return "start its merger, which makes what is missing";
  if (obstacle.error == EROFS) return "mount it with rw";
  if (::geteuid() == 0) return "root may do that unless it is confined: look at the container or sandbox around it";
  if (lets_group_in(obstacle)) {
    const std::string group = group_name(os::file_info(obstacle.path)->gid);
    const bool is_first_of_two = purpose == Purpose::kWrite && obstacle.path == instance;
    return is_first_of_two ? remedy_of_who_writes(instance, group) : join_remedy({group});
  }
  if (obstacle.path == instance) {
    return "start its merger with --mode 0750, --readers-group and, for who writes, --writers-group";
  }
  if (is_below(obstacle.path, instance)) {
    return "restart its merger, which sets modes; with --writers-group, if others than its user shall write";
  }
  return "let others search it (mode 0755); see the Options= of run-shmstate.mount, if it is that";
}

Error refusal(const fs::path& instance, const fs::path& file, Purpose purpose) {
  const auto obstacle = obstacle_to(file, purpose == Purpose::kRead ? R_OK : W_OK);
  if (!obstacle) {  // something else than modes, or no longer
    return error_of(InstanceError::kRefused, instance, {file.native()});
  }
  return error_of(InstanceError::kClosed, instance, {description(*obstacle), remedy_of(*obstacle, instance, purpose)});
}

std::vector<Obstacle> closed_directories() {
  std::vector<Obstacle> closed;
  for (const fs::path& root : instance_roots()) {
    if (!why_untrusted(root)) note_closed(root, closed);
  }
  std::sort(closed.begin(), closed.end(), [](const Obstacle& a, const Obstacle& b) { return a.path < b.path; });
  return closed;
}

std::string remedy_of_closed(const Obstacle& closed) {
  const std::vector<fs::path> roots = instance_roots();
  const bool is_root = std::find(roots.begin(), roots.end(), closed.path) != roots.end();
  return remedy_of(closed, is_root ? closed.path / "any" : closed.path, Purpose::kRead);
}

std::optional<fs::path> closed_path_of(const std::string& name) {
  for (const fs::path& root : instance_roots()) {
    const auto obstacle = obstacle_to(root / name, F_OK);
    if (obstacle && obstacle->error == EACCES) return root / name;
  }
  return std::nullopt;
}

}  // namespace shmstate::internal
