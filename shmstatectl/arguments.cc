#include "shmstatectl/arguments.h"

namespace shmstate::ctl {

namespace {
constexpr char kMark = '\0';
}

std::vector<std::string> mark_literals(const std::vector<std::string>& arguments) {
  std::vector<std::string> marked;
  bool after_dashes = false;
  for (const std::string& argument : arguments) {
    if (!after_dashes && argument == "--") {
      after_dashes = true;
    } else if (after_dashes || argument.starts_with('[')) {
      marked.push_back(kMark + argument);
    } else if (argument.starts_with("--") && argument.find('=') == argument.size() - 1) {
      marked.push_back(argument.substr(0, argument.size() - 1));
      marked.emplace_back();
    } else {
      marked.push_back(argument);
    }
  }
  return marked;
}

std::string unmarked(std::string_view argument) {
  return std::string(argument.substr(argument.starts_with(kMark) ? 1 : 0));
}

}  // namespace shmstate::ctl
