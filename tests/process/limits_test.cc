// Every program, and any program with a writer, under every limit that a process can have, and with standard streams
// that are closed, full, or lead nowhere: each says what is in the way, ends with a code that its manual has, changes
// what it says it changed, and leaves nothing that hinders the next start.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "harness/process_support.h"
#include "shmstate/reader.h"
#include "shmstate/watch.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;
using Words = std::vector<std::string>;

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

struct Limit {
  std::string name;
  decltype(RLIMIT_AS) resource;
  rlim_t value;
  std::string hint = {};  // what a message must name, if the program does not do its work
};

void impose(const Limit& limit) {
  ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);  // whatever the test inherited takes no descriptor away
  const rlimit both{.rlim_cur = limit.value, .rlim_max = limit.value};
  must(::setrlimit(limit.resource, &both) == 0, "setrlimit");
}

constexpr rlim_t operator""_k(unsigned long long count) { return count << 10; }
constexpr rlim_t operator""_m(unsigned long long count) { return count << 20; }

/// All that prlimit(1) knows, but processor time, which needs time to be used up.
std::vector<Limit> all_limits() {
  std::vector<Limit> limits = {{"core", RLIMIT_CORE, 0},
                               {"fsize", RLIMIT_FSIZE, 32_k, "limit of file size"},  // what is said needs room, too
                               {"fsize", RLIMIT_FSIZE, 100_k, "limit of file size"},
                               {"fsize", RLIMIT_FSIZE, 1_m, "limit of file size"},
                               {"locks", RLIMIT_LOCKS, 0},
                               {"memlock", RLIMIT_MEMLOCK, 0},
                               {"msgqueue", RLIMIT_MSGQUEUE, 0},
                               {"nice", RLIMIT_NICE, 0},
                               {"nproc", RLIMIT_NPROC, 0, "limit of processes"},
                               {"rss", RLIMIT_RSS, 0},
                               {"rtprio", RLIMIT_RTPRIO, 0},
                               {"rttime", RLIMIT_RTTIME, 1},
                               {"sigpending", RLIMIT_SIGPENDING, 0}};
  if (!kIsSanitized) {  // which needs address space, and descriptors to look at memory
    limits.insert(limits.end(), {{"nofile", RLIMIT_NOFILE, 4, "limit of open files"},
                                 {"nofile", RLIMIT_NOFILE, 6, "limit of open files"},
                                 {"nofile", RLIMIT_NOFILE, 8, "limit of open files"},
                                 {"as", RLIMIT_AS, 32_m, "limit of address space"},
                                 {"as", RLIMIT_AS, 64_m, "limit of address space"},
                                 {"data", RLIMIT_DATA, 1_m, "limit of data"},
                                 {"stack", RLIMIT_STACK, 128_k}});
  }
  return limits;
}

class Limits : public testing::Test {
 protected:
  [[nodiscard]] fs::path instance() const { return directory_ / "plant"; }
  [[nodiscard]] Words of_instance(const Words& words) const {
    Words all = {"-i", instance().string()};
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }
  [[nodiscard]] Program ctl(const Words& words, const ProgramSettings& settings = {}) const {
    return {SHMSTATE_CTL, of_instance(words), settings};
  }
  /// The whole output of a command that must succeed.
  [[nodiscard]] std::string said(const Words& words) const {
    Program program = ctl(words);
    EXPECT_EQ(program.wait(), 0) << testing::PrintToString(words) << program.output();
    return program.output();
  }
  /// An instance that a merger without limits serves, from which the next test of a table takes over.
  void must_work_again() const {
    Program merger = start_merger(instance());
    EXPECT_EQ(said({"set", "again", "1"}), "");
    EXPECT_EQ(said({"get", "again"}), "1\n");
    merger.signal(SIGTERM);
    EXPECT_EQ(merger.wait(), 0) << merger.output();
  }
  void must_have_no_rings() const {
    eventually("rings of ended programs are gone", [this] { return fs::is_empty(instance() / "writers" / "rings"); });
  }

  TestDirectory directory_;
};

// Ended by itself, with a code up to the largest of its manual; and where it did not do its work, the limit is named.
void expect_a_documented_end(const Limit& limit, int code, int code_max, const std::string& output) {
  EXPECT_LE(code, code_max) << limit.name << " " << limit.value << ": " << output;
  if (code == 0) return;
  ASSERT_FALSE(limit.hint.empty()) << limit.name << " should hinder nothing: " << output;
  EXPECT_TRUE(has(output, limit.hint)) << limit.name << " " << limit.value << ": " << output;
}

// A merger that cannot begin says which limit it was, and what it has made until then hinders nobody.
TEST_F(Limits, AMergerNamesTheLimitAndLeavesNothingHalfMade) {
  for (const Limit& limit : all_limits()) {
    Program merger = launch_merger(instance(), {}, {.setup = [&] { impose(limit); }});
    eventually("a merger that serves, or ends", [&] { return has(merger.output(), "created") || merger.has_ended(); });
    if (!merger.has_ended()) merger.signal(SIGTERM);
    expect_a_documented_end(limit, merger.wait(), 4, merger.output());
    must_work_again();
    fs::remove_all(instance());
  }
}

// Whatever shmstatectl could not do, it says so, with the limit; what it said it did is there, once.
TEST_F(Limits, ShmstatectlNamesTheLimit) {
  const Program merger = start_merger(instance());
  int sum = 0;
  for (const Limit& limit : all_limits()) {
    for (const Words& words : {Words{"add", "n", "1"},
                               {"get", "n"},
                               {"list"},
                               {"status"},
                               {"dump"},
                               {"doctor"},
                               {"instances"},
                               {"load", "/dev/null"}}) {
      Program program = ctl(words, {.setup = [&] { impose(limit); }});
      const int code = program.wait();
      SCOPED_TRACE(words.front());
      if (words.front() == "load" && code == 2) continue;  // what is empty is no dump
      expect_a_documented_end(limit, code == 9 || (words.front() == "get" && code == 1) ? 0 : code, 9,
                              program.output());
      if (words.front() == "add" && code == 0) ++sum;
    }
  }
  EXPECT_EQ(said({"get", "n"}), std::to_string(sum) + "\n");
  must_have_no_rings();
}

// The agent, too.
TEST_F(Limits, TheAgentNamesTheLimit) {
  const Program merger = start_merger(instance());
  int sum = 0;
  for (const Limit& limit : all_limits()) {
    Program agent(SHMSTATE_AGENT, {instance().string(), "--strict"},
                  {.input = "add n 1\n", .setup = [&] { impose(limit); }});
    const int code = agent.wait();
    expect_a_documented_end(limit, code, 2, agent.output());
    if (code == 0) ++sum;
  }
  EXPECT_EQ(said({"get", "n"}), std::to_string(sum) + "\n");
  must_have_no_rings();
}

// ---- processor time

// The merger that is told by SIGXCPU ends like one that was killed, but with a word and its own exit code.
TEST_F(Limits, AMergerAtItsLimitOfProcessorTimeSaysSoAndLosesNothing) {
  Program merger = launch_merger(instance(), {"--spin-time", "10ms", "--remove-at-exit"}, {.setup = [] {
                                   const rlimit one_second{.rlim_cur = 1, .rlim_max = RLIM_INFINITY};
                                   must(::setrlimit(RLIMIT_CPU, &one_second) == 0, "setrlimit");
                                 }});
  eventually("a merger that serves", [&] { return has(merger.output(), "created"); });
  Writer writer(instance().string());
  std::int64_t pushed = 0;
  eventually("the limit of processor time", [&] {
    if (writer.add("n", 1) == Status::kOk) ++pushed;  // it spins on
    return merger.has_ended();
  });
  EXPECT_EQ(merger.wait(), 1);
  EXPECT_TRUE(has(merger.output(), "limit of processor time")) << merger.output();
  const Program next = start_merger(instance());
  EXPECT_EQ(writer.flush(kPatience), Status::kOk);
  EXPECT_EQ(said({"get", "n"}), std::to_string(pushed) + "\n");
}

// Programs that must end are told by the same signal. With the code that says so, a mutation is pushed, and with no
// other.
TEST_F(Limits, OtherProgramsAtTheirLimitOfProcessorTimeSaySo) {
  Program merger = start_merger(instance());
  Program watch = ctl({"watch", "--interval", "0"});
  Program agent(SHMSTATE_AGENT, {instance().string(), "--fifo", (directory_ / "fifo").string()});
  eventually("an agent that reads", [&] { return has(agent.output(), "pushing into"); });
  eventually("a watch that prints", [&] {
    EXPECT_EQ(said({"set", "k", "1"}), "");
    return !watch.output().empty();
  });
  for (const Program* program : {&watch, &agent}) program->signal(SIGXCPU);
  EXPECT_EQ(watch.wait(), 8);
  EXPECT_EQ(agent.wait(), 1);
  for (const Program* program : {&watch, &agent}) EXPECT_TRUE(has(program->output(), "limit of processor time"));

  must_have_no_rings();
  merger.signal(SIGTERM);
  EXPECT_EQ(merger.wait(), 0);
  Program set = ctl({"set", "k", "2", "--timeout", "1h"});
  eventually("a set that has its ring", [&] { return !fs::is_empty(instance() / "writers" / "rings"); });
  set.signal(SIGXCPU);
  const int code = set.wait();
  EXPECT_TRUE(has(set.output(), "limit of processor time")) << set.output();
  const Program next = start_merger(instance());
  must_have_no_rings();
  EXPECT_TRUE(code == 5 || code == 8) << code;
  EXPECT_EQ(said({"get", "k"}), code == 5 ? "2\n" : "1\n");
}

// ---- the library in any program

// A writer asks for the limit before it makes its file grow: it is an error, and SIGXFSZ stays the program's own
// affair.
TEST_F(Limits, AWriterBeyondTheLimitOfFileSizeIsToldAndNotKilled) {
  const Program merger = start_merger(instance());
  Child child([this] {
    Writer before(instance().string());
    impose({"fsize", RLIMIT_FSIZE, 100_k});
    try {
      const Writer writer(instance().string());
      must(false, "a ring beyond the limit of file size");
    } catch (const Error& error) {
      must(error.status() == Status::kSystem && has(error.what(), "limit of file size"), error.what());
    }
    struct sigaction action {};
    must(::sigaction(SIGXFSZ, nullptr, &action) == 0 && action.sa_handler == SIG_DFL, "another disposition of SIGXFSZ");
    for (int i = 0; i < 100; ++i) must_be_ok(before.set("large", std::string(100'000, 'x')), "a push into an old ring");
    must_be_ok(before.flush(kPatience), "flush");
  });
  EXPECT_EQ(child.verdict(), "");
  must_have_no_rings();
}

// The thread of a watch's descriptor counts as a process; without one, the watch goes on as one that is asked.
TEST_F(Limits, AWatchWithoutAThreadSaysWhichLimitItIs) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs a user who has no other process";
  const Program merger = start_merger(instance(), {"--mode", "0755"});
  Child child([this] {
    become({.uid = 65533, .gid = 65533});
    Watch watch(instance().string(), "");
    const rlimit none{.rlim_cur = 0, .rlim_max = 0};
    must(::setrlimit(RLIMIT_NPROC, &none) == 0, "setrlimit");
    for (int i = 0; i < 2; ++i) {
      try {
        static_cast<void>(watch.fd());
        must(false, "a thread beyond the limit of processes");
      } catch (const Error& error) {
        must(error.status() == Status::kSystem && has(error.what(), "limit of processes"), error.what());
      }
    }
    must(watch.next(kPatience).complete, "what is asked for");
  });
  EXPECT_EQ(child.verdict(), "");
}

// ---- standard streams

struct Spoiling {
  std::string name;
  std::function<void(int fd)> spoil;
};

void become_write_end_of_nothing(int fd) {
  int ends[2];
  must(::pipe(ends) == 0, "pipe");
  ::dup2(ends[fd == STDIN_FILENO ? 0 : 1], fd);
  for (const int end : ends) ::close(end);
}

const std::vector<Spoiling>& spoilings() {
  static const std::vector<Spoiling> all = {
      {"closed", [](int fd) { ::close(fd); }},
      {"full",
       [](int fd) {
         must(::dup2(::open(fd == STDIN_FILENO ? "/dev/null" : "/dev/full", O_RDWR), fd) == fd, "/dev/full");
       }},
      {"gone", become_write_end_of_nothing}};
  return all;
}

ProgramSettings with_spoiled(const Spoiling& spoiling, int fd, const std::string& input = {}) {
  return {.input = input, .setup = [&spoiling, fd] {
            std::signal(SIGPIPE, SIG_DFL);  // as a shell begins
            spoiling.spoil(fd);
          }};
}

// The exit code tells what became of a mutation, also when nobody can read a word: a script would repeat the add.
TEST_F(Limits, ShmstatectlKeepsItsExitCodeWithoutStandardStreams) {
  const Program merger = start_merger(instance());
  EXPECT_EQ(said({"set", "text", "hello"}), "");
  struct Case {
    Words words;
    int code;
  };
  int sum = 0;
  for (const Spoiling& spoiling : spoilings()) {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      SCOPED_TRACE(spoiling.name + " stream " + std::to_string(fd));
      for (const Case& wanted : {Case{{"add", "n", "1"}, 0},
                                 {{"--json", "add", "n", "1"}, 0},
                                 {{"get", "missing"}, 1},
                                 {{"nonsense"}, 2},
                                 {{"add", "n", "many"}, 2},
                                 {{"-i", "nowhere", "set", "k", "1"}, 3},
                                 {{"add", "text", "1"}, 6},
                                 {{"--json", "add", "text", "1"}, 6}}) {
        const bool is_elsewhere = wanted.words.front() == "-i";
        Program program(SHMSTATE_CTL, is_elsewhere ? wanted.words : of_instance(wanted.words),
                        with_spoiled(spoiling, fd));
        EXPECT_EQ(program.wait(), wanted.code) << testing::PrintToString(wanted.words) << program.output();
        if (wanted.code == 0) ++sum;
      }
    }
  }
  EXPECT_EQ(said({"get", "n"}), std::to_string(sum) + "\n");
}

// Who asks for output and cannot have it is told why; but whoever stopped reading knows.
TEST_F(Limits, ShmstatectlSaysWhyStandardOutputCannotBeWritten) {
  const Program merger = start_merger(instance());
  EXPECT_EQ(said({"set", "text", "hello"}), "");
  for (const Words& words : {Words{"get", "text"},
                             {"list"},
                             {"status"},
                             {"dump"},
                             {"doctor"},
                             {"instances"},
                             {"--help"},
                             {"--version"},
                             {"list", "--json"},
                             {"watch", "--initial"}}) {
    for (const Spoiling& spoiling : spoilings()) {
      SCOPED_TRACE(spoiling.name + " " + words.front());
      Program program = ctl(words, with_spoiled(spoiling, STDOUT_FILENO));
      const bool is_gone = spoiling.name == "gone";
      EXPECT_EQ(program.wait(), is_gone && words.front() == "watch" ? 0 : 8);
      if (is_gone) {
        EXPECT_EQ(program.output(), "");
      } else {
        EXPECT_TRUE(has(program.output(), "standard output cannot be written")) << program.output();
        EXPECT_TRUE(has(program.output(), spoiling.name == "full" ? "No space left" : "Bad file")) << program.output();
      }
    }
  }
}

// A file that may not grow further is as full as a full disk, and the limit is named.
TEST_F(Limits, ShmstatectlNamesTheLimitOfTheFileThatItWritesTo) {
  const Program merger = start_merger(instance());
  EXPECT_EQ(said({"set", "large", std::string(100'000, 'x')}), "");
  Program program = ctl({"list"}, {.setup = [this] {
                          ::dup2(::open((directory_ / "out").c_str(), O_WRONLY | O_CREAT, 0600), STDOUT_FILENO);
                          impose({"fsize", RLIMIT_FSIZE, 1_k});
                        }});
  EXPECT_EQ(program.wait(), 8);
  EXPECT_TRUE(has(program.output(), "limit of file size")) << program.output();
}

// What is asked for from standard input and cannot be read is no empty input.
TEST_F(Limits, ShmstatectlDoesNotTakeAClosedStandardInputForAnEmptyOne) {
  const Program merger = start_merger(instance());
  for (const Words& words : {Words{"set", "k", "-"}, {"load"}}) {
    Program program = ctl(words, with_spoiled(spoilings().front(), STDIN_FILENO));
    EXPECT_EQ(program.wait(), 2);
    EXPECT_TRUE(has(program.output(), "cannot be read")) << program.output();
  }
  EXPECT_EQ(ctl({"get", "k"}).wait(), 1);
}

// watch ends when its reader has gone, although nothing changes that it could print.
TEST_F(Limits, AWatchEndsWhenItsReaderGoesAlthoughNothingChanges) {
  const Program merger = start_merger(instance());
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  os::Fd read_end(ends[0]);
  os::Fd write_end(ends[1]);
  Program watch = ctl({"watch"}, {.setup = [&] { ::dup2(ends[1], STDOUT_FILENO); }});
  write_end = os::Fd();
  eventually("a watch that prints", [&] {
    EXPECT_EQ(said({"set", "k", "1"}), "");
    char byte = 0;
    ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
    return ::read(ends[0], &byte, 1) == 1;
  });
  { const os::Fd gone = std::move(read_end); }
  EXPECT_EQ(watch.wait(), 0);
  EXPECT_EQ(watch.output(), "");
}

// The services serve whatever their streams are, and end with the code that says why.
TEST_F(Limits, TheServicesKeepServingAndTheirExitCodesWithoutStandardStreams) {
  int sum = 0;
  for (const Spoiling& spoiling : spoilings()) {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
      SCOPED_TRACE(spoiling.name + " stream " + std::to_string(fd));
      Program merger = launch_merger(instance(), {}, with_spoiled(spoiling, fd));
      eventually("a merger that serves", [&] { return ctl({"add", "n", "1", "--timeout", "60s"}).wait() == 0; });
      Program agent(SHMSTATE_AGENT, {instance().string()}, with_spoiled(spoiling, fd, "add n 1\n"));
      EXPECT_EQ(agent.wait(), 0) << agent.output();
      sum += fd == STDIN_FILENO ? 1 : 2;
      EXPECT_EQ(launch_merger(instance(), {}, with_spoiled(spoiling, fd)).wait(), 3);
      EXPECT_EQ(launch_merger(instance(), {"--nonsense"}, with_spoiled(spoiling, fd)).wait(), 2);
      EXPECT_EQ(Program(SHMSTATE_AGENT, {"--nonsense"}, with_spoiled(spoiling, fd)).wait(), 2);
      EXPECT_EQ(said({"get", "n"}), std::to_string(sum) + "\n");
      merger.signal(SIGTERM);
      EXPECT_EQ(merger.wait(), 0) << merger.output();
    }
  }
  for (const char* program : {SHMSTATE_MERGER, SHMSTATE_AGENT}) {
    Program help(program, {"--help"}, with_spoiled(spoilings()[1], STDOUT_FILENO));
    EXPECT_EQ(help.wait(), 1);
    EXPECT_TRUE(has(help.output(), "standard output cannot be written")) << help.output();
  }
}

// ---- a full file system

// With no room for a ring, keys could not be erased, and so no room be made.
TEST_F(Limits, ADeleteFindsRoomOnAFullFileSystem) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  Child child([this] {
    const SmallFilesystem small(directory_ / "small", "size=32m");
    const fs::path plant = small / "plant";
    const Program merger = start_merger(plant, {"--memory-limit", "8m", "--feed-bytes", "64k"});
    const auto run = [&](const Words& words) {
      Words all = {"-i", plant.string()};
      all.insert(all.end(), words.begin(), words.end());
      Program program(SHMSTATE_CTL, all);
      const int code = program.wait();
      return std::to_string(code) + " " + program.output();
    };
    const auto all_rings_are_gone = [&] {  // their memory is free once the merger, too, has let go of it
      std::ifstream maps("/proc/" + std::to_string(merger.pid()) + "/maps");
      const std::string mapped{std::istreambuf_iterator<char>(maps), {}};
      return fs::is_empty(plant / "writers" / "rings") && !mapped.empty() && !has(mapped, "/writers/rings/");
    };
    for (const char* key : {"a", "b", "c"}) must(run({"set", key, "1"}) == "0 ", "set before");
    eventually("room of the rings", all_rings_are_gone);

    small.fill(8_k);
    const std::string with_two_pages = run({"del", "a"});
    must(with_two_pages == "0 ", "del with room for two pages: " + with_two_pages);
    small.make_room();
    {
      WriterOptions options;
      options.shared = true;
      Writer shared(plant.string(), options);
      must_be_ok(shared.set("d", 1), "set through a shared ring");
      must_be_ok(shared.flush(kPatience), "flush");
      small.fill(0);
      const std::string through_shared_ring = run({"del", "b"});
      must(through_shared_ring == "0 ", "del through the shared ring that is there: " + through_shared_ring);
      small.make_room();
    }
    eventually("room of the rings", all_rings_are_gone);
    small.fill(0);
    const std::string refused = run({"del", "c"});
    must(refused.starts_with("8 ") && has(refused, "make the file system larger"), "without any room: " + refused);
    small.make_room();
    must(run({"list", "--keys"}) == "0 c\nd\n", "another state: " + run({"list", "--keys"}));
  });
  EXPECT_EQ(child.verdict(), "");
}

// ---- no /proc

void hide_proc() {
  must(::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("tmpfs", "/proc", "tmpfs", 0, "") == 0,
       "cannot hide /proc");
}

/// As kernels before 6.10 answer who is not privileged: no file is named by its descriptor alone.
void refuse_names_by_descriptor() {
  sock_filter filter[]{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_linkat, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[4])),  // its flags
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AT_EMPTY_PATH, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOENT),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program{.len = std::size(filter), .filter = filter};
  must(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
  must(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "seccomp");
}

// A writer gives its ring a name through /proc, unless it is privileged, and says so where there is none.
TEST_F(Limits, AWriterWithoutProcIsToldSo) {
  if (kIsSanitized) GTEST_SKIP() << "the sanitizer looks at /proc for the bounds of the stack";
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  const Program merger = start_merger(instance());
  Program refused = ctl({"set", "k", "1"}, {.setup = [] {
                          hide_proc();
                          refuse_names_by_descriptor();
                        }});
  EXPECT_EQ(refused.wait(), 8);
  EXPECT_TRUE(has(refused.output(), "mount /proc")) << refused.output();
  Program privileged = ctl({"set", "k", "1"}, {.setup = hide_proc});
  EXPECT_EQ(privileged.wait(), 0) << privileged.output();
  Program reading = ctl({"get", "k"}, {.setup = hide_proc});
  EXPECT_EQ(reading.wait(), 0);
  EXPECT_EQ(reading.output(), "1\n");
  must_have_no_rings();
}

}  // namespace
}  // namespace shmstate::test
