#include "engine/instance_owner.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "engine/file_actions.h"
#include "files/errors.h"
#include "shmstate/detail/crash_point.h"
#include "shmstate/detail/words.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;
using layout::kPageBytes;

constexpr unsigned kDirectoryMode = 0750;

}  // namespace

// The boot is determined before anything is touched: without it, nothing may be replaced.
InstanceOwner::InstanceOwner(fs::path path, const InstanceOptions& options)
    : path_(std::move(path)), control_path_(path_ / "control"), boot_id_(os::boot_id()) {
  check_options(options);
  make_directories(options);
  crash_point(CrashPoint::kDirectoryMade);
  lock_instance();
  crash_point(CrashPoint::kInstanceLocked);
  apply_permissions(options);
  is_resumed_ = can_resume();
  if (!is_resumed_) create(options);
  guard_state();
  open_public_pages();
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

// The lock that makes this merger the only one is on a file that only its user can open. The lock on `control` only
// shows readers that a merger is alive; it is shared, so no reader's lock can prevent it.
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

// The mode and group of the instance's directory and of the gate decide, and are kept; everything else follows from
// them at each start.
void InstanceOwner::apply_permissions(const InstanceOptions& options) {
  const os::Fd directory = open_or_throw(path_, O_RDONLY | O_DIRECTORY, 0);
  const os::FileInfo found = info_or_throw(directory, path_);
  const unsigned mode = options.directory_mode.value_or(found.mode);
  permissions_ = {.directory_mode = mode, .readers_group = options.readers_group.value_or(found.gid)};
  if (names_groups(options) && !is_open_to_group(mode)) {
    throw error_of(InstanceError::kGroupsShutOut, path_);
  }
  internal::apply_permissions(directory, path_, mode, permissions_.readers_group);

  const bool is_new = make_directory(gate_path(path_), 0700);
  const std::uint32_t kept_group = is_new ? ::getegid() : info_or_throw(gate_path(path_)).gid;
  permissions_.writers_group = options.writers_group.value_or(kept_group);
  make_directory(rings_path(), 0700);
  internal::apply_permissions(rings_path(), rings_mode(mode), ::getegid());
  internal::apply_permissions(gate_path(path_), gate_mode(mode), permissions_.writers_group);
}

void InstanceOwner::hold_control(const fs::path& path) {
  internal::apply_permissions(control_, path, file_mode(permissions_.directory_mode), permissions_.readers_group);
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
  const os::FileInfo info = info_or_throw(control_, control_path_);
  if (info.bytes == 0) return false;  // its creator died before it had a size
  if (info.bytes < sizeof(layout::ControlHeader)) throw error_of(InstanceError::kControlCut, path_);
  // Not through a mapping: when its creator died, or found no memory, pages may be missing for which there is no room.
  layout::Identity identity;
  if (::pread(control_.get(), &identity, sizeof identity, 0) != static_cast<ssize_t>(sizeof identity)) {
    os::throw_errno("cannot read " + control_path_.string(), errno);
  }
  const std::uint64_t magic = identity.magic.load(std::memory_order_relaxed);
  if (magic != layout::kControlMagic) {
    if (magic == 0) return false;  // its creator died before it was complete
    throw Error(Status::kDamaged, "shmstate: " + control_path_.string() +
                                      " is not a shmstate file; choose another directory or remove it");
  }
  if (identity.boot_id == layout::Id{}) throw error_of(InstanceError::kBootUnknown, path_);
  if (identity.boot_id != boot_id_) return false;  // nothing in it survived that boot
  geometry_ = check_identity(identity, info.bytes, path_);
  control_mapping_ = Mapping(control_, Access::kReadWrite, 0, static_cast<std::size_t>(info.bytes), "control");
  open_snapshot();
  crash_point(CrashPoint::kFilesMapped);
  return true;
}

void InstanceOwner::open_snapshot() {
  if (!exists_or_throw(path_ / "snapshot")) throw error_of(InstanceError::kSnapshotMissing, path_);
  snapshot_ = open_or_throw(path_ / "snapshot", O_RDWR | O_NOFOLLOW, 0);
  if (info_or_throw(snapshot_, path_ / "snapshot").bytes < geometry_.snapshot_bytes) {
    throw error_of(InstanceError::kSnapshotCut, path_);
  }
  snapshot_mapping_ =
      Mapping(snapshot_, Access::kReadWrite, 0, static_cast<std::size_t>(geometry_.snapshot_bytes), "snapshot");
  apply_snapshot_permissions();
}

// Without its control, the state is still there, and so may be mutations that wait in its rings.
void InstanceOwner::refuse_if_control_is_lost() const {
  if (exists_or_throw(new_control_path(path_)) || !exists_or_throw(path_ / "snapshot")) return;
  throw error_of(InstanceError::kControlMissing, path_);
}

void InstanceOwner::create(const InstanceOptions& options) {
  geometry_ = plan_instance(options, path_);
  const fs::path control_path = new_control_path(path_);
  const fs::path snapshot_path = path_ / "snapshot";
  // From here to `announce`, a crash leaves only a new control, and the next start begins again. No process attaches
  // before everything is there. Both files are new: a process may still have the old ones mapped, and must not see
  // anything of the new instance in them.
  // No snapshot is ever seen without either control.
  if (!exists_or_throw(control_path_)) remove_if_there(snapshot_path);
  remove_if_there(control_path);
  control_ = open_or_throw(control_path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  hold_control(control_path);
  remove_if_there(control_path_);
  crash_point(CrashPoint::kControlReplaced);
  remove_if_there(snapshot_path);
  snapshot_ = open_or_throw(snapshot_path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  apply_snapshot_permissions();
  crash_point(CrashPoint::kSnapshotCreated);
  std::error_code ignored;
  for (const fs::directory_entry& ring : fs::directory_iterator(rings_path())) fs::remove(ring, ignored);
  crash_point(CrashPoint::kOldRingsRemoved);

  resize_or_throw(control_, control_path_, geometry_.control_bytes);
  commit_or_throw(control_, control_path_, 0, geometry_.control_bytes);
  crash_point(CrashPoint::kControlCommitted);
  resize_or_throw(snapshot_, snapshot_path, geometry_.snapshot_bytes);
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

// If these files are truncated, the state is lost; all that remains is to report it.
void InstanceOwner::guard_state() {
  last_words_ = text_of(InstanceError::kStateLost, path_) + '\n';
  control_guard_ = FaultGuard(control_mapping_.data(), control_mapping_.size(), last_words_.c_str());
  snapshot_guard_ = FaultGuard(snapshot_mapping_.data(), snapshot_mapping_.size(), last_words_.c_str());
}

void InstanceOwner::open_public_pages() {
  const unsigned mode = permissions_.directory_mode;
  if (geometry_.has_announced_pins) pins_ = PublicPage(pins_path(path_), pins_mode(mode), permissions_.readers_group);
  crash_point(CrashPoint::kPinsReady);
  doorbell_ = PublicPage(doorbell_path(path_), doorbell_mode(mode), ::getegid());
  crash_point(CrashPoint::kDoorbellReady);
}

void InstanceOwner::repair_public_pages() noexcept {
  doorbell_.repair();
  if (geometry_.has_announced_pins) pins_.repair();
}

void InstanceOwner::apply_snapshot_permissions() {
  internal::apply_permissions(snapshot_, path_ / "snapshot", file_mode(permissions_.directory_mode),
                              permissions_.readers_group);
}

void InstanceOwner::announce() {
  header().identity.magic.store(layout::kControlMagic, std::memory_order_release);  // pair: identity.magic
  rename_or_throw(new_control_path(path_), control_path_);
}

// The rename comes first: from then on no process attaches, and after a crash in the middle the next merger begins
// again.
std::error_code InstanceOwner::remove_files() const noexcept {
  if (leads_to(control_path_, control_) != true)
    return {ESTALE, std::generic_category()};  // perhaps another instance's
  std::error_code error;
  fs::rename(control_path_, new_control_path(path_), error);
  if (error) return error;
  fs::remove_all(gate_path(path_), error);
  fs::remove(path_ / "snapshot", error);
  fs::remove(pins_path(path_), error);
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

// Not when pages are committed: so a state takes only what it needs, and no mutation waits for this.
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
