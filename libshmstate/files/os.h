// System calls that the standard library lacks, one thin function each. Everything here is Linux.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "shmstate/status.h"

namespace shmstate::internal::os {

/// An owned file descriptor.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) noexcept : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();
  [[nodiscard]] int get() const noexcept { return fd_; }
  [[nodiscard]] bool is_open() const noexcept { return fd_ >= 0; }
  /// Forgets it, without closing it.
  void release() noexcept { fd_ = -1; }

 private:
  int fd_ = -1;
};

/// While it lives, this thread is not cancelled (pthread_cancel): that would unwind through what throws nothing.
class NoCancellation {
 public:
  NoCancellation() noexcept;
  NoCancellation(const NoCancellation&) = delete;
  NoCancellation& operator=(const NoCancellation&) = delete;
  ~NoCancellation();

 private:
  int before_ = 0;
};

/// What an errno value means to who called: kNoMemory, kNoPermission, kNoInstance, or kSystem.
[[nodiscard]] Status status_of(int error_number) noexcept;

/// Whether an errno value is an answer, that there is no such file, and not the lack of one.
[[nodiscard]] bool is_absence(int error_number) noexcept;

/// What to do about an errno value that comes from a limit of this process, the system or the file system; `otherwise`
/// when it is none of these.
[[nodiscard]] std::string remedy_of(int error_number, const std::string& otherwise = {});

/// Throws `Error`: "shmstate: <what>: <text of errno>; <remedy>", with the status and perhaps the remedy of errno.
[[noreturn]] void throw_errno(const std::string& what, int error_number, const std::string& remedy = {});

/// Takes a descriptor, which gets another number if it has that of a standard stream: a process without standard error
/// must not print into our files. Not open on failure, with errno set.
[[nodiscard]] Fd move_up(int fd) noexcept;

/// Opens a file with O_CLOEXEC, never as a standard stream; `flags` and `mode` as for open(2). An Fd that is not open
/// on failure, with errno set.
[[nodiscard]] Fd open_file(const std::filesystem::path& path, int flags, unsigned mode = 0) noexcept;

struct FileInfo {
  std::uint64_t bytes;            // apparent size
  std::uint64_t committed_bytes;  // memory that it takes
  std::uint64_t inode;
  std::uint64_t device;
  std::uint32_t link_count;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint32_t mode;  // permissions, set-group-ID, sticky
  bool is_regular;
};
/// Nothing on failure, with errno set: only ENOENT and ENOTDIR (see `is_absence`) say that there is no file.
[[nodiscard]] std::optional<FileInfo> file_info(int fd) noexcept;
/// The same. Opens nothing, and does not follow a symbolic link at the end.
[[nodiscard]] std::optional<FileInfo> file_info(const std::filesystem::path& path) noexcept;

/// The number of a group, given by name or as a number. Throws `Error`: kInvalidArgument when there is no such group,
/// another status when the groups cannot be read.
[[nodiscard]] std::uint32_t group_id(const std::string& name);

/// Sets the size of a file. Returns 0 or an errno value: EFBIG beyond RLIMIT_FSIZE, which is asked first, since the
/// kernel would send SIGXFSZ, and that belongs to the program.
[[nodiscard]] int resize(int fd, std::uint64_t bytes) noexcept;

/// Reserves memory for a range of a file. Returns 0 or an errno value (ENOSPC).
[[nodiscard]] int commit(int fd, std::uint64_t offset, std::uint64_t bytes) noexcept;

/// Maps the pages of a range now instead of at their first access; failing does no harm.
void populate(const std::byte* address, std::size_t bytes) noexcept;

inline constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

/// Moves an aligned range of a mapped tmpfs file, which is on small pages, to a huge page, whatever the mount says.
/// Returns 0 or an errno value: EINVAL when the kernel does not do that, others when it cannot do it now.
[[nodiscard]] int collapse(std::byte* huge_page) noexcept;

/// Gives a nameless file (O_TMPFILE) a name. Returns 0 or an errno value: EEXIST; ENOSYS without /proc, which all but
/// the privileged need for that.
[[nodiscard]] int give_name(int fd, const std::filesystem::path& path) noexcept;

/// Locks on one byte of a file that belong to the open file description and vanish with it.
/// `try_lock`, when exclusive, needs a descriptor open for writing; false and EAGAIN when somebody else holds the lock.
[[nodiscard]] bool try_lock(int fd, std::uint64_t byte, bool exclusive) noexcept;
void unlock(int fd, std::uint64_t byte) noexcept;
/// Waits for an exclusive lock. Returns 0 or an errno value.
[[nodiscard]] int lock(int fd, std::uint64_t byte) noexcept;
/// Whether another open file description holds any lock on that byte; true also when the kernel cannot tell.
[[nodiscard]] bool is_locked(int fd, std::uint64_t byte) noexcept;

/// A full barrier between threads that take or ask for locks, or call this.
void fence() noexcept;

/// Sleeps while `*word == expected`, at most `timeout`; may return early for no reason. Works on read-only mappings and
/// across processes.
void futex_wait(const std::uint32_t* word, std::uint32_t expected, std::chrono::nanoseconds timeout) noexcept;
void futex_wake_all(const std::uint32_t* word) noexcept;
/// Adds 1 to `*word` and wakes everybody who sleeps on it, all in the kernel: where the mapped file was truncated,
/// nothing happens, and false is returned, instead of SIGBUS.
bool futex_add_and_wake(const std::uint32_t* word) noexcept;

/// Tells the processor that this is a spinning loop.
inline void relax() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Makes this process a target of `fence_all_processes`. Returns false when the kernel cannot.
bool register_fence() noexcept;
/// Makes every running thread of every registered process pass a full memory barrier; false when the kernel cannot.
bool fence_all_processes() noexcept;

/// Nanoseconds since boot, CLOCK_BOOTTIME: the one clock of shared memory.
[[nodiscard]] std::uint64_t now_ns() noexcept;
[[nodiscard]] std::uint64_t realtime_ns() noexcept;
/// Of the boot that `now_ns` counts from. Throws `Error` (kSystem) when it cannot be read: that is not another boot.
[[nodiscard]] std::array<std::uint8_t, 16> boot_id();
void random_bytes(void* data, std::size_t bytes);
[[nodiscard]] std::string program_name();

}  // namespace shmstate::internal::os
