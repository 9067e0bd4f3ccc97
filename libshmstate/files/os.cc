#include "files/os.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <climits>
#include <ctime>
#include <fstream>
#include <string_view>
#include <system_error>

#if defined(__SANITIZE_THREAD__)
#define SHMSTATE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHMSTATE_TSAN 1
#endif
#endif
#ifdef SHMSTATE_TSAN
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace shmstate::internal::os {

// Locks need it, too. The kernel alone orders nothing: it changes its list of locks under a spinlock, but finds it
// empty without. So a pin and the question whether there is one could pass each other's access to a stamp. A builtin,
// since GCC takes no std::atomic_thread_fence under ThreadSanitizer; that cannot see all this, and is told.
void fence() noexcept {
  __sync_synchronize();
#ifdef SHMSTATE_TSAN
  static char everybody;
  __tsan_acquire(&everybody);
  __tsan_release(&everybody);
#endif
}

namespace {

int lock_command(int fd, int command, short type, std::uint64_t byte, short* found = nullptr) noexcept {
  struct flock request {};
  request.l_type = type;
  request.l_whence = SEEK_SET;
  request.l_start = static_cast<off_t>(byte);
  request.l_len = 1;
  fence();
  int result = 0;
  do {
    result = ::fcntl(fd, command, &request);
  } while (result != 0 && errno == EINTR);
  const int error_number = errno;
  fence();
  if (found != nullptr) *found = request.l_type;
  return result == 0 ? 0 : error_number;
}

std::uint64_t soft_limit(int resource) noexcept {
  rlimit limit{};
  return ::getrlimit(static_cast<decltype(RLIMIT_AS)>(resource), &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
}

// The kernel does not say which of them it was.
std::string remedy_of_memory(const std::string& otherwise) {
  std::string limits;
  if (soft_limit(RLIMIT_AS) != RLIM_INFINITY) limits = "of address space (ulimit -v, or LimitAS of the service)";
  if (soft_limit(RLIMIT_DATA) != RLIM_INFINITY) {
    limits += std::string(limits.empty() ? "" : " or ") + "of data (ulimit -d, or LimitDATA of the service)";
  }
  return limits.empty() ? otherwise : "raise the limit " + limits;
}

// getgrnam(3): some errno values that it leaves behind mean that there is no such group.
bool is_failure_to_look_up(int error_number) {
  switch (error_number) {
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case EIO: return true;
    default: return false;
  }
}

FileInfo file_info_of(const struct stat& info) noexcept {
  return {.bytes = static_cast<std::uint64_t>(info.st_size),
          .committed_bytes = static_cast<std::uint64_t>(info.st_blocks) * 512,
          .inode = info.st_ino,
          .device = info.st_dev,
          .link_count = static_cast<std::uint32_t>(info.st_nlink),
          .uid = info.st_uid,
          .gid = info.st_gid,
          .mode = info.st_mode & 07777,
          .is_regular = S_ISREG(info.st_mode)};
}

std::uint64_t clock_ns(clockid_t clock) noexcept {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(time.tv_nsec);
}

}  // namespace

std::string remedy_of(int error_number, const std::string& otherwise) {
  switch (error_number) {
    case EMFILE: return "raise the limit of open files (ulimit -n, or LimitNOFILE of the service)";
    case ENFILE: return "raise fs.file-max";
    case EFBIG: return "raise the limit of file size (ulimit -f, or LimitFSIZE of the service)";
    case EAGAIN: return "raise the limit of processes (ulimit -u, or LimitNPROC and TasksMax of the service)";
    case ENOMEM: return remedy_of_memory(otherwise);
    case ENOSPC:
    case EDQUOT: return "make the file system larger or lower the memory limit";
    default: return otherwise;
  }
}

Fd::~Fd() {
  if (fd_ < 0) return;
  const NoCancellation shield;
  ::close(fd_);
}

NoCancellation::NoCancellation() noexcept { ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before_); }
NoCancellation::~NoCancellation() { ::pthread_setcancelstate(before_, nullptr); }

Status status_of(int error_number) noexcept {
  switch (error_number) {
    case EACCES:
    case EPERM:
    case EROFS: return Status::kNoPermission;
    case ENOENT:
    case ENOTDIR: return Status::kNoInstance;
    case ENOSPC:
    case ENOMEM:
    case EDQUOT: return Status::kNoMemory;
    default: return Status::kSystem;
  }
}

bool is_absence(int error_number) noexcept { return error_number == ENOENT || error_number == ENOTDIR; }

void throw_errno(const std::string& what, int error_number, const std::string& remedy) {
  const std::string advice = remedy_of(error_number, remedy);
  throw Error(status_of(error_number), "shmstate: " + what + ": " + std::generic_category().message(error_number) +
                                           (advice.empty() ? "" : "; " + advice));
}

Fd move_up(int fd) noexcept {
  if (fd < 0 || fd > STDERR_FILENO) return Fd(fd);
  const Fd low(fd);
  return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
}

Fd open_file(const std::filesystem::path& path, int flags, unsigned mode) noexcept {
  const NoCancellation shield;
  return move_up(::open(path.c_str(), flags | O_CLOEXEC, mode));
}

std::optional<FileInfo> file_info(int fd) noexcept {
  struct stat info {};
  return ::fstat(fd, &info) == 0 ? std::optional(file_info_of(info)) : std::nullopt;
}

std::optional<FileInfo> file_info(const std::filesystem::path& path) noexcept {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 ? std::optional(file_info_of(info)) : std::nullopt;
}

std::uint32_t group_id(const std::string& name) {
  std::uint32_t number = 0;
  const char* const end = name.data() + name.size();
  if (const auto [rest, error] = std::from_chars(name.data(), end, number); error == std::errc() && rest == end) {
    return number;
  }
  errno = 0;
  if (const group* const found = ::getgrnam(name.c_str()); found != nullptr) return found->gr_gid;
  if (is_failure_to_look_up(errno)) throw_errno("cannot look up group \"" + name + '"', errno);
  throw Error(Status::kInvalidArgument, "shmstate: group \"" + name +
                                            "\" does not exist; create it (groupadd --system " + name +
                                            ") or name another one");
}

int resize(int fd, std::uint64_t bytes) noexcept {
  const std::optional<FileInfo> info = file_info(fd);
  if (!info) return errno;
  if (bytes > info->bytes && bytes > soft_limit(RLIMIT_FSIZE)) return EFBIG;
  return ::ftruncate(fd, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
}

int commit(int fd, std::uint64_t offset, std::uint64_t bytes) noexcept {
  const NoCancellation shield;
  int result = 0;
  do {  // KEEP_SIZE: the file has its size; a range beyond it would be a bug, not a wish
    result = ::fallocate(fd, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset), static_cast<off_t>(bytes));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

void populate(const std::byte* address, std::size_t bytes) noexcept {
#ifdef MADV_POPULATE_READ
  ::madvise(const_cast<std::byte*>(address), bytes, MADV_POPULATE_READ);  // changes the page tables, not the bytes
#else
  static_cast<void>(address), static_cast<void>(bytes);
#endif
}

int collapse(std::byte* huge_page) noexcept {
  constexpr int kMadvCollapse = 25;  // MADV_COLLAPSE of Linux 6.1, which older headers lack
  return ::madvise(huge_page, kHugePageBytes, kMadvCollapse) == 0 ? 0 : errno;
}

int give_name(int fd, const std::filesystem::path& path) noexcept {
  const std::string nameless = "/proc/self/fd/" + std::to_string(fd);
  if (::linkat(AT_FDCWD, nameless.c_str(), AT_FDCWD, path.c_str(), AT_SYMLINK_FOLLOW) == 0) return 0;
  const int error_number = errno;
  if (error_number != ENOENT || ::access(nameless.c_str(), F_OK) == 0) return error_number;
  if (::linkat(fd, "", AT_FDCWD, path.c_str(), AT_EMPTY_PATH) == 0) return 0;
  return errno == ENOENT ? ENOSYS : errno;
}

bool try_lock(int fd, std::uint64_t byte, bool exclusive) noexcept {
  errno = lock_command(fd, F_OFD_SETLK, static_cast<short>(exclusive ? F_WRLCK : F_RDLCK), byte);
  return errno == 0;
}

void unlock(int fd, std::uint64_t byte) noexcept { lock_command(fd, F_OFD_SETLK, F_UNLCK, byte); }

int lock(int fd, std::uint64_t byte) noexcept { return lock_command(fd, F_OFD_SETLKW, F_WRLCK, byte); }

bool is_locked(int fd, std::uint64_t byte) noexcept {
  short found = F_UNLCK;
  return lock_command(fd, F_OFD_GETLK, F_WRLCK, byte, &found) != 0 || found != F_UNLCK;
}

void futex_wait(const std::uint32_t* word, std::uint32_t expected, std::chrono::nanoseconds timeout) noexcept {
  if (timeout <= std::chrono::nanoseconds::zero()) return;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  const timespec relative{.tv_sec = static_cast<time_t>(seconds.count()),
                          .tv_nsec = static_cast<long>((timeout - seconds).count())};
  ::syscall(SYS_futex, word, FUTEX_WAIT, expected, &relative, nullptr, 0);
}

void futex_wake_all(const std::uint32_t* word) noexcept {
  ::syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

bool futex_add_and_wake(const std::uint32_t* word) noexcept {
  constexpr int kAddOne = FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_EQ, 0);
  constexpr unsigned long kNobodyMore = 0;  // whom the comparison would wake is awake already
  return ::syscall(SYS_futex, word, FUTEX_WAKE_OP, INT_MAX, kNobodyMore, word, kAddOne) >= 0;
}

bool register_fence() noexcept {
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0;
}

bool fence_all_processes() noexcept { return ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) == 0; }

std::uint64_t now_ns() noexcept { return clock_ns(CLOCK_BOOTTIME); }
std::uint64_t realtime_ns() noexcept { return clock_ns(CLOCK_REALTIME); }

std::array<std::uint8_t, 16> boot_id() {
  constexpr const char* kPath = "/proc/sys/kernel/random/boot_id";
  constexpr const char* kRemedy = "without it nobody can tell whether files are of this boot: let this process see it";
  const auto refuse = [](const std::string& why) {
    throw Error(Status::kSystem, std::string("shmstate: cannot read ") + kPath + ": " + why + "; " + kRemedy);
  };
  char text[64];
  const Fd file = open_file(kPath, O_RDONLY);
  const ssize_t got = file.is_open() ? ::read(file.get(), text, sizeof text) : -1;
  if (got < 0) refuse(std::generic_category().message(errno));
  std::array<std::uint8_t, 16> id{};
  std::size_t digits = 0;
  for (const char c : std::string_view(text, static_cast<std::size_t>(got))) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0 || digits == 2 * id.size()) continue;
    std::uint8_t& byte = id.at(digits++ / 2);
    byte = static_cast<std::uint8_t>(byte << 4 | digit);
  }
  if (digits != 2 * id.size()) refuse("it holds no boot id");
  return id;
}

void random_bytes(void* data, std::size_t bytes) {
  auto* out = static_cast<std::uint8_t*>(data);
  while (bytes > 0) {
    const ssize_t got = ::getrandom(out, bytes, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno("getrandom", errno);
    out += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

std::string program_name() { return program_invocation_short_name; }  // not from a file: that needs a descriptor

}  // namespace shmstate::internal::os
