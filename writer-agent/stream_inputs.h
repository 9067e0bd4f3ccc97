// Standard input, and FIFOs.
#pragma once

#include <string>

#include "writer-agent/input.h"

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
class FifoInput final : public Input {
 public:
  /// Creates the FIFO when it is missing. Throws `Error`.
  FifoInput(InputContext& shared, const std::string& path);

 private:
  void on_end_of_stream() override;
  [[nodiscard]] bool reads_until_empty() const override { return true; }

  std::string path_;
};

}  // namespace shmstate::agent
