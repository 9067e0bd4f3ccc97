#include "harness/process_support.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "shmstate/inspect.h"

namespace shmstate::test {
using namespace internal;
namespace {

namespace fs = std::filesystem;

constexpr auto kPollInterval = std::chrono::milliseconds(1);

std::string text_of(const os::Fd& file) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::pread(file.get(), buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (got <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

os::Fd memory_file(const std::string& text) {
  os::Fd file(::memfd_create("shmstate-test", MFD_CLOEXEC));
  must(file.is_open() && ::pwrite(file.get(), text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()),
       "memfd_create");
  return file;
}

void write_all(const os::Fd& pipe, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(pipe.get(), text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

std::string read_all(const os::Fd& pipe) {
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t got = ::read(pipe.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

std::string complaint_of(const std::function<void()>& body) {
  try {
    body();
    return "";
  } catch (const std::exception& error) {
    return *error.what() != '\0' ? error.what() : "an exception without a message";
  }
}

[[noreturn]] void execute(const std::string& executable, const std::vector<std::string>& arguments, const os::Fd& input,
                          const os::Fd& output, const ProgramSettings& settings) {
  std::vector<char*> words{const_cast<char*>(executable.c_str())};
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  ::dup2(input.get(), STDIN_FILENO);
  ::dup2(output.get(), STDOUT_FILENO);
  ::dup2(output.get(), STDERR_FILENO);
  const os::Fd file = os::open_file(executable, O_PATH);  // opened first: another user may not be able to
  if (settings.user) become(*settings.user);
  if (settings.setup) settings.setup();
  ::fexecve(file.get(), words.data(), environ);
  ::_exit(127);
}

}  // namespace

bool is_long_run() {
  const char* const wanted = std::getenv("SHMSTATE_TEST_LONG");
  return wanted != nullptr && std::string_view(wanted) == "1";
}

void must(bool holds, std::string_view otherwise) {
  if (!holds) throw Broken(std::string(otherwise));
}

void must_be_ok(Status status, std::string_view what) {
  if (status != Status::kOk) throw Broken(std::string(what) + ": " + std::string(describe(status)));
}

void eventually(std::string_view promise, const std::function<bool()>& condition, std::chrono::seconds patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    must(std::chrono::steady_clock::now() < deadline, std::string("waited in vain for: ") + std::string(promise));
    std::this_thread::sleep_for(kPollInterval);
  }
}

// ---- Process

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)), exit_code_(std::exchange(other.exit_code_, std::nullopt)) {}

Process& Process::operator=(Process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(exit_code_, other.exit_code_);
  return *this;
}

Process::~Process() {
  if (pid_ == 0 || has_ended()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

pid_t Process::fork_here() {
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  must(pid_ >= 0, "fork");
  if (pid_ > 0) return pid_;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  return 0;
}

void Process::signal(int number) const { must(::kill(pid_, number) == 0, "kill"); }

void Process::stop() const {
  signal(SIGSTOP);
  int status = 0;
  must(::waitpid(pid_, &status, WUNTRACED) == pid_ && WIFSTOPPED(status), "a process ended instead of stopping");
}

void Process::go_on() const { signal(SIGCONT); }

bool Process::has_ended() {
  int status = 0;
  if (!exit_code_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  return exit_code_.has_value();
}

int Process::wait() {
  const auto patience = is_long_run() ? 30 * kPatience : kPatience;
  eventually(
      "the end of process " + std::to_string(pid_), [this] { return has_ended(); }, patience);
  return *exit_code_;
}

void Process::kill() {
  signal(SIGKILL);
  wait();
}

// ---- Child

Child::Child(const std::function<void()>& body) {
  int ends[2];
  must(::pipe2(ends, O_CLOEXEC) == 0, "pipe2");
  pipe_ = os::Fd(ends[0]);
  os::Fd write_end(ends[1]);
  if (fork_here() != 0) return;
  const std::string complaint = complaint_of(body);
  write_all(write_end, complaint);
  ::_exit(complaint.empty() ? 0 : 1);
}

std::string Child::verdict() {
  try {
    const int exit_code = wait();
    std::string complaint = read_all(pipe_);
    if (exit_code == 0 || !complaint.empty()) return complaint;
    return "ended with exit code " + std::to_string(exit_code);
  } catch (const Broken& too_long) {
    kill();
    return too_long.what();
  }
}

void expect_kept(std::vector<Child>& children) {
  for (std::size_t i = 0; i < children.size(); ++i) EXPECT_EQ(children[i].verdict(), "") << "child " << i;
}

// ---- Program

Program::Program(const std::string& executable, const std::vector<std::string>& arguments,
                 const ProgramSettings& settings)
    : output_(memory_file("")) {
  const os::Fd input = memory_file(settings.input);
  if (fork_here() == 0) execute(executable, arguments, input, output_, settings);
}

std::string Program::output() const { return text_of(output_); }

void become(const User& user) {
  must(::setgroups(user.groups.size(), user.groups.data()) == 0 && ::setresgid(user.gid, user.gid, user.gid) == 0 &&
           ::setresuid(user.uid, user.uid, user.uid) == 0,
       "cannot become another user");
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // lost by changing the user
}

Program launch_merger(const fs::path& instance, const std::vector<std::string>& options,
                      const ProgramSettings& settings) {
  std::vector<std::string> arguments{"--instance", instance};
  if (std::find(options.begin(), options.end(), "--memory-limit") == options.end()) {
    arguments.insert(arguments.end(), {"--memory-limit", "64m"});
  }
  arguments.insert(arguments.end(), options.begin(), options.end());
  return {SHMSTATE_MERGER, arguments, settings};
}

Program start_merger(const fs::path& instance, const std::vector<std::string>& options) {
  Program merger = launch_merger(instance, options);
  const auto serves = [&] {
    must(!merger.has_ended(), "the merger ended: " + merger.output());
    const std::string log = merger.output();
    return log.find("created " + instance.string()) != std::string::npos ||
           log.find("resumed " + instance.string()) != std::string::npos;
  };
  eventually("a merger that serves", serves);
  return merger;
}

std::uint64_t statistic(const fs::path& instance, std::string_view name) {
  for (const StatisticInfo& info : inspect(instance.string()).statistics) {
    if (info.name == name) return info.value;
  }
  throw Broken("no statistic is called " + std::string(name));
}

// ---- files and memory

TestDirectory::TestDirectory() {
  const char* const root = std::getenv("SHMSTATE_TEST_DIR");
  std::string name = (root != nullptr && *root != '\0' ? fs::path(root) : fs::path("/dev/shm")) / "process-test-XXXXXX";
  must(::mkdtemp(name.data()) != nullptr && ::chmod(name.c_str(), 0755) == 0, "cannot create " + name);
  path_ = name;
}

TestDirectory::~TestDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

SmallFilesystem::SmallFilesystem(fs::path path, const std::string& options) : path_(std::move(path)) {
  must(::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "unshare");
  fs::create_directory(path_);
  must(::mount("tmpfs", path_.c_str(), "tmpfs", 0, options.c_str()) == 0, "mount");
}

SmallFilesystem::~SmallFilesystem() { ::umount2(path_.c_str(), MNT_DETACH); }

void SmallFilesystem::remount(const std::string& options) const {
  must(::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT, options.c_str()) == 0, "remount");
}

void SmallFilesystem::fill(std::uint64_t spare) const {
  const std::uint64_t room = fs::space(path_).free;
  const os::Fd file = os::open_file(path_ / "filler", O_RDWR | O_CREAT, 0600);
  must(room > spare && ::posix_fallocate(file.get(), 0, static_cast<off_t>(room - spare)) == 0, "cannot fill");
}

}  // namespace shmstate::test
