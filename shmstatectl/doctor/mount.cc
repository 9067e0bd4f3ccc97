#include "doctor/mount.h"

#include <algorithm>
#include <sstream>
#include <vector>

namespace shmstate::ctl {

namespace {

void take_options(const std::string& text, std::vector<std::string>& options) {
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    if (std::find(options.begin(), options.end(), word) == options.end()) options.push_back(word);
  }
}

// Mount and file system are each ro or rw: what one of them forbids, the other does not allow.
std::string options_text(const std::string& mount, const std::string& file_system) {
  std::vector<std::string> options;
  take_options(mount, options);
  take_options(file_system, options);
  const bool is_read_only = std::erase(options, "ro") > 0;
  std::erase(options, "rw");
  std::string text = is_read_only ? "ro" : "rw";
  for (const std::string& option : options) text += "," + option;
  return text;
}

}  // namespace

Mount parse_mount(const std::string& line) {
  std::istringstream fields(line);
  Mount mount;
  std::string ignored, options, source, more;
  fields >> ignored >> ignored >> mount.device >> ignored >> mount.point >> options;
  while (fields >> ignored && ignored != "-") {
  }
  fields >> mount.type >> source >> more;
  mount.options = options_text(options, more);
  return mount;
}

}  // namespace shmstate::ctl
