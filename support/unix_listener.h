// A listening Unix stream socket: accepts while there is room, and keeps its name in the file system.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "support/event_loop.h"
#include "support/fd.h"
#include "support/file_identity.h"

namespace shmstate {

/// A listening socket. Accepts while there are fewer connections than allowed; the others wait in its backlog.
class Listener final : public EventHandler {
 public:
  using OnConnection = std::function<void(Fd fd, const std::string& name)>;

  Listener(EventLoop& loop, Fd fd, std::string path, OnConnection on_connection);
  ~Listener() override;

  void on_events(std::uint32_t events) override;
  /// Accepts everybody who waits now and has a place.
  void accept_all();
  /// Accepts everybody who waits now.
  void accept_everybody();
  /// Accepts everybody who waits now, and goes on with another socket.
  void move_to(Fd fd);
  void set_places(std::size_t count);

 private:
  [[nodiscard]] bool accept_one();
  void update_interest();

  EventLoop* loop_;
  Fd fd_;
  std::string path_;
  OnConnection on_connection_;
  std::size_t places_ = 0;
  std::uint64_t accepted_ = 0;
  bool is_watched_ = false;
};

/// A socket in the file system that goes away with this object, which must happen before its descriptor is closed:
/// until then, no other file has its inode, and nobody takes it for stale. Takes the place of a stale socket on which
/// nobody listens. Throws `Error`.
class SocketFile {
 public:
  /// Waits at most `patience` for others who make a socket in that directory.
  SocketFile(std::string path, mode_t mode, std::chrono::milliseconds patience);
  SocketFile(const SocketFile&) = delete;
  SocketFile& operator=(const SocketFile&) = delete;
  ~SocketFile();

  [[nodiscard]] Fd take_fd() noexcept { return std::move(fd_); }
  /// Whether its name still leads to it.
  [[nodiscard]] bool has_its_name() const;

 private:
  std::string path_;
  Fd fd_;
  FileIdentity identity_ = kNoFile;
};

/// The path that a listening socket is bound to; empty when it has none.
[[nodiscard]] std::string path_of_socket(int fd);

}  // namespace shmstate
