#include "engine/instance_owner.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "files/errors.h"
#include "layout/words.h"
#include "protocol/crash_point.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;
using layout::kPageBytes;

constexpr std::uint64_t kMemoryLimitDefaultMax = std::uint64_t{8} << 30;
constexpr std::uint64_t kBufferAlignment = os::kHugePageBytes;
constexpr unsigned kDirectoryMode = 0750;
constexpr std::size_t kDoorbellBytes = round_up(sizeof(layout::Doorbell), 4096);

// By default, what leaves a quarter of the file system to feed and rings: a full state keeps no writer away.
std::uint64_t memory_limit(const InstanceOptions& options, const fs::path& path) {
  if (options.memory_limit_bytes != 0) return options.memory_limit_bytes;
  struct statvfs space {};
  if (::statvfs(path.c_str(), &space) != 0) os::throw_errno("cannot tell the size of " + path.string(), errno);
  const std::uint64_t total = std::uint64_t{space.f_blocks} * space.f_frsize;
  return std::clamp(total / 4 * 3, options.buffer_count * kBufferBytesMin, kMemoryLimitDefaultMax);
}

// Where everything lies in files of a new instance.
Geometry plan(const InstanceOptions& options, const fs::path& path) {
  Geometry g;
  os::random_bytes(g.instance_id.data(), g.instance_id.size());
  os::random_bytes(&g.hash_seed, sizeof g.hash_seed);
  g.buffer_count = options.buffer_count;
  g.ring_count_max = options.ring_count_max;
  g.statistic_count = static_cast<std::uint32_t>(Stat::kCount);
  g.feed_record_count = options.feed_record_count;
  g.feed_offset = 0;
  g.buffer_offset = round_up(g.feed_record_count * sizeof(layout::FeedRecord), kBufferAlignment);
  g.buffer_stride = memory_limit(options, path) / g.buffer_count / kBufferAlignment * kBufferAlignment;
  g.snapshot_bytes = g.buffer_offset + g.buffer_count * g.buffer_stride;
  const std::uint64_t cursors = std::uint64_t{g.ring_count_max} * sizeof(layout::RingCursor);
  g.first_page = static_cast<std::uint32_t>(round_up(layout::kCursorOffset + cursors, kPageBytes) / kPageBytes);
  g.statistic_offset = round_up(sizeof(layout::ControlHeader), layout::kLine);
  g.value_offset = g.statistic_offset + g.statistic_count * sizeof(layout::StatisticName);
  g.ring_table_offset = round_up(g.value_offset + g.statistic_count * sizeof(std::uint64_t), layout::kLine);
  g.control_bytes = round_up(g.ring_table_offset + g.ring_count_max * sizeof(layout::RingStatus), 4096);
  return g;
}

void write_identity(layout::Identity& identity, const Geometry& g, const layout::Id& boot_id) {
  identity.layout_major = layout::kLayoutMajor;
  identity.layout_minor = layout::kLayoutMinor;
  identity.required_features = layout::kRequiredFeatures;
  identity.optional_features = layout::kOptionalFeatures;
  identity.control_bytes = g.control_bytes;
  identity.snapshot_bytes = g.snapshot_bytes;
  identity.instance_id = g.instance_id;
  identity.boot_id = boot_id;
  identity.hash_seed = g.hash_seed;
  identity.created_ns = os::realtime_ns();
  identity.buffer_offset = g.buffer_offset;
  identity.buffer_stride = g.buffer_stride;
  identity.buffer_count = g.buffer_count;
  identity.ring_count_max = g.ring_count_max;
  identity.first_page = g.first_page;
  identity.statistic_count = g.statistic_count;
  identity.feed_offset = g.feed_offset;
  identity.feed_record_count = g.feed_record_count;
  identity.statistic_offset = g.statistic_offset;
  identity.value_offset = g.value_offset;
  identity.ring_table_offset = g.ring_table_offset;
}

void write_descriptions(layout::StatisticName* names) {
  for (const StatDescription& description : kStatDescriptions) {
    description.name.copy(names->name, sizeof names->name - 1);
    description.unit.copy(names->unit, sizeof names->unit - 1);
    description.meaning.copy(names->meaning, sizeof names->meaning - 1);
    ++names;
  }
}

[[noreturn]] void throw_closed(const fs::path& path) {
  os::throw_errno("cannot open " + path.string(), errno, "the merger's user must be allowed to read and write it");
}

os::Fd open_or_throw(const fs::path& path, int flags, unsigned mode) {
  os::Fd fd = os::open_file(path, flags, mode);
  if (!fd.is_open()) throw_closed(path);
  return fd;
}

void commit_or_throw(const os::Fd& fd, const fs::path& path, std::uint64_t offset, std::uint64_t bytes) {
  if (const int error_number = os::commit(fd.get(), offset, bytes); error_number != 0) {
    os::throw_errno(path.string() + ": cannot commit " + std::to_string(bytes) + " bytes", error_number);
  }
}

// Returns whether it is new. `asked` is what it is for.
bool make_directory(const fs::path& path, unsigned mode, const fs::path& asked) {
  if (::mkdir(path.c_str(), mode) == 0) {
    if (::chmod(path.c_str(), mode) != 0) os::throw_errno("cannot chmod " + path.string(), errno);  // umask
    return true;
  }
  if (errno != EEXIST) {
    os::throw_errno("cannot create " + asked.string(), errno,
                    "the merger's user must be allowed to write there, or choose another path for the instance");
  }
  return false;
}
bool make_directory(const fs::path& path, unsigned mode) { return make_directory(path, mode, path); }

// Lets the owner, the group and others do what `mode` says, whatever the umask is, and whatever was before.
void give(const os::Fd& fd, const fs::path& path, unsigned mode, std::uint32_t gid) {
  const std::optional<os::FileInfo> info = os::file_info(fd.get());
  if (!info) os::throw_errno("cannot look at " + path.string(), errno);
  if (info->gid != gid && ::fchown(fd.get(), static_cast<uid_t>(-1), gid) != 0) {
    os::throw_errno("cannot give " + path.string() + " to group " + std::to_string(gid), errno,
                    "the merger's user must own it and be a member of that group");
  }
  if (info->mode != mode && ::fchmod(fd.get(), mode) != 0) {
    os::throw_errno("cannot chmod " + path.string(), errno, "the merger's user must own it");
  }
}

void give_directory(const fs::path& path, unsigned mode, std::uint32_t gid) {
  give(open_or_throw(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0), path, mode, gid);
}

os::FileInfo look_at_or_throw(const fs::path& path) {
  const std::optional<os::FileInfo> found = os::file_info(path);
  if (!found) os::throw_errno("cannot look at " + path.string(), errno);
  return *found;
}

bool is_there(const fs::path& path) {
  if (os::file_info(path)) return true;
  if (!os::is_absence(errno)) os::throw_errno("cannot look at " + path.string(), errno);
  return false;
}

// A file or an empty directory.
void remove_if_there(const fs::path& path) {
  if (::remove(path.c_str()) != 0 && !os::is_absence(errno)) os::throw_errno("cannot remove " + path.string(), errno);
}

void rename_or_throw(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    os::throw_errno("cannot rename " + from.string() + " to " + to.string(), errno);
  }
}

// Makes a directory that has its mode and group from its first moment on. Another process may be doing the same.
void make_whole_directory(const fs::path& path, unsigned mode, std::optional<std::uint32_t> gid) {
  if (is_there(path)) return;
  const fs::path unnamed = path.parent_path() / std::string(".").append(path.filename().string()).append(".new");
  make_directory(unnamed, 0700, path);
  try {
    give(open_or_throw(unnamed, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0), path, mode,
         gid ? *gid : look_at_or_throw(unnamed).gid);
    rename_or_throw(unnamed, path);
  } catch (const Error&) {
    ::rmdir(unnamed.c_str());
    if (!is_there(path)) throw;
  }
}

bool gives_groups(const InstanceOptions& options) { return options.readers_group || options.writers_group; }
bool is_open_to_group(unsigned mode) { return (mode & 0050) == 0050; }

// Read bits for group and others follow the directory's; the owner may write.
unsigned file_mode(unsigned directory_mode) { return 0600 | (directory_mode & 0044); }
unsigned gate_mode(unsigned directory_mode) { return is_open_to_group(directory_mode) ? 0750 : 0700; }
unsigned doorbell_mode(unsigned directory_mode) { return is_open_to_group(directory_mode) ? 0666 : 0600; }
// Set-group-ID: a ring belongs to its writer and the merger's own group, so that no other writer can open it. Sticky: a
// writer cannot remove another writer's ring.
unsigned rings_mode(unsigned directory_mode) { return is_open_to_group(directory_mode) ? 03773 : 03700; }

}  // namespace

void check_options(const InstanceOptions& options) {
  const auto refuse = [](const std::string& what) { throw Error(Status::kInvalidArgument, "shmstate: " + what); };
  if (options.buffer_count < layout::kBuffersMin || options.buffer_count > layout::kBuffersMax) {
    refuse("the number of buffers must be 2 to 8, not " + std::to_string(options.buffer_count));
  }
  if (options.ring_count_max < 1 || options.ring_count_max > layout::kRingsMax) {
    refuse("the maximum number of rings must be 1 to 4096, not " + std::to_string(options.ring_count_max));
  }
  if (!std::has_single_bit(options.feed_record_count) || options.feed_record_count < kFeedRecordsMin) {
    refuse("the size of the feed must be a power of two of at least 1024 bytes, not " +
           std::to_string(options.feed_record_count * sizeof(layout::FeedRecord)));
  }
  const std::uint64_t feed_record_count_max = kSharedBytesMax / sizeof(layout::FeedRecord);
  if (options.memory_limit_bytes > kSharedBytesMax || options.feed_record_count > feed_record_count_max) {
    refuse("memory limit and feed must be at most 64 TiB, which is more than any machine has");
  }
  if (options.memory_limit_bytes != 0 && options.memory_limit_bytes < options.buffer_count * kBufferBytesMin) {
    refuse("the memory limit must be at least 2 MiB for each buffer, not " +
           std::to_string(options.memory_limit_bytes) + " bytes");
  }
  if (options.directory_mode && gives_groups(options) && !is_open_to_group(*options.directory_mode)) {
    refuse("mode 0700 lets no group in, but groups are given; choose --mode 0750, or name no groups");
  }
}

// The boot is asked for before anything is touched: without an answer nothing may be replaced.
InstanceOwner::InstanceOwner(fs::path path, const InstanceOptions& options)
    : path_(std::move(path)), control_path_(path_ / "control"), boot_id_(os::boot_id()) {
  check_options(options);
  make_directories(options);
  crash_point(CrashPoint::kDirectoryMade);
  lock_instance();
  crash_point(CrashPoint::kInstanceLocked);
  give_directories(options);
  is_resumed_ = can_resume();
  if (!is_resumed_) create(options);
  guard_state();
  open_doorbell();
  crash_point(CrashPoint::kDoorbellReady);
  heartbeat().merger_pid.store(static_cast<std::uint32_t>(::getpid()), std::memory_order_relaxed);
  heartbeat().started_ns.store(os::now_ns(), std::memory_order_relaxed);
  heartbeat().retired.store(0, std::memory_order_relaxed);
  sleep().phase.store(round_up(sleep().phase.load(std::memory_order_relaxed), 2), std::memory_order_relaxed);  // awake
}

void InstanceOwner::make_directories(const InstanceOptions& options) {
  const fs::path root = path_.parent_path();
  if (!root.empty()) make_whole_directory(root, 0755, std::nullopt);
  if (const std::optional<Error> why = why_untrusted(root)) throw *why;
  make_whole_directory(path_, options.directory_mode.value_or(kDirectoryMode), options.readers_group);
}

// The lock that makes the merger the only one lies on a file that nobody else can open. The one on `control` only tells
// readers that a merger lives; being a shared lock, no reader's lock can keep it away.
void InstanceOwner::lock_instance() {
  lock_ = open_or_throw(path_ / "merger.lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
  if (os::try_lock(lock_.get(), kLifeByte, true)) {
    const std::optional<bool> is_ours = leads_to(path_ / "merger.lock", lock_);
    if (!is_ours) os::throw_errno("cannot look at " + (path_ / "merger.lock").string(), errno);
    if (*is_ours) return;
    throw error_of(InstanceError::kJustRemoved, path_);
  }
  if (errno != EAGAIN) os::throw_errno("cannot lock " + (path_ / "merger.lock").string(), errno);
  std::string who = "another process";
  layout::ControlHeader other{};
  const os::Fd control = os::open_file(control_path_, O_RDONLY);
  if (control.is_open() && ::pread(control.get(), &other, sizeof other, 0) == sizeof other) {
    who = "process " + std::to_string(other.heartbeat.merger_pid.load(std::memory_order_relaxed));
  }
  throw error_of(InstanceError::kRunning, path_, {who});
}

// The mode and group of the instance's directory and of the gate are what counts and what is kept; everything else
// follows from them at each start.
void InstanceOwner::give_directories(const InstanceOptions& options) {
  const os::Fd directory = open_or_throw(path_, O_RDONLY | O_DIRECTORY, 0);
  const std::optional<os::FileInfo> found = os::file_info(directory.get());
  if (!found) os::throw_errno("cannot look at " + path_.string(), errno);
  const unsigned mode = options.directory_mode.value_or(found->mode);
  permissions_ = {.directory_mode = mode, .readers_group = options.readers_group.value_or(found->gid)};
  if (gives_groups(options) && !is_open_to_group(mode)) {
    throw error_of(InstanceError::kGroupsShutOut, path_);
  }
  give(directory, path_, mode, permissions_.readers_group);

  const bool is_new = make_directory(gate_path(path_), 0700);
  const std::uint32_t kept_group = is_new ? ::getegid() : look_at_or_throw(gate_path(path_)).gid;
  permissions_.writers_group = options.writers_group.value_or(kept_group);
  make_directory(rings_path(), 0700);
  give_directory(rings_path(), rings_mode(mode), ::getegid());
  give_directory(gate_path(path_), gate_mode(mode), permissions_.writers_group);
}

void InstanceOwner::hold_control(const fs::path& path) {
  give(control_, path, file_mode(permissions_.directory_mode), permissions_.readers_group);
  if (!os::try_lock(control_.get(), kLifeByte, false)) os::throw_errno("cannot lock " + path.string(), errno);
}

bool InstanceOwner::can_resume() {
  control_ = os::open_file(control_path_, O_RDWR | O_NOFOLLOW);
  if (!control_.is_open()) {
    if (errno != ENOENT) throw_closed(control_path_);
    refuse_if_control_is_lost();
    return false;
  }
  hold_control(control_path_);
  const std::optional<os::FileInfo> info = os::file_info(control_.get());
  if (!info) os::throw_errno("cannot look at " + control_path_.string(), errno);
  if (info->bytes == 0) return false;  // its creator died before it had a size
  if (info->bytes < sizeof(layout::ControlHeader)) throw error_of(InstanceError::kControlCut, path_);
  // Not through a mapping: when its creator died, or found no memory, pages may be missing for which there is no room.
  layout::Identity identity;
  if (::pread(control_.get(), &identity, sizeof identity, 0) != static_cast<ssize_t>(sizeof identity)) {
    os::throw_errno("cannot read " + control_path_.string(), errno);
  }
  const std::uint64_t magic = identity.magic.load(std::memory_order_relaxed);
  if (magic != layout::kControlMagic) {
    if (magic == 0) return false;  // its creator died on the way
    throw Error(Status::kDamaged, "shmstate: " + control_path_.string() +
                                      " is not a shmstate file; choose another directory or remove it");
  }
  if (identity.boot_id == layout::Id{}) throw error_of(InstanceError::kBootUnknown, path_);
  if (identity.boot_id != boot_id_) return false;  // nothing in it survived that boot
  geometry_ = check_identity(identity, info->bytes, path_);
  control_mapping_ = Mapping(control_, Access::kReadWrite, 0, static_cast<std::size_t>(info->bytes), "control");
  if (!is_there(path_ / "snapshot")) throw error_of(InstanceError::kSnapshotMissing, path_);
  snapshot_ = open_or_throw(path_ / "snapshot", O_RDWR | O_NOFOLLOW, 0);
  const std::optional<os::FileInfo> snapshot_info = os::file_info(snapshot_.get());
  if (!snapshot_info) os::throw_errno("cannot look at " + (path_ / "snapshot").string(), errno);
  if (snapshot_info->bytes < geometry_.snapshot_bytes) throw error_of(InstanceError::kSnapshotCut, path_);
  snapshot_mapping_ =
      Mapping(snapshot_, Access::kReadWrite, 0, static_cast<std::size_t>(geometry_.snapshot_bytes), "snapshot");
  give_snapshot();
  crash_point(CrashPoint::kFilesMapped);
  return true;
}

// A state that nobody knows the place of any more is still there, and so may be what waits in its rings.
void InstanceOwner::refuse_if_control_is_lost() const {
  if (is_there(new_control_path(path_)) || !is_there(path_ / "snapshot")) return;
  throw error_of(InstanceError::kControlMissing, path_);
}

void InstanceOwner::create(const InstanceOptions& options) {
  geometry_ = plan(options, path_);
  const fs::path control_path = new_control_path(path_);
  const fs::path snapshot_path = path_ / "snapshot";
  // From here to `announce`, a crash leaves a new control beside no other, and the next start begins again. Nobody
  // attaches before all of it is there. Both files are new: somebody may still have the old ones mapped, and must not
  // see anything of the new instance there.
  if (!is_there(control_path_)) remove_if_there(snapshot_path);  // no snapshot is ever seen without either of the two
  remove_if_there(control_path);
  control_ = open_or_throw(control_path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  hold_control(control_path);
  remove_if_there(control_path_);
  crash_point(CrashPoint::kControlReplaced);
  remove_if_there(snapshot_path);
  snapshot_ = open_or_throw(snapshot_path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  give_snapshot();
  crash_point(CrashPoint::kSnapshotCreated);
  std::error_code ignored;
  for (const fs::directory_entry& ring : fs::directory_iterator(rings_path())) fs::remove(ring, ignored);
  crash_point(CrashPoint::kOldRingsRemoved);

  const auto set_size = [](const os::Fd& fd, const fs::path& path, std::uint64_t bytes) {
    if (const int error_number = os::resize(fd.get(), bytes); error_number != 0) {
      os::throw_errno(path.string() + ": cannot make it " + std::to_string(bytes) + " bytes long", error_number);
    }
  };
  set_size(control_, control_path_, geometry_.control_bytes);
  commit_or_throw(control_, control_path_, 0, geometry_.control_bytes);
  crash_point(CrashPoint::kControlCommitted);
  set_size(snapshot_, snapshot_path, geometry_.snapshot_bytes);
  commit_or_throw(snapshot_, snapshot_path, geometry_.feed_offset,
                  geometry_.feed_record_count * sizeof(layout::FeedRecord));
  crash_point(CrashPoint::kFeedCommitted);

  control_mapping_ = Mapping(control_, Access::kReadWrite, 0, static_cast<std::size_t>(geometry_.control_bytes),
                             control_path_.string());
  snapshot_mapping_ = Mapping(snapshot_, Access::kReadWrite, 0, static_cast<std::size_t>(geometry_.snapshot_bytes),
                              snapshot_path.string());
  write_identity(header().identity, geometry_, boot_id_);
  crash_point(CrashPoint::kIdentityWritten);
  write_descriptions(reinterpret_cast<layout::StatisticName*>(control_mapping_.data() + geometry_.statistic_offset));
}

// Whoever may truncate these files has destroyed the state; what is left is to say so.
void InstanceOwner::guard_state() {
  last_words_ = text_of(InstanceError::kStateLost, path_) + '\n';
  control_guard_ = FaultGuard(control_mapping_.data(), control_mapping_.size(), last_words_.c_str());
  snapshot_guard_ = FaultGuard(snapshot_mapping_.data(), snapshot_mapping_.size(), last_words_.c_str());
}

// A new one gets its name when writers may open it: an instance that is resumed is seen by them.
void InstanceOwner::open_doorbell() {
  const fs::path path = doorbell_path(path_);
  const bool is_new = !is_there(path);
  const fs::path here = is_new ? fs::path(path.string() + ".new") : path;
  doorbell_ = open_or_throw(here, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
  map_doorbell();
  give(doorbell_, here, doorbell_mode(permissions_.directory_mode), ::getegid());
  if (is_new) rename_or_throw(here, path);
}

void InstanceOwner::map_doorbell() {
  const fs::path path = doorbell_path(path_);
  if (const int error_number = os::resize(doorbell_.get(), kDoorbellBytes); error_number != 0) {
    os::throw_errno("cannot size " + path.string(), error_number);
  }
  commit_or_throw(doorbell_, path, 0, kDoorbellBytes);
  Mapping mapping(doorbell_, Access::kReadWrite, 0, kDoorbellBytes, path.string());
  doorbell_guard_ = FaultGuard(mapping.data(), kDoorbellBytes);  // every writer may truncate it
  doorbell_mapping_ = std::move(mapping);
}

void InstanceOwner::repair_doorbell() noexcept {
  const std::optional<os::FileInfo> info = os::file_info(doorbell_.get());
  if (info && info->bytes == kDoorbellBytes && !doorbell_guard_.has_faulted()) return;
  try {
    map_doorbell();
  } catch (const std::exception&) {  // no memory now: what the guard put there does until the next call
  }
}

void InstanceOwner::give_snapshot() {
  give(snapshot_, path_ / "snapshot", file_mode(permissions_.directory_mode), permissions_.readers_group);
}

void InstanceOwner::announce() {
  header().identity.magic.store(layout::kControlMagic, std::memory_order_release);  // pair: identity.magic
  rename_or_throw(new_control_path(path_), control_path_);
}

// First, nobody new attaches, and a merger that is started after a crash in the middle begins again.
std::error_code InstanceOwner::remove_files() const noexcept {
  if (leads_to(control_path_, control_) != true) return {ESTALE, std::generic_category()};  // another's, perhaps
  std::error_code error;
  fs::rename(control_path_, new_control_path(path_), error);
  if (error) return error;
  fs::remove_all(gate_path(path_), error);
  fs::remove(path_ / "snapshot", error);
  fs::remove(new_control_path(path_), error);
  fs::remove(path_ / "merger.lock", error);
  fs::remove(path_, error);
  return error;
}

int InstanceOwner::commit_pages(std::uint64_t first, std::uint64_t end) noexcept {
  const std::uint64_t bytes = (end - first) * kPageBytes;
  for (std::uint32_t b = 0; b < geometry_.buffer_count; ++b) {
    const std::uint64_t offset = geometry_.buffer_offset + b * geometry_.buffer_stride + first * kPageBytes;
    if (const int error_number = os::commit(snapshot_.get(), offset, bytes); error_number != 0) return error_number;
#ifdef MADV_POPULATE_WRITE  // one call is several times cheaper than a fault for each page; failing costs nothing
    ::madvise(snapshot_mapping_.data() + offset, bytes, MADV_POPULATE_WRITE);
#endif
  }
  return 0;
}

// Later than committing, so that a state only takes what it needs, and a mutation never waits for it.
bool InstanceOwner::collapse_next(std::uint64_t page_count) noexcept {
  const std::uint64_t buffer = collapse_tries_ % geometry_.buffer_count;
  const std::uint64_t end = (collapse_tries_ / geometry_.buffer_count + 1) * os::kHugePageBytes;
  if (end > page_count * kPageBytes) return false;
  const std::uint64_t offset = geometry_.buffer_offset + buffer * geometry_.buffer_stride + end - os::kHugePageBytes;
  const int error_number = os::collapse(snapshot_mapping_.data() + offset);
  if (error_number == EINVAL) return false;
  ++collapse_tries_;
  if (error_number == 0) collapsed_bytes_ += os::kHugePageBytes;
  return true;
}

}  // namespace shmstate::internal
