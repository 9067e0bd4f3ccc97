// What happens to the names of the agent's sources: files that are rotated, truncated, missed; FIFOs and sockets that
// are removed, replaced, handed over.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "process/agent_support.h"

namespace shmstate::test {
namespace {

/// Appends where it has written last, like `producer > file`, whatever happens to the file.
class KeepsItsPlace {
 public:
  explicit KeepsItsPlace(const fs::path& path) : fd_(os::open_file(path, O_WRONLY | O_CREAT, 0600)) {}
  void say(std::string_view text) const { write_all(fd_.get(), text); }
  void truncate() const { must(::ftruncate(fd_.get(), 0) == 0, "ftruncate"); }
  void jump(off_t offset) const { must(::lseek(fd_.get(), offset, SEEK_SET) == offset, "lseek"); }

 private:
  os::Fd fd_;
};

class AgentFollows : public AgentProcess {
 protected:
  /// Follows `log_`, and has begun to.
  [[nodiscard]] Agent follow(std::vector<std::string> options = {}, const Agent::Setup& setup = {}) {
    options.insert(options.end(), {"--strict", "--follow", log_});
    fs::remove(directory_ / "agent.log");  // of the one before
    Agent agent = start_agent(options, setup);
    agent.will_log("pushing into");
    return agent;
  }
  void rotate(int number, std::string_view text) const {
    fs::rename(log_, directory_ / ("logs/log." + std::to_string(number)));
    append(log_, text);
  }
  [[nodiscard]] static int end(Agent& agent) {
    agent.signal(SIGTERM);
    return agent.wait();
  }
  /// While it sees nothing, as on a loaded machine.
  template <typename Body>
  static void while_stopped(Agent& agent, Body body) {
    agent.stop();
    body();
    agent.go_on();
  }

  fs::path logs_ = (fs::create_directory(directory_ / "logs"), directory_ / "logs");
  fs::path log_ = (append(logs_ / "log", ""), logs_ / "log");
};

TEST_F(AgentFollows, EveryFileThatHasHadTheNameIsRead) {
  Agent agent = follow();
  for (int i = 1; i <= 100; ++i) rotate(i, "add n 1\nlast=" + std::to_string(i) + "\n");
  becomes("last", 100);
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 100);
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, FilesThatWereRenamedWhileNobodyLookedAreFoundUnderTheirNewNames) {
  Agent agent = follow();
  while_stopped(agent, [&] {
    for (int i = 1; i <= 50; ++i) {
      for (int age = i - 1; age > 0; --age) {
        fs::rename(logs_ / ("log." + std::to_string(age)), logs_ / ("log." + std::to_string(age + 1)));
      }
      rotate(1, "add n 1\nlast=" + std::to_string(i) + "\n");
    }
  });
  becomes("last", 50);
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 50);
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, AStopSignalRightAfterARenameLosesNothing) {
  Agent agent = follow();
  while_stopped(agent, [&] {
    append(log_, "add n 1\n");
    rotate(1, "add n 1\n");
    rotate(2, "add n 1\n");
    agent.signal(SIGTERM);
  });
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 3);
}

TEST_F(AgentFollows, AFileThatIsGoneBeforeItCouldBeReadIsALoss) {
  for (const bool is_replaced : {false, true}) {
    Agent agent = follow();
    while_stopped(agent, [&] {
      rotate(1, "lost=1\n");
      append(logs_ / "new", "new=1\n");
      if (!is_replaced) fs::remove(log_);
      fs::rename(logs_ / "new", log_);
    });
    becomes("new", 1);
    EXPECT_FALSE(exists("lost"));
    EXPECT_EQ(end(agent), 1);
    EXPECT_TRUE(contains(agent.log(), "1 files that had the name were gone before they could be read"));
    EXPECT_TRUE(contains(agent.log(), ", 1 losses of input"));
  }
}

TEST_F(AgentFollows, AFileThatIsMovedToAnotherDirectoryUnreadIsALoss) {
  Agent agent = follow();
  while_stopped(agent, [&] {
    rotate(1, "lost=1\n");
    fs::rename(log_, directory_ / "elsewhere");
    append(log_, "new=1\n");
  });
  becomes("new", 1);
  EXPECT_EQ(end(agent), 1);
}

TEST_F(AgentFollows, LostNotificationsAreALoss) {
  Agent agent = follow();
  std::size_t queued_max = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> queued_max;
  while_stopped(agent, [&] {
    for (std::size_t i = 0; i <= queued_max / 2; ++i) {
      append(logs_ / "other", "");
      fs::remove(logs_ / "other");
    }
    rotate(1, "lost=1\n");
    fs::remove(log_);
    append(log_, "new=1\n");
  });
  becomes("new", 1);
  EXPECT_EQ(end(agent), 1);
  EXPECT_TRUE(contains(agent.log(), "notifications were lost"));
}

TEST_F(AgentFollows, LostNotificationsOfOtherFilesAreNoLoss) {
  Agent agent = follow();
  std::size_t queued_max = 0;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> queued_max;
  while_stopped(agent, [&] {
    for (std::size_t i = 0; i <= queued_max / 2; ++i) {
      append(logs_ / "other", "");
      fs::remove(logs_ / "other");
    }
    append(log_, "grown=1\n");
  });
  becomes("grown", 1);
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, WhatIsAppendedToAnOldFileLaterIsALoss) {
  Agent agent = follow();
  rotate(1, "new=1\n");
  becomes("new", 1);
  append(logs_ / "log.1", "late=1\n");
  agent.will_log("7 bytes were appended to a file that had the name");
  EXPECT_FALSE(exists("late"));
  EXPECT_EQ(end(agent), 1);
}

TEST_F(AgentFollows, ANewFileMayBeRenamedOverTheOldOne) {
  Agent agent = follow();
  for (int i = 1; i <= 3; ++i) {
    append(logs_ / "new", "add n 1\nlast=" + std::to_string(i) + "\n");
    fs::rename(logs_ / "new", log_);
    becomes("last", i);
  }
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 3);
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, AFileThatGetsItsNameBackIsReadOnce) {
  Agent agent = follow();
  append(log_, "add n 1\n");
  becomes("n", 1);
  fs::rename(log_, logs_ / "log.1");
  fs::rename(logs_ / "log.1", log_);
  append(log_, "add n 1\nlast=1\n");
  becomes("last", 1);
  rotate(1, "other=1\n");
  becomes("other", 1);
  fs::rename(logs_ / "log.1", log_);
  append(log_, "add n 1\nlast=2\n");
  becomes("last", 2);
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 3);
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, ATruncatedFileIsReadFromItsStart) {
  Agent agent = follow();
  append(log_, "first=1\n");
  becomes("first", 1);
  fs::copy_file(log_, logs_ / "log.1");  // as logrotate does with copytruncate
  replace(log_, "a=2\n");
  becomes("a", 2);
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, ATruncatedFileThatHasGrownBeyondItsOldSizeIsReadFromItsStart) {
  Agent agent = follow();
  append(log_, "first=1\n");
  becomes("first", 1);
  while_stopped(agent, [&] { replace(log_, "second=2\nthird=3\nfourth=4\n"); });
  becomes("fourth", 4);
  EXPECT_EQ(reader_.get<std::int64_t>("second"), 2);
  EXPECT_EQ(end(agent), 0);
  EXPECT_TRUE(contains(agent.log(), "0 bad lines"));
}

TEST_F(AgentFollows, ALineThatIsTruncatedBeforeItsNewlineIsALoss) {
  Agent agent = follow();
  append(log_, "first=1\nvalue=12");
  becomes("first", 1);
  replace(log_, "");
  agent.will_log("was truncated");
  append(log_, "after=2\n");
  becomes("after", 2);
  EXPECT_FALSE(exists("value"));
  EXPECT_EQ(end(agent), 1);
}

TEST_F(AgentFollows, AHoleIsNoPartOfAKey) {
  const KeepsItsPlace producer(log_);
  Agent agent = follow();
  producer.say("a=1\n");
  becomes("a", 1);
  producer.truncate();
  producer.say("b=2\nc=3\n");
  becomes("c", 3);
  EXPECT_EQ(reader_.get<std::int64_t>("b"), 2);
  EXPECT_EQ(reader_.snapshot().size(), 3U);
  EXPECT_EQ(end(agent), 0);
  EXPECT_TRUE(contains(agent.log(), "skipped a hole of 4 zero bytes"));
}

TEST_F(AgentFollows, AHoleInPlaceOfUnreadBytesIsALoss) {
  const KeepsItsPlace producer(log_);
  Agent agent = follow();
  producer.say("a=1\n");
  becomes("a", 1);
  while_stopped(agent, [&] {
    producer.say("lost=1\n");
    producer.truncate();
    producer.say("b=2\n");
  });
  becomes("b", 2);
  EXPECT_EQ(end(agent), 1);
  EXPECT_TRUE(contains(agent.log(), "7 bytes of it were truncated unread"));
}

TEST_F(AgentFollows, TheRestOfALineBehindAHoleIsNoLine) {
  const KeepsItsPlace producer(log_);
  Agent agent = follow();
  producer.say("a=1\npump/7/r");
  becomes("a", 1);
  producer.truncate();
  agent.will_log("was truncated");
  producer.say("pm=2\nb=3\n");
  becomes("b", 3);
  EXPECT_EQ(reader_.snapshot().size(), 2U);
  EXPECT_EQ(end(agent), 1);
  EXPECT_TRUE(contains(agent.log(), "0 bad lines"));
}

TEST_F(AgentFollows, AHoleIsNotReadByteByByte) {
  const KeepsItsPlace producer(log_);
  Agent agent = follow();
  producer.jump(off_t{1} << 40);
  producer.say("b=2\n");
  becomes("b", 2);
  producer.jump(off_t{3} << 40);
  producer.say("c=3\n");
  becomes("c", 3);
  EXPECT_EQ(reader_.snapshot().size(), 2U);
}

TEST_F(AgentFollows, OnlyPlainFilesAreFollowed) {
  ASSERT_EQ(::mkfifo((directory_ / "fifo").c_str(), 0600), 0);
  const os::Fd socket = bound_socket(directory_ / "socket", SOCK_STREAM);
  const std::vector<std::pair<fs::path, std::string>> cases{
      {directory_ / "fifo", "this is a FIFO; read it with --fifo"},
      {directory_ / "socket", "--socket"},
      {logs_, "this is a directory; name a file in it"},
      {"/dev/null", "this is a device"}};
  for (const auto& [path, remedy] : cases) {
    Agent agent = start_agent({"--follow", path});
    EXPECT_EQ(agent.wait(), 1) << path;
    EXPECT_TRUE(contains(agent.log(), remedy)) << agent.log();
  }
}

TEST_F(AgentFollows, AFifoThatGetsTheNameIsNeverOpened) {
  Agent agent = follow();
  const fs::path fifo = directory_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  fs::create_hard_link(fifo, logs_ / "fifo");
  std::atomic<bool> was_opened = false;
  std::thread producer([&] {
    const os::Fd fd = os::open_file(fifo, O_WRONLY);
    was_opened = true;
  });
  fs::rename(logs_ / "fifo", log_);
  eventually("a report", [&] { return contains(agent.log(), "FIFO") || contains(agent.log(), "no regular file"); });
  fs::rename(log_, logs_ / "fifo");
  append(log_, "again=1\n");
  eventually("the file that has the name again", [&] { return exists("again") || was_opened; });
  EXPECT_FALSE(was_opened);
  const os::Fd release = os::open_file(fifo, O_RDONLY | O_NONBLOCK);
  producer.join();
  EXPECT_TRUE(contains(agent.log(), "is a FIFO now, and not read"));
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, ASymbolicLinkMayLeadElsewhereAndItsFileBeRotated) {
  fs::create_directory(directory_ / "files");
  const fs::path one = directory_ / "files/one";
  const fs::path two = directory_ / "files/two";
  append(one, "");
  fs::remove(log_);
  fs::create_symlink(one, log_);
  Agent agent = follow();
  append(one, "one=1\n");
  becomes("one", 1);
  append(two, "two=2\n");
  fs::create_symlink(two, logs_ / "link");
  fs::rename(logs_ / "link", log_);
  becomes("two", 2);
  while_stopped(agent, [&] {
    for (int i = 1; i <= 3; ++i) {
      fs::rename(two, directory_ / ("files/two." + std::to_string(i)));
      append(two, "add n 1\nlast=" + std::to_string(i) + "\n");
    }
  });
  becomes("last", 3);
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 3);
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, ADirectoryMayComeLaterAndBeRenamedAndRecreated) {
  fs::remove_all(logs_);
  Agent agent = follow();
  fs::create_directory(logs_);
  append(log_, "first=1\n");
  becomes("first", 1);
  fs::rename(logs_, directory_ / "old");
  fs::create_directory(logs_);
  append(log_, "second=2\n");
  becomes("second", 2);
  rotate(1, "third=3\n");
  becomes("third", 3);
  fs::remove_all(logs_);
  fs::create_directory(logs_);
  append(log_, "fourth=4\n");
  becomes("fourth", 4);
  EXPECT_EQ(end(agent), 0);
}

TEST_F(AgentFollows, AFileThatIsNamedTwiceIsReadOnce) {
  const fs::path hard = logs_ / "hard";
  fs::create_hard_link(log_, hard);
  fs::create_symlink(log_, logs_ / "soft");
  Agent agent = follow({"--follow", log_, "--follow", logs_ / "./log", "--follow", logs_ / "soft", "--follow", hard});
  append(log_, "add n 1\n");
  becomes("n", 1);
  agent.will_log("is the same file; its lines count once");
  rotate(1, "add n 1\nnew=1\n");
  becomes("new", 1);
  append(hard, "old=1\n");
  becomes("old", 1);
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 2);
  EXPECT_EQ(end(agent), 0);
}

/// As user of a namespace of its own that may not use inotify.
void deny_inotify(const char* limit) {
  if (::unshare(CLONE_NEWUSER) != 0) ::_exit(77);
  const os::Fd file = os::open_file(fs::path("/proc/sys/user") / limit, O_WRONLY);
  if (!file.is_open() || ::write(file.get(), "0", 1) != 1) ::_exit(77);
}

TEST_F(AgentFollows, WithoutNotificationsFilesAreLookedAtAllTheSame) {
  for (const auto* limit : {"max_inotify_instances", "max_inotify_watches"}) {
    fs::remove(directory_ / "agent.log");
    Agent agent =
        start_agent({"--strict", "--follow", log_, "--fifo", directory_ / "fifo"}, [&] { deny_inotify(limit); });
    eventually("a start", [&] { return contains(agent.log(), "pushing into") || agent.has_ended(); });
    if (agent.has_ended()) GTEST_SKIP() << "no user namespaces here";
    EXPECT_TRUE(contains(agent.log(), "four times a second instead"));
    const std::string round = limit;
    append(log_, round + "/grown=1\n");
    becomes(round + "/grown", 1);
    rotate(1, round + "/new=2\n");
    becomes(round + "/new", 2);
    fs::remove(directory_ / "fifo");
    eventually("a new FIFO", [&] { return fs::exists(directory_ / "fifo"); });
    rotate(2, round + "/last=3\n");
    agent.signal(SIGTERM);
    EXPECT_EQ(agent.wait(), 0);
    EXPECT_EQ(reader_.get<std::int64_t>(round + "/last"), 3);
  }
}

class AgentKeepsItsNames : public AgentProcess {
 protected:
  [[nodiscard]] Agent start(const std::vector<std::string>& options, const Agent::Setup& setup = {}) {
    Agent agent = start_agent(options, setup);
    agent.will_log("pushing into");
    return agent;
  }
  void asks(Client& client, std::string_view key) {
    client.say(std::string(key) + "=1\nflush\n");
    EXPECT_EQ(client.answer(), "ok");
    EXPECT_EQ(reader_.get<std::int64_t>(key), 1);
  }

  fs::path fifo_ = directory_ / "fifo";
  fs::path socket_ = directory_ / "socket";
};

TEST_F(AgentKeepsItsNames, AFifoThatIsRemovedIsCreatedAgain) {
  const Agent agent = start({"--fifo", fifo_});
  for (int i = 1; i <= 3; ++i) {
    fs::remove(fifo_);
    eventually("a new FIFO", [&] { return fs::exists(fifo_); });
    append(fifo_, "a=" + std::to_string(i) + "\n");
    becomes("a", i);
  }
}

TEST_F(AgentKeepsItsNames, AFifoThatIsReplacedIsReadBesideTheOldOne) {
  const Agent agent = start({"--fifo", fifo_});
  const os::Fd old_producer = os::open_file(fifo_, O_WRONLY);
  write_all(old_producer.get(), "begin\nold=1\n");
  ASSERT_EQ(::mkfifo((directory_ / "new").c_str(), 0600), 0);
  fs::rename(directory_ / "new", fifo_);
  os::Fd new_producer;
  eventually("a reader of the new FIFO", [&] {
    new_producer = os::open_file(fifo_, O_WRONLY | O_NONBLOCK);
    return new_producer.is_open();
  });
  write_all(new_producer.get(), "new=1\n");
  becomes("new", 1);
  write_all(old_producer.get(), "commit\n");
  becomes("old", 1);
}

TEST_F(AgentKeepsItsNames, APlainFileInPlaceOfAFifoIsToldAndALoss) {
  Agent agent = start({"--strict", "--fifo", fifo_});
  append(directory_ / "plain", "lost=1\n");
  fs::rename(directory_ / "plain", fifo_);
  agent.will_log("this is no FIFO, but a plain file");
  EXPECT_EQ(text_of(fifo_), "lost=1\n");
  fs::remove(fifo_);
  eventually("a new FIFO", [&] { return fs::exists(fifo_); });
  append(fifo_, "a=1\n");
  becomes("a", 1);
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 1);
}

TEST_F(AgentKeepsItsNames, AFifoWhoseDirectoryIsRecreatedIsCreatedAgain) {
  fs::create_directory(directory_ / "run");
  const fs::path fifo = directory_ / "run/fifo";
  const Agent agent = start({"--fifo", fifo});
  fs::rename(directory_ / "run", directory_ / "old");
  agent.will_log("cannot be created");
  fs::create_directory(directory_ / "run");
  eventually("a new FIFO", [&] { return fs::exists(fifo); });
  append(fifo, "a=1\n");
  becomes("a", 1);
}

TEST_F(AgentKeepsItsNames, AFifoThatIsNamedTwiceIsReadOnce) {
  const Agent agent = start({"--fifo", fifo_, "--fifo", directory_ / "./fifo"});
  EXPECT_TRUE(contains(agent.log(), "was given twice"));
  std::string lines;
  for (int i = 0; i < 10000; ++i) lines += "add some-longer-key-of-" + std::to_string(i % 10) + " 1\nadd n 1\n";
  append(fifo_, lines);
  becomes("n", 10000);
  EXPECT_EQ(reader_.snapshot().size(), 11U);
}

TEST_F(AgentKeepsItsNames, ASocketThatIsRemovedIsCreatedAgain) {
  const Agent agent = start({"--socket", socket_});
  Client before(socket_);
  asks(before, "a");
  fs::remove(socket_);
  eventually("a new socket", [&] { return fs::exists(socket_); });
  Client after(socket_);
  asks(after, "b");
  asks(before, "c");
}

TEST_F(AgentKeepsItsNames, ASocketThatSomebodyElseHasIsTakenBackWhenHeIsGone) {
  Agent agent = start({"--socket", socket_});
  fs::remove(socket_);
  os::Fd other = [&] {
    agent.stop();
    if (fs::exists(socket_)) fs::remove(socket_);
    os::Fd listener = bound_socket(socket_, SOCK_STREAM);
    EXPECT_EQ(::listen(listener.get(), 5), 0);
    agent.go_on();
    return listener;
  }();
  agent.will_log("somebody listens on it already");
  other = os::Fd{};
  agent.will_log("created again");
  Client client(socket_);
  asks(client, "a");
}

TEST_F(AgentKeepsItsNames, ASecondAgentServesTheSocketWhileTheFirstOneEnds) {
  Agent first = start({"--socket", socket_, "--flush-timeout", "60s"});
  Client client(socket_);
  asks(client, "a");
  merger_.stop();
  client.say("b=1\nflush\n");
  first.signal(SIGTERM);
  eventually("a socket that is gone", [&] { return !fs::exists(socket_); });
  Agent second = start_agent_with_log("second.log", {"--socket", socket_});
  second.will_log("pushing into");
  Client next(socket_);
  merger_.go_on();
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(first.wait(), 0);
  EXPECT_TRUE(fs::exists(socket_));
  asks(next, "c");
}

TEST_F(AgentKeepsItsNames, AHangUpEndsItInGoodOrder) {
  Agent agent = start({"--socket", socket_});
  Client client(socket_);
  asks(client, "a");
  agent.stop();
  client.say("b=1\n");
  agent.signal(SIGHUP);
  agent.go_on();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_TRUE(exists("b"));
  EXPECT_FALSE(fs::exists(socket_));
}

TEST_F(AgentKeepsItsNames, AHangUpThatIsIgnoredStaysSo) {
  Agent agent = start({"--socket", socket_}, [] { std::signal(SIGHUP, SIG_IGN); });
  agent.signal(SIGHUP);
  Client client(socket_);
  asks(client, "a");
  asks(client, "b");
  EXPECT_FALSE(agent.has_ended());
}

}  // namespace
}  // namespace shmstate::test
