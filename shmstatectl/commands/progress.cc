#include "commands/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace shmstate::ctl {

namespace {
constexpr auto kInterval = std::chrono::milliseconds(100);
constexpr std::uint64_t kCells = 40;
constexpr std::string_view kToLineStartAndClear = "\r\x1B[K";

void show_text(const std::string& text) { static_cast<void>(std::fwrite(text.data(), 1, text.size(), stderr)); }

}  // namespace

std::string progress_bar(std::string_view what, std::uint64_t done, std::uint64_t total) {
  const double share = total == 0 ? 1 : static_cast<double>(std::min(done, total)) / static_cast<double>(total);
  const auto full = static_cast<std::size_t>(share * kCells);
  return fmt::format("{} [{}{}] {:3.0f} %", what, std::string(full, '#'), std::string(kCells - full, ' '), share * 100);
}

Progress::Progress(std::string_view what, std::uint64_t total)
    : what_(what), total_(total), is_wanted_(total >= kLongWork && ::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (is_shown_) show_text(std::string(kToLineStartAndClear));
}

void Progress::show(std::uint64_t done) {
  if (!is_wanted_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + kInterval;
  is_shown_ = true;
  show_text(std::string(kToLineStartAndClear) + progress_bar(what_, done, total_));
}

}  // namespace shmstate::ctl
