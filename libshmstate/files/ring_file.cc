#include "files/ring_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <string_view>
#include <thread>

#include "files/access.h"
#include "files/control.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

namespace fs = std::filesystem;

// Whether a failure to open a file says that it is none of ours: it is gone, a link, a socket, a device.
bool is_no_ring(int error_number) {
  return os::is_absence(error_number) || error_number == ELOOP || error_number == ENXIO || error_number == ENODEV;
}

bool leads_nowhere(const fs::path& path) { return !os::file_info(path) && os::is_absence(errno); }

// Whether somebody may need that file: holds a lock on it, or has pushed into what only looks like no ring because this
// process may not open it.
bool may_be_in_use(const fs::path& path) noexcept {
  const os::Fd fd = os::open_file(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (fd.is_open()) return os::is_locked(fd.get(), kLifeByte);
  if (is_no_ring(errno)) return false;
  const std::optional<os::FileInfo> info = os::file_info(path);
  return info ? info->bytes >= layout::kRingHeaderBytes + kRingBytesMin : !os::is_absence(errno);
}

constexpr int kNameDigits = 16;
constexpr unsigned kRingMode = 0660;  // its writer, and by the directory's group the merger
constexpr std::string_view kSharedPrefix = "shared-";

void write_header(layout::RingHeader& header, std::uint64_t id, const RingFile::Description& description) {
  header.magic = layout::kRingMagic;
  header.layout_major = layout::kLayoutMajor;
  header.layout_minor = layout::kLayoutMinor;
  header.ring_id = id;
  header.data_bytes = description.data_bytes;
  header.names_bytes = static_cast<std::uint32_t>(description.names_bytes);
  header.required_features = description.names_bytes != 0 ? layout::kRingNames : 0;
  header.instance_id = description.instance_id;
  header.owner_pid = static_cast<std::uint32_t>(::getpid());
  header.owner_uid = ::geteuid();
  header.flags = description.flags;
  description.name.copy(header.name, sizeof header.name - 1);
  header.created_ns = os::realtime_ns();
}

OwnFd create_nameless(const fs::path& rings) {
  OwnFd fd = OwnFd::open_file(rings, O_TMPFILE | O_RDWR, kRingMode);
  if (fd.is_open()) return fd;
  if (errno == EACCES || errno == EPERM) throw refusal(rings.parent_path().parent_path(), rings, Purpose::kWrite);
  os::throw_errno("cannot create a ring in " + rings.string(), errno);
}

[[noreturn]] void throw_nameless(const fs::path& path, int error_number) {
  if (error_number != ENOSYS) os::throw_errno("cannot create " + path.string(), error_number);
  throw Error(Status::kSystem, "shmstate: cannot create " + path.string() +
                                   ": a writer gives its ring a name through /proc/self/fd, and there is none; mount "
                                   "/proc where it runs");
}

}  // namespace

std::string ring_name(std::uint64_t id) {
  std::string name(kNameDigits, '0');
  for (auto digit = name.rbegin(); digit != name.rend(); ++digit, id >>= 4) *digit = "0123456789abcdef"[id & 0xf];
  return name;
}

std::optional<std::uint64_t> ring_id_of(const std::string& name) {
  std::uint64_t id = 0;
  const char* const end = name.data() + name.size();
  if (name.size() != kNameDigits || std::from_chars(name.data(), end, id, 16).ptr != end) return std::nullopt;
  return id != 0 && ring_name(id) == name ? std::optional(id) : std::nullopt;
}

std::string shared_ring_name(std::uint32_t uid) { return std::string(kSharedPrefix) + std::to_string(uid); }

bool is_taken_from(std::uint32_t uid, const fs::path& shared_ring) {
  const std::optional<os::FileInfo> info = os::file_info(shared_ring);
  return info && (info->uid != uid || !info->is_regular);
}

RingFile::RingFile(OwnFd fd, std::uint64_t id, std::uint64_t data_bytes, std::uint64_t names_bytes,
                   const std::string& what)
    : fd_(std::move(fd)),
      mapping_(fd_.opened_again(O_RDWR,
                                [&](const os::Fd& file) {
                                  return MirroredMapping(file, layout::kRingHeaderBytes,
                                                         static_cast<std::size_t>(data_bytes),
                                                         static_cast<std::size_t>(names_bytes), what);
                                })),
      id_(id),
      data_bytes_(data_bytes),
      names_bytes_(names_bytes),
      owner_uid_(os::file_info(fd_.get()).value_or(os::FileInfo{}).uid) {}

RingFile RingFile::create(const fs::path& rings, const Description& description) {
  OwnFd fd = create_nameless(rings);
  if (::fchmod(fd.get(), kRingMode) != 0) os::throw_errno("cannot chmod a ring in " + rings.string(), errno);
  const bool exclusive = (description.flags & layout::kRingShared) == 0;
  if (!os::try_lock(fd.get(), kLifeByte, exclusive)) os::throw_errno("cannot lock a ring in " + rings.string(), errno);
  const std::uint64_t bytes = layout::kRingHeaderBytes + description.data_bytes + description.names_bytes;
  if (const int error_number = os::resize(fd.get(), bytes); error_number != 0) {
    os::throw_errno("cannot size a ring in " + rings.string(), error_number);
  }
  crash_point(CrashPoint::kRingSized);
  if (const int error_number = os::commit(fd.get(), 0, layout::kRingHeaderBytes); error_number != 0) {
    os::throw_errno("no memory for a ring in " + rings.string(), error_number);
  }
  crash_point(CrashPoint::kRingCommitted);
  for (;;) {
    std::uint64_t id = 0;
    os::random_bytes(&id, sizeof id);
    if (id == 0) continue;
    const fs::path path = rings / ring_name(id);
    RingFile ring(std::move(fd), id, description.data_bytes, description.names_bytes, path.string());
    write_header(ring.header(), id, description);
    crash_point(CrashPoint::kRingHeaderWritten);
    const int error_number = os::give_name(ring.fd(), path);
    crash_point(CrashPoint::kRingNamed);
    if (error_number == 0) return ring;
    if (error_number != EEXIST) throw_nameless(path, error_number);
    fd = std::move(ring.fd_);
  }
}

// The merger removes a shared ring that nobody holds under an exclusive lock; so whoever got a shared lock on a file
// that still has its name can rely on it.
std::optional<RingFile> RingFile::try_open_shared(const fs::path& path, const layout::Id& instance_id) {
  if (is_taken_from(::geteuid(), path)) return std::nullopt;
  OwnFd fd = OwnFd::open_file(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (!fd.is_open()) {
    if (is_no_ring(errno)) return std::nullopt;
    os::throw_errno("cannot open " + path.string(), errno);
  }
  if (!os::try_lock(fd.get(), kLifeByte, false)) {
    if (errno == EAGAIN) return std::nullopt;
    os::throw_errno("cannot lock " + path.string(), errno);
  }
  if (!leads_to(path, fd.fd()).value_or(false)) return std::nullopt;
  crash_point(CrashPoint::kSharedRingOpened);
  return open_checked(std::move(fd), std::nullopt, instance_id);
}

RingFile RingFile::open_shared(const fs::path& rings, const Description& description) {
  constexpr int kTries = 1000;
  const fs::path path = rings / shared_ring_name(::geteuid());
  for (int i = 0; i < kTries; ++i) {
    if (std::optional<RingFile> ring = try_open_shared(path, description.instance_id)) return std::move(*ring);
    if (is_taken_from(::geteuid(), path)) return create(rings, description);
    if (!leads_nowhere(path)) {  // being removed, or just being made by another process
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    RingFile created = create(rings, description);
    const int error_number = os::give_name(created.fd(), path);
    crash_point(CrashPoint::kSharedRingNamed);
    if (error_number == 0) return created;  // else somebody was faster; the merger removes ours
  }
  throw Error(Status::kDamaged, "shmstate: " + path.string() + " is not a shared ring of this instance; remove it");
}

std::optional<RingFile> RingFile::open(const fs::path& rings, std::uint64_t id, const layout::Id& instance_id) {
  const fs::path path = rings / ring_name(id);
  const std::optional<os::FileInfo> info = os::file_info(path);
  if (!info && !os::is_absence(errno)) os::throw_errno("cannot look at " + path.string(), errno);
  if (!info || !info->is_regular) return std::nullopt;
  OwnFd fd = OwnFd::open_file(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (!fd.is_open()) {
    if (is_no_ring(errno)) return std::nullopt;
    os::throw_errno("cannot open " + path.string(), errno, "the merger must be allowed to read and write it");
  }
  std::optional<RingFile> ring = open_checked(std::move(fd), id, instance_id);
  if (ring) ring->survive_truncation();
  return ring;
}

std::optional<RingFile> RingFile::open_checked(OwnFd fd, std::optional<std::uint64_t> id,
                                               const layout::Id& instance_id) {
  layout::RingHeader header{};
  const std::optional<os::FileInfo> info = os::file_info(fd.get());
  const ssize_t got = info ? ::pread(fd.get(), &header, sizeof header, 0) : -1;
  if (got < 0) os::throw_errno("cannot read a ring", errno);
  if (!info->is_regular || got != static_cast<ssize_t>(sizeof header)) return std::nullopt;
  const bool sound = header.magic == layout::kRingMagic && header.layout_major == layout::kLayoutMajor &&
                     header.ring_id == id.value_or(header.ring_id) && header.instance_id == instance_id &&
                     std::has_single_bit(header.data_bytes) && header.data_bytes >= kRingBytesMin &&
                     header.data_bytes <= kRingBytesMax && (header.required_features & ~layout::kRingFeatures) == 0;
  const std::uint64_t names_bytes = (header.required_features & layout::kRingNames) != 0 ? header.names_bytes : 0;
  const bool has_sound_names = names_bytes <= kNamesBytesMax && names_bytes % kNamesBytesStep == 0;
  if (!sound || !has_sound_names) return std::nullopt;
  if (info->bytes < layout::kRingHeaderBytes + header.data_bytes + names_bytes) return std::nullopt;
  return RingFile(std::move(fd), header.ring_id, header.data_bytes, names_bytes, ring_name(header.ring_id));
}

void RingFile::remove_broken(const fs::path& rings, std::uint64_t id, bool anyway) noexcept {
  const fs::path path = rings / ring_name(id);
  if (!anyway && may_be_in_use(path)) return;
  std::error_code ignored;
  fs::remove(path, ignored);
  crash_point(CrashPoint::kBrokenRingRemoved);
}

// Rings have their names from their creation on, and a shared one its second name, too.
bool RingFile::remove_junk(const fs::path& rings, const std::string& name) noexcept {
  const std::optional<os::FileInfo> info = os::file_info(rings / name);
  const bool is_second_name = info && info->is_regular && info->link_count > 1 && name == shared_ring_name(info->uid);
  if (!info || is_second_name) return false;
  std::error_code error;
  return fs::remove(rings / name, error);
}

std::string RingFile::writer_name() const {
  std::string name(header().name, sizeof header().name);  // a copy: it may change, and lack its end
  name.resize(std::min(name.find('\0'), name.size()));
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c < ' ' || c == '\x7f'; }, '?');
  return name;
}

bool RingFile::is_truncated() const noexcept {
  const std::optional<os::FileInfo> info = os::file_info(fd_.get());
  return has_faulted() || (info && info->bytes < file_bytes());
}

bool RingFile::is_abandoned() const noexcept { return !os::is_locked(fd_.get(), kLifeByte); }

// The lock is kept until the file is closed: who opens a shared ring meanwhile sees that and makes a new one.
bool RingFile::try_remove(const fs::path& rings, bool anyway, std::uint64_t merged) const noexcept {
  if (!os::try_lock(fd_.get(), kLifeByte, true)) return false;
  // Somebody may have come, pushed and gone. pair: ring.tail
  if (!anyway && header().tail.load(std::memory_order_acquire) != merged) {
    os::unlock(fd_.get(), kLifeByte);
    return false;
  }
  std::error_code ignored;
  if ((header().flags & layout::kRingShared) != 0) {
    const fs::path shared = rings / shared_ring_name(header().owner_uid);
    if (leads_to(shared, fd_.fd()).value_or(false)) fs::remove(shared, ignored);
    crash_point(CrashPoint::kSharedNameRemoved);
  }
  fs::remove(rings / ring_name(id_), ignored);
  crash_point(CrashPoint::kRingRemoved);
  return true;
}

}  // namespace shmstate::internal
