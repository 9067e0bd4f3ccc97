// The log of a service, on standard error: one line for each event, with the priorities of sd-daemon(3) where the
// journal reads it.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace shmstate {

enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarning, kError };

/// Whether a line of this level would be written.
[[nodiscard]] bool is_logged(LogLevel level);
void write_log(LogLevel level, fmt::string_view format, fmt::format_args arguments);

// Formatted as by fmt::format.
template <typename... Arguments>
void log_debug(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write_log(LogLevel::kDebug, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void log_info(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write_log(LogLevel::kInfo, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void log_warning(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write_log(LogLevel::kWarning, format, fmt::make_format_args(arguments...));
}
template <typename... Arguments>
void log_error(fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  write_log(LogLevel::kError, format, fmt::make_format_args(arguments...));
}

/// Opens those of descriptors 0 to 2 that are closed on /dev/null: what is opened next must not become standard error.
/// And writing to a stream that nobody reads, or beyond the limit of file size, is an error from now on, no signal.
void open_standard_streams();

/// For what was asked for on standard output (help, a version, a verdict): `status`, or 1 with a message when it could
/// not be written.
[[nodiscard]] int status_of_output(int status);

/// Once, before the first line. `pattern` is spdlog's, and is used where the journal does not read along; the journal
/// knows time and program. Control characters in a message become question marks: names that
/// others chose cannot forge lines.
void set_up_log(const std::string& program, const std::string& pattern, const std::string& level);
/// trace, debug, info, warn, error or off.
void set_log_level(const std::string& level);

/// Why the program ends, as it stands: for errors that the log level must not hide.
void print_error(std::string_view text);

}  // namespace shmstate
