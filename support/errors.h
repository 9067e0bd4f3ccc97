// Errors of system calls, as the libraries word them; and the end of a program that has no memory for one.
#pragma once

#include <exception>
#include <string>

#include "shmstate/status.h"

namespace shmstate {

/// What an errno value means to who called: kNoMemory, kNoPermission, kNoInstance, or kSystem.
[[nodiscard]] Status status_of(int error_number) noexcept;

/// What to do about an errno value that comes from a limit of this process, the system or the file system; `otherwise`
/// when it is none of these.
[[nodiscard]] std::string remedy_of(int error_number, const std::string& otherwise = {});

/// Throws `Error`: "shmstate: <what>: <text of errno>; <remedy>", with the status and perhaps the remedy of errno.
[[noreturn]] void throw_errno(const std::string& what, int error_number, const std::string& remedy = {});

/// Why the program ends, when that is what is being caught and has no better text: no memory, or what it says itself;
/// with a remedy where there is one.
[[nodiscard]] std::string text_of(const std::exception& error);

/// Where there is not even memory for an exception, the program says so, and ends with `code` instead of aborting.
void end_without_memory(int code) noexcept;

}  // namespace shmstate
