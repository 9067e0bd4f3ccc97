// Which files have appeared among the rings, without reading their directory: any writer may fill it with any number of
// names, and a new ring would then be found late.
//
// The kernel reports each file that appears there or is touched, in order (inotify). No process can withdraw a report,
// or send one for another user's file; the user is read from the file, and users take turns, so a user that floods the
// directory delays only itself. The kernel queues a limited number of reports (16,384); what arrives while the queue is
// full is lost, and a search of the directory finds it. A writer that is not served therefore touches its ring from
// time to time.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <optional>
#include <unordered_set>
#include <utility>

#include "files/os.h"

struct inotify_event;

namespace shmstate::internal {

class RingNews {
 public:
  /// If the kernel cannot watch the directory now, nothing is ever reported.
  explicit RingNews(std::filesystem::path rings);

  [[nodiscard]] bool is_watching() const noexcept { return inotify_.is_open(); }
  /// Takes a bounded number of reports from the kernel; those of rings that are served are dropped.
  void read(const std::unordered_set<std::uint64_t>& served);
  /// The next ring to examine; users that have any take turns.
  [[nodiscard]] std::optional<std::uint64_t> next();

  /// Whether there is more to read or to examine.
  [[nodiscard]] bool has_more() const noexcept { return has_unread_ || !waiting_.empty(); }
  [[nodiscard]] bool has_unread() const noexcept { return has_unread_; }
  /// Whether reports were lost since the last call: only a search of the directory finds those rings.
  [[nodiscard]] bool fetch_lost() noexcept { return std::exchange(has_lost_, false); }

 private:
  void handle(const inotify_event& event, const std::unordered_set<std::uint64_t>& served);

  std::filesystem::path rings_;
  os::Fd inotify_;
  std::map<std::uint32_t, std::deque<std::uint64_t>> waiting_;  // by user; none is empty
  std::unordered_set<std::uint64_t> known_;                     // all of those
  std::uint32_t last_user_ = 0;
  bool has_unread_ = false;
  bool has_lost_ = false;
};

}  // namespace shmstate::internal
