// How much a test tried: `./dev test` adds these lines up at its end.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace shmstate::test {

inline void explored(std::uint64_t count, const std::string& things) {
  std::printf("explored: %llu %s\n", static_cast<unsigned long long>(count), things.c_str());
}

}  // namespace shmstate::test
