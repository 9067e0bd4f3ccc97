// Which files have appeared among the rings, without reading their directory: everybody who may write may fill that
// with any number of names, and then a new ring is found late.
//
// The kernel tells of each file that appears there, or is touched, in that order (inotify). Nobody can take such a
// message back or send one for a file of somebody else's, so its user is told by the file, and users take turns: who
// floods the directory only delays itself. The kernel keeps a limited number of messages (16,384); what comes while
// there are so many is lost, and a search of the directory finds it. A writer that is not served therefore touches its
// ring from time to time.
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
  /// Where the kernel cannot do that now, nothing is ever told.
  explicit RingNews(std::filesystem::path rings);

  [[nodiscard]] bool is_told() const noexcept { return inotify_.is_open(); }
  /// Takes a bounded part of what the kernel has to tell, but of rings that are served.
  void read(const std::unordered_set<std::uint64_t>& served);
  /// The next ring to look at; each user that has some in turn.
  [[nodiscard]] std::optional<std::uint64_t> next();

  /// Whether there is more to read, or to look at.
  [[nodiscard]] bool has_more() const noexcept { return has_unread_ || !waiting_.empty(); }
  [[nodiscard]] bool has_unread() const noexcept { return has_unread_; }
  /// Whether something was lost since this was asked: only a search of the directory finds it.
  [[nodiscard]] bool take_lost() noexcept { return std::exchange(has_lost_, false); }

 private:
  void take(const inotify_event& event, const std::unordered_set<std::uint64_t>& served);

  std::filesystem::path rings_;
  os::Fd inotify_;
  std::map<std::uint32_t, std::deque<std::uint64_t>> waiting_;  // by user; none is empty
  std::unordered_set<std::uint64_t> known_;                     // all of those
  std::uint32_t last_user_ = 0;
  bool has_unread_ = false;
  bool has_lost_ = false;
};

}  // namespace shmstate::internal
