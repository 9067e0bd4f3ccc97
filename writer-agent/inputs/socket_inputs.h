// Producers that connect to a Unix stream socket: one input for each connection, which may be answered.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "inputs/file_identity.h"
#include "inputs/input.h"

namespace shmstate::agent {
using namespace internal;

class Connection final : public Input {
 public:
  Connection(InputContext& shared, os::Fd fd, std::string name, bool answers_lines);

  [[nodiscard]] bool is_connection() const override { return true; }

 private:
  void on_end_of_stream() override { end(); }
  void send_answers() override;
  void answer(const Verdict& verdict) override;
  void answer_flush(Status status) override;
  [[nodiscard]] bool has_answers() const override { return !answers_.empty(); }
  [[nodiscard]] bool has_too_many_answers() const override { return answers_.size() > kAnswerBytesMax; }

  void answer_ok();
  void answer_error(std::string_view problem);

  static constexpr std::size_t kAnswerBytesMax = std::size_t{64} << 10;

  bool answers_lines_;
  bool is_deaf_ = false;  // the peer no longer takes answers
  std::string answers_;
};

/// A listening socket. Accepts while there are fewer connections than allowed; the others wait in its backlog.
class Listener final : public EventHandler {
 public:
  using OnConnection = std::function<void(os::Fd fd, const std::string& name)>;

  Listener(EventLoop& loop, os::Fd fd, std::string path, OnConnection on_connection);
  ~Listener() override;

  void on_events(std::uint32_t events) override;
  /// Accepts everybody who waits now and has a place.
  void accept_all();
  /// Accepts everybody who waits now.
  void accept_everybody();
  /// Accepts everybody who waits now, and goes on with another socket.
  void go_over_to(os::Fd fd);
  void set_places(std::size_t count);

 private:
  [[nodiscard]] bool accept_one();
  void update_interest();

  EventLoop* loop_;
  os::Fd fd_;
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

  [[nodiscard]] os::Fd take_fd() noexcept { return std::move(fd_); }
  /// Whether its name still leads to it.
  [[nodiscard]] bool has_its_name() const;

 private:
  std::string path_;
  os::Fd fd_;
  FileIdentity identity_ = kNoFile;
};

/// The path that a listening socket is bound to; empty when it has none.
[[nodiscard]] std::string path_of_socket(int fd);

}  // namespace shmstate::agent
