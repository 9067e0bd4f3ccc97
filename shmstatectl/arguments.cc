#include "arguments.h"

#include "support/number_text.h"

namespace shmstate::ctl {

namespace {

constexpr char kMark = '\0';

// With a digit or a point behind the minus it is no option of ours; `-inf` may be one, with its value.
bool is_negative_number(std::string_view argument, bool takes_number) {
  if (!argument.starts_with('-') || argument.size() < 2) return false;
  const bool has_digits = argument[1] == '.' || (argument[1] >= '0' && argument[1] <= '9');
  return has_digits || (takes_number && read_number(argument).kind != NumberKind::kNone);
}

bool names_instance(std::string_view argument) { return argument == "-i" || argument == "--instance"; }

}  // namespace

std::vector<std::string> mark_literals(const std::vector<std::string>& arguments) {
  std::vector<std::string> marked;
  bool after_dashes = false;
  bool takes_number = false;
  std::string_view before;
  for (const std::string& argument : arguments) {
    if (!after_dashes && argument == "--") {
      after_dashes = true;
    } else if (after_dashes || argument.starts_with('[') || is_negative_number(argument, takes_number)) {
      marked.push_back(kMark + argument);
    } else if (argument.starts_with("--") && argument.find('=') == argument.size() - 1) {
      marked.push_back(argument.substr(0, argument.size() - 1));
      marked.emplace_back();
    } else {
      marked.push_back(argument);
      takes_number = takes_number || ((argument == "set" || argument == "add") && !names_instance(before));
    }
    before = argument;
  }
  return marked;
}

std::string unmarked(std::string_view argument) {
  return std::string(argument.substr(argument.starts_with(kMark) ? 1 : 0));
}

}  // namespace shmstate::ctl
