#include "engine/ring_news.h"

#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <string>

#include "files/ring_file.h"

namespace shmstate::internal {
namespace {

constexpr std::size_t kReadsMax = 12;      // per call
constexpr std::size_t kReadBytes = 4096;   // each: some 85 events
constexpr std::size_t kWaitingMax = 1024;  // per user; a search of the directory finds the others
constexpr std::uint32_t kWanted = IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_ONLYDIR | IN_DONT_FOLLOW;

}  // namespace

RingNews::RingNews(std::filesystem::path rings)
    : rings_(std::move(rings)), inotify_(os::move_up(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK))) {
  if (inotify_.is_open() && ::inotify_add_watch(inotify_.get(), rings_.c_str(), kWanted) < 0) inotify_ = os::Fd();
}

void RingNews::read(const std::unordered_set<std::uint64_t>& served) {
  has_unread_ = false;
  if (!is_watching()) return;
  alignas(inotify_event) std::array<char, kReadBytes> events;
  for (std::size_t reads = 0; reads < kReadsMax; ++reads) {
    const ssize_t bytes = ::read(inotify_.get(), events.data(), events.size());
    if (bytes <= 0) return;  // EAGAIN: that was all
    for (std::size_t at = 0; at < static_cast<std::size_t>(bytes);) {
      const auto& event = *reinterpret_cast<const inotify_event*>(events.data() + at);
      at += sizeof event + event.len;
      handle(event, served);
    }
  }
  has_unread_ = true;
}

void RingNews::handle(const inotify_event& event, const std::unordered_set<std::uint64_t>& served) {
  if ((event.mask & (IN_Q_OVERFLOW | IN_IGNORED)) != 0) has_lost_ = true;
  const std::string name(event.name, event.len == 0 ? 0 : ::strnlen(event.name, event.len));
  const std::optional<std::uint64_t> id = ring_id_of(name);
  if (!id || served.contains(*id) || known_.contains(*id)) return;
  const std::optional<os::FileInfo> info = os::file_info(rings_ / name);
  if (!info) return;  // removed since
  std::deque<std::uint64_t>& waiting = waiting_[info->uid];
  if (waiting.size() == kWaitingMax) {
    has_lost_ = true;
    return;
  }
  waiting.push_back(*id);
  known_.insert(*id);
}

std::optional<std::uint64_t> RingNews::next() {
  if (waiting_.empty()) return std::nullopt;
  auto user = waiting_.upper_bound(last_user_);
  if (user == waiting_.end()) user = waiting_.begin();
  last_user_ = user->first;
  const std::uint64_t id = user->second.front();
  user->second.pop_front();
  known_.erase(id);
  if (user->second.empty()) waiting_.erase(user);
  return id;
}

}  // namespace shmstate::internal
