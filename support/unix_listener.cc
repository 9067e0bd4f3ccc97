#include "support/unix_listener.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <utility>

#include "shmstate/status.h"
#include "support/errors.h"
#include "support/log.h"

namespace shmstate {
namespace {

std::string peer_of(int fd) {
  ucred peer{};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) return "unknown peer";
  return fmt::format("pid {}, uid {}", peer.pid, peer.uid);
}

[[noreturn]] void fail(const std::string& path, std::string_view reason) {
  throw Error(Status::kInvalidArgument, fmt::format("shmstate: socket \"{}\": {}", path, reason));
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    fail(path, fmt::format("the path has {} bytes, and may have 1 to {}; choose a shorter one", path.size(),
                           sizeof address.sun_path - 1));
  }
  path.copy(address.sun_path, path.size());
  return address;
}

Fd open_socket() {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.is_open()) throw_errno("socket", errno);
  return fd;
}

/// Locks the directory of a socket, so that two agents that start at the same time do not replace each other's.
Fd lock_directory(const std::string& path, std::chrono::milliseconds patience) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  Fd directory = open_file(parent.empty() ? "." : parent, O_RDONLY | O_DIRECTORY);
  if (!directory.is_open()) throw_errno(fmt::format("socket \"{}\": its directory cannot be opened", path), errno);
  constexpr std::chrono::milliseconds kMoment{10};
  for (auto waited = kMoment; ::flock(directory.get(), LOCK_EX | LOCK_NB) != 0; waited += kMoment) {
    if (waited > patience) fail(path, "another process holds a lock on its directory; choose another directory");
    std::this_thread::sleep_for(kMoment);
  }
  return directory;
}

/// Also of a socket that goes away at this moment, as when another agent ends.
bool is_stale(const sockaddr_un& address) {
  const Fd probe = open_socket();
  return ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 &&
         (errno == ECONNREFUSED || errno == ENOENT);
}

FileIdentity identity_of_socket_file(const std::string& path) {
  struct stat info {};
  return ::lstat(path.c_str(), &info) == 0 ? identity_of(info) : kNoFile;
}

void remove_stale_socket(const std::string& path, const sockaddr_un& address) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return;
  if (!S_ISSOCK(info.st_mode))
    fail(path, "something that is no socket has this name; remove it or choose another path");
  if (!is_stale(address)) fail(path, "somebody listens on it already; stop that process or choose another path");
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    throw_errno(fmt::format("socket \"{}\" is stale, but cannot be removed", path), errno);
  }
}

/// The umask is what gives the file its mode from its first moment on.
int bind_with_mode(int fd, const sockaddr_un& address, mode_t mode) {
  const mode_t umask_before = ::umask(~mode & 0777);
  const int result = ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int error_number = errno;
  ::umask(umask_before);
  return result == 0 ? 0 : error_number;
}

}  // namespace

Listener::Listener(EventLoop& loop, Fd fd, std::string path, OnConnection on_connection)
    : loop_(&loop), fd_(std::move(fd)), path_(std::move(path)), on_connection_(std::move(on_connection)) {}

Listener::~Listener() {
  loop_->forget(*this);
  loop_->unwatch(fd_.get());
}

void Listener::on_events(std::uint32_t /*events*/) { accept_all(); }

void Listener::accept_all() {
  while (places_ > 0 && accept_one()) {
  }
}

void Listener::accept_everybody() {
  while (accept_one()) {
  }
}

void Listener::move_to(Fd fd) {
  accept_everybody();
  if (is_watched_) loop_->unwatch(fd_.get());
  is_watched_ = false;
  fd_ = std::move(fd);
  update_interest();
}

bool Listener::accept_one() {
  Fd fd(::accept4(fd_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd.is_open()) {
    const std::string name = fmt::format("connection {} on {} ({})", ++accepted_, path_, peer_of(fd.get()));
    on_connection_(std::move(fd), name);
    return true;
  }
  if (errno == ECONNABORTED || errno == EINTR) return true;
  if (errno == EAGAIN) return false;
  log_warning("socket {}: cannot accept a connection: {}; waiting until one closes", path_,
              std::generic_category().message(errno));
  set_places(0);
  return false;
}

void Listener::set_places(std::size_t count) {
  places_ = count;
  update_interest();
}

void Listener::update_interest() {
  const bool wants_events = places_ > 0;
  if (std::exchange(is_watched_, wants_events) == wants_events) return;
  if (wants_events) {
    is_watched_ = loop_->watch(fd_.get(), EPOLLIN, *this);
  } else {
    loop_->unwatch(fd_.get());
  }
}

SocketFile::SocketFile(std::string path, mode_t mode, std::chrono::milliseconds patience) : path_(std::move(path)) {
  const sockaddr_un address = address_of(path_);
  const Fd directory_lock = lock_directory(path_, patience);
  remove_stale_socket(path_, address);
  Fd fd = open_socket();
  if (const int error_number = bind_with_mode(fd.get(), address, mode); error_number != 0) {
    throw_errno(fmt::format("socket \"{}\" cannot be created", path_), error_number);
  }
  identity_ = identity_of_socket_file(path_);
  if (::listen(fd.get(), SOMAXCONN) != 0) throw_errno(fmt::format("socket \"{}\": listen", path_), errno);
  fd_ = std::move(fd);
}

SocketFile::~SocketFile() {
  if (has_its_name()) ::unlink(path_.c_str());
}

bool SocketFile::has_its_name() const { return identity_of_socket_file(path_) == identity_; }

std::string path_of_socket(int fd) {
  sockaddr_un address{};
  socklen_t bytes = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return {};
  return {address.sun_path, ::strnlen(address.sun_path, sizeof address.sun_path)};
}

}  // namespace shmstate
