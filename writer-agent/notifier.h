// What the kernel tells about files and directories (inotify): one descriptor for the whole agent, since a user may
// have only so many.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/event_loop.h"

namespace shmstate::agent {

struct Notification {
  int watch = -1;
  std::uint32_t events = 0;  ///< IN_...
  std::uint32_t cookie = 0;  ///< the same for both names of a rename
  std::string_view name;     ///< in the directory that is watched
};

/// Who watches. Takes note only: it may not change its watches meanwhile.
class Notified {
 public:
  Notified() = default;
  Notified(const Notified&) = delete;
  Notified& operator=(const Notified&) = delete;
  virtual ~Notified() = default;

  virtual void on_notification(const Notification& notification) = 0;
  /// Notifications were lost.
  virtual void on_overflow() = 0;
};

class Notifier final : public EventHandler {
 public:
  static constexpr int kNone = -1;

  /// Without inotify, which is reported, there are no watches.
  explicit Notifier(EventLoop& loop);
  ~Notifier() override;

  /// Watches what a path leads to for `events`. Returns the watch, or `kNone` with errno; limits of the kernel are
  /// reported, once.
  [[nodiscard]] int watch(const std::string& path, std::uint32_t events, Notified& who);
  void unwatch(int watch, Notified& who) noexcept;

  /// Passes on all that the kernel has to tell by now.
  void take_all();
  void on_events(std::uint32_t /*events*/) override { take_all(); }

 private:
  void pass_on(const Notification& notification);
  void report_limit(int error_number, std::string_view limit);

  EventLoop* loop_;
  Fd fd_;
  std::map<int, std::vector<Notified*>> watches_;
  bool has_reported_ = false;
};

}  // namespace shmstate::agent
