// All processes of the host, each with its files kept open.
#pragma once

#include <dirent.h>

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "area.h"
#include "proc_file.h"

namespace shmstate::demo {

class ProcessArea : public Area {
 public:
  ProcessArea();

  void sample(MutationLines& lines) override;

 private:
  struct Process {
    explicit Process(const std::string& pid);

    std::string prefix;
    ProcFile stat;
    ProcFile statm;
  };
  struct CloseDirectory {
    void operator()(DIR* directory) const { ::closedir(directory); }
  };

  void find_new_processes();
  [[nodiscard]] bool sample_process(const Process& process, MutationLines& lines);

  std::unique_ptr<DIR, CloseDirectory> directory_;
  std::unordered_map<std::string, Process> processes_;
  std::string buffer_;
  std::int64_t page_bytes_;
};

}  // namespace shmstate::demo
