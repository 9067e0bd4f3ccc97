#include "area.h"

#include <utility>

#include "proc_file.h"
#include "proc_parser.h"
#include "process_area.h"

namespace shmstate::demo {
namespace {

using Parse = void (*)(std::string_view, MutationLines&);

struct Source {
  ProcFile file;
  Parse parse;
};

/// An area that consists of a few files for the whole host.
class FileArea : public Area {
 public:
  explicit FileArea(std::vector<Source> sources) : sources_(std::move(sources)) {}

  void sample(MutationLines& lines) override {
    for (const Source& source : sources_) source.parse(source.file.read(buffer_), lines);
  }

 private:
  std::vector<Source> sources_;
  std::string buffer_;
};

std::unique_ptr<Area> make_file_area(std::initializer_list<std::pair<const char*, Parse>> files) {
  std::vector<Source> sources;
  for (const auto& [path, parse] : files) sources.push_back({ProcFile(path), parse});
  return std::make_unique<FileArea>(std::move(sources));
}

}  // namespace

const std::vector<std::string>& area_names() {
  static const std::vector<std::string> names = {"cpu", "memory", "network", "disk", "process"};
  return names;
}

std::unique_ptr<Area> make_area(std::string_view name) {
  if (name == "cpu") {
    return make_file_area(
        {{"/proc/stat", parse_stat}, {"/proc/loadavg", parse_loadavg}, {"/proc/pressure/cpu", parse_cpu_pressure}});
  }
  if (name == "memory") {
    return make_file_area({{"/proc/meminfo", parse_meminfo},
                           {"/proc/vmstat", parse_vmstat},
                           {"/proc/pressure/memory", parse_memory_pressure}});
  }
  if (name == "network") return make_file_area({{"/proc/net/dev", parse_net_dev}});
  if (name == "disk") {
    return make_file_area({{"/proc/diskstats", parse_diskstats}, {"/proc/pressure/io", parse_disk_pressure}});
  }
  return std::make_unique<ProcessArea>();
}

}  // namespace shmstate::demo
