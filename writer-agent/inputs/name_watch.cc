#include "inputs/name_watch.h"

#include <sys/inotify.h>

#include <filesystem>
#include <utility>

namespace shmstate::agent {

NameWatch::NameWatch(Notifier& notifier, const std::string& path, bool& has_changed)
    : notifier_(&notifier), has_changed_(&has_changed) {
  const std::filesystem::path whole = path;
  directory_ = whole.parent_path().empty() ? "." : whole.parent_path().string();
  name_ = whole.filename().string();
  renew();
}

NameWatch::~NameWatch() { notifier_->unwatch(watch_, *this); }

void NameWatch::on_notification(const Notification& notification) {
  if (notification.name == name_ || notification.name.empty()) *has_changed_ = true;
}

void NameWatch::renew() {
  notifier_->unwatch(std::exchange(watch_, Notifier::kNone), *this);
  watch_ = notifier_->watch(directory_, IN_CREATE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_MOVE_SELF | IN_ONLYDIR,
                            *this);
}

}  // namespace shmstate::agent
