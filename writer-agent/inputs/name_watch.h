// Tells that something happened to the name of a FIFO or socket. Without notifications, the regular look has to do.
#pragma once

#include <string>

#include "notifier.h"

namespace shmstate::agent {

class NameWatch final : public Notified {
 public:
  /// Sets `has_changed` when the name appears or goes.
  NameWatch(Notifier& notifier, const std::string& path, bool& has_changed);
  ~NameWatch() override;

  void on_notification(const Notification& notification) override;
  void on_overflow() override { *has_changed_ = true; }
  /// Watches the directory that has the path now.
  void renew();

 private:
  Notifier* notifier_;
  std::string directory_;
  std::string name_;
  bool* has_changed_;
  int watch_ = Notifier::kNone;
};

}  // namespace shmstate::agent
