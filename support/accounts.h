// Users and groups, for messages.
#pragma once

#include <cstdint>
#include <string>

namespace shmstate {

/// The name of a user or group, or its number where it has none, or cannot be looked up. Not thread-safe: getpwuid(3).
[[nodiscard]] std::string user_name(std::uint32_t uid);
[[nodiscard]] std::string group_name(std::uint32_t gid);

}  // namespace shmstate
