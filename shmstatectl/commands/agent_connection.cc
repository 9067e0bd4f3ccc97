#include "commands/agent_connection.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "show/text.h"
#include "show/value_text.h"
#include "support/errors.h"

namespace shmstate::ctl {

namespace {

using Clock = std::chrono::steady_clock;

// The agent knows fewer escapes than we show; any byte may be written as two digits.
std::string quoted(std::string_view bytes) {
  std::string text = "\"";
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    const bool is_plain = byte >= ' ' && c != '"' && c != '\\' && byte != 0x7f;
    text += is_plain ? std::string(1, c) : fmt::format("\\x{:02x}", byte);
  }
  return text += '"';
}

std::string typed(std::string_view verb, std::string_view key, ValueView value) {
  switch (value.type()) {
    case Type::kInt64: return fmt::format("{}:i {} {}", verb, quoted(key), value.int64());
    case Type::kFloat64: return fmt::format("{}:f {} {}", verb, quoted(key), raw_text(value));
    default: return fmt::format("{}:s {} {}", verb, quoted(key), quoted(value.bytes()));
  }
}

std::string version_text(std::optional<std::uint64_t> version) {
  return version ? fmt::format(" version={}", *version) : "";
}

// The agent says in words what the library says as a status.
Status status_of_answer(std::string_view reason) {
  for (const Status status : {Status::kTimeout, Status::kRejected, Status::kRingFull, Status::kNoMemory,
                              Status::kRingRefused, Status::kRingQuarantined, Status::kMutationTooBig}) {
    if (reason.starts_with(describe(status))) return status;
  }
  return Status::kSystem;
}

}  // namespace

std::string agent_set_line(std::string_view key, ValueView value, const SetOptions& options) {
  const bool has_ttl = options.ttl != std::chrono::nanoseconds::zero();
  const std::string ttl = has_ttl ? fmt::format(" ttl={}ns", options.ttl.count()) : "";
  return typed("set", key, value) + ttl + version_text(options.version) + '\n';
}

std::string agent_add_line(std::string_view key, ValueView delta) { return typed("add", key, delta) + '\n'; }

std::string agent_del_line(std::string_view key, std::optional<std::uint64_t> version) {
  return "del " + quoted(key) + version_text(version) + '\n';
}

AgentConnection::AgentConnection(std::string path)
    : path_(std::move(path)), socket_(move_up(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0))) {
  if (!socket_.is_open()) throw_errno("socket", errno);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.empty() || path_.size() >= sizeof address.sun_path)
    fail(Status::kInvalidArgument, fmt::format("the path of a socket has 1 to {} bytes", sizeof address.sun_path - 1));
  path_.copy(address.sun_path, path_.size());
  if (::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return;
  const int error_number = errno;
  const bool is_absent = error_number == ENOENT || error_number == ECONNREFUSED;
  fail(is_absent ? Status::kNoInstance : status_of(error_number),
       fmt::format("cannot connect: {}; {}", std::generic_category().message(error_number),
                   is_absent ? "start shmstate-writer-agent with --socket, or look at the path"
                             : "see the mode and the group of the socket, and whether the agent is overloaded"));
}

void AgentConnection::send(std::string_view lines, std::chrono::nanoseconds timeout) {
  const Clock::time_point deadline = Clock::now() + std::min<std::chrono::nanoseconds>(timeout, std::chrono::years(1));
  while (!lines.empty()) {
    const ssize_t sent = ::send(socket_.get(), lines.data(), lines.size(), MSG_NOSIGNAL);
    if (sent > 0) {
      lines.remove_prefix(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno != EAGAIN && errno != EINTR)
      fail(Status::kSystem, std::generic_category().message(errno) + "; see the log of the agent");
    if (!wait(POLLIN | POLLOUT, deadline)) fail(Status::kTimeout, "the agent takes nothing; see its log");
    if (!take_answers()) fail(Status::kSystem, "the agent has closed the connection; see its log");
  }
}

void AgentConnection::finish(std::chrono::nanoseconds timeout) {
  const Clock::time_point deadline = Clock::now() + std::min<std::chrono::nanoseconds>(timeout, std::chrono::years(1));
  ::shutdown(socket_.get(), SHUT_WR);
  while (take_answers()) {
    if (!wait(POLLIN, deadline)) fail(Status::kTimeout, "sent, but not answered in time; see the log of the agent");
  }
  if (!has_answered_) fail(Status::kTimeout, "the agent has closed the connection without an answer; see its log");
}

bool AgentConnection::wait(short events, Clock::time_point deadline) const {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  if (left <= 0) return false;
  pollfd poll{.fd = socket_.get(), .events = events, .revents = 0};
  const int ready = ::poll(&poll, 1, static_cast<int>(std::min<std::int64_t>(left, 1'000'000)));
  return ready != 0 || Clock::now() < deadline;
}

// False at the end of the stream.
bool AgentConnection::take_answers() {
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::recv(socket_.get(), buffer, sizeof buffer, 0);
    if (got == 0) return false;
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    answers_.append(buffer, static_cast<std::size_t>(got));
    for (std::size_t end = answers_.find('\n'); end != std::string::npos; end = answers_.find('\n')) {
      constexpr std::string_view kError = "error: ";
      const std::string line = answers_.substr(0, end);
      answers_.erase(0, end + 1);
      if (line.starts_with(kError)) fail(status_of_answer(line.substr(kError.size())), line.substr(kError.size()));
      has_answered_ = true;
    }
  }
}

void AgentConnection::fail(Status status, const std::string& reason) const {
  throw Error(status, fmt::format("agent {}: {}", in_quotes(path_), reason));
}

}  // namespace shmstate::ctl
