#include "commands/dump_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string_view>
#include <system_error>
#include <utility>

#include "commands/progress.h"
#include "show/dump_format.h"
#include "show/text.h"
#include "support/byte_order_mark.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

namespace fs = std::filesystem;

/// The lines of a file or of standard input.
class Lines {
 public:
  explicit Lines(const std::string& file) : buffer_(kDumpLineBytesMax) {
    if (file.empty() || file == "-") {
      std::ios::sync_with_stdio(false);
      return;
    }
    file_.open(file, std::ios::binary);
    if (!file_)
      throw UsageError(fmt::format("cannot open {}: {}", in_quotes(file), std::generic_category().message(errno)));
    stream_ = &file_;
    path_ = file;
  }

  /// The next line, without its end; false behind the last one.
  bool next(std::string_view& line) {
    ++number_;
    stream_->getline(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
    const auto bytes = static_cast<std::size_t>(stream_->gcount());
    if (stream_->bad()) throw UsageError("the input cannot be read; look at where it comes from");
    if (stream_->fail() && bytes > 0) throw UsageError("it is longer than any entry can be");
    if (stream_->fail()) return false;
    line = std::string_view(buffer_.data(), stream_->eof() ? bytes : bytes - 1);
    bytes_read_ += bytes;
    return true;
  }

  [[nodiscard]] std::uint64_t number() const { return number_; }  // of the line that was read last
  [[nodiscard]] std::uint64_t bytes_read() const { return bytes_read_; }
  /// Zero when that cannot be known, as for a pipe.
  [[nodiscard]] std::uint64_t bytes_total() const {
    std::error_code error;
    const bool is_file = fs::is_regular_file(path_, error);
    const std::uintmax_t bytes = is_file ? fs::file_size(path_, error) : 0;
    return error ? 0 : bytes;
  }

 private:
  std::ifstream file_;
  std::istream* stream_ = &std::cin;
  fs::path path_ = "/proc/self/fd/0";
  std::vector<char> buffer_;
  std::uint64_t number_ = 0;
  std::uint64_t bytes_read_ = 0;
};

bool take_head(Lines& lines) {
  std::string_view line;
  const bool is_there = lines.next(line);
  if (is_there && has_utf16_mark(line)) throw UsageError(std::string(kUtf16Problem));
  line = without_utf8_mark(line);
  if (is_there && line == kDumpHead) return true;
  if (is_there && line == kDumpHead1) return false;
  throw UsageError(fmt::format("a dump begins with {}; give what shmstatectl dump wrote", in_quotes(kDumpHead)));
}

Dump read_all(Lines& lines) {
  Progress progress("reading", lines.bytes_total());
  Dump dump{.entries = {}, .tells_epochs = take_head(lines)};
  for (std::uint64_t count = 0;; ++count) {
    std::string_view line;
    if (!lines.next(line)) throw UsageError("the dump is cut off here: its end line is missing");
    if (line == dump_end(count)) return dump;
    if (is_dump_end(line)) throw UsageError("the end line counts other entries than there were");
    Entry entry = parse_dump_line(line);
    if (entry.ephemeral) {
      ++dump.ephemeral_count;
    } else {
      dump.entries.push_back(std::move(entry));
    }
    progress.show(lines.bytes_read());
  }
}

}  // namespace

Dump read_dump(const std::string& file) {
  Lines lines(file);
  try {
    Dump dump = read_all(lines);
    std::stable_sort(dump.entries.begin(), dump.entries.end(),
                     [](const Entry& a, const Entry& b) { return a.changed_epoch < b.changed_epoch; });
    return dump;
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("line {}: {}; nothing is loaded", lines.number(), error.what()));
  }
}

}  // namespace shmstate::ctl
