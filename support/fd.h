// An owned file descriptor.
#pragma once

#include <filesystem>
#include <utility>

namespace shmstate {

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

 private:
  int fd_ = -1;
};

/// Takes a descriptor, which gets another number if it has that of a standard stream. Not open on failure, with errno
/// set.
[[nodiscard]] Fd move_up(int fd) noexcept;

/// Opens a file with O_CLOEXEC, never as a standard stream; `flags` and `mode` as for open(2). Not open on failure,
/// with errno set.
[[nodiscard]] Fd open_file(const std::filesystem::path& path, int flags, unsigned mode = 0) noexcept;

}  // namespace shmstate
