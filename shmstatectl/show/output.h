// What commands say on standard output and standard error, and what becomes of it.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace shmstate::ctl {

/// Standard output cannot be written; `what()` says why, and what to do.
class OutputError : public std::runtime_error {
 public:
  explicit OutputError(int error_number);
  /// Whoever read it has seen enough, as `head` does: no reason to complain.
  [[nodiscard]] bool is_reader_gone() const noexcept { return is_reader_gone_; }

 private:
  bool is_reader_gone_;
};

/// Writes to standard output, at once. Throws `OutputError`.
void print(std::string_view text);
/// As `print`, after something was changed: a failure is reported, but the exit code must tell what became of the
/// change.
void try_print(std::string_view text);
/// Writes what others have put into `stdout`. Throws `OutputError`.
void flush_output();

/// Prints one line for people on standard error; it begins with "shmstate: ", whether or not `message` already does.
void report(std::string_view message);

/// Whether standard output leads nowhere any more: what reads it has closed it. False when that cannot be known.
[[nodiscard]] bool is_reader_gone() noexcept;

/// Standard streams and limits cost no command its exit code: from now on, writing where nobody reads, or more than a
/// file may hold, is an error of that write instead of a signal, and no file that is opened becomes a standard stream.
void prepare_streams() noexcept;

}  // namespace shmstate::ctl
