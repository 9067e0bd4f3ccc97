#include "check.h"

#include <fmt/format.h>

#include <grp.h>
#include <pwd.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "files/os.h"

namespace shmstate::merger {
using namespace internal;
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const std::string& what) { throw Error(Status::kInvalidArgument, "shmstate: " + what); }

std::string binary_size_text(std::uint64_t bytes) {
  return bytes >= std::uint64_t{10} << 30 ? fmt::format("{} GiB", bytes >> 30) : fmt::format("{} MiB", bytes >> 20);
}

// A merger makes the directory of an instance and the one around it, and no more.
void check_place(const fs::path& instance) {
  const fs::path root = instance.parent_path();
  if (fs::is_directory(root) || (!os::file_info(root) && fs::is_directory(root.parent_path()))) return;
  refuse(fmt::format("{} cannot be made: there is no directory {}", instance.string(),
                     os::file_info(root) ? root.string() : root.parent_path().string()));
}

// The directory of an instance keeps its mode.
void check_kept_mode(const ServiceOptions& options) {
  const InstanceOptions& files = options.files;
  const auto found = os::file_info(options.instance);
  const bool gives_groups = files.readers_group || files.writers_group;
  if (!found || !gives_groups || files.directory_mode || (found->mode & 0050) == 0050) return;
  refuse(
      fmt::format("{} has mode {:04o}, which lets no group in, but groups are given; choose --mode 0750, or name no "
                  "groups",
                  options.instance.string(), found->mode));
}

struct Member {
  std::string name;
  std::vector<gid_t> groups;
};

// Who the merger will be; nothing for root, and for a user that is not there yet.
std::optional<Member> merger_user(const std::optional<Unit>& unit) {
  const passwd* const user = unit ? ::getpwnam(unit->user.c_str()) : ::getpwuid(::geteuid());
  if (user == nullptr || user->pw_uid == 0) return std::nullopt;
  Member member{.name = user->pw_name, .groups = std::vector<gid_t>(65'536)};
  auto count = static_cast<int>(member.groups.size());
  const bool is_known = unit ? ::getgrouplist(user->pw_name, user->pw_gid, member.groups.data(), &count) >= 0
                             : (count = ::getgroups(count, member.groups.data())) >= 0;
  if (!is_known) return std::nullopt;
  member.groups.resize(static_cast<std::size_t>(count));
  if (!unit) member.groups.push_back(::getegid());
  if (unit) {
    for (const std::string& group : unit->groups) member.groups.push_back(os::group_id(group));
  }
  return member;
}

void check_membership(const InstanceOptions& files, const std::optional<Unit>& unit) {
  const std::optional<Member> member = merger_user(unit);
  if (!member) return;
  for (const std::optional<std::uint32_t>& gid : {files.readers_group, files.writers_group}) {
    if (!gid || std::find(member->groups.begin(), member->groups.end(), *gid) != member->groups.end()) continue;
    const group* const found = ::getgrgid(*gid);
    const std::string name = found != nullptr ? found->gr_name : std::to_string(*gid);
    refuse(fmt::format("the merger's user {} is no member of group {}, so it cannot give files to it: adduser {} {}",
                       member->name, name, member->name, name));
  }
}

struct Room {
  std::string where;
  std::uint64_t bytes;
};

// Of the file system that the instance will be on; of the machine, where that is not mounted yet.
Room room_for(const fs::path& instance) {
  fs::path place = instance;
  while (!os::file_info(place) && place.has_relative_path()) place = place.parent_path();
  const auto mount = os::file_info("/run/shmstate");
  const auto around = os::file_info("/run");
  const bool is_mounted = mount && around && mount->device != around->device;
  struct statvfs space {};
  if ((instance.parent_path() == "/run/shmstate" && !is_mounted) || ::statvfs(place.c_str(), &space) != 0) {
    struct sysinfo machine {};
    ::sysinfo(&machine);
    return {"the machine", (std::uint64_t{machine.totalram} + machine.totalswap) * machine.mem_unit};
  }
  return {"the file system of " + place.string(), std::uint64_t{space.f_blocks} * space.f_frsize};
}

void check_memory(const ServiceOptions& options) {
  const InstanceOptions& files = options.files;
  const std::uint64_t feed_bytes = files.feed_record_count * sizeof(layout::FeedRecord);
  const std::uint64_t buffer_bytes = std::max(files.memory_limit_bytes, files.buffer_count * kBufferBytesMin);
  const Room room = room_for(options.instance);
  if (feed_bytes + buffer_bytes <= room.bytes) return;
  refuse(fmt::format("{} of buffers (--memory-limit) and {} of feed (--feed-bytes) do not fit the {} of {}",
                     binary_size_text(buffer_bytes), binary_size_text(feed_bytes), binary_size_text(room.bytes),
                     room.where));
}

}  // namespace

void check_start(const ServiceOptions& options, const std::optional<Unit>& unit) {
  check_place(options.instance);
  check_kept_mode(options);
  check_membership(options.files, unit);
  check_memory(options);
}

}  // namespace shmstate::merger
