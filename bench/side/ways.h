// The ways to push and to read that the public interface offers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "contender.h"

namespace shmstate::bench {

struct Way {
  std::string name;
  bool is_push = false;
  /// A client that pushes, or reads, in this way. Empty: the interface of this revision does not offer it.
  std::function<std::unique_ptr<Client>(const std::string& path)> connect;
};

[[nodiscard]] std::vector<Way> make_ways(std::uint64_t key_count);

}  // namespace shmstate::bench
