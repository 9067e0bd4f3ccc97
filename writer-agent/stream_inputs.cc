#include "writer-agent/stream_inputs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "shmstate/status.h"

namespace shmstate::agent {
namespace {

constexpr mode_t kFifoMode = 0660;

os::Fd open_fifo(const std::string& path) {
  if (::mkfifo(path.c_str(), kFifoMode) != 0 && errno != EEXIST) {
    os::throw_errno(fmt::format("FIFO \"{}\" cannot be created", path), errno);
  }
  os::Fd fd = os::open_file(path, O_RDONLY | O_NONBLOCK);
  if (!fd.is_open()) os::throw_errno(fmt::format("FIFO \"{}\" cannot be opened", path), errno);
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISFIFO(info.st_mode)) {
    throw Error(Status::kInvalidArgument,
                fmt::format("shmstate: FIFO \"{}\": this is no FIFO; use --follow for a file that grows", path));
  }
  return fd;
}

}  // namespace

StandardInput::StandardInput(InputContext& shared) : Input(shared, "stdin") {
  os::Fd fd(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!fd.is_open()) os::throw_errno("stdin cannot be opened", errno);
  set_fd(std::move(fd));
}

FifoInput::FifoInput(InputContext& shared, const std::string& path) : Input(shared, "FIFO " + path), path_(path) {
  set_fd(open_fifo(path_));
}

/// Opens the FIFO anew before the old descriptor is closed, so that what a new producer has written stays.
void FifoInput::on_end_of_stream() {
  finish_stream();
  try {
    set_fd(open_fifo(path_));
  } catch (const Error& error) {
    report(error.what());
    end();
  }
}

}  // namespace shmstate::agent
