#include "files/instance.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <thread>
#include <vector>

#include "files/access.h"
#include "layout/words.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;
using layout::kPageBytes;

constexpr auto kPollInterval = std::chrono::milliseconds(2);
constexpr unsigned kOthersMayWrite = 0022;

fs::path personal_root() { return "/dev/shm/shmstate-" + std::to_string(::geteuid()); }

[[noreturn]] void throw_damaged(const fs::path& instance, const std::string& reason) {
  throw Error(Status::kDamaged, "shmstate: " + quoted(instance) + ": " + reason +
                                    "; stop its merger, remove the directory and start the merger again");
}

// Whether `count` elements of `bytes` each lie within `limit` from `offset`, without overflow.
bool fits(std::uint64_t offset, std::uint64_t count, std::uint64_t bytes, std::uint64_t limit) {
  return offset <= limit && count <= (limit - offset) / bytes;
}

// Where a name was given, the packaged service is what is most likely meant.
Error absence(const fs::path& instance) {
  const std::string what = "shmstate: " + quoted(instance) + ": does not exist";
  if (instance.parent_path() != personal_root()) {
    return {Status::kNoInstance, what + "; start its merger: shmstate-merger --instance " + instance.string()};
  }
  const std::string name = instance.filename().string();
  if (const std::optional<fs::path> closed = closed_path_of(name)) {
    Error refused = refusal(*closed, *closed / "control", Purpose::kRead);
    return {Status::kNoPermission, refused.what()};
  }
  return {Status::kNoInstance, what + ", and neither does /run/shmstate/" + name +
                                   "; start its merger: systemctl start shmstate-merger@" + name +
                                   ", or of your own: shmstate-merger --instance " + name};
}

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

std::string version_text(std::uint32_t major, std::uint32_t minor) {
  return std::to_string(major) + "." + std::to_string(minor);
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

std::optional<Error> distrust(const fs::path& root) {
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
    if (may_be_in(root, name) && !distrust(root)) return root / name;
  }
  if (const std::optional<Error> why = distrust(roots.back())) throw *why;
  return roots.back() / name;
}

fs::path new_control_path(const fs::path& instance) { return instance / "control.new"; }
fs::path gate_path(const fs::path& instance) { return instance / "writers"; }
fs::path rings_path(const fs::path& instance) { return gate_path(instance) / "rings"; }
fs::path doorbell_path(const fs::path& instance) { return gate_path(instance) / "doorbell"; }

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

Geometry check_identity(const layout::Identity& identity, std::uint64_t control_file_bytes, const fs::path& instance) {
  if (const std::uint64_t unknown = identity.required_features & ~layout::kRequiredFeatures; unknown != 0) {
    throw Error(Status::kVersionMismatch,
                "shmstate: " + quoted(instance) + ": requires features that this program does not know (bits " +
                    std::to_string(unknown) + "); install the same shmstate version for merger, writers and readers");
  }
  if (identity.layout_major != layout::kLayoutMajor) {
    throw Error(Status::kVersionMismatch, "shmstate: " + quoted(instance) + ": has layout " +
                                              version_text(identity.layout_major, identity.layout_minor) +
                                              ", this program reads layout " +
                                              version_text(layout::kLayoutMajor, layout::kLayoutMinor) +
                                              "; install the same shmstate version for merger, writers and readers");
  }
  const Geometry g{.instance_id = identity.instance_id,
                   .hash_seed = identity.hash_seed,
                   .control_bytes = identity.control_bytes,
                   .snapshot_bytes = identity.snapshot_bytes,
                   .buffer_offset = identity.buffer_offset,
                   .buffer_stride = identity.buffer_stride,
                   .buffer_count = identity.buffer_count,
                   .ring_count_max = identity.ring_count_max,
                   .first_page = identity.first_page,
                   .statistic_count = identity.statistic_count,
                   .feed_offset = identity.feed_offset,
                   .feed_record_count = identity.feed_record_count,
                   .statistic_offset = identity.statistic_offset,
                   .value_offset = identity.value_offset,
                   .ring_table_offset = identity.ring_table_offset};
  if (g.control_bytes > control_file_bytes) throw_damaged(instance, "control is truncated");
  const std::uint64_t cursor_end = layout::kCursorOffset + std::uint64_t{g.ring_count_max} * sizeof(layout::RingCursor);
  const bool sound =
      g.buffer_count >= layout::kBuffersMin && g.buffer_count <= layout::kBuffersMax && g.ring_count_max >= 1 &&
      g.ring_count_max <= layout::kRingsMax && g.buffer_stride % kPageBytes == 0 && g.buffer_offset % kPageBytes == 0 &&
      g.first_page * kPageBytes >= cursor_end && g.first_page < g.pages_max() &&
      fits(g.buffer_offset, g.buffer_count, g.buffer_stride, g.snapshot_bytes) && g.feed_record_count >= 1 &&
      (g.feed_record_count & (g.feed_record_count - 1)) == 0 && g.feed_offset % layout::kLine == 0 &&
      fits(g.feed_offset, g.feed_record_count, sizeof(layout::FeedRecord), g.buffer_offset) &&
      g.statistic_offset % layout::kLine == 0 && g.value_offset % layout::kLine == 0 &&
      g.ring_table_offset % layout::kLine == 0 &&
      fits(g.statistic_offset, g.statistic_count, sizeof(layout::StatisticName), g.control_bytes) &&
      fits(g.value_offset, g.statistic_count, sizeof(std::uint64_t), g.control_bytes) &&
      fits(g.ring_table_offset, g.ring_count_max, sizeof(layout::RingStatus), g.control_bytes);
  if (!sound) throw_damaged(instance, "control describes an impossible layout");
  return g;
}

Control::Control(fs::path instance, std::chrono::nanoseconds timeout, WhenTruncated when_truncated)
    : path_(std::move(instance)), control_path_(path_ / "control"), when_truncated_(when_truncated) {
  const auto began = std::chrono::steady_clock::now();
  std::optional<Error> why;
  while (!try_open(why)) {
    if (std::chrono::steady_clock::now() - began >= timeout) throw *why;
    std::this_thread::sleep_for(kPollInterval);
  }
}

void Control::must_be_current() const {
  if (is_current()) return;
  throw Error(Status::kNotReady, "shmstate: " + quoted(path_) + ": was removed or made anew at this moment; try again");
}

bool Control::try_open(std::optional<Error>& why) {
  const auto not_ready = [&] {
    why.emplace(Status::kNotReady,
                "shmstate: " + quoted(path_) + ": its creation has not finished; start its merger, which begins again");
    return false;
  };
  fd_ = OwnFd::open_file(control_path_, O_RDONLY);
  if (!fd_.is_open()) {
    if (os::is_absence(errno)) {
      if (os::file_info(new_control_path(path_))) return not_ready();
      why.emplace(absence(path_));
      return false;
    }
    if (errno == EACCES || errno == EPERM) {
      throw refusal(path_, control_path_, Purpose::kRead);
    }
    os::throw_errno("cannot open " + control_path_.string(), errno);
  }
  const std::optional<os::FileInfo> info = os::file_info(fd_.get());
  if (!info) os::throw_errno("cannot look at " + control_path_.string(), errno);
  if (info->bytes == 0) return not_ready();
  if (info->bytes < sizeof(layout::ControlHeader)) throw_damaged(path_, "control is truncated");
  const auto bytes = static_cast<std::size_t>(info->bytes);
  if (info->committed_bytes < round_up(sizeof(layout::ControlHeader), 4096)) return not_ready();
  Mapping mapping(fd_.fd(), Access::kReadOnly, 0, bytes, control_path_.string());
  FaultGuard guard;
  if (when_truncated_ == WhenTruncated::kReadZeros) guard = FaultGuard(mapping.data(), mapping.size());
  const auto& header = *reinterpret_cast<const layout::ControlHeader*>(mapping.data());
  const std::uint64_t magic = header.identity.magic.load(std::memory_order_acquire);  // pair: identity.magic
  if (magic == 0) return not_ready();
  if (magic != layout::kControlMagic) throw_damaged(path_, "control is not a shmstate file");
  layout::Identity identity;  // a copy, so that what is checked is what is used
  const ssize_t got = ::pread(fd_.get(), &identity, sizeof identity, 0);
  if (got < 0) os::throw_errno("cannot read " + control_path_.string(), errno);
  if (got != static_cast<ssize_t>(sizeof identity)) return not_ready();
  geometry_ = check_identity(identity, bytes, path_);
  mapping_ = std::move(mapping);
  guard_ = std::move(guard);
  return true;
}

}  // namespace shmstate::internal
