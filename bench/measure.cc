#include "measure.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

namespace shmstate::bench {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(1);
constexpr auto kPatience = std::chrono::minutes(1);

void set_affinity(pid_t pid, int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  CPU_SET(static_cast<std::size_t>(core % static_cast<int>(std::thread::hardware_concurrency())), &cores);
  must(::sched_setaffinity(pid, sizeof cores, &cores) == 0, "sched_setaffinity failed");
}

/// Forks a child that dies with its parent; returns 0 in the child.
pid_t fork_child() {
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  must(pid >= 0, "fork failed");
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  if (::getppid() != parent) ::_exit(127);
  return 0;
}

void kill_and_collect(pid_t pid) noexcept {
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
}

std::string read_all(std::FILE* pipe) {
  std::string text;
  char buffer[4096];
  while (const std::size_t got = std::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, got);
  return text;
}

// On the pipe: "! complaint", or a line "name value" for each figure.
std::string outcome_text(const std::function<Figures()>& body) {
  try {
    std::ostringstream text;
    text.precision(std::numeric_limits<double>::max_digits10);
    for (const auto& [name, value] : body()) text << name << ' ' << value << '\n';
    return text.str();
  } catch (const std::exception& error) {
    return std::string("! ") + error.what();
  }
}

Figures figures_of(const std::string& text) {
  must(!text.starts_with("! "), text.substr(std::min<std::size_t>(2, text.size())));
  Figures figures;
  std::istringstream lines(text);
  std::string name;
  for (double value = 0; lines >> name >> value;) figures[name] = value;
  return figures;
}

double measure_ns_per_tick() {
  const Stopwatch stopwatch;
  const std::uint64_t start = ticks();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return stopwatch.ns() / static_cast<double>(ticks() - start);
}

}  // namespace

void pin_to_core(int core) { set_affinity(0, core); }
void pin_process(pid_t pid, int core) { set_affinity(pid, core); }

double ns_per_tick() {
  static const double ratio = measure_ns_per_tick();
  return ratio;
}

std::uint64_t tick_overhead() {
  static const std::uint64_t overhead = [] {
    std::uint64_t least = std::numeric_limits<std::uint64_t>::max();
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t start = ticks();
      least = std::min(least, ticks() - start);
    }
    return least;
  }();
  return overhead;
}

Figures Durations::percentiles(const std::string& prefix) {
  Figures figures;
  if (ticks_.empty()) return figures;
  std::sort(ticks_.begin(), ticks_.end());
  const auto at = [this](double share) {
    const auto place = static_cast<std::size_t>(share * static_cast<double>(ticks_.size()));
    return static_cast<double>(ticks_[std::min(place, ticks_.size() - 1)]) * ns_per_tick();
  };
  figures[prefix + "p50"] = at(0.5);
  figures[prefix + "p90"] = at(0.9);
  figures[prefix + "p99"] = at(0.99);
  figures[prefix + "p99.9"] = at(0.999);
  figures[prefix + "max"] = at(1.0);
  return figures;
}

// ---- Party

struct Party::Outcome {
  std::string text;
};

Party::Party(Kind kind, int core, std::function<Figures()> body) {
  if (kind == Kind::kProcess) {
    start_process(core, body);
    return;
  }
  outcome_ = std::make_shared<Outcome>();
  thread_ = std::thread([outcome = outcome_, core, run = std::move(body)] {
    pin_to_core(core);
    outcome->text = outcome_text(run);
  });
}

void Party::start_process(int core, const std::function<Figures()>& body) {
  int ends[2];
  must(::pipe2(ends, O_CLOEXEC) == 0, "pipe2 failed");
  pipe_.reset(::fdopen(ends[0], "r"));
  const std::unique_ptr<std::FILE, Close> write_end(::fdopen(ends[1], "w"));
  pid_ = fork_child();
  if (pid_ != 0) return;
  pipe_.reset();
  const std::string text = outcome_text([&] {
    pin_to_core(core);
    return body();
  });
  std::fwrite(text.data(), 1, text.size(), write_end.get());
  std::fflush(write_end.get());
  ::_exit(0);
}

Party::Party(Party&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      pipe_(std::move(other.pipe_)),
      thread_(std::move(other.thread_)),
      outcome_(std::move(other.outcome_)) {}

Party::~Party() {
  if (pid_ != 0) kill_and_collect(pid_);
  if (thread_.joinable()) thread_.join();
}

Figures Party::wait() {
  if (thread_.joinable()) {
    thread_.join();
    return figures_of(outcome_->text);
  }
  const std::string text = read_all(pipe_.get());
  int status = 0;
  ::waitpid(std::exchange(pid_, 0), &status, 0);
  must(WIFEXITED(status) && WEXITSTATUS(status) == 0,
       "a measuring process was killed by signal " + std::to_string(WIFSIGNALED(status) ? WTERMSIG(status) : 0));
  return figures_of(text);
}

Figures measure_apart(const std::function<Figures()>& body) {
  return Party(Party::Kind::kProcess, kMeasuredCore, body).wait();
}

// ---- Server

Server::Server(const std::vector<std::string>& command, const std::filesystem::path& log) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_ = fork_child();
  if (pid_ != 0) return;
  const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  set_affinity(0, kServerCore);
  ::execvp(words[0], words.data());
  ::_exit(127);
}

Server::Server(const std::function<void()>& body) {
  pid_ = fork_child();
  if (pid_ != 0) return;
  const std::string text = outcome_text([&] {
    pin_to_core(kServerCore);
    body();
    return Figures{};
  });
  std::fprintf(stderr, "shmstate: a contender's server ended: %s\n", text.c_str());
  ::_exit(1);
}

Server::Server(Server&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}

Server& Server::operator=(Server&& other) noexcept {
  std::swap(pid_, other.pid_);
  return *this;
}

Server::~Server() { end(); }

// Asked first: some programs leave files behind when they are killed.
void Server::end() noexcept {
  if (pid_ == 0) return;
  ::kill(pid_, SIGCONT);
  ::kill(pid_, SIGTERM);
  for (int i = 0; i < 5000; ++i) {
    if (::waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = 0;
      return;
    }
    std::this_thread::sleep_for(kPollInterval);
  }
  kill_and_collect(std::exchange(pid_, 0));
}

void Server::pause() const { ::kill(pid_, SIGSTOP); }
void Server::resume() const { ::kill(pid_, SIGCONT); }

bool Server::has_ended() {
  if (pid_ != 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = 0;
  return pid_ == 0;
}

double Server::cpu_ns() const {
  double total = 0;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task", error)) {
    std::ifstream file(task.path() / "schedstat");
    double used_ns = 0;
    if (file >> used_ns) total += used_ns;
  }
  return total;
}

void wait_until(const std::string& what, const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    must(std::chrono::steady_clock::now() < deadline, "waited in vain for " + what);
    std::this_thread::sleep_for(kPollInterval);
  }
}

}  // namespace shmstate::bench
