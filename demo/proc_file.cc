#include "proc_file.h"

#include <fcntl.h>
#include <unistd.h>

namespace shmstate::demo {
namespace {

constexpr std::size_t kFirstBufferBytes = 16384;

}  // namespace

ProcFile::ProcFile(const std::string& path) : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}

ProcFile::~ProcFile() {
  if (fd_ >= 0) ::close(fd_);
}

std::string_view ProcFile::read(std::string& buffer) const {
  if (buffer.size() < kFirstBufferBytes) buffer.resize(kFirstBufferBytes);
  std::size_t used_bytes = 0;
  while (true) {
    if (used_bytes == buffer.size()) buffer.resize(2 * buffer.size());
    const ssize_t got_bytes =
        ::pread(fd_, buffer.data() + used_bytes, buffer.size() - used_bytes, static_cast<off_t>(used_bytes));
    if (got_bytes <= 0) return {buffer.data(), got_bytes == 0 ? used_bytes : 0};
    used_bytes += static_cast<std::size_t>(got_bytes);
  }
}

std::string_view ProcFile::read_in_one_piece(std::string& buffer) const {
  if (buffer.size() < kFirstBufferBytes) buffer.resize(kFirstBufferBytes);
  const ssize_t got_bytes = ::pread(fd_, buffer.data(), buffer.size(), 0);
  return {buffer.data(), got_bytes > 0 ? static_cast<std::size_t>(got_bytes) : 0};
}

}  // namespace shmstate::demo
