#include "process_area.h"

#include <sys/resource.h>
#include <unistd.h>

#include <string_view>

#include "proc_parser.h"

namespace shmstate::demo {
namespace {

bool is_pid(std::string_view name) { return name.find_first_not_of("0123456789") == std::string_view::npos; }

void allow_as_many_open_files_as_permitted() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

ProcessArea::Process::Process(const std::string& pid)
    : prefix("process/" + pid + "/"), stat("/proc/" + pid + "/stat"), statm("/proc/" + pid + "/statm") {}

ProcessArea::ProcessArea() : directory_(::opendir("/proc")), page_bytes_(::sysconf(_SC_PAGESIZE)) {
  allow_as_many_open_files_as_permitted();
}

void ProcessArea::sample(MutationLines& lines) {
  find_new_processes();
  for (auto process = processes_.begin(); process != processes_.end();) {
    process = sample_process(process->second, lines) ? std::next(process) : processes_.erase(process);
  }
  lines.set_integer("process/", "count", static_cast<std::int64_t>(processes_.size()));
}

void ProcessArea::find_new_processes() {
  if (!directory_) return;
  ::rewinddir(directory_.get());
  while (const dirent* entry = ::readdir(directory_.get())) {  // NOLINT(concurrency-mt-unsafe): one thread
    if (is_pid(entry->d_name)) processes_.try_emplace(entry->d_name, entry->d_name);
  }
}

// False when the process is gone. Its number may be in use again already: the next sample finds the new one.
bool ProcessArea::sample_process(const Process& process, MutationLines& lines) {
  const std::string_view stat = process.stat.read_in_one_piece(buffer_);
  if (stat.empty()) return false;
  parse_process_stat(stat, process.prefix, lines);
  parse_process_statm(process.statm.read_in_one_piece(buffer_), process.prefix, page_bytes_, lines);
  return true;
}

}  // namespace shmstate::demo
