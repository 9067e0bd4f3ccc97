#include "support/log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <utility>

#include "support/errors.h"

namespace shmstate {
namespace {

constexpr std::string_view kErrorPrefix = "<3>";

// systemd gives the device and the inode of the stream that the journal reads; standard error may lead elsewhere since.
bool journal_reads_stderr() {
  const char* const stream = std::getenv("JOURNAL_STREAM");
  struct stat info {};
  return stream != nullptr && ::fstat(STDERR_FILENO, &info) == 0 &&
         stream == fmt::format("{}:{}", info.st_dev, info.st_ino);
}

bool is_control(char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }

class JournalPriority final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm& /*time*/, spdlog::memory_buf_t& out) override {
    const std::string_view prefix = prefix_of(message.level);
    out.append(prefix.begin(), prefix.end());
  }
  [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JournalPriority>();
  }

 private:
  static std::string_view prefix_of(spdlog::level::level_enum level) {
    switch (level) {
      case spdlog::level::critical: return "<2>";
      case spdlog::level::err: return kErrorPrefix;
      case spdlog::level::warn: return "<4>";
      case spdlog::level::info: return "<6>";
      default: return "<7>";
    }
  }
};

class OneLine final : public spdlog::formatter {
 public:
  explicit OneLine(std::unique_ptr<spdlog::formatter> inner) : inner_(std::move(inner)) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    if (std::none_of(message.payload.begin(), message.payload.end(), is_control)) return inner_->format(message, out);
    std::string text(message.payload.begin(), message.payload.end());
    std::replace_if(text.begin(), text.end(), is_control, '?');
    spdlog::details::log_msg clean = message;
    clean.payload = text;
    inner_->format(clean, out);
    message.color_range_start = clean.color_range_start;
    message.color_range_end = clean.color_range_end;
  }
  [[nodiscard]] std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<OneLine>(inner_->clone());
  }

 private:
  std::unique_ptr<spdlog::formatter> inner_;
};

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: break;
  }
  return spdlog::level::err;
}

std::unique_ptr<spdlog::formatter> make_formatter(const std::string& pattern) {
  auto inner = std::make_unique<spdlog::pattern_formatter>();
  inner->add_flag<JournalPriority>('*').set_pattern(journal_reads_stderr() ? "%*%v" : pattern);
  return std::make_unique<OneLine>(std::move(inner));
}

}  // namespace

void open_standard_streams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    if (::open("/dev/null", O_RDWR) < 0) static_cast<void>(::open("/", O_PATH));  // the lowest that is free
  }
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  end_without_memory(EXIT_FAILURE);
}

int status_of_output(int status) {
  if (std::cout.flush() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  print_error("shmstate: standard output cannot be written; look at where it is redirected to");
  return EXIT_FAILURE;
}

void set_up_log(const std::string& program, const std::string& pattern, const std::string& level) {
  spdlog::set_default_logger(
      std::make_shared<spdlog::logger>(program, std::make_shared<spdlog::sinks::stderr_color_sink_st>()));
  spdlog::set_formatter(make_formatter(pattern));
  set_log_level(level);
}

void set_log_level(const std::string& level) { spdlog::set_level(spdlog::level::from_str(level)); }

bool is_logged(LogLevel level) { return spdlog::should_log(level_of(level)); }

void write_log(LogLevel level, fmt::string_view format, fmt::format_args arguments) {
  if (is_logged(level)) spdlog::log(level_of(level), fmt::vformat(format, arguments));
}

void print_error(std::string_view text) { std::cerr << (journal_reads_stderr() ? kErrorPrefix : "") << text << '\n'; }

}  // namespace shmstate
