// Arguments that cannot be used.
#pragma once

#include <stdexcept>
#include <string_view>

namespace shmstate::ctl {

/// `what()` says what is wrong with an argument, and what to do.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws `UsageError` when no entry can have this key.
void check_key(std::string_view key);

}  // namespace shmstate::ctl
