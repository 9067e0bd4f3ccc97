// How far long work is, on standard error when that is a terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace shmstate::ctl {

/// For example "loading [##########          ]  50 %".
[[nodiscard]] std::string progress_bar(std::string_view what, std::uint64_t done, std::uint64_t total);

class Progress {
 public:
  /// Shows nothing unless standard error is a terminal and `total` is `kLongWork` or more.
  Progress(std::string_view what, std::uint64_t total);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Takes the bar away.
  ~Progress();

  void show(std::uint64_t done);

  static constexpr std::uint64_t kLongWork = 50'000;  // entries or bytes: less is done before anybody can read it

 private:
  std::string what_;
  std::uint64_t total_;
  bool is_wanted_;
  bool is_shown_ = false;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace shmstate::ctl
