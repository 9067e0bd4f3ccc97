#include "show/change_text.h"

#include <fmt/format.h>

#include "show/text.h"
#include "show/value_text.h"

namespace shmstate::ctl {

std::string_view change_name(ChangeKind kind) noexcept {
  switch (kind) {
    case ChangeKind::kSet: return "set";
    case ChangeKind::kErased: return "erase";
    case ChangeKind::kExpired: return "expire";
    case ChangeKind::kOwnerGone: return "owner_gone";
  }
  return "unknown";
}

std::string change_text(const Change& change) {
  const std::string subject = fmt::format("{} {} {}", change.epoch, change_name(change.kind), escaped(change.key));
  return change.value ? subject + ' ' + value_text(*change.value) + '\n' : subject + '\n';
}

}  // namespace shmstate::ctl
