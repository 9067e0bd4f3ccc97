#include "support/accounts.h"

#include <grp.h>
#include <pwd.h>

namespace shmstate {

std::string user_name(std::uint32_t uid) {
  const passwd* const found = ::getpwuid(uid);
  return found != nullptr ? found->pw_name : std::to_string(uid);
}

std::string group_name(std::uint32_t gid) {
  const group* const found = ::getgrgid(gid);
  return found != nullptr ? found->gr_name : std::to_string(gid);
}

}  // namespace shmstate
