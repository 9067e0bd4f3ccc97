// A file under /proc that stays open: reading it again from its start gives its new content.
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace shmstate::demo {

class ProcFile {
 public:
  /// A file that cannot be opened reads as empty.
  explicit ProcFile(const std::string& path);
  ProcFile(ProcFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ProcFile& operator=(ProcFile&&) = delete;
  ~ProcFile();

  /// The content, in `buffer`; empty when there is none, also when the process that the file tells about is gone.
  [[nodiscard]] std::string_view read(std::string& buffer) const;
  /// The same with one system call: for files that the kernel hands out in one piece, as it does those of a process.
  [[nodiscard]] std::string_view read_in_one_piece(std::string& buffer) const;

 private:
  int fd_;
};

}  // namespace shmstate::demo
