// A connection to the socket of a shmstate-writer-agent, which pushes what it is sent as lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "shmstate/value.h"
#include "shmstate/writer.h"
#include "support/fd.h"

namespace shmstate::ctl {

/// Lines in the language of the agent, docs/agent.md; each with its line end.
[[nodiscard]] std::string agent_set_line(std::string_view key, ValueView value, const SetOptions& options);
[[nodiscard]] std::string agent_add_line(std::string_view key, ValueView delta);
[[nodiscard]] std::string agent_del_line(std::string_view key, std::optional<std::uint64_t> version);

class AgentConnection {
 public:
  /// Throws `Error`.
  explicit AgentConnection(std::string path);

  /// Sends lines, of which some are "flush", and takes answers meanwhile. Throws `Error` when the agent takes nothing
  /// for so long, has gone, or has answered with an error: of its status, with the agent's words.
  void send(std::string_view lines, std::chrono::nanoseconds timeout);
  /// Sends the end, and waits until all is answered. Throws as `send`; `kTimeout` when an answer is missing.
  void finish(std::chrono::nanoseconds timeout);

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  [[nodiscard]] bool wait(short events, std::chrono::steady_clock::time_point deadline) const;
  bool take_answers();
  [[noreturn]] void fail(Status status, const std::string& reason) const;

  std::string path_;
  Fd socket_;
  std::string answers_;  // of the line that has not ended
  bool has_answered_ = false;
};

}  // namespace shmstate::ctl
