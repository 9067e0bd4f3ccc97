#include "doctor/pin_holders.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <tuple>

#include "files/control.h"

namespace shmstate::ctl {
using namespace internal;

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error))
    entries.push_back(entry->path());
  return entries;
}

std::uint32_t pid_of(const fs::path& directory) {
  const std::string name = directory.filename().string();
  std::uint32_t pid = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  return error == std::errc() && end == name.data() + name.size() ? pid : 0;
}

// A lock is a line such as "lock: 1: OFDLCK ADVISORY READ -1 00:1b:42 0 0": the last two are its first and last byte.
std::vector<std::uint32_t> locked_bytes(const fs::path& description) {
  std::vector<std::uint32_t> bytes;
  std::ifstream lines(description);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string word, number, kind, mode, access, pid, file;
    std::uint32_t first_byte = 0;
    if (fields >> word >> number >> kind >> mode >> access >> pid >> file >> first_byte && word == "lock:" &&
        kind == "OFDLCK")
      bytes.push_back(first_byte);
  }
  return bytes;
}

std::string program_of(const fs::path& process) {
  std::string name;
  std::getline(std::ifstream(process / "comm"), name);
  return name;
}

}  // namespace

bool is_every_back_buffer_pinned(const InstanceInfo& info) {
  return std::all_of(info.buffers.begin(), info.buffers.end(),
                     [](const BufferInfo& buffer) { return buffer.current || buffer.pinned; });
}

std::vector<PinHolder> pin_holders(const InstanceInfo& info) {
  if (std::none_of(info.buffers.begin(), info.buffers.end(), [](const BufferInfo& buffer) { return buffer.pinned; }))
    return {};
  struct stat snapshot {};
  if (::stat((fs::path(info.path) / "snapshot").c_str(), &snapshot) != 0) return {};
  std::vector<PinHolder> holders;
  for (const fs::path& process : entries_of("/proc")) {
    const std::uint32_t pid = pid_of(process);
    if (pid == 0) continue;
    for (const fs::path& fd : entries_of(process / "fd")) {
      struct stat file {};
      if (::stat(fd.c_str(), &file) != 0 || file.st_ino != snapshot.st_ino || file.st_dev != snapshot.st_dev) continue;
      for (const std::uint32_t byte : locked_bytes(process / "fdinfo" / fd.filename()))
        holders.push_back({static_cast<std::uint32_t>(byte - kPinByte), pid, program_of(process)});
    }
  }
  const auto order = [](const PinHolder& holder) { return std::tie(holder.buffer, holder.pid); };
  std::sort(holders.begin(), holders.end(),
            [&](const PinHolder& a, const PinHolder& b) { return order(a) < order(b); });
  const auto same = [&](const PinHolder& a, const PinHolder& b) { return order(a) == order(b); };
  holders.erase(std::unique(holders.begin(), holders.end(), same), holders.end());
  return holders;
}

}  // namespace shmstate::ctl
