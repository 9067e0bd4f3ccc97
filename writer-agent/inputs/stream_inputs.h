// Standard input, FIFOs, and connections to a socket.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "inputs/input.h"
#include "inputs/name_watch.h"
#include "support/file_identity.h"

namespace shmstate::agent {

/// Ends with its stream. Its descriptor may be shared with other processes, so it stays in blocking mode and is read
/// only when there is something to read.
class StandardInput final : public Input {
 public:
  explicit StandardInput(InputContext& shared);

 private:
  void on_end_of_stream() override { end(); }
};

/// Goes on with the next producer when the last one has closed the FIFO, and takes that moment as the end of a stream.
/// A FIFO that has lost its name is read until its producers have closed it; a new one gets the name meanwhile.
class FifoInput final : public Input {
 public:
  /// Creates the FIFO when it is missing. Throws `Error`.
  FifoInput(InputContext& shared, const std::string& path);

  [[nodiscard]] std::unique_ptr<Input> look_after_name() override;
  [[nodiscard]] FileIdentity identity() const { return identity_of(fd()); }

 private:
  FifoInput(InputContext& shared, const std::string& path, Fd fifo);

  ssize_t read_some(std::span<char> buffer) override;
  void on_end_of_stream() override;
  [[nodiscard]] bool reads_until_empty() const override { return true; }

  [[nodiscard]] bool has_its_name() const;
  [[nodiscard]] Fd open_again();

  std::string path_;
  NameWatch watch_;
  bool is_replaced_ = false;      // by another input, which has the name
  std::string reported_problem_;  // why the name cannot be had
};

/// A producer that connected to the socket, and may be answered.
class Connection final : public Input {
 public:
  Connection(InputContext& shared, Fd fd, std::string name, bool answers_lines);

 private:
  void on_end_of_stream() override { end(); }
};

}  // namespace shmstate::agent
