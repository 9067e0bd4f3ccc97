// A file that grows, followed by name: what is appended is read, also after the file was truncated or replaced.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "inputs/input.h"
#include "inputs/watched_name.h"
#include "notifier.h"

namespace shmstate::agent {

class FollowedFile final : public Input, private Notified, private WatchedName::Owner {
 public:
  /// Starts at the end of a file that exists now, unless `from_start`; one that appears later is read as a whole.
  /// Throws `Error` for what is no plain file.
  FollowedFile(InputContext& shared, const std::string& path, bool from_start);
  ~FollowedFile() override;

  void on_events(std::uint32_t events) override;
  [[nodiscard]] bool is_watchable() const override { return false; }
  void tick() override;
  void limit_to_readable() override;
  void abandon() override;

 private:
  using Clock = std::chrono::steady_clock;

  /// A file that is read no more: what is still appended to it is lost, and counted.
  struct LeftFile {
    Fd fd;
    FileIdentity identity;
    std::uint64_t read_bytes;
    Clock::time_point since;
  };

  ssize_t read_some(std::span<char> buffer) override;
  void on_end_of_stream() override;
  [[nodiscard]] bool go_on_after_end() override;
  [[nodiscard]] bool reads_until_empty() const override { return true; }

  void on_notification(const Notification& notification) override;
  void on_overflow() override {}
  void on_announced(bool must_look) override;
  void on_problem(std::string_view problem) override { report(problem); }
  void on_missed(std::uint64_t count, std::string_view what) override { lose(count, what); }

  [[nodiscard]] bool take_next_file();
  void start_at_end();
  void leave_file();
  [[nodiscard]] bool may_leave();
  /// Each file has a limit of its own.
  [[nodiscard]] std::uint64_t readable_bytes() const override { return kUnlimited - 1; }
  void count_late_bytes();

  [[nodiscard]] bool has_taken(const FileIdentity& identity) const noexcept {
    return fd() >= 0 && identity_ == identity;
  }
  [[nodiscard]] bool is_read_elsewhere();
  [[nodiscard]] bool is_to_be_read(const FileIdentity& identity);
  void take_over_from(const FollowedFile& other);
  [[nodiscard]] bool was_rewritten() const;
  void start_over();
  [[nodiscard]] ssize_t read_on(std::span<char> buffer);
  void remember_end(std::span<const char> bytes);

  [[nodiscard]] std::size_t take_out_holes(std::span<char> bytes);
  void end_hole(std::uint64_t end);
  void jump_over_hole();

  std::string path_;
  WatchedName name_;
  bool has_announced_ = true;
  bool must_look_ = true;
  int growth_watch_ = Notifier::kNone;

  FileIdentity identity_ = kNoFile;
  std::uint64_t offset_ = 0;
  std::string last_bytes_;    // what lies before the offset, if nobody has rewritten the file
  bool has_read_all_ = true;  // at the last time
  bool is_reading_ = false;   // and no other name that leads to the same file is
  bool has_reported_other_ = false;
  std::uint64_t limit_ = 0;  // how much is read while draining
  std::deque<LeftFile> left_files_;

  bool is_at_line_start_ = true;
  bool skips_rest_of_line_ = false;
  std::uint64_t hole_bytes_ = 0;           // of the hole that is being skipped
  std::optional<std::uint64_t> cut_from_;  // how far the file had been read when it was truncated
};

}  // namespace shmstate::agent
