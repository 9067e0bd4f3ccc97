// A file that grows, followed by name: what is appended is read, also after the file was truncated or replaced.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "writer-agent/input.h"

namespace shmstate::agent {

class FollowedFile final : public Input {
 public:
  /// Starts at the end of a file that exists now, unless `from_start`; one that appears later is read as a whole.
  FollowedFile(InputContext& shared, const std::string& path, bool from_start);
  ~FollowedFile() override;

  void on_events(std::uint32_t events) override;
  [[nodiscard]] bool is_watchable() const override { return false; }

 private:
  using Clock = std::chrono::steady_clock;

  ssize_t read_some(std::span<char> buffer) override;
  void on_end_of_stream() override;
  [[nodiscard]] bool reads_until_empty() const override { return true; }

  [[nodiscard]] bool open();
  void start_at_end();
  [[nodiscard]] bool was_truncated() const;
  [[nodiscard]] bool was_replaced() const;
  void start_over();
  void switch_to_new_file();

  void notify_of_new_names();
  void notify_of_growth();
  void drain_notifications() const;

  std::string path_;
  std::uint64_t offset_ = 0;
  std::optional<Clock::time_point> replaced_since_;
  bool is_unreadable_ = false;  // and reported

  os::Fd notifier_;  // inotify; without it, the agent's regular turns are all there is
  int growth_watch_ = -1;
};

}  // namespace shmstate::agent
