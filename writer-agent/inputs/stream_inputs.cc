#include "inputs/stream_inputs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "shmstate/status.h"
#include "support/errors.h"

namespace shmstate::agent {
namespace {

constexpr mode_t kFifoMode = 0660;

[[noreturn]] void fail_as_no_fifo(const std::string& path, mode_t mode) {
  const std::string_view remedy =
      S_ISREG(mode) ? "remove it, or use --follow for a file that grows" : "remove it, or choose another path";
  throw Error(Status::kInvalidArgument,
              fmt::format("shmstate: FIFO \"{}\": this is no FIFO, but {}; {}", path, kind_of(mode), remedy));
}

/// Opens nothing else by mistake: opening a device may have effects.
Fd open_fifo(const std::string& path) {
  if (::mkfifo(path.c_str(), kFifoMode) != 0 && errno != EEXIST) {
    throw_errno(fmt::format("FIFO \"{}\" cannot be created", path), errno);
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISFIFO(info.st_mode)) fail_as_no_fifo(path, info.st_mode);
  Fd fd = open_file(path, O_RDONLY | O_NONBLOCK);
  if (!fd.is_open()) throw_errno(fmt::format("FIFO \"{}\" cannot be opened", path), errno);
  if (::fstat(fd.get(), &info) != 0 || !S_ISFIFO(info.st_mode)) fail_as_no_fifo(path, info.st_mode);
  return fd;
}

}  // namespace

StandardInput::StandardInput(InputContext& shared) : Input(shared, "stdin") {
  Fd fd(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!fd.is_open()) throw_errno("stdin cannot be opened", errno);
  set_fd(std::move(fd));
}

FifoInput::FifoInput(InputContext& shared, const std::string& path) : FifoInput(shared, path, open_fifo(path)) {}

FifoInput::FifoInput(InputContext& shared, const std::string& path, Fd fifo)
    : Input(shared, "FIFO " + path), path_(path), watch_(shared.notifier, path, shared.has_changed_names) {
  set_fd(std::move(fifo));
}

ssize_t FifoInput::read_some(std::span<char> buffer) {
  if (fd() >= 0) return Input::read_some(buffer);
  errno = EAGAIN;
  return -1;
}

/// Opens the FIFO again before the old descriptor is closed, so that what a new producer has written stays.
void FifoInput::on_end_of_stream() {
  if (is_replaced_) {
    end();
    return;
  }
  finish_stream();
  if (!is_draining()) set_fd(open_again());
}

/// Producers that still have the old one write into that, and new ones into the new one: both are read.
std::unique_ptr<Input> FifoInput::look_after_name() {
  if (is_replaced_ || has_ended() || has_its_name()) return nullptr;
  watch_.renew();
  Fd fifo = open_again();
  if (!fifo.is_open()) return nullptr;
  report("was removed or replaced; reading the FIFO that has the name now");
  if (fd() < 0) {
    set_fd(std::move(fifo));
    start();
    return nullptr;
  }
  is_replaced_ = true;
  context().loop.call_again(*this);  // the end of a stream that never had a producer is no event
  return std::unique_ptr<Input>(new FifoInput(context(), path_, std::move(fifo)));
}

bool FifoInput::has_its_name() const { return fd() >= 0 && identity_of(path_) == identity(); }

/// The FIFO that has the name, made when there is none; not open, and reported, when that cannot be.
Fd FifoInput::open_again() {
  try {
    Fd fifo = open_fifo(path_);
    reported_problem_.clear();
    return fifo;
  } catch (const Error& error) {
    if (std::exchange(reported_problem_, error.what()) == error.what()) return {};
    if (error.status() == Status::kInvalidArgument) {
      lose(1, fmt::format("{}; what is written there is not read", error.what()));
    } else {
      report(fmt::format("{}; trying again", error.what()));
    }
    return {};
  }
}

Connection::Connection(InputContext& shared, Fd fd, std::string name, bool answers_lines)
    : Input(shared, std::move(name)) {
  set_fd(std::move(fd));
  talk_back(answers_lines);
  allow_own_ring();
}

}  // namespace shmstate::agent
