#include "inputs/file_succession.h"

namespace shmstate::agent {

void FileSuccession::appeared(std::string_view name, Clock::time_point now) {
  vanish(name);
  if (name == name_) files_.push_back({.name = name_, .since = now});
}

void FileSuccession::moved_from(std::string_view name, std::uint32_t cookie) {
  for (SucceedingFile& file : files_) {
    if (file.name != name) continue;
    file.name.clear();
    file.cookie = cookie;
    file.was_touched = true;
  }
}

/// A file that had the name before and gets it back stays where it is in the order.
void FileSuccession::moved_to(std::string_view name, std::uint32_t cookie, Clock::time_point now) {
  vanish(name);
  bool is_known = false;
  for (SucceedingFile& file : files_) {
    if (cookie == 0 || file.cookie != cookie) continue;
    file.name = name;
    file.cookie = 0;
    is_known = true;
  }
  if (!is_known && name == name_) files_.push_back({.name = name_, .since = now});
}

void FileSuccession::deleted(std::string_view name) { vanish(name); }

void FileSuccession::forget_departed() {
  forget_if([](const SucceedingFile& file) { return file.cookie != 0; });
}

void FileSuccession::forget_removed() {
  forget_if([](const SucceedingFile& file) { return file.name.empty() && file.cookie == 0 && !file.is_certain; });
}

void FileSuccession::start_anew(std::string name) {
  forget_if([](const SucceedingFile&) { return true; });
  name_ = std::move(name);
  for (SucceedingFile& file : files_) file.name.clear();
}

void FileSuccession::miss_oldest() {
  files_.pop_front();
  ++missed_;
}

/// What is open stays, since it can be read without a name.
void FileSuccession::vanish(std::string_view name) {
  for (SucceedingFile& file : files_) {
    if (file.name != name) continue;
    file.name.clear();
    file.was_touched = true;
  }
  forget_removed();
}

template <typename Condition>
void FileSuccession::forget_if(Condition condition) {
  missed_ += std::erase_if(files_, [&](const SucceedingFile& file) { return !file.is_open() && condition(file); });
}

}  // namespace shmstate::agent
