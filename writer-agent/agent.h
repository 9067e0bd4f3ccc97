// The agent: opens the sources, runs the loop until they end or a signal comes, and leaves in good order.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "flusher.h"
#include "inputs/input.h"
#include "inputs/name_watch.h"
#include "inputs/stream_inputs.h"
#include "lines/session.h"
#include "notifier.h"
#include "options.h"
#include "reporter.h"
#include "shmstate/writer.h"
#include "support/event_loop.h"
#include "support/fd.h"
#include "support/file_identity.h"
#include "support/stop_signal.h"
#include "support/unix_listener.h"
#include "writer_sink.h"

namespace shmstate::agent {

class Agent {
 public:
  /// Attaches to the instance and opens all sources. Throws `Error`.
  explicit Agent(Options options);

  /// Returns the exit status.
  int run();

 private:
  using Clock = std::chrono::steady_clock;

  void open_sources();
  void open_stdin_if_alone();
  void listen_on_sockets_of_systemd();
  void add_input(std::unique_ptr<Input> input, const std::string& source);
  void start_input(std::unique_ptr<Input> input);
  void open_fifo(const std::string& path);
  void add_listener(Fd fd, const std::string& path);
  void add_connection(Fd fd, const std::string& name, const std::string& path);

  [[nodiscard]] bool is_over() const;
  void round();
  void remove_ended_inputs();
  void tick_when_due();
  void tick();
  void look_after_names();
  void look_after_socket();
  void look_after_sockets_of_systemd();
  void share_places();
  void report_rejections();
  void look_after_ring();

  void settle_own_rings();
  [[nodiscard]] std::uint64_t rejected() const noexcept;

  void drain();
  void take_last_connections();
  [[nodiscard]] bool is_drained() const;
  void close();
  int finish();
  [[nodiscard]] Status flush_at_end();
  void summarise() const;
  [[nodiscard]] std::string ring_loss_text() const;

  Options options_;
  EventLoop loop_;
  Notifier notifier_{loop_};
  Writer writer_;
  StopSignal stop_signal_{loop_};  // later than the writer, which may wait long for its instance
  WriterSink sink_{writer_};
  Flusher flusher_;
  Reporter reporter_;
  Tally tally_;
  Scratch scratch_;
  std::vector<char> read_buffer_;
  InputContext context_;

  /// A socket file that systemd made.
  struct SystemdSocket {
    std::string path;
    FileIdentity identity;
  };

  std::unique_ptr<SocketFile> socket_file_;
  std::unique_ptr<NameWatch> socket_watch_;
  std::string socket_problem_;  // why its name cannot be had; reported
  std::vector<SystemdSocket> systemd_sockets_;
  std::vector<std::unique_ptr<Listener>> listeners_;  // the last one has the socket file, if there is one
  std::vector<std::unique_ptr<Input>> inputs_;
  std::size_t connection_count_ = 0;

  FileIdentity instance_identity_;
  std::uint64_t rejected_reported_ = 0;
  std::uint64_t tick_count_ = 0;
  Clock::time_point next_tick_;
};

}  // namespace shmstate::agent
