#include "writer-agent/followed_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

namespace shmstate::agent {
namespace {

// Whoever writes the old file may take a moment to notice that it was renamed.
constexpr std::chrono::seconds kOldFileGrace{1};

bool is_regular_file(int fd) {
  struct stat info {};
  return ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
}

}  // namespace

FollowedFile::FollowedFile(InputContext& shared, const std::string& path, bool from_start)
    : Input(shared, "file " + path), path_(path), notifier_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
  notify_of_new_names();
  if (open() && !from_start) start_at_end();
}

FollowedFile::~FollowedFile() {
  if (notifier_.is_open()) context().loop.unwatch(notifier_.get());
}

void FollowedFile::on_events(std::uint32_t events) {
  if (events != 0) drain_notifications();
  Input::on_events(events);
}

ssize_t FollowedFile::read_some(std::span<char> buffer) {
  if (!open()) {
    errno = EAGAIN;
    return -1;
  }
  const ssize_t count = ::read(fd(), buffer.data(), buffer.size());
  if (count > 0) offset_ += static_cast<std::uint64_t>(count);
  return count;
}

void FollowedFile::on_end_of_stream() {
  if (is_draining()) return;
  if (was_truncated()) {
    start_over();
  } else if (!was_replaced()) {
    replaced_since_.reset();
  } else if (!replaced_since_) {
    replaced_since_ = Clock::now();
  } else if (Clock::now() - *replaced_since_ >= kOldFileGrace) {
    switch_to_new_file();
  }
}

bool FollowedFile::open() {
  if (fd() >= 0) return true;
  os::Fd file = os::open_file(path_, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!file.is_open() && errno == ENOENT) return false;
  if (!file.is_open() || !is_regular_file(file.get())) {
    const std::string reason = file.is_open() ? "this is no regular file" : std::generic_category().message(errno);
    if (!std::exchange(is_unreadable_, true)) report(fmt::format("cannot be opened: {}; trying again", reason));
    return false;
  }
  is_unreadable_ = false;
  offset_ = 0;
  set_fd(std::move(file));
  notify_of_growth();
  return true;
}

void FollowedFile::start_at_end() {
  const off_t end = ::lseek(fd(), 0, SEEK_END);
  if (end <= 0) return;
  offset_ = static_cast<std::uint64_t>(end);
  char last = '\n';
  if (::pread(fd(), &last, 1, end - 1) == 1 && last != '\n') skip_rest_of_line();
}

bool FollowedFile::was_truncated() const {
  const std::optional<os::FileInfo> info = os::file_info(fd());
  return info && info->bytes < offset_;
}

/// Whether the name belongs to another file now. A name that is gone may come back, so the old file stays.
bool FollowedFile::was_replaced() const {
  const std::optional<os::FileInfo> open_file = os::file_info(fd());
  struct stat named {};
  if (!open_file || ::stat(path_.c_str(), &named) != 0) return false;
  return named.st_ino != open_file->inode || named.st_dev != open_file->device;
}

void FollowedFile::start_over() {
  report("was truncated; reading it from the start");
  abandon();
  start_new_stream();
  ::lseek(fd(), 0, SEEK_SET);
  offset_ = 0;
  context().loop.call_again(*this);
}

void FollowedFile::switch_to_new_file() {
  finish_stream();
  start_new_stream();
  replaced_since_.reset();
  if (growth_watch_ >= 0) ::inotify_rm_watch(notifier_.get(), growth_watch_);
  set_fd(os::Fd{});
  context().loop.call_again(*this);
}

void FollowedFile::notify_of_new_names() {
  const std::filesystem::path directory = std::filesystem::path(path_).parent_path();
  if (!notifier_.is_open()) return;
  ::inotify_add_watch(notifier_.get(), directory.empty() ? "." : directory.c_str(), IN_CREATE | IN_MOVED_TO);
  if (!context().loop.watch(notifier_.get(), EPOLLIN, *this)) notifier_ = os::Fd{};
}

void FollowedFile::notify_of_growth() {
  const std::string opened = fmt::format("/proc/self/fd/{}", fd());
  growth_watch_ = ::inotify_add_watch(notifier_.get(), opened.c_str(), IN_MODIFY);
}

void FollowedFile::drain_notifications() const {
  std::array<char, 4096> buffer;
  while (::read(notifier_.get(), buffer.data(), buffer.size()) > 0) {
  }
}

}  // namespace shmstate::agent
