// The agent as a process beside a merger, and what its producers do: for the tests of the agent.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "harness/process_support.h"
#include "shmstate/reader.h"

namespace shmstate::test {
using namespace internal;

namespace fs = std::filesystem;

inline void append(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::app | std::ios::binary) << text;
}

inline void replace(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::trunc | std::ios::binary) << text;
}

inline std::string text_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

inline void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    must(written > 0, "cannot write");
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

/// An agent with its standard input on a pipe and its standard error in a file.
class Agent : public Process {
 public:
  using Setup = std::function<void()>;  // in the child, before the program starts

  Agent(const std::vector<std::string>& arguments, fs::path log, const Setup& setup = {}) : log_(std::move(log)) {
    std::array<int, 2> pipe{};
    must(::pipe2(pipe.data(), O_CLOEXEC) == 0, "pipe2");
    const os::Fd read_end(pipe[0]);
    input_ = os::Fd(pipe[1]);
    if (fork_here() == 0) execute(arguments, read_end, setup);
  }

  void say(std::string_view text) const { write_all(input_.get(), text); }
  void close_input() { input_ = os::Fd{}; }
  [[nodiscard]] std::string log() const { return text_of(log_); }
  /// Waits until it has written `text` to its log.
  void will_log(const std::string& text) const {
    eventually("a log with: " + text, [&] { return contains(log(), text); });
  }

 private:
  [[noreturn]] void execute(const std::vector<std::string>& arguments, const os::Fd& input, const Setup& setup) const {
    const os::Fd log = os::open_file(log_, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ::dup2(input.get(), STDIN_FILENO);
    ::dup2(log.get(), STDERR_FILENO);
    if (setup) setup();
    std::vector<char*> words{const_cast<char*>(SHMSTATE_AGENT)};
    for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
    words.push_back(nullptr);
    ::execv(words[0], words.data());
    ::_exit(127);
  }

  fs::path log_;
  os::Fd input_;
};

inline sockaddr_un address_of(const fs::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.string().copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

inline os::Fd bound_socket(const fs::path& path, int type) {
  os::Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(path);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  return fd;
}

/// A producer on the agent's socket.
class Client {
 public:
  explicit Client(const fs::path& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const timeval patience{.tv_sec = std::chrono::seconds(kPatience).count(), .tv_usec = 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    const sockaddr_un address = address_of(path);
    eventually("a connection",
               [&] { return ::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0; });
  }

  void say(std::string_view text) const { write_all(fd_.get(), text); }
  void finish() const { ::shutdown(fd_.get(), SHUT_WR); }
  void close() { fd_ = os::Fd{}; }

  /// The next line that the agent answers, without its newline; empty at the end.
  std::string answer() {
    while (answers_.find('\n') == std::string::npos && receive()) {
    }
    const std::size_t end = std::min(answers_.find('\n'), answers_.size());
    std::string line = answers_.substr(0, end);
    answers_.erase(0, end + 1);
    return line;
  }
  [[nodiscard]] bool has_answer() {
    if (answers_.empty()) receive(MSG_DONTWAIT);
    return !answers_.empty();
  }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  bool receive(int flags = 0) {
    std::array<char, 4096> buffer;
    const ssize_t count = ::recv(fd_.get(), buffer.data(), buffer.size(), flags);
    if (count > 0) answers_.append(buffer.data(), static_cast<std::size_t>(count));
    return count > 0;
  }

  os::Fd fd_;
  std::string answers_;
};

class AgentProcess : public ::testing::Test {
 protected:
  void TearDown() override {
    if (HasFailure()) std::cerr << text_of(directory_ / "agent.log");
  }

  [[nodiscard]] Agent start_agent(const std::vector<std::string>& options = {}, const Agent::Setup& setup = {}) {
    return start_agent_with_log("agent.log", options, setup);
  }
  [[nodiscard]] Agent start_agent_with_log(std::string_view log, const std::vector<std::string>& options,
                                           const Agent::Setup& setup = {}) {
    std::vector<std::string> arguments{instance_};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return {arguments, directory_ / log, setup};
  }

  void becomes(std::string_view key, std::int64_t value) {
    eventually(std::string(key) + " is " + std::to_string(value),
               [&] { return reader_.get<std::int64_t>(key) == value; });
  }
  [[nodiscard]] bool exists(std::string_view key) { return reader_.get<Value>(key).has_value(); }

  TestDirectory directory_;
  fs::path instance_ = directory_ / "instance";
  Program merger_ = start_merger(instance_);
  Reader reader_{instance_.string()};
};

}  // namespace shmstate::test
