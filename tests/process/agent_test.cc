// The agent as a process beside a merger: every source, batches, backpressure, signals, and what it leaves behind.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "process/agent_support.h"

namespace shmstate::test {
namespace {

using namespace std::chrono_literals;

TEST_F(AgentProcess, EverythingOnStandardInputIsReadableWhenTheAgentHasExited) {
  Agent agent = start_agent();
  agent.say("set a 1\r\n# comment\n\nb=2.5\nset \"c d\" \"e\\nf\"\nadd n 5\nadd n -2\na=3\ngone=1\ndel gone\nlast=7");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_.get<std::int64_t>("a"), 3);
  EXPECT_EQ(reader_.get<double>("b"), 2.5);
  EXPECT_EQ(reader_.get<std::string>("c d"), "e\nf");
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 3);
  EXPECT_EQ(reader_.get<std::int64_t>("last"), 7);
  EXPECT_FALSE(exists("gone"));
  EXPECT_TRUE(contains(agent.log(), "11 lines, 9 mutations, 0 batches; 0 bad lines"));
}

TEST_F(AgentProcess, ARegularFileAsStandardInputIsReadToItsEnd) {
  std::string lines;
  for (int i = 0; i < 50000; ++i) lines += "add sum 1\nkey" + std::to_string(i % 100) + "=" + std::to_string(i) + "\n";
  replace(directory_ / "lines", lines);
  Agent agent =
      start_agent({"--strict"}, [this] { ::dup2(::open((directory_ / "lines").c_str(), O_RDONLY), STDIN_FILENO); });
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_.get<std::int64_t>("sum"), 50000);
  EXPECT_EQ(reader_.get<std::int64_t>("key99"), 49999);
}

TEST_F(AgentProcess, ABadLineIsReportedWithItsSourceAndNumberAndTheNextOneWorks) {
  Agent agent = start_agent();
  agent.say("a=1\nnonsense\nb=99999999999999999999\nc=3\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_.get<std::int64_t>("c"), 3);
  EXPECT_TRUE(contains(agent.log(), "shmstate: stdin, line 2: unknown command"));
  EXPECT_TRUE(contains(agent.log(), "shmstate: stdin, line 3: the integer does not fit 64 signed bits"));
  EXPECT_TRUE(contains(agent.log(), ", in \"b=99999999999999999999\"")) << agent.log();
  EXPECT_TRUE(contains(agent.log(), "2 bad lines"));
}

TEST_F(AgentProcess, AFloodOfBadLinesIsCountedButNotShown) {
  Agent agent = start_agent({"--strict"});
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += "nonsense\n";
  agent.say(lines + "a=1\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 1);
  EXPECT_TRUE(contains(agent.log(), "more problems were counted but not shown"));
  EXPECT_TRUE(contains(agent.log(), "20000 bad lines"));
  EXPECT_EQ(reader_.get<std::int64_t>("a"), 1);
}

TEST_F(AgentProcess, StrictMakesAnyLossAFailure) {
  for (const std::string lines : {"nonsense\n", "begin\na=1\n", "begin\nnonsense\ncommit\n", "t=text\nadd t 1\n"}) {
    Agent agent = start_agent({"--strict"});
    agent.say(lines);
    agent.close_input();
    EXPECT_EQ(agent.wait(), 1) << lines;
  }
}

TEST_F(AgentProcess, ATooLongLineIsSkippedAndTheNextOneWorks) {
  Agent agent = start_agent();
  const std::string megabyte(1 << 20, 'x');
  agent.say("big=" + megabyte + "\nk=");
  for (int i = 0; i < 16; ++i) agent.say(megabyte);
  agent.say("\nnext=1\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_.get<std::string>("big"), megabyte);
  EXPECT_FALSE(exists("k"));
  EXPECT_EQ(reader_.get<std::int64_t>("next"), 1);
  EXPECT_TRUE(contains(agent.log(), "stdin, line 2: the line is too long"));
}

TEST_F(AgentProcess, ABatchWhoseSourceEndsBeforeCommitIsDiscardedAndReported) {
  Agent agent = start_agent();
  agent.say("begin\na=1\ncommit\nbegin\nb=2\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_.get<std::int64_t>("a"), 1);
  EXPECT_FALSE(exists("b"));
  EXPECT_TRUE(contains(agent.log(), "stdin: the batch begun in line 4 is discarded"));
}

TEST_F(AgentProcess, AReaderNeverSeesHalfABatch) {
  Agent agent = start_agent();
  agent.will_log("pushing into");
  std::thread producer([&] {
    std::string lines;
    for (int i = 1; i <= 20000; ++i) {
      const std::string number = std::to_string(i);
      lines += "begin\nx=" + number + "\ny=" + number + "\ncommit\n";
    }
    agent.say(lines);
  });
  while (reader_.get<std::int64_t>("x") != 20000) {
    const Snapshot snapshot = reader_.snapshot();
    ASSERT_EQ(snapshot.get<std::int64_t>("x"), snapshot.get<std::int64_t>("y"));
  }
  producer.join();
}

TEST_F(AgentProcess, AFifoServesOneProducerAfterTheOther) {
  const fs::path fifo = directory_ / "fifo";
  Agent agent = start_agent({"--fifo", fifo});
  agent.will_log("pushing into");
  append(fifo, "a=1\nb=2");
  becomes("b", 2);
  append(fifo, "begin\nlost=1\n");
  agent.will_log("the batch begun in line 3 is discarded");
  append(fifo, "c=3\n");
  becomes("c", 3);
  for (int i = 0; i < 1000; ++i) append(fifo, "add n 1\n");
  becomes("n", 1000);
  EXPECT_FALSE(exists("lost"));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
}

TEST_F(AgentProcess, AFollowedFileIsReadFromItsEndOnAndOnlyInWholeLines) {
  const fs::path file = directory_ / "file";
  replace(file, "old=1\nold=2\nhalf_");
  Agent agent = start_agent({"--follow", file});
  agent.will_log("pushing into");
  append(file, "seen=3\nnew=4\nsplit=1");
  becomes("new", 4);
  append(file, "2\n");
  becomes("split", 12);
  EXPECT_FALSE(exists("old"));
  EXPECT_FALSE(exists("seen"));
  EXPECT_FALSE(exists("half_seen"));
}

TEST_F(AgentProcess, AFollowedFileCanBeReadFromItsStart) {
  const fs::path file = directory_ / "file";
  replace(file, "old=1\n");
  Agent agent = start_agent({"--follow", file, "--from-start"});
  becomes("old", 1);
}

TEST_F(AgentProcess, AFollowedFileMayAppearShrinkAndBeReplaced) {
  const fs::path file = directory_ / "file";
  Agent agent = start_agent({"--follow", file});
  agent.will_log("pushing into");
  append(file, "appeared=1\n");
  becomes("appeared", 1);

  replace(file, "cut=2\n");
  becomes("cut", 2);

  fs::rename(file, directory_ / "file.1");
  replace(file, "rotated=3\n");
  append(directory_ / "file.1", "late=4\n");
  becomes("rotated", 3);
  EXPECT_EQ(reader_.get<std::int64_t>("late"), 4);

  fs::remove(file);
  append(file, "again=5\n");
  becomes("again", 5);
  append(file, "grows=6\n");
  becomes("grows", 6);
}

TEST_F(AgentProcess, ATruncationInTheMiddleOfALineDoesNotMakeAWrongValue) {
  const fs::path file = directory_ / "file";
  replace(file, "");
  Agent agent = start_agent({"--follow", file});
  agent.will_log("pushing into");
  append(file, "first=1\nvalue=12");
  becomes("first", 1);
  eventually("a truncation that is noticed", [&] {
    replace(file, "");
    return contains(agent.log(), "was truncated");
  });
  append(file, "after=2\n");
  becomes("after", 2);
  EXPECT_FALSE(exists("value"));
}

TEST_F(AgentProcess, ManyConnectionsEachWithItsOwnBatch) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path});
  std::vector<Client> clients;
  for (int i = 0; i < 50; ++i) clients.emplace_back(path);
  for (const Client& client : clients) client.say("begin\nadd open 1\n");
  for (std::size_t i = 0; i < clients.size(); ++i) clients[i].say("who" + std::to_string(i) + "=1\n");
  for (std::size_t i = 0; i < clients.size(); ++i) {
    if (i % 2 == 0) clients[i].say("commit\nflush\n");
    if (i % 2 == 1) clients[i].close();
  }
  for (std::size_t i = 0; i < clients.size(); i += 2) EXPECT_EQ(clients[i].answer(), "ok");
  EXPECT_EQ(reader_.get<std::int64_t>("open"), 25);
  EXPECT_TRUE(exists("who0"));
  EXPECT_FALSE(exists("who1"));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_TRUE(contains(agent.log(), "25 batches discarded"));
}

TEST_F(AgentProcess, AConnectionGetsOneAnswerALineOrBatch) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--ack"});
  Client client(path);
  client.say("a=1\n\n# comment\nnonsense\nbegin\nb=2\nc=3\ncommit\nbegin\nd=two words\ncommit\nbegin\nabort\ncommit\n");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_TRUE(client.answer().starts_with("error: unknown command"));
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_TRUE(client.answer().starts_with("error: the batch is discarded: line 10: text after the end"));
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "error: commit without begin, in \"commit\"");
  client.say("text=x\nadd text 1\nflush\nlast=1");
  client.finish();
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_TRUE(client.answer().starts_with("error: rejected by the merger; 3 lines refused since the last flush"));
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "");
  becomes("last", 1);
}

TEST_F(AgentProcess, AConnectionThatReadsNoAnswersStallsOnlyItself) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--ack"});
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
  EXPECT_EQ(reader_.get<std::int64_t>("a"), 1);
}

TEST_F(AgentProcess, FlushIsAnsweredOnlyWhenReadersSeeItAndOthersGoOnMeanwhile) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--ack", "--flush-timeout", "60s"});
  Client flushing(path);
  Client other(path);
  other.say("b=1\nflush\n");
  EXPECT_EQ(other.answer(), "ok");
  EXPECT_EQ(other.answer(), "ok");
  merger_.stop();
  flushing.say("a=1\nflush\nlater=1\n");
  EXPECT_EQ(flushing.answer(), "ok");
  other.say("c=1\n");
  EXPECT_EQ(other.answer(), "ok");
  EXPECT_FALSE(flushing.has_answer());
  EXPECT_FALSE(exists("a"));
  merger_.go_on();
  EXPECT_EQ(flushing.answer(), "ok");
  EXPECT_TRUE(exists("a"));
  EXPECT_EQ(flushing.answer(), "ok");
}

TEST_F(AgentProcess, FlushTellsWhenItsTimeIsOver) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--flush-timeout", "100ms"});
  Client client(path);
  client.say("a=1\nflush\n");
  EXPECT_EQ(client.answer(), "ok");
  merger_.stop();
  client.say("b=1\nflush\n");
  EXPECT_EQ(client.answer(), "error: timed out");
  merger_.go_on();
  client.say("flush\n");
  EXPECT_EQ(client.answer(), "ok");
}

TEST_F(AgentProcess, WhatAFullRingRefusesIsCountedAndAStopSignalIsStillHeard) {
  for (const std::string when_full : {"fail", "block"}) {
    fs::remove(directory_ / "agent.log");
    Agent agent = start_agent(
        {"--when-full", when_full, "--full-timeout", "1ms", "--ring-size", "64KB", "--flush-timeout", "0", "--strict"});
    agent.will_log("pushing into");
    merger_.stop();
    std::string lines;
    for (int i = 0; i < 4000; ++i) lines += "add n 1\n";
    agent.say(lines);
    agent.will_log("refused: the ring is full");
    agent.signal(SIGTERM);
    EXPECT_EQ(agent.wait(), 1);
    EXPECT_TRUE(contains(agent.log(), "mutations refused"));
    EXPECT_FALSE(contains(agent.log(), " 0 mutations refused"));
    EXPECT_TRUE(contains(agent.log(), "key \"n\" refused: the ring is full"));
    merger_.go_on();
  }
}

TEST_F(AgentProcess, APushWaitsForRoomAndLosesNothing) {
  Agent agent = start_agent({"--ring-size", "64KB", "--full-timeout", "60s", "--strict"});
  std::string lines;
  for (int i = 0; i < 100000; ++i) lines += "add n 1\n";
  agent.say(lines);
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 100000);
}

TEST_F(AgentProcess, AStopSignalDrainsWhatIsReadable) {
  const fs::path path = directory_ / "socket";
  const fs::path file = directory_ / "file";
  replace(file, "");
  Agent agent = start_agent({"--stdin", "--socket", path, "--follow", file});
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
  EXPECT_EQ(reader_.get<std::int64_t>("n"), 4000);
  EXPECT_FALSE(exists("unfinished"));
  EXPECT_TRUE(contains(agent.log(), "stdin: the last line is discarded"));
}

TEST_F(AgentProcess, TheSocketFileHasItsModeAndGoesAwayWithTheAgent) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--socket-mode", "0620"});
  agent.will_log("pushing into");
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
  Agent agent = start_agent({"--socket", path});
  Client client(path);
  client.say("flush\n");
  EXPECT_EQ(client.answer(), "ok");

  Agent second = start_agent_with_log("second.log", {"--socket", path});
  EXPECT_EQ(second.wait(), 1);
  EXPECT_TRUE(contains(second.log(), "somebody listens on it already"));
  client.say("flush\n");
  EXPECT_EQ(client.answer(), "ok");

  replace(directory_ / "plain", "precious");
  Agent third = start_agent_with_log("third.log", {"--socket", directory_ / "plain"});
  EXPECT_EQ(third.wait(), 1);
  EXPECT_EQ(text_of(directory_ / "plain"), "precious");
}

TEST_F(AgentProcess, MoreConnectionsThanAllowedWaitUntilOneCloses) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--connections-max", "2"});
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
  Agent agent = start_agent({}, [&] {
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
  EXPECT_EQ(reader_.get<std::int64_t>("a"), 1);
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_TRUE(fs::exists(path));
}

TEST_F(AgentProcess, WhatWasPushedWhileTheMergerWasDownIsReadableWhenItIsBack) {
  Agent agent = start_agent({"--flush-timeout", "0"});
  agent.will_log("pushing into");
  merger_.kill();
  agent.say("a=1\nadd n 2\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_TRUE(contains(agent.log(), "they stay in the ring until the merger takes them"));
  merger_ = start_merger(instance_);
  becomes("n", 2);
  EXPECT_EQ(reader_.get<std::int64_t>("a"), 1);
}

TEST_F(AgentProcess, ARecreatedInstanceEndsTheAgentSoThatItCanAttachAgain) {
  Agent agent = start_agent();
  agent.will_log("pushing into");
  merger_.kill();
  fs::remove_all(instance_);
  merger_ = start_merger(instance_);
  EXPECT_EQ(agent.wait(), 1);
  EXPECT_TRUE(contains(agent.log(), "was removed or re-created"));
}

// `ok` was the answer to a producer whose every batch had been thrown away.
TEST_F(AgentProcess, AFlushTellsWhatWasRefusedSinceTheLastOne) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path});
  Client client(path);
  Client other(path);
  for (int i = 0; i < 3; ++i) client.say("begin\na=1\nb=two words\ncommit\n");
  client.say("c=3\nflush\n");
  const std::string answer = client.answer();
  EXPECT_TRUE(answer.starts_with("error: 6 lines refused since the last flush, first: line 3: text after")) << answer;
  EXPECT_TRUE(answer.ends_with("in \"b=two words\"")) << answer;
  EXPECT_EQ(reader_.get<std::int64_t>("c"), 3);
  client.say("flush\n");
  EXPECT_EQ(client.answer(), "ok") << "it is told once";
  other.say("flush\n");
  EXPECT_EQ(other.answer(), "ok") << "and only to who said the lines";
  merger_.stop();
  client.say("nonsense\n");
  client.say("begin\nflush\nabort\n");
  EXPECT_TRUE(client.answer().starts_with("error: flush inside a batch"));
  merger_.go_on();
  client.say("flush\n");
  EXPECT_TRUE(client.answer().starts_with("error: 2 lines refused since the last flush, first: line 16: unknown"));
}

TEST_F(AgentProcess, OptionsBehindAValueReachTheKey) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--ack"});
  Client client(path);
  client.say("long=1 ttl=1h version=42\nold=1 version=5\nold=2 version=4\ngone=1 version=3\ndel gone version=3\n");
  client.say("begin\nshort=1 ttl=1ms\nin_batch=1 version=9\ncommit\nflush\n");
  for (int i = 0; i < 7; ++i) EXPECT_EQ(client.answer(), "ok");
  const std::optional<EntryInfo> info = reader_.info("long");
  ASSERT_TRUE(info && info->time_to_live);
  EXPECT_GT(*info->time_to_live, 50min);
  EXPECT_EQ(info->version, 42U);
  EXPECT_EQ(reader_.get<std::int64_t>("old"), 1);
  EXPECT_TRUE(exists("gone")) << "its version is not higher";
  EXPECT_EQ(reader_.info("in_batch")->version, 9U);
  eventually("an end of the short life", [&] { return !exists("short"); });
}

// --- ephemeral keys

TEST_F(AgentProcess, EphemeralKeysEndWithTheirConnection) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path});
  std::vector<Client> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back(path);
    const std::string key = "presence/" + std::to_string(i);
    clients.back().say(key + "=0\n" + key + "=1 ephemeral\nstays/" + std::to_string(i) + "=1\nflush\n");
    EXPECT_EQ(clients.back().answer(), "ok");
    EXPECT_EQ(reader_.get<std::int64_t>(key), 1) << "in the order in which it was said";
  }
  clients[0].close();
  clients[1].finish();
  for (const char* key : {"presence/0", "presence/1"}) {
    eventually("an end of " + std::string(key), [&] { return !exists(key); });
  }
  clients[2].say("flush\n");
  EXPECT_EQ(clients[2].answer(), "ok");
  EXPECT_TRUE(exists("presence/2"));
  for (const char* key : {"stays/0", "stays/1", "stays/2"}) EXPECT_TRUE(exists(key));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 0);
  eventually("an end of the last one", [&] { return !exists("presence/2"); });
  EXPECT_TRUE(exists("stays/2"));
}

TEST_F(AgentProcess, EphemeralKeysEndWithTheAgent) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path});
  Client client(path);
  client.say("begin\na=1 ephemeral\nb=2\ncommit\nflush\n");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_TRUE(exists("a"));
  agent.kill();
  eventually("an end of the key", [&] { return !exists("a"); });
  EXPECT_TRUE(exists("b"));
}

TEST_F(AgentProcess, AnEphemeralKeyThatSomebodyElseHasSetSinceStays) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path});
  Client first(path);
  Client second(path);
  for (Client* client : {&first, &second}) {
    client->say("leader=1 ephemeral\nflush\n");
    EXPECT_EQ(client->answer(), "ok");
  }
  first.say("only_first=1 ephemeral\nflush\n");
  EXPECT_EQ(first.answer(), "ok");
  first.close();
  eventually("an end of the first", [&] { return !exists("only_first"); });
  EXPECT_TRUE(exists("leader"));
}

// Between two rings there is no order, so the second one waits for the first; others do not wait meanwhile.
TEST_F(AgentProcess, TheFirstEphemeralKeyWaitsForWhatItsConnectionSaidBefore) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--ack", "--flush-timeout", "60s"});
  Client client(path);
  Client other(path);
  client.say("a=1\nflush\n");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "ok");
  merger_.stop();
  client.say("a=2\na=3 ephemeral\na=4\n");
  EXPECT_EQ(client.answer(), "ok");
  other.say("b=1\n");
  EXPECT_EQ(other.answer(), "ok");
  EXPECT_FALSE(client.has_answer());
  merger_.go_on();
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "ok");
  client.say("flush\n");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(reader_.get<std::int64_t>("a"), 4);
}

TEST_F(AgentProcess, AnEphemeralLineIsRefusedWhenWhatCameBeforeIsNotMergedInTime) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--ack", "--flush-timeout", "50ms"});
  Client client(path);
  merger_.stop();
  client.say("a=1\na=2 ephemeral\nb=3");
  client.finish();
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "error: no ring for ephemeral keys: what came before is not merged: timed out");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_EQ(client.answer(), "");
  merger_.go_on();
  becomes("b", 3);
  EXPECT_EQ(reader_.get<std::int64_t>("a"), 1);
}

TEST_F(AgentProcess, WithoutAPlaceForItsRingAConnectionGetsNoEphemeralKeys) {
  merger_.kill();
  fs::remove_all(instance_);
  merger_ = start_merger(instance_, {"--max-rings", "1"});
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--strict"});
  Reader reader{instance_.string()};
  Client client(path);
  Client other(path);
  other.say("b=1\nflush\n");
  EXPECT_EQ(other.answer(), "ok");
  client.say("a=1 ephemeral\nflush\n");
  const std::string answer = client.answer();
  EXPECT_TRUE(answer.starts_with("error: ring refused")) << answer;
  other.say("b=2\nflush\n");
  EXPECT_EQ(other.answer(), "ok") << "nobody else suffers";
  EXPECT_FALSE(reader.get<Value>("a"));
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 1) << "it was lost";
}

TEST_F(AgentProcess, WhatTheMergerRejectsOfAConnectionsOwnRingIsCounted) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path, "--strict"});
  Client client(path);
  client.say("text=x ephemeral\nadd text 1\nflush\n");
  EXPECT_EQ(client.answer(), "error: rejected by the merger");
  client.say("add text 1\n");
  client.close();
  agent.will_log("the merger has rejected 2 mutations of its own ring");
  agent.signal(SIGTERM);
  EXPECT_EQ(agent.wait(), 1);
  EXPECT_TRUE(contains(agent.log(), "2 rejected by the merger"));
}

// --- what is decided about a source's lines

TEST_F(AgentProcess, AFixedTypeStaysWhateverTheValuesLookLike) {
  Agent agent = start_agent({"--type", "load/=float", "--type", "load/name=text"});
  agent.say("load/1=0.5\nload/1=180\nload/2=\"7\"\nload/name=7\nload/1=high\nadd load/1 1\n");
  agent.close_input();
  EXPECT_EQ(agent.wait(), 0);
  EXPECT_EQ(reader_.get<Value>("load/1"), Value(181.0));
  EXPECT_EQ(reader_.get<Value>("load/2"), Value(7.0));
  EXPECT_EQ(reader_.get<Value>("load/name"), Value("7"));
  EXPECT_TRUE(contains(agent.log(), "stdin, line 5: the value is not a number, in \"load/1=high\""));
  EXPECT_TRUE(contains(agent.log(), "1 bad lines"));
}

TEST_F(AgentProcess, ASourceGivesOptionsToAllItsSets) {
  const fs::path path = directory_ / "socket";
  const fs::path fifo = directory_ / "fifo";
  Agent agent = start_agent({"--stdin", "--socket", path, "--fifo", fifo, "--defaults", "socket:ephemeral",
                             "--defaults", fifo.string() + ":ttl=1h,type=text", "--defaults", "all:version=7"});
  agent.will_log("pushing into");
  Client client(path);
  client.say("from_socket=1\nflush\n");
  EXPECT_EQ(client.answer(), "ok");
  EXPECT_TRUE(reader_.info("from_socket")->ephemeral);
  append(fifo, "from_fifo=1\n");
  eventually("a key", [&] { return exists("from_fifo"); });
  EXPECT_TRUE(reader_.info("from_fifo")->time_to_live);
  EXPECT_EQ(reader_.get<Value>("from_fifo"), Value("1"));
  agent.say("from_stdin=1\n");
  becomes("from_stdin", 1);
  EXPECT_EQ(reader_.info("from_stdin")->version, 7U);
  EXPECT_FALSE(reader_.info("from_stdin")->time_to_live);
  client.close();
  eventually("its end", [&] { return !exists("from_socket"); });
}

TEST_F(AgentProcess, RulesThatMakeNoSenseAreUsageErrors) {
  for (const std::vector<std::string>& options : {std::vector<std::string>{"--type", "load/=double"},
                                                  {"--defaults", "stdin:ephemeral"},
                                                  {"--defaults", "/x:ttl=1s"}}) {
    Agent agent = start_agent(options);
    EXPECT_EQ(agent.wait(), 2);
    EXPECT_TRUE(contains(agent.log(), "shmstate: \"" + options[1] + "\": ")) << agent.log();
  }
}

// --- byte order marks

constexpr auto kMark = "\xEF\xBB\xBF";

TEST_F(AgentProcess, AByteOrderMarkAtTheStartOfAnyStreamIsNoPartOfAKey) {
  const fs::path path = directory_ / "socket";
  const fs::path fifo = directory_ / "fifo";
  const fs::path file = directory_ / "file";
  Agent agent = start_agent({"--stdin", "--socket", path, "--fifo", fifo, "--follow", file});
  agent.will_log("pushing into");
  agent.say(kMark + std::string("stdin=1\n"));
  becomes("stdin", 1);
  for (const int round : {1, 2}) {
    append(fifo, kMark + ("fifo=" + std::to_string(round)) + "\n");
    becomes("fifo", round);
    Client client(path);
    client.say(std::string(kMark).substr(0, 1));
    client.say(std::string(kMark).substr(1) + "socket=" + std::to_string(round) + "\nflush\n");
    EXPECT_EQ(client.answer(), "ok");
    becomes("socket", round);
  }
  replace(file, kMark + std::string("file=1\n"));
  becomes("file", 1);
  replace(directory_ / "new", kMark + std::string("file=2\n"));
  fs::rename(directory_ / "new", file);
  becomes("file", 2);
  replace(file, kMark + std::string("f=3\n"));  // shorter: truncated
  becomes("f", 3);
  EXPECT_EQ(reader_.snapshot().size(), 5U) << "and nothing beside them";
}

TEST_F(AgentProcess, AStreamInUtf16IsRefusedAndTheNextOneIsRead) {
  const fs::path path = directory_ / "socket";
  Agent agent = start_agent({"--socket", path});
  Client wide(path);
  wide.say(
      std::string("\xFF\xFE"
                  "a\0=\0"
                  "1\0\n\0"
                  "b\0=\0"
                  "2\0\n\0",
                  18));
  wide.finish();
  agent.will_log("line 1: the text is UTF-16 or UTF-32, as its first bytes say; write UTF-8");
  Client plain(path);
  plain.say("c=3\nflush\n");
  EXPECT_EQ(plain.answer(), "ok");
  EXPECT_EQ(reader_.snapshot().size(), 1U);
}

TEST_F(AgentProcess, WrongUseIsAClearError) {
  Agent nowhere({directory_ / "nowhere", "--attach-timeout", "0"}, directory_ / "nowhere.log");
  EXPECT_EQ(nowhere.wait(), 1);
  EXPECT_TRUE(nowhere.log().starts_with("shmstate: "));
  Agent usage = start_agent_with_log("usage.log", {"--socket-mode", "rw"});
  EXPECT_EQ(usage.wait(), 2);
  EXPECT_TRUE(usage.log().ends_with("see shmstate-writer-agent --help\n"));
  replace(directory_ / "plain", "");
  Agent fifo = start_agent_with_log("fifo.log", {"--fifo", directory_ / "plain"});
  EXPECT_EQ(fifo.wait(), 1);
  EXPECT_TRUE(contains(fifo.log(), "use --follow"));
}

}  // namespace
}  // namespace shmstate::test
