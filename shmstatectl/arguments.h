// Keys and values may be any text, also text that the command line parser would take for something else: an option
// after "--", the name of a subcommand, a list in brackets, a negative number. Such arguments are marked before
// parsing, unmarked after. And behind "--option=" it would look for the value in the next argument, instead of taking
// the empty one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace shmstate::ctl {

/// The arguments with "--" dropped, "--option=" in two, and with a mark (a NUL byte, which no argument can contain)
/// before each that the parser must take as it is.
[[nodiscard]] std::vector<std::string> mark_literals(const std::vector<std::string>& arguments);
[[nodiscard]] std::string unmarked(std::string_view argument);

}  // namespace shmstate::ctl
