#include "notifier.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <system_error>
#include <utility>

#include "support/log.h"

namespace shmstate::agent {

Notifier::Notifier(EventLoop& loop) : loop_(&loop), fd_(move_up(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC))) {
  if (!fd_.is_open()) {
    report_limit(errno, "max_user_instances");
  } else if (!loop_->watch(fd_.get(), EPOLLIN, *this)) {
    fd_ = Fd{};
  }
}

Notifier::~Notifier() {
  loop_->forget(*this);
  if (fd_.is_open()) loop_->unwatch(fd_.get());
}

int Notifier::watch(const std::string& path, std::uint32_t events, Notified& who) {
  const int watch = ::inotify_add_watch(fd_.get(), path.c_str(), events | IN_MASK_ADD);
  if (watch < 0) {
    const int error_number = errno;
    if (error_number == ENOSPC) report_limit(error_number, "max_user_watches");
    errno = error_number;
    return kNone;
  }
  std::vector<Notified*>& watchers = watches_[watch];
  if (std::ranges::find(watchers, &who) == watchers.end()) watchers.push_back(&who);
  return watch;
}

void Notifier::unwatch(int watch, Notified& who) noexcept {
  const auto found = watches_.find(watch);
  if (found == watches_.end()) return;
  std::erase(found->second, &who);
  if (!found->second.empty()) return;
  watches_.erase(found);
  ::inotify_rm_watch(fd_.get(), watch);
}

void Notifier::take_all() {
  alignas(inotify_event) std::array<char, std::size_t{64} << 10> buffer;
  for (;;) {
    const ssize_t bytes = fd_.is_open() ? ::read(fd_.get(), buffer.data(), buffer.size()) : 0;
    if (bytes <= 0) return;
    for (std::size_t at = 0; at < static_cast<std::size_t>(bytes);) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof event);
      const char* name = buffer.data() + at + sizeof event;
      pass_on({event.wd, event.mask, event.cookie, {name, ::strnlen(name, event.len)}});
      at += sizeof event + event.len;
    }
  }
}

void Notifier::pass_on(const Notification& notification) {
  if ((notification.events & IN_Q_OVERFLOW) != 0) {
    std::set<Notified*> all;
    for (const auto& [watch, watchers] : watches_) all.insert(watchers.begin(), watchers.end());
    for (Notified* who : all) who->on_overflow();
    return;
  }
  const auto found = watches_.find(notification.watch);
  if (found == watches_.end()) return;  // of a watch that was ended
  for (Notified* who : found->second) who->on_notification(notification);
  if ((notification.events & IN_IGNORED) != 0) watches_.erase(found);
}

void Notifier::report_limit(int error_number, std::string_view limit) {
  if (std::exchange(has_reported_, true)) return;
  log_warning(
      "the kernel does not tell what happens to files ({}): looking at them four times a second instead, so a file "
      "that "
      "has a followed name for less than that is missed and not counted; raise fs.inotify.{}",
      std::generic_category().message(error_number), limit);
}

}  // namespace shmstate::agent
