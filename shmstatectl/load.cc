// load: sets what a dump holds, batch after batch, each merged before the next is pushed.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <system_error>
#include <vector>

#include "shmstate/writer.h"
#include "shmstatectl/commands.h"
#include "shmstatectl/dump_format.h"
#include "shmstatectl/instance.h"
#include "shmstatectl/progress.h"
#include "shmstatectl/rejection.h"
#include "shmstatectl/report.h"
#include "shmstatectl/text.h"
#include "shmstatectl/usage.h"
#include "text/byte_order_mark.h"

namespace shmstate::ctl {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kBatchEntriesMax = 1000;
constexpr std::size_t kBatchBytes = std::size_t{1} << 20;  // the entry that reaches this ends its batch
constexpr std::size_t kRingBytes = std::size_t{8} << 20;
constexpr std::chrono::nanoseconds kTimeToLiveMin = std::chrono::milliseconds(1);

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
    stream_->getline(buffer_.data(), static_cast<std::streamsize>(buffer_.size()));
    const auto bytes = static_cast<std::size_t>(stream_->gcount());
    if (stream_->bad()) throw UsageError("the input cannot be read; look at where it comes from");
    if (stream_->fail() && bytes > 0) throw UsageError("it is longer than any entry can be");
    if (stream_->fail()) return false;
    line = std::string_view(buffer_.data(), stream_->eof() ? bytes : bytes - 1);
    bytes_read_ += bytes;
    return true;
  }

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
  std::uint64_t bytes_read_ = 0;
};

WriterOptions writer_options(const Options& options) {
  WriterOptions writer_options;
  writer_options.name = "shmstatectl load";
  writer_options.ring_bytes = kRingBytes;
  writer_options.full_timeout = options.load_timeout;
  writer_options.attach_timeout = {};
  writer_options.survive_truncation = true;
  return writer_options;
}

class Loading {
 public:
  explicit Loading(const Options& options)
      : timeout_(options.load_timeout),
        lines_(options.file),
        writer_(resolve_instance(options.instance), writer_options(options)) {}

  void run() {
    Progress progress("loading", lines_.bytes_total());
    must_begin_as_dump();
    progress.show(0);
    while (take_line()) {
      if (entries_.size() < kBatchEntriesMax && batch_bytes_ < kBatchBytes) continue;
      merge_batch();
      progress.show(lines_.bytes_read());
    }
    merge_batch();
  }

  [[nodiscard]] const std::string& path() const { return writer_.path(); }
  [[nodiscard]] std::uint64_t loaded_count() const { return loaded_count_; }
  [[nodiscard]] std::uint64_t ephemeral_count() const { return ephemeral_count_; }

 private:
  void must_begin_as_dump() {
    std::string_view line;
    const bool has_line = next(line);
    if (has_line && has_utf16_mark(line)) throw UsageError(fmt::format("line 1: {}", kUtf16Problem));
    if (!has_line || without_utf8_mark(line) != kDumpHead)
      throw UsageError(
          fmt::format("line 1: a dump begins with {}; give what shmstatectl dump wrote", in_quotes(kDumpHead)));
  }

  bool next(std::string_view& line) {
    ++line_number_;
    return lines_.next(line);
  }

  // False at the end of the dump.
  bool take_line() {
    try {
      std::string_view line;
      if (!next(line)) throw UsageError("the dump is cut off here: its end line is missing");
      if (line == dump_end(seen_count_)) return false;
      if (is_dump_end(line)) throw UsageError("the end line counts other entries than there were");
      take_entry(parse_dump_line(line));
      return true;
    } catch (const UsageError& error) {
      merge_batch();
      throw UsageError(
          fmt::format("line {}: {}; {} entries before it are loaded", line_number_, error.what(), loaded_count_));
    }
  }

  // An ephemeral entry lives as long as its writer, and this one ends soon.
  void take_entry(Entry entry) {
    ++seen_count_;
    if (entry.ephemeral) {
      ++ephemeral_count_;
      return;
    }
    batch_bytes_ += entry.key.size() + ValueView(entry.value).bytes().size();
    entries_.push_back(std::move(entry));
  }

  void merge_batch() {
    Batch batch = writer_.batch();
    for (const Entry& entry : entries_) set(batch, entry);
    if (!entries_.empty()) must_be_merged(batch.commit());
    loaded_count_ += entries_.size();
    entries_.clear();
    batch_bytes_ = 0;
  }

  static void set(Batch& batch, const Entry& entry) {
    SetOptions options;
    if (entry.version != 0) options.version = entry.version;
    if (entry.time_to_live) options.ttl = std::max(*entry.time_to_live, kTimeToLiveMin);
    batch.set(entry.key, entry.value, options);  // an error sticks, and is what `commit` returns
  }

  void must_be_merged(Status pushed) {
    const Status status = pushed == Status::kOk ? writer_.flush(timeout_) : pushed;
    if (status == Status::kOk) return;
    throw Error(status, fmt::format("instance {}: {} entries are loaded, then: {}; {}", in_quotes(path()),
                                    loaded_count_, describe(status), remedy(status)));
  }

  [[nodiscard]] std::string remedy(Status status) const {
    if (status == Status::kRejected) return rejection_text(reason_of_rejection(writer_));
    if (status == Status::kTimeout) return "see that a merger is running, and load again";
    return "see shmstatectl status";
  }

  std::chrono::nanoseconds timeout_;
  Lines lines_;
  Writer writer_;
  std::vector<Entry> entries_;  // of the batch that is being filled
  std::size_t batch_bytes_ = 0;
  std::uint64_t line_number_ = 0;
  std::uint64_t seen_count_ = 0;
  std::uint64_t loaded_count_ = 0;
  std::uint64_t ephemeral_count_ = 0;
};

}  // namespace

ExitCode run_load(const Options& options) {
  Loading loading(options);
  loading.run();
  if (options.json) {
    fmt::print("{}", json_document({{"instance", json_of_bytes(loading.path())},
                                    {"loaded_count", loading.loaded_count()},
                                    {"ephemeral_count", loading.ephemeral_count()}}));
  } else if (loading.ephemeral_count() > 0) {
    report(fmt::format("instance {}: {} ephemeral entries left out: such an entry lives as long as its writer",
                       in_quotes(loading.path()), loading.ephemeral_count()));
  }
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
