#include "show/output.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <stdio_ext.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <system_error>

#include "show/text.h"
#include "support/errors.h"

namespace shmstate::ctl {

OutputError::OutputError(int error_number)
    : std::runtime_error(
          fmt::format("standard output cannot be written: {}; {}", std::generic_category().message(error_number),
                      error_number == ENOSPC ? "make room where it is redirected to"
                                             : remedy_of(error_number, "look at where it is redirected to"))),
      is_reader_gone_(error_number == EPIPE) {}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) throw OutputError(errno);
  flush_output();
}

void try_print(std::string_view text) {
  try {
    print(text);
  } catch (const OutputError& error) {
    if (!error.is_reader_gone()) report(error.what());
    ::__fpurge(stdout);
    std::clearerr(stdout);
  }
}

void flush_output() {
  if (std::fflush(stdout) != 0) throw OutputError(errno);
  if (std::ferror(stdout) != 0) throw OutputError(EIO);
}

// Standard error that takes nothing changes nothing: the exit code says it all the same.
void report(std::string_view message) {
  constexpr std::string_view kPrefix = "shmstate: ";
  if (message.starts_with(kPrefix)) message.remove_prefix(kPrefix.size());
  const std::string line = fmt::format("{}{}\n", kPrefix, printable(message));
  static_cast<void>(std::fwrite(line.data(), 1, line.size(), stderr));
}

bool is_reader_gone() noexcept {
  pollfd output{.fd = STDOUT_FILENO, .events = 0, .revents = 0};  // errors and hang-ups are told unasked
  return ::poll(&output, 1, 0) == 1 && (output.revents & (POLLERR | POLLHUP)) != 0;
}

void prepare_streams() noexcept {
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    // The lowest that is free; it stays useless, so that a command without standard output notices.
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/", O_PATH));
  }
}

}  // namespace shmstate::ctl
