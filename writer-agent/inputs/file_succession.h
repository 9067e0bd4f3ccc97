// The files that have had one name in a directory, in order, and where those are now that nobody has opened yet: what a
// producer renames away at once is found under its new name. Pure bookkeeping, from the notifications of the directory.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>

#include "support/fd.h"
#include "support/file_identity.h"

namespace shmstate::agent {

struct SucceedingFile {
  using Clock = std::chrono::steady_clock;

  std::string name;          ///< now; empty when it is not in the directory any more, or on its way
  std::uint32_t cookie = 0;  ///< while it is between two names
  Clock::time_point since;   ///< when it was seen
  Fd fd{};
  FileIdentity identity = kNoFile;  ///< once it was opened
  bool is_certain = false;          ///< it is this file that was opened, and not one that got its name meanwhile
  bool was_touched = false;         ///< its name has changed since that was set to false

  [[nodiscard]] bool is_open() const noexcept { return fd.is_open(); }
};

class FileSuccession {
 public:
  using Clock = SucceedingFile::Clock;

  explicit FileSuccession(std::string name) : name_(std::move(name)) {}

  /// What happened in the directory, in order.
  void appeared(std::string_view name, Clock::time_point now);
  void moved_from(std::string_view name, std::uint32_t cookie);
  void moved_to(std::string_view name, std::uint32_t cookie, Clock::time_point now);
  void deleted(std::string_view name);

  /// Nothing more will be heard of those that are on their way: they have left the directory.
  void forget_departed();
  /// Those without a name that are not open.
  void forget_removed();
  /// The names mean nothing any more, as when the directory is another one; the next files have this one.
  void start_anew(std::string name);

  /// The oldest first. Who opens one sets `fd` and `identity`.
  [[nodiscard]] std::deque<SucceedingFile>& files() noexcept { return files_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Forgets the oldest, which cannot be read.
  void miss_oldest();
  /// Files that are gone and that nobody had opened, since this was asked last.
  [[nodiscard]] std::uint64_t take_missed() noexcept { return std::exchange(missed_, 0); }

 private:
  void vanish(std::string_view name);
  template <typename Condition>
  void forget_if(Condition condition);

  std::string name_;
  std::deque<SucceedingFile> files_;
  std::uint64_t missed_ = 0;
};

}  // namespace shmstate::agent
