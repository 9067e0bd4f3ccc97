// shmstatectl as people and scripts run it, beside a merger that comes and goes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <utmp.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr auto kPatience = 60s;  // how long something may take before a test gives up on it
constexpr uid_t kNobody = 65534;

[[nodiscard]] bool eventually(const std::function<bool()>& holds) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

/// A nameless file in memory: what a program reads, or where its output goes.
class MemoryFile {
 public:
  explicit MemoryFile(std::string_view text = {}) : fd_(::memfd_create("stream", MFD_CLOEXEC)) {
    if (::write(fd_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) std::abort();
    ::lseek(fd_, 0, SEEK_SET);
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(fd_); }

  [[nodiscard]] int fd() const { return fd_; }
  [[nodiscard]] std::string text() const {
    std::string text(static_cast<std::size_t>(fs::file_size("/proc/self/fd/" + std::to_string(fd_))), '\0');
    const ssize_t bytes = ::pread(fd_, text.data(), text.size(), 0);
    text.resize(bytes < 0 ? 0 : static_cast<std::size_t>(bytes));
    return text;
  }

 private:
  int fd_;
};

/// A running program; killed when the test is over.
class Process {
 public:
  using Setup = std::function<void()>;  // in the child, before the program starts

  explicit Process(const std::vector<std::string>& arguments, std::string_view input = {}, const Setup& setup = {})
      : input_(input), pid_(::fork()) {
    if (pid_ == 0) run(arguments, setup);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ <= 0 || code_) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void signal(int number) const { ::kill(pid_, number); }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::string out() const { return output_.text(); }
  [[nodiscard]] std::string err() const { return errors_.text(); }

  [[nodiscard]] bool has_ended() {
    int status = 0;
    if (!code_ && ::waitpid(pid_, &status, WNOHANG) == pid_)
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    return code_.has_value();
  }
  /// The exit code; negative after a signal.
  int wait() {
    return eventually([this] { return has_ended(); }) ? *code_ : -1000;
  }

 private:
  [[noreturn]] void run(const std::vector<std::string>& arguments, const Setup& setup) const {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::dup2(input_.fd(), STDIN_FILENO);
    ::dup2(output_.fd(), STDOUT_FILENO);
    ::dup2(errors_.fd(), STDERR_FILENO);
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    if (setup) setup();
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }

  MemoryFile input_;
  MemoryFile output_;
  MemoryFile errors_;
  pid_t pid_;
  std::optional<int> code_;
};

struct Result {
  int code = 0;
  std::string out;
  std::string err;
};

Result result_of(Process& process) {
  const int code = process.wait();
  return {code, process.out(), process.err()};
}

using Arguments = std::vector<std::string>;

class CtlProcess : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/dev/shm/shmstate-ctl-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
    ::setenv("SHMSTATE_ROOT", root_.c_str(), 1);
    ::unsetenv("SHMSTATE_INSTANCE");
    start_merger();
  }
  void TearDown() override {
    merger_.reset();
    fs::remove_all(root_);
  }

  void start_merger(const std::string& instance = "plant", const Arguments& options = {}) {
    Arguments arguments{SHMSTATE_MERGER, "-i", (root_ / instance).string(), "--memory-limit", "66m"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    merger_.emplace(arguments);
    const auto serves = [&] { return ctl({"-i", instance, "set", "ready", "1"}).code == 0; };
    ASSERT_TRUE(eventually([&] { return merger_->has_ended() || serves(); }));
    ASSERT_FALSE(merger_->has_ended()) << merger_->err();
    ASSERT_EQ(ctl({"-i", instance, "del", "ready"}).code, 0);
  }
  void stop_merger() {
    merger_->signal(SIGTERM);
    ASSERT_EQ(merger_->wait(), 0) << merger_->err();
  }

  static Arguments command(const Arguments& arguments) {
    Arguments command = {SHMSTATE_CTL};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return command;
  }
  static Result ctl(const Arguments& arguments, std::string_view input = {}, const Process::Setup& setup = {}) {
    Process process(command(arguments), input, setup);
    return result_of(process);
  }
  /// The standard output of a command that must succeed.
  static std::string out(const Arguments& arguments, std::string_view input = {}) {
    const Result result = ctl(arguments, input);
    EXPECT_EQ(result.code, 0) << testing::PrintToString(arguments) << result.err;
    return result.out;
  }
  static Json json(const Arguments& arguments) { return Json::parse(out(arguments)); }

  [[nodiscard]] fs::path instance() const { return root_ / "plant"; }

  fs::path root_;
  std::optional<Process> merger_;
};

std::string every_byte() {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  return bytes;
}

// What set, add and del did is readable as soon as they return.
TEST_F(CtlProcess, ChangesAreReadableAtOnce) {
  EXPECT_EQ(out({"set", "count", "40"}), "");
  EXPECT_EQ(out({"add", "count", "2"}), "");
  EXPECT_EQ(out({"get", "count"}), "42\n");
  out({"set", "ratio", "1.5"});
  out({"add", "ratio", "-1.0"});
  out({"set", "name", "pump seven"});
  EXPECT_EQ(out({"list"}), "count  42\nname   pump seven\nratio  0.5\n");
  EXPECT_EQ(out({"list", "--keys", "--limit", "2"}), "count\nname\n");
  EXPECT_EQ(out({"list", "ra"}), "ratio  0.5\n");
  EXPECT_EQ(out({"get", "ratio", "count"}), "ratio  0.5\ncount  42\n");
  out({"del", "count"});
  EXPECT_EQ(ctl({"get", "count"}).code, 1);
  EXPECT_EQ(out({"list", "--keys"}), "name\nratio\n");
}

// JSON keeps types, tells the epoch of each change, and names what is missing.
TEST_F(CtlProcess, JsonHasTypesAndEpochs) {
  out({"set", "i", "1"});
  out({"set", "f", "1.0"});
  out({"set", "b", "-"}, "\xFF");
  Json listed = json({"list", "--json"});
  ASSERT_EQ(listed["entries"].size(), 3u);
  EXPECT_EQ(listed["entries"][0]["value"], (Json{{"base64", "/w=="}}));
  EXPECT_EQ(listed["entries"][1]["type"], "float64");
  EXPECT_EQ(listed["entries"][2]["type"], "int64");
  EXPECT_LT(listed["entries"][2]["changed_epoch"], listed["entries"][1]["changed_epoch"]);
  EXPECT_LE(listed["entries"][0]["changed_epoch"], listed["epoch"]);
  const Result found = ctl({"get", "--json", "i", "missing"});
  EXPECT_EQ(found.code, 1);
  EXPECT_EQ(Json::parse(found.out)["entries"][0]["value"], 1);
  EXPECT_EQ(Json::parse(found.out)["missing"], (Json{"missing"}));
  EXPECT_EQ(json({"set", "--json", "i", "2"})["merged"], true);
  EXPECT_EQ(json({"list", "--json", "--keys"})["keys"], (Json{"b", "f", "i"}));
}

// Any bytes go in through standard input and come out of --raw unchanged; elsewhere no terminal can be harmed.
TEST_F(CtlProcess, CarriesAnyBytes) {
  out({"set", "bytes", "-"}, every_byte());
  EXPECT_EQ(out({"get", "--raw", "bytes"}), every_byte());
  for (const Arguments& arguments : {Arguments{"get", "bytes"}, Arguments{"list"}, Arguments{"list", "--json"}}) {
    for (const char c : out(arguments)) EXPECT_TRUE(c == '\n' || (c >= 0x20 && c < 0x7F)) << static_cast<int>(c);
  }
  const std::string largest(std::size_t{1} << 20, 'x');
  out({"set", "large", "-"}, largest);
  EXPECT_EQ(out({"get", "--raw", "large"}), largest);
  EXPECT_EQ(ctl({"set", "large", "-"}, largest + "x").code, 2);
  out({"set", "number", "-", "--type", "int"}, "17\n");
  EXPECT_EQ(out({"get", "--raw", "number"}), "17");
}

// Who asks for JSON gets a document also of what was not pushed, with the reason.
TEST_F(CtlProcess, NoDocumentToldWhyNothingWasPushed) {
  const auto expect = [](const char* reason, const Result& result) {
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr("not pushed: "));
    const Json json = Json::parse(result.out);
    EXPECT_EQ(json["merged"], false);
    EXPECT_EQ(json["status"], "not pushed");
    EXPECT_EQ(json["reason"], reason);
    EXPECT_EQ(json["merger"]["running"], true);
  };
  expect("key is empty", ctl({"--json", "set", "", "1"}));
  expect("key is empty", ctl({"--json", "add", "", "1"}));
  expect("key is longer than 4096 bytes", ctl({"--json", "del", std::string(4097, 'k')}));
  expect("value is bigger than 1 MiB", ctl({"--json", "set", "k", "-"}, std::string((1 << 20) + 1, 'x')));
}

// Each kind of failure has its exit code, and a message that begins with the program's name for itself.
TEST_F(CtlProcess, FailuresHaveTheirExitCodes) {
  out({"set", "text", "hello"});
  out({"set", "most", "9223372036854775807"});
  const auto expect_failure = [](int code, const Result& result) {
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_THAT(result.err, StartsWith("shmstate: "));
  };
  expect_failure(1, ctl({"get", "missing"}));
  expect_failure(2, ctl({"get", ""}));
  expect_failure(2, ctl({"set", std::string(4097, 'k'), "1"}));
  expect_failure(2, ctl({"set", "k", "9223372036854775808"}));
  expect_failure(2, ctl({"add", "k", "many"}));
  expect_failure(2, ctl({"get", "--raw", "text", "most"}));
  expect_failure(3, ctl({"-i", "nowhere", "get", "k"}));
  expect_failure(3, ctl({"-i", "nowhere", "set", "k", "1"}));
  expect_failure(3, ctl({"-i", "nowhere", "status"}));
  expect_failure(6, ctl({"add", "text", "1"}));
  expect_failure(6, ctl({"add", "most", "1"}));
  const Process::Setup into_full = [] { ::dup2(::open("/dev/full", O_WRONLY), STDOUT_FILENO); };
  expect_failure(8, ctl({"list"}, {}, into_full));
  expect_failure(8, ctl({"list", "--json"}, {}, into_full));
  EXPECT_EQ(out({"get", "text", "most"}), "text  hello\nmost  9223372036854775807\n");
}

// Who may not open the instance is told so, by every command.
TEST_F(CtlProcess, NoPermissionHasItsExitCode) {
  fs::permissions(instance() / "control", fs::perms::none);
  fs::permissions(root_, fs::perms::owner_all | fs::perms::others_all);
  const Process::Setup as_nobody = [] {
    if (::geteuid() == 0 && ::setuid(kNobody) != 0) ::_exit(126);
  };
  for (Arguments arguments : {Arguments{"get", "k"}, Arguments{"set", "k", "1"}, Arguments{"status"}}) {
    arguments.insert(arguments.begin(), {"-i", "plant"});
    const Result result = ctl(arguments, {}, as_nobody);
    EXPECT_EQ(result.code, 4) << result.err;
    EXPECT_THAT(result.err, HasSubstr("permission denied"));
  }
}

// A file that is no instance is refused, whatever is in it.
TEST_F(CtlProcess, DamageHasItsExitCode) {
  stop_merger();
  std::fstream(instance() / "control", std::ios::in | std::ios::out | std::ios::binary) << every_byte();
  for (const Arguments& arguments : {Arguments{"get", "k"}, Arguments{"set", "k", "1"}, Arguments{"status"}})
    EXPECT_EQ(ctl(arguments).code, 7);
}

// Without a merger the last snapshot is shown, and people are told; what is pushed waits for the next merger.
TEST_F(CtlProcess, WorksWhileTheMergerIsDown) {
  out({"set", "k", "old"});
  stop_merger();
  for (const Arguments& arguments : {Arguments{"get", "k"}, Arguments{"list"}, Arguments{"status"}}) {
    const Result result = ctl(arguments);
    EXPECT_EQ(result.code, 0);
    EXPECT_THAT(result.err, HasSubstr("no merger is running (silent for "));
  }
  EXPECT_EQ(out({"get", "k"}), "old\n");
  EXPECT_EQ(json({"get", "k", "--json"})["merger"]["running"], false);
  EXPECT_EQ(json({"status", "--json"})["merger"]["running"], false);

  const Result pushed = ctl({"set", "k", "new", "--timeout", "1ms"});
  EXPECT_EQ(pushed.code, 5);
  EXPECT_THAT(pushed.err, HasSubstr("it will be merged when one starts"));
  const Result added = ctl({"add", "n", "5", "--timeout", "0", "--json"});
  EXPECT_EQ(added.code, 5);
  EXPECT_EQ(Json::parse(added.out)["merged"], false);
  EXPECT_EQ(out({"get", "k"}), "old\n");

  start_merger();
  EXPECT_EQ(out({"get", "k", "n"}), "k  new\nn  5\n");
}

// What several commands push while no merger runs is merged in their order.
TEST_F(CtlProcess, KeepsTheOrderWhileTheMergerIsDown) {
  stop_merger();
  for (const Arguments& arguments : {Arguments{"set", "n", "10"}, Arguments{"add", "n", "5"},
                                     Arguments{"set", "k", "1"}, Arguments{"del", "k"}, Arguments{"add", "n", "-1"}}) {
    Arguments pushing = arguments;
    pushing.insert(pushing.end(), {"--timeout", "0"});
    EXPECT_EQ(ctl(pushing).code, 5);
  }
  start_merger();
  EXPECT_EQ(out({"list"}), "n  14\n");
}

// A key set with a time to live tells it, and is gone when it is over.
TEST_F(CtlProcess, SetsATimeToLive) {
  out({"set", "k", "1", "--ttl", "1h"});
  Json entry = json({"get", "k", "--json"})["entries"][0];
  EXPECT_GT(entry["time_to_live_ns"], 0);
  EXPECT_LE(entry["time_to_live_ns"], 3600'000'000'000);
  out({"set", "k", "1", "--ttl", "1ms"});
  EXPECT_TRUE(eventually([] { return ctl({"get", "k"}).code == 1; }));
}

// A merger that hangs is not taken for one that is gone, and is pointed at.
TEST_F(CtlProcess, PointsAtAMergerThatHangs) {
  merger_->signal(SIGSTOP);
  const Result pushed = ctl({"set", "k", "1", "--timeout", "1ms"});
  EXPECT_EQ(pushed.code, 5);
  EXPECT_THAT(pushed.err, HasSubstr("not merged within 1.0 ms"));
  EXPECT_TRUE(eventually([] {
    const Result read = ctl({"list"});
    return read.code == 0 && read.err.find("is silent for") != std::string::npos;
  }));
  merger_->signal(SIGCONT);
  EXPECT_TRUE(eventually([] { return ctl({"get", "k"}).out == "1\n"; }));
}

// The status names the merger, and every writer's ring with its counters.
TEST_F(CtlProcess, StatusShowsMergerAndRings) {
  Writer writer(instance().string(), {.name = "pump\x1B[1m"});
  writer.set("a", 1);
  writer.set("b", "text");
  writer.add("b", 1);
  EXPECT_EQ(writer.flush(kPatience), Status::kRejected);
  Json status;
  EXPECT_TRUE(eventually([&] {
    status = json({"status", "--json"});
    return status["rings"].size() == 1 && status["rings"][0]["applied_count"] == 2;
  })) << status;
  Json ring = status["rings"].at(0);
  EXPECT_EQ(ring["name"], "pump\x1B[1m");
  EXPECT_EQ(ring["pid"], ::getpid());
  EXPECT_EQ(ring["state"], "live");
  EXPECT_EQ(ring["rejected_count"], 1);
  EXPECT_EQ(ring["pushed_bytes"], ring["applied_bytes"]);

  EXPECT_EQ(status["instance"], instance().string());
  EXPECT_EQ(status["merger"]["running"], true);
  EXPECT_EQ(status["merger"]["pid"], merger_->pid());
  EXPECT_EQ(status["entry_count"], 2);
  EXPECT_GE(status["buffers"].size(), 2u);
  EXPECT_EQ(status["memory"]["limit_bytes"], 66 << 20);  // as configured
  EXPECT_GT(status["memory"]["committed_bytes"], 0);
  EXPECT_FALSE(status["statistics"].empty());

  const std::string text = out({"status", "-v"});
  EXPECT_THAT(text, HasSubstr("running, pid " + std::to_string(merger_->pid())));
  EXPECT_THAT(text, HasSubstr("pump\\x1b[1m"));
  EXPECT_THAT(text, HasSubstr(status["statistics"][0]["meaning"].get<std::string>()));
}

// Starts a watch and returns when it has seen its first change, so nothing after that is missed.
void prime(const Process& watch) {
  int round = 0;
  ASSERT_TRUE(eventually([&] {
    Writer writer("plant");
    writer.set("w/prime", ++round);
    return writer.flush(kPatience) == Status::kOk && !watch.out().empty();
  })) << watch.err();
}

[[nodiscard]] bool eventually_prints(const Process& watch, std::string_view text) {
  return eventually([&] { return watch.out().find(text) != std::string::npos; });
}

// watch prints what changes below its prefix, erased keys included, and ends with success on SIGINT.
TEST_F(CtlProcess, WatchPrintsChangesUntilInterrupted) {
  out({"set", "w/before", "1"});
  Process watch(command({"watch", "w/", "--interval", "0"}));
  prime(watch);
  out({"set", "other", "1"});
  out({"set", "w/a", "1"});
  EXPECT_TRUE(eventually_prints(watch, " set w/a 1\n")) << watch.out();
  out({"del", "w/a"});
  EXPECT_TRUE(eventually_prints(watch, " erase w/a\n")) << watch.out();
  out({"del", "w/before"});
  EXPECT_TRUE(eventually_prints(watch, " erase w/before\n")) << watch.out();
  watch.signal(SIGINT);
  EXPECT_EQ(watch.wait(), 0);
  EXPECT_EQ(watch.out().find("other"), std::string::npos);
  EXPECT_EQ(watch.out().find("set w/before"), std::string::npos);
  EXPECT_THAT(watch.err(), IsEmpty());
}

// With --count a watch ends by itself; with --json each line is a document.
TEST_F(CtlProcess, WatchEndsAfterItsCount) {
  Process watch(command({"watch", "n/", "--json", "--count", "2", "--interval", "0"}));
  int number = 0;
  EXPECT_TRUE(eventually([&] {
    out({"set", "n/k", std::to_string(++number)});
    const std::string text = watch.out();
    return std::count(text.begin(), text.end(), '\n') == 2;
  }));
  EXPECT_EQ(watch.wait(), 0);
  const std::string text = watch.out();
  Json first = Json::parse(text.substr(0, text.find('\n')));
  Json second = Json::parse(text.substr(text.find('\n')));
  EXPECT_EQ(first["change"], "set");
  EXPECT_EQ(first["key"], "n/k");
  EXPECT_LT(first["value"], second["value"]);
  EXPECT_LT(first["epoch"], second["epoch"]);
}

// A watch outlives its merger, says so, and goes on with the next one.
TEST_F(CtlProcess, WatchSurvivesARestartOfTheMerger) {
  Process watch(command({"watch", "w/", "--interval", "0"}));
  prime(watch);
  stop_merger();
  EXPECT_TRUE(eventually([&] { return watch.err().find("no merger is running") != std::string::npos; }));
  start_merger();
  out({"set", "w/after", "1"});
  EXPECT_TRUE(eventually_prints(watch, " set w/after 1\n")) << watch.out();
  watch.signal(SIGTERM);
  EXPECT_EQ(watch.wait(), 0);
}

// A watch outlives the instance, too, which goes with a merger that removes it, and follows the one that is re-created.
TEST_F(CtlProcess, AWatchEndedWhenTheMergerRemovedItsInstance) {
  stop_merger();
  start_merger("plant", {"--remove-at-exit"});
  Process watch(command({"-i", "plant", "watch", "w/", "--interval", "0"}));
  prime(watch);
  stop_merger();
  EXPECT_TRUE(eventually([&] { return watch.err().find("does not exist") != std::string::npos; })) << watch.err();
  start_merger();
  EXPECT_TRUE(eventually([&] { return watch.err().find("a merger is running again") != std::string::npos; }));
  out({"-i", "plant", "set", "w/after", "1"});
  EXPECT_TRUE(eventually_prints(watch, " set w/after 1\n")) << watch.out();
  watch.signal(SIGTERM);
  EXPECT_EQ(watch.wait(), 0) << watch.err();
}

// What identifies the state of an instance: everything that a dump shall carry, but remaining times only as "some".
std::map<std::string, std::string> state_of(const fs::path& instance) {
  Reader reader(instance.string());
  std::map<std::string, std::string> state;
  for (const EntryView& entry : reader.snapshot()) {
    const Value value = entry.value.to_value();
    state[std::string(entry.key)] = testing::PrintToString(value) + " version " + std::to_string(entry.version) +
                                    (entry.time_to_live() ? " expires" : "");
  }
  return state;
}

void fill(const fs::path& instance, int count) {
  Writer writer(instance.string(), {.full_timeout = kPatience});
  for (int i = 0; i < count; ++i) {
    const std::string key = "key\t" + std::to_string(i) + std::string(1, static_cast<char>(i));
    switch (i % 5) {
      case 0: writer.set(key, i); break;
      case 1: writer.set(key, i / 7.0); break;
      case 2: writer.set(key, every_byte().substr(static_cast<std::size_t>(i % 256))); break;
      case 3: writer.set(key, "", {.version = static_cast<std::uint64_t>(i)}); break;
      default: writer.set(key, i, {.ttl = 1h}); break;
    }
  }
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
}

// A dump, loaded into another instance, gives the same state there: bytes, types, versions, and what will expire.
TEST_F(CtlProcess, DumpAndLoadCarryTheState) {
  const char* const wanted = std::getenv("SHMSTATE_TEST_LONG");
  fill(instance(), wanted != nullptr && std::string_view(wanted) == "1" ? 1'000'000 : 5'000);
  Process copy({SHMSTATE_MERGER, "-i", (root_ / "copy").string(), "--memory-limit", "1g"});
  ASSERT_TRUE(eventually([] { return ctl({"-i", "copy", "set", "k", "1"}).code == 0; }));
  out({"-i", "copy", "del", "k"});

  const std::string dump = out({"-i", "plant", "dump"});
  EXPECT_EQ(out({"-i", "copy", "load"}, dump), "");
  EXPECT_EQ(state_of(root_ / "copy"), state_of(instance()));

  const Json again = Json::parse(out({"-i", "copy", "load", "--json", "-"}, dump));  // harmless, as often as one likes
  EXPECT_EQ(again["loaded_count"], state_of(instance()).size());
  EXPECT_EQ(state_of(root_ / "copy"), state_of(instance()));
  EXPECT_EQ(out({"-i", "plant", "dump", "nothing/"}), "# shmstate dump 2\n# end 0\n");
}

// An ephemeral entry cannot outlive its writer: load leaves it out, and says so.
TEST_F(CtlProcess, LoadLeavesEphemeralEntriesOut) {
  const Result result = ctl({"load"}, "# shmstate dump 1\na\tint64\t1\nb\tint64\t2\tephemeral\n# end 2\n");
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("1 ephemeral entries left out"));
  EXPECT_EQ(out({"list"}), "a  1\n");
}

// Input that is no dump, or not all of one, is refused with the line, and nothing of it is loaded.
TEST_F(CtlProcess, LoadRefusesWhatIsNoDump) {
  const std::string head = "# shmstate dump 1\n";
  for (const std::string& input : {std::string(), std::string("a=1\n"), head, head + "k\tint64\t1\n",
                                   head + "k\tint64\t1\n# end 2\n", head + "k\tint64\t1\nnonsense\n# end 2\n"}) {
    const Result result = ctl({"load"}, input);
    EXPECT_EQ(result.code, 2) << input;
    EXPECT_THAT(result.err, StartsWith("shmstate: line "));
    EXPECT_THAT(result.err, HasSubstr("nothing is loaded"));
  }
  EXPECT_EQ(ctl({"get", "k"}).code, 1);
  EXPECT_EQ(ctl({"load", "/nonexistent"}).code, 2);
  EXPECT_EQ(ctl({"dump", "--json"}).code, 2);
}

// The mark that an editor put before a dump made it none; a dump in UTF-16 was only said to be none.
TEST_F(CtlProcess, ADumpMayBeginWithAByteOrderMark) {
  EXPECT_EQ(out({"load"}, "\xEF\xBB\xBF# shmstate dump 1\nmarked\tint64\t1\n# end 1\n"), "");
  EXPECT_EQ(out({"get", "marked"}), "1\n");
  for (const std::string mark : {"\xFF\xFE", "\xFE\xFF"}) {
    const Result result = ctl({"load"}, mark + "#");
    EXPECT_EQ(result.code, 2);
    EXPECT_NE(result.err.find("line 1: the text is UTF-16"), std::string::npos) << result.err;
  }
}

// Any key survives, also one that looks as the end of a dump does.
TEST_F(CtlProcess, AKeyThatLooksLikeTheEndOfADumpMadeItUnloadable) {
  for (const char* key : {"# end 1", "# end 2", "# shmstate dump 1"}) out({"set", key, "1"});
  const std::string dump = out({"dump"});
  for (const char* key : {"# end 1", "# end 2", "# shmstate dump 1"}) out({"del", key});
  EXPECT_EQ(out({"load"}, dump), "");
  EXPECT_EQ(out({"list", "--keys"}), "# end 1\n# end 2\n# shmstate dump 1\n");
}

// Without a merger nothing is loaded behind anybody's back: the exit code says that it is not merged.
TEST_F(CtlProcess, LoadNeedsAMerger) {
  const std::string dump = out({"dump"});
  stop_merger();
  EXPECT_EQ(ctl({"dump"}).out, dump);
  const Result result = ctl({"load", "--timeout", "1ms"}, "# shmstate dump 1\nk\tint64\t1\n# end 1\n");
  EXPECT_EQ(result.code, 5);
  EXPECT_THAT(result.err, HasSubstr("0 entries are loaded"));
}

constexpr int kRecords = 1'000;
constexpr int kFields = 5;

std::string field_key(int record, int field) {
  return "record/" + std::to_string(record) + "/" + std::to_string(field);
}

// Records whose fields were set in one batch each, so that every snapshot has all fields of a record or none.
void fill_with_records(const fs::path& instance) {
  Writer writer(instance.string(), {.full_timeout = kPatience});
  for (int record = 0; record < kRecords; ++record) {
    Batch batch = writer.batch();
    for (int field = 0; field < kFields; ++field) batch.set(field_key(record, field), record);
    ASSERT_EQ(batch.commit(), Status::kOk);
  }
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
}

int torn_records(const fs::path& instance) {
  Reader reader(instance.string());
  const Snapshot snapshot = reader.snapshot();
  int torn = 0;
  for (int record = 0; record < kRecords; ++record) {
    const auto first = snapshot.find(field_key(record, 0));
    for (int field = 0; field < kFields; ++field) {
      const auto entry = snapshot.find(field_key(record, field));
      if (!first || !entry || entry->changed_epoch != first->changed_epoch) {
        ++torn;
        break;
      }
    }
  }
  return torn;
}

// What was published together is published together again, in whatever order the lines of the dump are.
TEST_F(CtlProcess, LoadKeepsTogetherWhatWasPublishedTogether) {
  fill_with_records(instance());
  const std::string dump = out({"dump"});
  stop_merger();
  start_merger("copy");
  EXPECT_EQ(ctl({"-i", "copy", "load"}, dump).err, "");
  EXPECT_EQ(torn_records(root_ / "copy"), 0);
}

std::string dump_of_one_epoch(int count) {
  std::string dump = "# shmstate dump 2\n";
  for (int i = 0; i < count; ++i) dump += "k" + std::to_string(i) + "\tint64\t1\tepoch=7\n";
  return dump + "# end " + std::to_string(count) + "\n";
}

// What no batch can hold is split, and that is counted and said; who does not want that loads nothing.
TEST_F(CtlProcess, LoadSaysWhatItSplits) {
  const std::string dump = dump_of_one_epoch(40'000);
  const Result refused = ctl({"load", "--no-split"}, dump);
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr("nothing is loaded"));
  EXPECT_EQ(out({"list"}), "");
  const Result split = ctl({"load"}, dump);
  EXPECT_EQ(split.code, 0) << split.err;
  EXPECT_THAT(split.err, HasSubstr("1 epochs were split"));
  EXPECT_EQ(json({"status", "--json"})["entry_count"], 40'000);
  EXPECT_EQ(ctl({"load", "--no-split"}, "# shmstate dump 1\nk\tint64\t1\n# end 1\n").code, 2);  // it cannot tell
}

// A batch as large as batches can be is not split.
TEST_F(CtlProcess, LoadTakesTheLargestBatchWhole) {
  const Result result = ctl({"load", "--no-split"}, dump_of_one_epoch(32'768));
  EXPECT_EQ(result.code, 0) << result.err;
  const Json listed = json({"list", "--json"});
  ASSERT_EQ(listed["entries"].size(), 32'768u);
  for (const Json& entry : listed["entries"]) ASSERT_EQ(entry["changed_epoch"], listed["entries"][0]["changed_epoch"]);
}

// What a merger allows less of is split at that.
TEST_F(CtlProcess, LoadKeepsToTheLargestBatchThatTheMergerAllows) {
  stop_merger();
  start_merger("plant", {"--batch-max", "100"});
  EXPECT_EQ(ctl({"load", "--no-split"}, dump_of_one_epoch(101)).code, 2);
  EXPECT_EQ(ctl({"load", "--no-split"}, dump_of_one_epoch(100)).code, 0);
  const Result split = ctl({"load"}, dump_of_one_epoch(250));
  EXPECT_EQ(split.code, 0) << split.err;
  EXPECT_THAT(split.err, HasSubstr("1 epochs were split"));
}

// Into a living instance, a load says that it turns time back, unless it is told what to do.
TEST_F(CtlProcess, LoadWarnsBeforeItTurnsTimeBack) {
  out({"set", "a", "1"});
  out({"set", "b", "1"});
  const std::string dump = out({"dump"});
  out({"set", "a", "2"});
  out({"del", "b"});
  out({"set", "version", "1", "--version", "5"});

  const Result if_empty = ctl({"load", "--if-empty"}, dump);
  EXPECT_EQ(if_empty.code, 0) << if_empty.err;
  EXPECT_THAT(if_empty.err, HasSubstr("nothing is loaded"));
  EXPECT_EQ(ctl({"get", "b"}).code, 1);

  const Result missing = ctl({"load", "--missing"}, dump);
  EXPECT_EQ(missing.code, 0) << missing.err;
  EXPECT_THAT(missing.err, Not(HasSubstr("replaces")));
  EXPECT_THAT(missing.err, HasSubstr("1 entries left out: their keys are there"));
  EXPECT_EQ(out({"get", "a", "b"}), "a  2\nb  1\n");

  const Result plain = ctl({"load"}, dump);
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_THAT(plain.err, HasSubstr("has 3 entries: what the dump holds replaces them"));
  EXPECT_EQ(out({"get", "a"}), "1\n");
}

// --missing leaves the decision to the merger: a key that was set after the look is not turned back either.
TEST_F(CtlProcess, LoadOfMissingKeysLosesToWhoSetsThemMeanwhile) {
  ASSERT_TRUE(eventually([&] { return fs::is_empty(instance() / "writers" / "rings"); }));
  merger_->signal(SIGSTOP);
  Process set(command({"set", "k", "new", "--timeout", "60s"}));
  ASSERT_TRUE(eventually([&] { return !fs::is_empty(instance() / "writers" / "rings"); }));
  Process load(command({"load", "--missing"}), "# shmstate dump 2\nk\tbytes\told\tepoch=1\n# end 1\n");
  ASSERT_TRUE(eventually([&] {
    const auto begin = fs::directory_iterator(instance() / "writers" / "rings");
    return std::distance(begin, fs::directory_iterator()) == 2;
  }));
  merger_->signal(SIGCONT);
  EXPECT_EQ(load.wait(), 0) << load.err();
  EXPECT_EQ(set.wait(), 0) << set.err();
  EXPECT_EQ(out({"get", "k"}), "new\n");
}

// An empty instance gives no reason to warn, and is loaded with any option.
TEST_F(CtlProcess, LoadIntoAnEmptyInstanceSaysNothing) {
  const std::string dump = "# shmstate dump 2\nk\tint64\t1\tepoch=1\tversion=4\n# end 1\n";
  for (const Arguments& arguments : {Arguments{"load"}, {"load", "--missing"}, {"load", "--if-empty", "--missing"}}) {
    const Result result = ctl(arguments, dump);
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.err, "");
    EXPECT_EQ(out({"get", "k"}), "1\n");
    out({"del", "k"});
  }
}

// get -v shows what else an entry has, and set and del take part in the order of versions.
TEST_F(CtlProcess, ShowsAndSetsVersions) {
  out({"set", "k", "1", "--version", "5", "--ttl", "1h"});
  out({"set", "k", "2", "--version", "4"});
  const std::string table = out({"get", "-v", "k"});
  EXPECT_THAT(table, StartsWith("KEY  TYPE   EPOCH  VERSION  TIME TO LIVE  VALUE\nk    int64  "));
  EXPECT_THAT(table, HasSubstr("  5        59 min"));
  EXPECT_THAT(table, HasSubstr("  1\n"));
  out({"del", "k", "--version", "4"});
  EXPECT_EQ(out({"get", "k"}), "1\n");
  out({"del", "k", "--version", "6"});
  EXPECT_EQ(ctl({"get", "-v", "k"}).code, 1);
  out({"set", "k", "3", "--version", "6"});
  EXPECT_EQ(ctl({"get", "k"}).code, 1);
  EXPECT_EQ(ctl({"get", "-v", "--raw", "k"}).code, 2);
}

// With --initial, the state that is there comes first, and counts.
TEST_F(CtlProcess, WatchPrintsTheInitialStateWhenAsked) {
  out({"set", "w/a", "1"});
  out({"set", "w/b", "2"});
  out({"set", "other", "3"});
  const std::string text = out({"watch", "w/", "--initial", "--count", "2"});
  EXPECT_THAT(text, HasSubstr(" set w/a 1\n"));
  EXPECT_THAT(text, HasSubstr(" set w/b 2\n"));
  EXPECT_THAT(text, Not(HasSubstr("other")));
}

// What is asked for is of this moment: the merger writes its statistics now and then only.
TEST_F(CtlProcess, StatusAndDoctorAreFresh) {
  const auto statistic = [](const Json& status, const std::string& name) {
    for (const Json& one : status["statistics"]) {
      if (one["name"] == name) return one["value"].get<std::uint64_t>();
    }
    return std::uint64_t{0};
  };
  for (int i = 0; i < 20; ++i) {
    out({"set", "text", "hello"});
    const Json before = json({"status", "--json", "--interval", "0"});
    ASSERT_EQ(statistic(before, "mutations_rejected"), i);
    ASSERT_GE(before["epoch"], statistic(before, "publishes"));
    ASSERT_EQ(ctl({"add", "text", "1"}).code, 6);
    const Result doctor = ctl({"doctor"});
    ASSERT_EQ(doctor.code, 9) << doctor.out;
    ASSERT_THAT(doctor.out, HasSubstr("mutations_rejected " + std::to_string(i + 1)));
  }
}

// An agent pushes for who cannot write: each command waits until it is readable, and tells what became of it.
/// What `--version` and `--ttl` say, and what an entry of a dump has of them, reaches a key through an agent, too.
template <typename AtAgent>
void must_carry_versions_and_times_to_live(const AtAgent& at_agent) {
  const auto expect = [&](const Arguments& wanted, std::string_view input, std::string_view table) {
    const Result result = at_agent(wanted, input);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(at_agent({"get", "-v", "kept"}, {}).out, HasSubstr(table));
  };
  expect({"set", "--ttl", "1h", "kept", "1"}, {}, "  59 min");
  expect({"set", "--version", "7", "--ttl", "1h", "kept", "2"}, {}, "  7        59 min");
  expect({"set", "--version", "6", "kept", "3"}, {}, "  2\n");  // too late, which is no error
  expect({"del", "--version", "6", "kept"}, {}, "  2\n");
  const std::string entry = "kept\tint64\t4\tepoch=1\tversion=9\tttl_ns=";
  expect({"load"}, "# shmstate dump 2\n" + entry + "3599999999999\n# end 1\n", "  9        59 min");
  EXPECT_EQ(at_agent({"del", "--version", "10", "kept"}, {}).code, 0);
  EXPECT_EQ(at_agent({"get", "kept"}, {}).code, 1);
  EXPECT_EQ(at_agent({"set", "--ttl", "1us", "kept", "5"}, {}).code, 8) << "the agent's shortest is 1 ms";
}

TEST_F(CtlProcess, SendsToAnAgent) {
  const std::string socket = (root_ / "agent.sock").string();
  for (const bool with_answers : {false, true}) {
    Arguments arguments{SHMSTATE_AGENT, instance().string(), "--socket", socket};
    if (with_answers) arguments.emplace_back("--ack");
    Process agent(arguments);
    const auto at_agent = [&](Arguments wanted, std::string_view input = {}) {
      wanted.insert(wanted.begin(), {"--connect", socket});
      return ctl(wanted, input);
    };
    ASSERT_TRUE(eventually([&] { return at_agent({"set", "count", "40"}).code == 0; })) << agent.err();
    EXPECT_EQ(at_agent({"add", "count", "2"}).code, 0);
    EXPECT_EQ(out({"get", "count"}), "42\n");
    EXPECT_EQ(at_agent({"set", "key \"with\" all", "-"}, every_byte()).code, 0);
    EXPECT_EQ(out({"get", "--raw", "key \"with\" all"}), every_byte());
    EXPECT_EQ(at_agent({"set", "float", "inf", "--type", "float"}).code, 0);
    EXPECT_EQ(out({"get", "float"}), "inf\n");
    EXPECT_EQ(at_agent({"del", "float"}).code, 0);
    EXPECT_EQ(ctl({"get", "float"}).code, 1);
    EXPECT_EQ(at_agent({"get", "count"}).out, "42\n");  // reads are local
    must_carry_versions_and_times_to_live(at_agent);

    const Result rejected = at_agent({"add", "key \"with\" all", "1"});
    EXPECT_EQ(rejected.code, 6) << rejected.err;
    EXPECT_THAT(rejected.err, HasSubstr("rejected by the merger"));

    const std::string dump = out({"dump"});
    out({"del", "count"});
    EXPECT_EQ(at_agent({"load"}, dump).code, 0);
    EXPECT_EQ(out({"get", "count"}), "42\n");
    agent.signal(SIGTERM);
    EXPECT_EQ(agent.wait(), 0) << agent.err();
  }
  const Result absent = ctl({"--connect", socket, "set", "k", "1"});
  EXPECT_EQ(absent.code, 3);
  EXPECT_THAT(absent.err, HasSubstr("start shmstate-writer-agent with --socket"));
}

// A healthy instance has nothing worse than notes; each thing that is wrong is found, with its remedy and exit code.
TEST_F(CtlProcess, DoctorFindsWhatIsWrong) {
  // A merger that is late on a busy machine is a finding, too, but not for long.
  const auto expect = [](std::vector<int> codes, const std::string& text, const Process::Setup& setup = {}) {
    Result result;
    EXPECT_TRUE(eventually([&] {
      result = ctl({"-i", "plant", "doctor"}, {}, setup);
      return std::count(codes.begin(), codes.end(), result.code) == 1 && result.out.find(text) != std::string::npos;
    })) << text
        << '\n'
        << result.code << '\n'
        << result.out << result.err;
  };
  const std::vector<int> healthy = {0, 9};  // 9: the file system of the test is a small one
  expect(healthy, "running, pid " + std::to_string(merger_->pid()));

  fs::permissions(instance() / "snapshot", fs::perms::others_write, fs::perm_options::add);
  expect({9}, "others than the merger may write");
  fs::permissions(instance() / "snapshot", fs::perms::others_write, fs::perm_options::remove);

  fs::permissions(root_, fs::perms::all);
  fs::permissions(instance() / "control", fs::perms::none);
  expect({4}, "this user cannot read", [] {
    if (::geteuid() == 0 && ::setuid(kNobody) != 0) ::_exit(126);
  });
  fs::permissions(instance() / "control", fs::perms::owner_read | fs::perms::owner_write);

  merger_->signal(SIGSTOP);
  expect({5}, "is silent for");
  merger_->signal(SIGCONT);
  expect(healthy, "running, pid ");
  stop_merger();
  expect({5}, "none is running");
  const Result findings = ctl({"-i", "plant", "doctor", "--json"});
  EXPECT_EQ(Json::parse(findings.out)["findings"][0]["severity"], "ok");
  EXPECT_EQ(ctl({"-i", "nowhere", "doctor"}).code, 3);
}

/// Gives up root, if this is root, and all its groups.
Process::Setup as_stranger(gid_t group = kNobody) {
  return [group] {
    if (::geteuid() != 0) return;
    if (::setgroups(0, nullptr) != 0 || ::setgid(group) != 0 || ::setuid(kNobody) != 0) ::_exit(126);
  };
}

// Above the instance no group helps: the directory that is closed is named, also when the instance is given by name.
TEST_F(CtlProcess, DoctorCalledAClosedMountAMatterOfTheGroup) {
  fs::permissions(root_, fs::perms::owner_read | fs::perms::owner_write);
  const Result result = ctl({"-i", "plant", "doctor"}, {}, as_stranger());
  fs::permissions(root_, fs::perms::owner_all);
  EXPECT_EQ(result.code, 4) << result.out;
  EXPECT_THAT(result.out, HasSubstr("this user cannot search " + root_.string() + ": mode 0600"));
  EXPECT_THAT(result.out, HasSubstr("-> let others search it (mode 0755)"));
  EXPECT_THAT(result.out, Not(HasSubstr("adduser")));
  EXPECT_THAT(result.out, Not(HasSubstr("must belong")));
}

// The command to join a group can be copied; a stranger learns of both groups.
TEST_F(CtlProcess, DoctorNamesTheGroupsToJoin) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files to other groups";
  constexpr gid_t kReaders = 1, kWriters = 2;  // daemon and bin
  fs::permissions(root_, fs::perms::owner_all | fs::perms::others_exec);
  ASSERT_EQ(::chown(instance().c_str(), 0, kReaders), 0);
  ASSERT_EQ(::chown((instance() / "control").c_str(), 0, kReaders), 0);
  ASSERT_EQ(::chown((instance() / "writers").c_str(), 0, kWriters), 0);
  const Result stranger = ctl({"-i", "plant", "doctor"}, {}, as_stranger());
  EXPECT_EQ(stranger.code, 4) << stranger.out;
  EXPECT_THAT(stranger.out, HasSubstr("-> adduser nobody daemon, and log in again\n"));
  EXPECT_THAT(stranger.out, HasSubstr("and log in again; and the same with the group of its writers"));
  const Result reader = ctl({"-i", "plant", "doctor"}, {}, as_stranger(kReaders));
  EXPECT_THAT(reader.out, HasSubstr("-> adduser nobody bin, and log in again\n"));
  EXPECT_THAT(reader.out, Not(HasSubstr("adduser nobody daemon")));
}

// Whoever may not enter is not told that there is nothing, but what is closed and which group to join.
TEST_F(CtlProcess, WhoMayNotEnterWasToldThatThereIsNoInstance) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files to other groups";
  constexpr gid_t kReaders = 1;  // daemon
  fs::permissions(root_, fs::perms::owner_all | fs::perms::others_read | fs::perms::others_exec);
  ASSERT_EQ(::chown(instance().c_str(), 0, kReaders), 0);
  for (const Arguments& arguments : {Arguments{"get", "k"},
                                     {"set", "k", "1"},
                                     {"status"},
                                     {"list"},
                                     {"dump"},
                                     {"watch"},
                                     {"-i", "plant", "get", "k"},
                                     {"-i", "plant", "set", "k", "1"},
                                     {"-i", instance().string(), "status"}}) {
    const Result result = ctl(arguments, {}, as_stranger());
    EXPECT_EQ(result.code, 4) << result.err;
    EXPECT_THAT(result.err, HasSubstr(instance().string()));
    EXPECT_THAT(result.err, HasSubstr("adduser nobody daemon"));
    EXPECT_THAT(result.err, HasSubstr("log in again"));
    EXPECT_THAT(result.err, Not(HasSubstr("start")));
  }
  const Result doctor = ctl({"doctor"}, {}, as_stranger());
  EXPECT_EQ(doctor.code, 4) << doctor.out << doctor.err;
  EXPECT_THAT(doctor.out, HasSubstr("adduser nobody daemon"));
  const Result instances = ctl({"instances"}, {}, as_stranger());
  EXPECT_EQ(instances.code, 0);
  EXPECT_THAT(instances.err, HasSubstr("adduser nobody daemon"));
  EXPECT_EQ(ctl({"get", "k"}, {}, as_stranger(kReaders)).code, 4);  // control is for the group of the merger still
  ASSERT_EQ(::chown((instance() / "control").c_str(), 0, kReaders), 0);
  ASSERT_EQ(::chown((instance() / "snapshot").c_str(), 0, kReaders), 0);
  const Result half = ctl({"-i", "plant", "doctor"}, {}, as_stranger(kReaders));
  EXPECT_THAT(half.out, HasSubstr("can read single keys, but take no snapshot"));
  ASSERT_EQ(::chown((instance() / "pins").c_str(), 0, kReaders), 0);
  EXPECT_EQ(ctl({"get", "k"}, {}, as_stranger(kReaders)).code, 1);
}

// A root that is closed is named, by name and without one, instead of an instance that does not exist.
TEST_F(CtlProcess, AClosedRootWasTakenForAnEmptyOne) {
  if (::geteuid() != 0) GTEST_SKIP() << "root alone can become somebody else";
  for (const Arguments& arguments : {Arguments{"get", "k"}, {"-i", "plant", "get", "k"}}) {
    const Result result = ctl(arguments, {}, as_stranger());  // 0700, as mkdtemp made it
    EXPECT_EQ(result.code, 4) << result.err;
    EXPECT_THAT(result.err, HasSubstr(root_.string() + ": mode 0700"));
    EXPECT_THAT(result.err, HasSubstr("let others search it"));
  }
  fs::permissions(root_, fs::perms::owner_all | fs::perms::group_exec | fs::perms::others_exec);  // a name is needed
  const Result unlisted = ctl({"get", "k"}, {}, as_stranger());
  EXPECT_EQ(unlisted.code, 4) << unlisted.err;
  EXPECT_THAT(unlisted.err, HasSubstr(root_.string() + ": mode 0711"));
}

// Root needs no group, and what is missing is no matter of permissions.
TEST_F(CtlProcess, DoctorToldRootToJoinItsOwnGroup) {
  stop_merger();
  fs::remove_all(instance() / "writers" / "rings");
  fs::remove(instance() / "snapshot");
  fs::resize_file(instance() / "control", 0);
  const Result half_made = ctl({"-i", "plant", "doctor"});
  EXPECT_EQ(half_made.code, 3) << half_made.out;
  EXPECT_THAT(half_made.out, HasSubstr("rings: No such file or directory"));
  EXPECT_THAT(half_made.out, HasSubstr("-> start its merger, which makes what is missing"));
  EXPECT_THAT(half_made.out, HasSubstr("its creation has not finished"));
  EXPECT_THAT(half_made.out, Not(HasSubstr("adduser")));
  EXPECT_THAT(half_made.out, Not(HasSubstr("the state is lost")));
}

// A snapshot file that was cut, that is missing, or that is of another instance is found, and what to do about it is
// said.
TEST_F(CtlProcess, DoctorKnowsForeignSnapshots) {
  const auto expect = [](int code, const char* finding, const char* remedy) {
    const Result result = ctl({"-i", "plant", "doctor"});
    EXPECT_EQ(result.code, code) << result.out;
    EXPECT_THAT(result.out, HasSubstr(finding));
    EXPECT_THAT(result.out, HasSubstr(remedy));
  };
  stop_merger();
  start_merger("other");
  stop_merger();
  const auto epoch = [](const char* name) {
    return json({"-i", name, "status", "--json"})["epoch"].get<std::uint64_t>();
  };
  const std::uint64_t other_epoch = epoch("other") + 1;  // its back buffer bears the next one
  start_merger();
  while (epoch("plant") <= other_epoch) out({"-i", "plant", "set", "k", "1"});
  stop_merger();
  const fs::path snapshot = instance() / "snapshot";
  fs::rename(root_ / "other" / "snapshot", snapshot);
  expect(7, "snapshot is not the one that control describes", "remove the directory and restart the merger");
  fs::resize_file(snapshot, 4096);
  expect(7, "snapshot is truncated", "remove the directory and restart the merger");
  fs::remove(snapshot);
  expect(3, "cannot read", "remove the directory and restart the merger");
}

void overwrite(const fs::path& file, std::streamoff offset, std::string_view bytes) {
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(offset) << bytes;
}

// Files of an earlier boot and of another layout are told apart from damage, each with both sides named.
TEST_F(CtlProcess, DoctorKnowsForeignFiles) {
  stop_merger();
  overwrite(instance() / "control", 64, "another boot, ok");  // Identity::boot_id
  const Result boot = ctl({"doctor"});
  EXPECT_EQ(boot.code, 7) << boot.out;
  EXPECT_THAT(boot.out, HasSubstr("earlier boot"));
  overwrite(instance() / "control", 8, "\x63");  // Identity::layout_major
  const Result version = ctl({"doctor"});
  EXPECT_EQ(version.code, 7) << version.out;
  EXPECT_THAT(version.out, HasSubstr("has layout 99."));
  EXPECT_THAT(version.out, HasSubstr("this program reads layout"));
}

// A quarantined ring is named with its writer.
TEST_F(CtlProcess, DoctorNamesQuarantinedRings) {
  Writer writer(instance().string(), {.name = "pump"});
  writer.set("a", 1);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  std::string ring(16, '0');
  std::snprintf(ring.data(), ring.size() + 1, "%016llx", static_cast<unsigned long long>(writer.ring_id()));
  overwrite(instance() / "writers" / "rings" / ring, 128, std::string(8, '\x77'));  // RingHeader::tail
  EXPECT_TRUE(eventually([] {
    const Result result = ctl({"doctor"});
    return result.code == 6 && result.out.find("of \"pump\"") != std::string::npos &&
           result.out.find("is quarantined") != std::string::npos &&
           result.out.find("its tail is impossible") != std::string::npos;
  }));
  EXPECT_THAT(out({"status"}), HasSubstr("is quarantined: its tail is impossible"));
}

// The status names who pins a buffer, and how fast each ring is merged.
TEST_F(CtlProcess, StatusNamesPinHoldersAndRates) {
  Writer writer(instance().string());
  writer.set("a", 1);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  Reader reader(instance().string());
  const Snapshot snapshot = reader.snapshot();
  std::string pinned_by;
  EXPECT_TRUE(eventually([&] {
    const Json status = json({"status", "--json", "--interval", "1ms"});
    pinned_by.clear();
    for (const Json& buffer : status["buffers"]) pinned_by += buffer["pinned_by"].dump();
    return !status["rings"].empty() && status["rings"][0].contains("mutations_per_s");
  }));
  EXPECT_THAT(pinned_by, HasSubstr("\"pid\":" + std::to_string(::getpid())));
  EXPECT_THAT(out({"status"}), HasSubstr("by pid " + std::to_string(::getpid()) + " ("));
}

TEST_F(CtlProcess, StatusShowsRatesAlsoWithoutRings) {
  EXPECT_TRUE(json({"status", "--json", "--interval", "1ms"}).contains("rates"));
}

// Who keeps the merger from publishing is found while it lasts.
TEST_F(CtlProcess, DoctorFindsPinsThatHoldUpPublishing) {
  stop_merger();
  start_merger("plant", {"--pin-time-max", "0s"});
  const auto pins = [] { return ctl({"doctor"}).out.find("pid " + std::to_string(::getpid())) != std::string::npos; };
  Reader reader(instance().string());
  Writer writer(instance().string());
  std::vector<Snapshot> snapshots;  // of all buffers but the current one
  for (int i = 0; i < 2; ++i) {
    snapshots.push_back(reader.snapshot());
    writer.set("a", i);
    ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  }
  writer.set("a", 2);
  EXPECT_TRUE(eventually(pins));
  const Result pushed = ctl({"set", "b", "1", "--timeout", "10ms"});
  EXPECT_EQ(pushed.code, 5);
  EXPECT_THAT(pushed.err, HasSubstr("they pin all that could be written: see shmstatectl doctor"));
  snapshots.clear();
  EXPECT_FALSE(pins());
}

// A counter that this shmstatectl has never heard of is shown under the name and meaning that the instance gives it.
TEST_F(CtlProcess, StatusShowsUnknownStatistics) {
  stop_merger();
  std::uint64_t statistic_offset = 0;
  std::ifstream control(instance() / "control", std::ios::binary);
  control.seekg(144).read(reinterpret_cast<char*>(&statistic_offset), sizeof statistic_offset);
  overwrite(instance() / "control", static_cast<std::streamoff>(statistic_offset), std::string("never_heard_of\0", 15));
  overwrite(instance() / "control", static_cast<std::streamoff>(statistic_offset) + 48,
            std::string("a new meaning\0", 14));
  EXPECT_THAT(out({"status", "-v"}), HasSubstr("never_heard_of"));
  EXPECT_THAT(out({"status", "-v"}), HasSubstr("a new meaning"));
  EXPECT_EQ(json({"status", "--json"})["statistics"][0]["name"], "never_heard_of");
}

/// A program on a terminal of its own.
class OnTerminal {
 public:
  explicit OnTerminal(const Arguments& arguments, std::uint16_t rows = 24, std::uint16_t columns = 100) {
    winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    int own_end = -1;
    if (::openpty(&terminal_, &own_end, nullptr, nullptr, &size) != 0) std::abort();
    ::fcntl(terminal_, F_SETFD, FD_CLOEXEC);  // it hangs up when this process closes it
    ::tcgetattr(own_end, &before_);
    pid_ = ::fork();
    if (pid_ != 0) {
      ::close(own_end);
      return;
    }
    ::login_tty(own_end);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setenv("TERM", "xterm", 1);
    std::vector<char*> argv;
    for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  OnTerminal(const OnTerminal&) = delete;
  OnTerminal& operator=(const OnTerminal&) = delete;
  ~OnTerminal() {
    hang_up();
    if (code_) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void type(std::string_view keys) const {
    EXPECT_EQ(::write(terminal_, keys.data(), keys.size()), ssize_t(keys.size()));
  }
  void resize(std::uint16_t rows, std::uint16_t columns) const {
    const winsize size{.ws_row = rows, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::ioctl(terminal_, TIOCSWINSZ, &size), 0);
  }
  /// What it has written so far.
  const std::string& screen() {
    pollfd ready{.fd = terminal_, .events = POLLIN, .revents = 0};
    char bytes[4096];
    while (::poll(&ready, 1, 0) > 0) {
      const ssize_t got = ::read(terminal_, bytes, sizeof bytes);
      if (got <= 0) break;
      screen_.append(bytes, static_cast<std::size_t>(got));
    }
    return screen_;
  }
  [[nodiscard]] bool eventually_shows(std::string_view text) {
    return eventually([&] { return screen().find(text) != std::string::npos; });
  }
  void forget() { screen_.clear(); }
  void signal(int number) const { ::kill(pid_, number); }
  void hang_up() {
    if (terminal_ >= 0) ::close(terminal_);
    terminal_ = -1;
  }
  /// Whether lines and echo work as before, and the screen that was there is back.
  [[nodiscard]] bool is_as_before() {
    termios now{};
    ::tcgetattr(terminal_, &now);
    const bool same_modes = now.c_lflag == before_.c_lflag && now.c_iflag == before_.c_iflag &&
                            now.c_oflag == before_.c_oflag && now.c_cflag == before_.c_cflag;
    const auto last = [this](const char* sequence) { return static_cast<std::ptrdiff_t>(screen().rfind(sequence)); };
    return same_modes && last("\x1B[?1049h") <= last("\x1B[?1049l");
  }
  int wait() {
    const bool ended = eventually([this] {
      screen();
      int status = 0;
      if (!code_ && ::waitpid(pid_, &status, WNOHANG) == pid_)
        code_ = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
      return code_.has_value();
    });
    return ended ? *code_ : -1000;
  }

 private:
  int terminal_ = -1;
  termios before_{};
  pid_t pid_ = 0;
  std::string screen_;
  std::optional<int> code_;
};

// Long work on a terminal shows how far it is, and takes the bar away; a file gets none.
TEST_F(CtlProcess, LongWorkShowsProgressOnATerminal) {
  const fs::path file = root_ / "dump.txt";
  std::ofstream(file) << "# shmstate dump 1\n"
                      << "k\tbytes\t" << std::string(1'000'000, 'x') << "\nl\tint64\t1\n# end 2\n";
  OnTerminal load(command({"-i", "plant", "load", file.string()}));
  EXPECT_EQ(load.wait(), 0) << load.screen();
  EXPECT_THAT(load.screen(), HasSubstr("reading ["));
  EXPECT_THAT(load.screen(), testing::EndsWith("\r\x1B[K"));
  const Result quiet = ctl({"-i", "plant", "load", file.string()});
  EXPECT_EQ(quiet.code, 0);
  EXPECT_THAT(quiet.err, Not(HasSubstr("[")));
}

// top shows rates, rings and hot keys, follows the size of the terminal, a merger that ends and an instance that is
// re-created, and leaves the terminal as it was.
TEST_F(CtlProcess, TopFollowsTheInstance) {
  Writer writer(instance().string(), {.name = "pump station"});
  OnTerminal top(command({"-i", "plant", "top", "--interval", "100ms"}));
  ASSERT_TRUE(top.eventually_shows("RINGS")) << top.screen();
  EXPECT_TRUE(top.eventually_shows("pump station")) << top.screen();
  const std::string pid = std::to_string(merger_->pid());
  EXPECT_TRUE(top.eventually_shows("running, pid " + pid)) << top.screen();
  EXPECT_TRUE(eventually([&] {
    writer.set("hot/key", 1);
    return top.screen().find("hot/key") != std::string::npos;
  })) << top.screen();

  top.forget();
  top.resize(10, 30);
  EXPECT_TRUE(top.eventually_shows("RINGS")) << top.screen();
  top.resize(30, 120);
  top.type("p");
  EXPECT_TRUE(top.eventually_shows("PAUSED")) << top.screen();
  top.type("p");

  stop_merger();
  EXPECT_TRUE(top.eventually_shows("not running, silent for")) << top.screen();
  fs::remove_all(instance());
  EXPECT_TRUE(top.eventually_shows("seen before that")) << top.screen();
  start_merger();
  EXPECT_TRUE(top.eventually_shows("re-created")) << top.screen();

  top.type("q");
  EXPECT_EQ(top.wait(), 0) << top.screen();
  EXPECT_TRUE(top.is_as_before()) << top.screen();
}

// However top is ended, the terminal is as it was before; when the terminal itself goes, so does top.
TEST_F(CtlProcess, TopLeavesTheTerminalAsItWas) {
  for (const int signal : {SIGINT, SIGTERM}) {
    OnTerminal top(command({"-i", "plant", "top"}));
    ASSERT_TRUE(top.eventually_shows("RINGS")) << top.screen();
    EXPECT_FALSE(top.is_as_before()) << "nothing is tested";
    top.signal(signal);
    EXPECT_EQ(top.wait(), 0) << top.screen();
    EXPECT_TRUE(top.is_as_before()) << signal << top.screen();
  }
  OnTerminal top(command({"-i", "plant", "top"}));
  ASSERT_TRUE(top.eventually_shows("RINGS")) << top.screen();
  top.hang_up();
  EXPECT_EQ(top.wait(), 0);
}

// Where top cannot work, it says so, and changes no terminal.
TEST_F(CtlProcess, TopNeedsATerminalAndAnInstance) {
  const Result piped = ctl({"-i", "plant", "top"});
  EXPECT_EQ(piped.code, 2);
  EXPECT_THAT(piped.err, HasSubstr("top needs a terminal"));
  EXPECT_EQ(ctl({"-i", "plant", "top", "--json"}).code, 2);
  EXPECT_EQ(ctl({"-i", "plant", "top", "--interval", "1ms"}).code, 2);
  OnTerminal missing(command({"-i", "nowhere", "top"}));
  EXPECT_EQ(missing.wait(), 3) << missing.screen();
  EXPECT_TRUE(missing.is_as_before());
  OnTerminal unknown({"/usr/bin/env", "TERM=no-such-terminal", SHMSTATE_CTL, "-i", "plant", "top"});
  EXPECT_EQ(unknown.wait(), 2) << unknown.screen();
  EXPECT_THAT(unknown.screen(), HasSubstr("set TERM"));
}

// All instances are listed with who serves them, also those that cannot be looked at; nothing is an error.
TEST_F(CtlProcess, InstancesAreListedWithTheirState) {
  out({"set", "k", "1"});
  EXPECT_THAT(out({"instances"}), testing::ContainsRegex("plant +running +[0-9]+ +1 +[a-z0-9_]+\n"));
  merger_->signal(SIGSTOP);
  EXPECT_TRUE(eventually([] { return out({"instances"}).find("silent for ") != std::string::npos; }));
  merger_->signal(SIGCONT);
  stop_merger();
  fs::create_directory(root_ / "torn\n");
  std::ofstream(root_ / "torn\n" / "control") << "";

  const Result result = ctl({"instances"});
  EXPECT_EQ(result.code, 0);
  EXPECT_THAT(result.out, HasSubstr("not running for "));
  EXPECT_THAT(result.out, testing::ContainsRegex("torn\\\\n +- "));
  EXPECT_THAT(result.err, HasSubstr("its creation has not finished"));
  const Json instances = json({"instances", "--json"})["instances"];
  ASSERT_EQ(instances.size(), 2U);
  EXPECT_EQ(instances[0]["instance"], instance().string());
  EXPECT_EQ(instances[0]["name"], "plant");
  EXPECT_EQ(instances[0]["merger"]["running"], false);
  EXPECT_EQ(instances[0]["entry_count"], 1);
  EXPECT_THAT(instances[1]["problem"], HasSubstr("its creation has not finished"));

  fs::remove_all(instance());
  fs::remove_all(root_ / "torn\n");
  EXPECT_EQ(out({"instances"}), "no instances\n");
  EXPECT_EQ(json({"instances", "--json"})["instances"], Json::array());
}

// The only instance need not be named; among several the choice is asked for, by name.
TEST_F(CtlProcess, AsksWhichInstanceWhenThereAreSeveral) {
  out({"set", "k", "first"});
  merger_.reset();
  start_merger("second");
  const Result result = ctl({"get", "k"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr((root_ / "plant").string()));
  EXPECT_THAT(result.err, HasSubstr((root_ / "second").string()));
  EXPECT_EQ(out({"get", "k", "-i", "plant"}), "first\n");
  ::setenv("SHMSTATE_INSTANCE", "plant", 1);
  EXPECT_EQ(out({"get", "k"}), "first\n");
  ::unsetenv("SHMSTATE_INSTANCE");
  fs::remove_all(root_ / "plant");
  EXPECT_EQ(ctl({"get", "k"}).code, 1);
  merger_.reset();
  fs::remove_all(root_ / "second");
  EXPECT_EQ(ctl({"get", "k"}).code, 3);
}

}  // namespace
}  // namespace shmstate
