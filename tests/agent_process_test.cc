// The agent as a process beside a merger: every source, batches, backpressure, signals, and what it leaves behind.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "core/os.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"

namespace shmstate {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr auto kPatience = 60s;  // how long something may take before a test gives up on it

[[nodiscard]] bool eventually(const std::function<bool()>& holds) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

void append(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::app | std::ios::binary) << text;
}

void replace(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::trunc | std::ios::binary) << text;
}

std::string text_of(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

void write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    ASSERT_GT(written, 0) << "errno " << errno;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

/// A program with its standard input on a pipe and its standard error in a file. Killed when the test is over.
class Process {
 public:
  using Setup = std::function<void()>;  // in the child, before the program starts

  Process(const std::vector<std::string>& arguments, fs::path log, const Setup& setup = {}) : log_(std::move(log)) {
    std::array<int, 2> pipe{};
    if (::pipe2(pipe.data(), O_CLOEXEC) != 0) std::abort();
    pid_ = ::fork();
    if (pid_ == 0) run(arguments, pipe[0], setup);
    ::close(pipe[0]);
    input_ = os::Fd(pipe[1]);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ > 0 && !status_) {
      ::kill(pid_, SIGKILL);
      ::kill(pid_, SIGCONT);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  void say(std::string_view text) const { write_all(input_.get(), text); }
  void close_input() { input_ = os::Fd{}; }
  void signal(int number) const { ::kill(pid_, number); }
  [[nodiscard]] std::string log() const { return text_of(log_); }

  /// The exit status; negative after a signal.
  int wait() {
    int status = 0;
    const bool has_ended = eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; });
    if (!has_ended) return -1000;
    status_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return *status_;
  }

 private:
  [[noreturn]] void run(const std::vector<std::string>& arguments, int input, const Setup& setup) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int log = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(input, STDIN_FILENO);
    ::dup2(log, STDERR_FILENO);
    if (setup) setup();
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }

  fs::path log_;
  pid_t pid_ = -1;
  os::Fd input_;
  std::optional<int> status_;
};

sockaddr_un address_of(const fs::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.string().copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

os::Fd bound_socket(const fs::path& path, int type) {
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
    const auto connects = [&] {
      return ::connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
    };
    EXPECT_TRUE(eventually(connects)) << path;
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
  void SetUp() override {
    std::string pattern = "/dev/shm/shmstate-agent-test-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    instance_ = directory_ / "instance";
    merger_.emplace(std::vector<std::string>{SHMSTATE_MERGER_PATH, "-i", instance_, "--memory-limit", "64m"},
                    directory_ / "merger.log");
    reader_.emplace(instance_.string(), ReaderOptions{.attach_timeout = kPatience});
  }
  void TearDown() override {
    if (HasFailure()) std::cerr << text_of(directory_ / "agent.log");
    merger_.reset();
    reader_.reset();
    fs::remove_all(directory_);
  }

  [[nodiscard]] std::vector<std::string> agent_arguments(const std::vector<std::string>& options) const {
    std::vector<std::string> arguments{SHMSTATE_AGENT_PATH, instance_, "--attach-timeout", "60s"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return arguments;
  }
  [[nodiscard]] Process start_agent(const std::vector<std::string>& options = {}, const Process::Setup& setup = {}) {
    return Process(agent_arguments(options), directory_ / "agent.log", setup);
  }
  [[nodiscard]] std::string agent_log() const { return text_of(directory_ / "agent.log"); }
  [[nodiscard]] bool agent_is_ready() const {
    return eventually([&] { return agent_log().find("pushing into") != std::string::npos; });
  }

  [[nodiscard]] bool becomes(std::string_view key, std::int64_t value) const {
    return eventually([&] { return reader_->get<std::int64_t>(key) == value; });
  }
  [[nodiscard]] bool exists(std::string_view key) const { return reader_->get<Value>(key).has_value(); }

  fs::path directory_;
  fs::path instance_;
  std::optional<Process> merger_;
  std::optional<Reader> reader_;
};

TEST_F(AgentProcess, EverythingOnStandardInputIsReadableWhenTheAgentHasExited) {
  Process agent = start_agent();
  agent.say("set a 1\r\n# comment\n\nb=2.5\nset \"c d\" \"e\\nf\"\nadd n 5\nadd n -2\na=3\ngone=1\ndel gone\nlast=7");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_->get<std::int64_t>("a"), 3);
  EXPECT_EQ(reader_->get<double>("b"), 2.5);
  EXPECT_EQ(reader_->get<std::string>("c d"), "e\nf");
  EXPECT_EQ(reader_->get<std::int64_t>("n"), 3);
  EXPECT_EQ(reader_->get<std::int64_t>("last"), 7);
  EXPECT_FALSE(exists("gone"));
  EXPECT_THAT(agent.log(), HasSubstr("11 lines, 9 mutations, 0 batches; 0 bad lines"));
}

TEST_F(AgentProcess, ARegularFileAsStandardInputIsReadToItsEnd) {
  std::string lines;
  for (int i = 0; i < 50000; ++i) lines += "add sum 1\nkey" + std::to_string(i % 100) + "=" + std::to_string(i) + "\n";
  replace(directory_ / "lines", lines);
  Process agent =
      start_agent({"--strict"}, [this] { ::dup2(::open((directory_ / "lines").c_str(), O_RDONLY), STDIN_FILENO); });
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_->get<std::int64_t>("sum"), 50000);
  EXPECT_EQ(reader_->get<std::int64_t>("key99"), 49999);
}

TEST_F(AgentProcess, ABadLineIsReportedWithItsSourceAndNumberAndTheNextOneWorks) {
  Process agent = start_agent();
  agent.say("a=1\nnonsense\nb=99999999999999999999\nc=3\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_->get<std::int64_t>("c"), 3);
  EXPECT_THAT(agent.log(), HasSubstr("shmstate: stdin, line 2: unknown command"));
  EXPECT_THAT(agent.log(), HasSubstr("shmstate: stdin, line 3: the integer does not fit 64 signed bits"));
  EXPECT_THAT(agent.log(), HasSubstr("2 bad lines"));
}

TEST_F(AgentProcess, AFloodOfBadLinesIsCountedButNotShown) {
  Process agent = start_agent({"--strict"});
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += "nonsense\n";
  agent.say(lines + "a=1\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 1);
  EXPECT_THAT(agent.log(), HasSubstr("more problems were counted but not shown"));
  EXPECT_THAT(agent.log(), HasSubstr("20000 bad lines"));
  EXPECT_EQ(reader_->get<std::int64_t>("a"), 1);
}

TEST_F(AgentProcess, StrictMakesAnyLossAFailure) {
  for (const std::string lines : {"nonsense\n", "begin\na=1\n", "begin\nnonsense\ncommit\n", "t=text\nadd t 1\n"}) {
    Process agent = start_agent({"--strict"});
    agent.say(lines);
    agent.close_input();
    EXPECT_EQ(agent.wait(), 1) << lines;
  }
}

TEST_F(AgentProcess, ATooLongLineIsSkippedAndTheNextOneWorks) {
  Process agent = start_agent();
  const std::string megabyte(1 << 20, 'x');
  agent.say("big=" + megabyte + "\nk=");
  for (int i = 0; i < 16; ++i) agent.say(megabyte);
  agent.say("\nnext=1\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_->get<std::string>("big"), megabyte);
  EXPECT_FALSE(exists("k"));
  EXPECT_EQ(reader_->get<std::int64_t>("next"), 1);
  EXPECT_THAT(agent.log(), HasSubstr("stdin, line 2: the line is too long"));
}

TEST_F(AgentProcess, ABatchWhoseSourceEndsBeforeCommitIsDiscardedAndReported) {
  Process agent = start_agent();
  agent.say("begin\na=1\ncommit\nbegin\nb=2\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_->get<std::int64_t>("a"), 1);
  EXPECT_FALSE(exists("b"));
  EXPECT_THAT(agent.log(), HasSubstr("stdin: the batch begun in line 4 is discarded"));
}

TEST_F(AgentProcess, AReaderNeverSeesHalfABatch) {
  Process agent = start_agent();
  ASSERT_TRUE(agent_is_ready());
  std::thread producer([&] {
    std::string lines;
    for (int i = 1; i <= 20000; ++i) {
      const std::string number = std::to_string(i);
      lines += "begin\nx=" + number + "\ny=" + number + "\ncommit\n";
    }
    agent.say(lines);
  });
  while (reader_->get<std::int64_t>("x") != 20000) {
    const Snapshot snapshot = reader_->snapshot();
    ASSERT_EQ(snapshot.get<std::int64_t>("x"), snapshot.get<std::int64_t>("y"));
  }
  producer.join();
}

TEST_F(AgentProcess, AFifoServesOneProducerAfterTheOther) {
  const fs::path fifo = directory_ / "fifo";
  Process agent = start_agent({"--fifo", fifo});
  ASSERT_TRUE(agent_is_ready());
  append(fifo, "a=1\nb=2");
  EXPECT_TRUE(becomes("b", 2));
  append(fifo, "begin\nlost=1\n");
  ASSERT_TRUE(
      eventually([&] { return agent.log().find("the batch begun in line 3 is discarded") != std::string::npos; }));
  append(fifo, "c=3\n");
  EXPECT_TRUE(becomes("c", 3));
  for (int i = 0; i < 1000; ++i) append(fifo, "add n 1\n");
  EXPECT_TRUE(becomes("n", 1000));
  EXPECT_FALSE(exists("lost"));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
}

TEST_F(AgentProcess, AFollowedFileIsReadFromItsEndOnAndOnlyInWholeLines) {
  const fs::path file = directory_ / "file";
  replace(file, "old=1\nold=2\nhalf_");
  Process agent = start_agent({"--follow", file});
  ASSERT_TRUE(agent_is_ready());
  append(file, "seen=3\nnew=4\nsplit=1");
  EXPECT_TRUE(becomes("new", 4));
  append(file, "2\n");
  EXPECT_TRUE(becomes("split", 12));
  EXPECT_FALSE(exists("old"));
  EXPECT_FALSE(exists("seen"));
  EXPECT_FALSE(exists("half_seen"));
}

TEST_F(AgentProcess, AFollowedFileCanBeReadFromItsStart) {
  const fs::path file = directory_ / "file";
  replace(file, "old=1\n");
  Process agent = start_agent({"--follow", file, "--from-start"});
  EXPECT_TRUE(becomes("old", 1));
}

TEST_F(AgentProcess, AFollowedFileMayAppearShrinkAndBeReplaced) {
  const fs::path file = directory_ / "file";
  Process agent = start_agent({"--follow", file});
  ASSERT_TRUE(agent_is_ready());
  append(file, "appeared=1\n");
  EXPECT_TRUE(becomes("appeared", 1));

  replace(file, "cut=2\n");
  EXPECT_TRUE(becomes("cut", 2));

  fs::rename(file, directory_ / "file.1");
  replace(file, "rotated=3\n");
  append(directory_ / "file.1", "late=4\n");
  EXPECT_TRUE(becomes("rotated", 3));
  EXPECT_EQ(reader_->get<std::int64_t>("late"), 4);

  fs::remove(file);
  append(file, "again=5\n");
  EXPECT_TRUE(becomes("again", 5));
  append(file, "grows=6\n");
  EXPECT_TRUE(becomes("grows", 6));
}

TEST_F(AgentProcess, ATruncationInTheMiddleOfALineDoesNotMakeAWrongValue) {
  const fs::path file = directory_ / "file";
  replace(file, "");
  Process agent = start_agent({"--follow", file});
  ASSERT_TRUE(agent_is_ready());
  append(file, "first=1\nvalue=12");
  EXPECT_TRUE(becomes("first", 1));
  ASSERT_TRUE(eventually([&] {
    replace(file, "");
    return agent_log().find("was truncated") != std::string::npos;
  }));
  append(file, "after=2\n");
  EXPECT_TRUE(becomes("after", 2));
  EXPECT_FALSE(exists("value"));
}

TEST_F(AgentProcess, ManyConnectionsEachWithItsOwnBatch) {
  const fs::path path = directory_ / "socket";
  Process agent = start_agent({"--socket", path});
  std::vector<Client> clients;
  for (int i = 0; i < 50; ++i) clients.emplace_back(path);
  for (const Client& client : clients) client.say("begin\nadd open 1\n");
  for (std::size_t i = 0; i < clients.size(); ++i) clients[i].say("who" + std::to_string(i) + "=1\n");
  for (std::size_t i = 0; i < clients.size(); ++i) {
    if (i % 2 == 0) clients[i].say("commit\nflush\n");
    if (i % 2 == 1) clients[i].close();
  }
  for (std::size_t i = 0; i < clients.size(); i += 2) EXPECT_EQ(clients[i].answer(), "ok");
  EXPECT_EQ(reader_->get<std::int64_t>("open"), 25);
  EXPECT_TRUE(exists("who0"));
  EXPECT_FALSE(exists("who1"));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_THAT(agent.log(), HasSubstr("25 batches discarded"));
}

TEST_F(AgentProcess, AConnectionGetsOneAnswerALineOrBatch) {
  const fs::path path = directory_ / "socket";
  Process agent = start_agent({"--socket", path, "--ack"});
  Client client(path);
  client.say("a=1\n\n# comment\nnonsense\nbegin\nb=2\nc=3\ncommit\nbegin\nd=two words\ncommit\nbegin\nabort\ncommit\n");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_THAT(client.answer(), StartsWith("error: unknown command"));
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_THAT(client.answer(), StartsWith("error: the batch is discarded: line 10: text after the end"));
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "error: commit without begin");
  client.say("text=x\nadd text 1\nflush\nlast=1");
  client.finish();
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "error: rejected by the merger");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "");
  EXPECT_TRUE(becomes("last", 1));
}

TEST_F(AgentProcess, AConnectionThatReadsNoAnswersStallsOnlyItself) {
  const fs::path path = directory_ / "socket";
  Process agent = start_agent({"--socket", path, "--ack"});
  const Client stalled(path);
  ::fcntl(stalled.fd(), F_SETFL, O_NONBLOCK);
  bool is_blocked = false;
  for (int i = 0; i < 100000 && !is_blocked; ++i) {
    is_blocked = ::send(stalled.fd(), "x\nx\nx\nx\nx\nx\nx\nx\n", 16, MSG_NOSIGNAL) < 0;
    if (is_blocked) std::this_thread::sleep_for(50ms);
    is_blocked = is_blocked && ::send(stalled.fd(), "x\n", 2, MSG_NOSIGNAL) < 0;
  }
  EXPECT_TRUE(is_blocked);
  Client other(path);
  other.say("a=1\nflush\n");
  EXPECT_EQ(other.answer(), "ok");
  EXPECT_EQ(other.answer(), "ok");
  EXPECT_EQ(reader_->get<std::int64_t>("a"), 1);
}

TEST_F(AgentProcess, FlushIsAnsweredOnlyWhenReadersSeeItAndOthersGoOnMeanwhile) {
  const fs::path path = directory_ / "socket";
  Process agent = start_agent({"--socket", path, "--ack", "--flush-timeout", "60s"});
  Client flushing(path);
  Client other(path);
  other.say("b=1\nflush\n");
  EXPECT_EQ(other.answer(), "ok");
  EXPECT_EQ(other.answer(), "ok");
  merger_->signal(SIGSTOP);
  flushing.say("a=1\nflush\nlater=1\n");
  EXPECT_EQ(flushing.answer(), "ok");
  other.say("c=1\n");
  EXPECT_EQ(other.answer(), "ok");
  EXPECT_FALSE(flushing.has_answer());
  EXPECT_FALSE(exists("a"));
  merger_->signal(SIGCONT);
  EXPECT_EQ(flushing.answer(), "ok");
  EXPECT_TRUE(exists("a"));
  EXPECT_EQ(flushing.answer(), "ok");
}

TEST_F(AgentProcess, FlushTellsWhenItsTimeIsOver) {
  const fs::path path = directory_ / "socket";
  Process agent = start_agent({"--socket", path, "--flush-timeout", "100ms"});
  Client client(path);
  client.say("a=1\nflush\n");
  EXPECT_EQ(client.answer(), "ok");
  merger_->signal(SIGSTOP);
  client.say("b=1\nflush\n");
  EXPECT_EQ(client.answer(), "error: timed out");
  merger_->signal(SIGCONT);
  client.say("flush\n");
  EXPECT_EQ(client.answer(), "ok");
}

TEST_F(AgentProcess, WhatAFullRingRefusesIsCountedAndAStopSignalIsStillHeard) {
  for (const std::string when_full : {"fail", "block"}) {
    fs::remove(directory_ / "agent.log");
    Process agent = start_agent(
        {"--when-full", when_full, "--full-timeout", "1ms", "--ring-size", "64KB", "--flush-timeout", "0", "--strict"});
    ASSERT_TRUE(agent_is_ready());
    merger_->signal(SIGSTOP);
    std::string lines;
    for (int i = 0; i < 4000; ++i) lines += "add n 1\n";
    agent.say(lines);
    ASSERT_TRUE(eventually([&] { return agent.log().find("refused: the ring is full") != std::string::npos; }));
    agent.signal(SIGTERM);
    EXPECT_EQ(agent.wait(), 1);
    EXPECT_THAT(agent.log(), HasSubstr("mutations refused"));
    EXPECT_THAT(agent.log(), Not(HasSubstr(" 0 mutations refused")));
    merger_->signal(SIGCONT);
  }
}

TEST_F(AgentProcess, APushWaitsForRoomAndLosesNothing) {
  Process agent = start_agent({"--ring-size", "64KB", "--full-timeout", "60s", "--strict"});
  std::string lines;
  for (int i = 0; i < 100000; ++i) lines += "add n 1\n";
  agent.say(lines);
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_->get<std::int64_t>("n"), 100000);
}

TEST_F(AgentProcess, AStopSignalDrainsWhatIsReadable) {
  const fs::path path = directory_ / "socket";
  const fs::path file = directory_ / "file";
  replace(file, "");
  Process agent = start_agent({"--stdin", "--socket", path, "--follow", file});
  Client client(path);
  client.say("flush\n");
  ASSERT_EQ(client.answer(), "ok");
  agent.signal(SIGSTOP);
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += "add n 1\n";
  agent.say(lines);
  client.say(lines);
  append(file, lines);
  agent.say("unfinished=1");
  const Client unaccepted(path);
  unaccepted.say(lines);
  agent.signal(SIGTERM);
  agent.signal(SIGCONT);
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_->get<std::int64_t>("n"), 4000);
  EXPECT_FALSE(exists("unfinished"));
  EXPECT_THAT(agent.log(), HasSubstr("stdin: the last line is discarded"));
}

TEST_F(AgentProcess, TheSocketFileHasItsModeAndGoesAwayWithTheAgent) {
  const fs::path path = directory_ / "socket";
  Process agent = start_agent({"--socket", path, "--socket-mode", "0620"});
  ASSERT_TRUE(agent_is_ready());
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0620U);
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_FALSE(fs::exists(path));
}

TEST_F(AgentProcess, AStaleSocketIsReplacedAndALiveOneIsLeftAlone) {
  const fs::path path = directory_ / "socket";
  bound_socket(path, SOCK_STREAM);  // closed at once: nobody listens
  Process agent = start_agent({"--socket", path});
  Client client(path);
  client.say("flush\n");
  EXPECT_EQ(client.answer(), "ok");

  Process second(agent_arguments({"--socket", path}), directory_ / "second.log");
  EXPECT_EQ(second.wait(), 1);
  EXPECT_THAT(second.log(), HasSubstr("somebody listens on it already"));
  client.say("flush\n");
  EXPECT_EQ(client.answer(), "ok");

  replace(directory_ / "plain", "precious");
  Process third(agent_arguments({"--socket", directory_ / "plain"}), directory_ / "third.log");
  EXPECT_EQ(third.wait(), 1);
  EXPECT_EQ(text_of(directory_ / "plain"), "precious");
}

TEST_F(AgentProcess, MoreConnectionsThanAllowedWaitUntilOneCloses) {
  const fs::path path = directory_ / "socket";
  Process agent = start_agent({"--socket", path, "--connections-max", "2"});
  std::vector<Client> clients;
  for (int i = 0; i < 2; ++i) {
    clients.emplace_back(path);
    clients.back().say("flush\n");
    EXPECT_EQ(clients.back().answer(), "ok");
  }
  Client third(path);
  third.say("flush\n");
  clients.front().say("flush\n");
  EXPECT_EQ(clients.front().answer(), "ok");
  EXPECT_FALSE(third.has_answer());
  clients.front().close();
  EXPECT_EQ(third.answer(), "ok");
}

TEST_F(AgentProcess, ASocketFromSystemdIsServedAndReadinessIsNotified) {
  const fs::path path = directory_ / "activated";
  const os::Fd listener = bound_socket(path, SOCK_STREAM);
  ASSERT_EQ(::listen(listener.get(), 5), 0);
  const fs::path notify_path = directory_ / "notify";
  const os::Fd notifications = bound_socket(notify_path, SOCK_DGRAM);
  Process agent = start_agent({}, [&] {
    ::dup2(listener.get(), 3);
    ::setenv("LISTEN_FDS", "1", 1);
    ::setenv("LISTEN_PID", std::to_string(::getpid()).c_str(), 1);
    ::setenv("NOTIFY_SOCKET", notify_path.c_str(), 1);
  });
  std::array<char, 64> message{};
  ASSERT_GT(::recv(notifications.get(), message.data(), message.size() - 1, 0), 0);
  EXPECT_STREQ(message.data(), "READY=1");
  Client client(path);
  client.say("a=1\nflush\n");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(reader_->get<std::int64_t>("a"), 1);
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_TRUE(fs::exists(path));
}

TEST_F(AgentProcess, WhatWasPushedWhileTheMergerWasDownIsReadableWhenItIsBack) {
  Process agent = start_agent({"--flush-timeout", "0"});
  ASSERT_TRUE(agent_is_ready());
  merger_->signal(SIGKILL);
  merger_->wait();
  agent.say("a=1\nadd n 2\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_THAT(agent.log(), HasSubstr("they stay in the ring until the merger takes them"));
  merger_.emplace(std::vector<std::string>{SHMSTATE_MERGER_PATH, "-i", instance_}, directory_ / "merger.log");
  EXPECT_TRUE(becomes("n", 2));
  EXPECT_EQ(reader_->get<std::int64_t>("a"), 1);
}

TEST_F(AgentProcess, WrongUseIsAClearError) {
  Process nowhere({SHMSTATE_AGENT_PATH, (directory_ / "nowhere").string(), "--attach-timeout", "0"},
                  directory_ / "nowhere.log");
  EXPECT_EQ(nowhere.wait(), 1);
  EXPECT_THAT(nowhere.log(), StartsWith("shmstate: "));
  Process usage({SHMSTATE_AGENT_PATH, instance_.string(), "--socket-mode", "rw"}, directory_ / "usage.log");
  EXPECT_EQ(usage.wait(), 2);
  EXPECT_THAT(usage.log(), EndsWith("see shmstate-writer-agent --help\n"));
  replace(directory_ / "plain", "");
  Process fifo(agent_arguments({"--fifo", directory_ / "plain"}), directory_ / "fifo.log");
  EXPECT_EQ(fifo.wait(), 1);
  EXPECT_THAT(fifo.log(), HasSubstr("use --follow"));
}

}  // namespace
}  // namespace shmstate
