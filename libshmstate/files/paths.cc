#include "files/paths.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "files/access.h"
#include "files/errors.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kOthersMayWrite = 0022;

fs::path personal_root() { return "/dev/shm/shmstate-" + std::to_string(::geteuid()); }

void check_name(std::string_view name, std::string_view given) {
  if (is_instance_name(name)) return;
  throw Error(Status::kInvalidArgument,
              "shmstate: instance \"" + std::string(given) +
                  "\": a name, also as the last part of a path, has 1 to 200 characters and does not begin with a dot");
}

// In a root that this user may not search there is nothing for this user; another failure is no answer.
bool may_be_in(const fs::path& root, std::string_view name) {
  if (os::file_info(root / name)) return true;
  if (os::is_absence(errno) || errno == EACCES) return false;
  os::throw_errno("cannot look for instance \"" + std::string(name) + "\" in " + root.string(), errno,
                  "give its path instead of its name");
}

}  // namespace

bool is_instance_name(std::string_view name) noexcept {
  constexpr std::size_t kNameBytesMax = 200;
  return !name.empty() && name.front() != '.' && name.size() <= kNameBytesMax;
}

std::vector<fs::path> instance_roots() {
  if (const char* root = std::getenv("SHMSTATE_ROOT"); root != nullptr && *root != '\0') return {root};
  return {"/run/shmstate", personal_root()};
}

std::optional<Error> why_untrusted(const fs::path& root) {
  if (root != personal_root()) return std::nullopt;
  const std::optional<os::FileInfo> info = os::file_info(root);
  if (!info && !os::is_absence(errno)) {
    return Error(os::status_of(errno), "shmstate: cannot tell whom " + root.string() +
                                           " belongs to: " + std::generic_category().message(errno));
  }
  if (!info || (info->uid == ::geteuid() && (info->mode & kOthersMayWrite) == 0)) return std::nullopt;
  return Error(Status::kNoPermission, "shmstate: " + root.string() + " belongs to user " + std::to_string(info->uid) +
                                          (info->uid == ::geteuid() ? ", but others may write to it" : "") +
                                          "; remove it or choose another directory");
}

fs::path instance_path(std::string_view name) {
  if (name.find('/') != std::string_view::npos) {
    fs::path path = fs::absolute(name).lexically_normal();  // whoever changes directory stays attached
    if (path.filename().empty()) path = path.parent_path();
    check_name(path.filename().string(), name);
    return path;
  }
  check_name(name, name);
  const std::vector<fs::path> roots = instance_roots();
  for (const fs::path& root : roots) {
    if (may_be_in(root, name) && !why_untrusted(root)) return root / name;
  }
  if (const std::optional<Error> why = why_untrusted(roots.back())) throw *why;
  return roots.back() / name;
}

fs::path new_control_path(const fs::path& instance) { return instance / "control.new"; }
fs::path gate_path(const fs::path& instance) { return instance / "writers"; }
fs::path rings_path(const fs::path& instance) { return gate_path(instance) / "rings"; }
fs::path doorbell_path(const fs::path& instance) { return gate_path(instance) / "doorbell"; }
fs::path pins_path(const fs::path& instance) { return instance / "pins"; }

std::string quoted(const fs::path& instance) {
  return "instance \"" + instance.filename().string() + "\" (" + instance.string() + ")";
}

std::optional<bool> leads_to(const fs::path& path, const os::Fd& fd) noexcept {
  const std::optional<os::FileInfo> mine = os::file_info(fd.get());
  if (!mine) return std::nullopt;
  const std::optional<os::FileInfo> now = os::file_info(path);
  if (!now) return os::is_absence(errno) ? std::optional(false) : std::nullopt;
  return mine->inode == now->inode && mine->device == now->device;
}

// Where a name was given, the packaged service is what is most likely meant.
Error absence(const fs::path& instance) {
  if (instance.parent_path() != personal_root()) {
    return error_of(InstanceError::kAbsent, instance, {instance.native()});
  }
  const std::string name = instance.filename().string();
  if (const std::optional<fs::path> closed = closed_path_of(name)) {
    Error refused = refusal(*closed, *closed / "control", Purpose::kRead);
    return {Status::kNoPermission, refused.what()};
  }
  return error_of(InstanceError::kAbsentEverywhere, instance, {"/run/shmstate/" + name, name, name});
}

}  // namespace shmstate::internal
