// What this program alone decides, and what must therefore hold: a violation is a bug of ours. It is on in every build,
// because to stop at the cause and start again from the last snapshot loses nothing, and to go on could publish a wrong
// state. What others can write (rings, hints, a damaged file) is verified instead, and never asserted.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace shmstate::internal {

[[noreturn, gnu::cold, gnu::noinline]] inline void stop_at_violation(const char* file, int line,
                                                                     const char* condition) noexcept {
  std::fprintf(stderr, "shmstate: %s:%d: invariant violated: %s\n", file, line, condition);
  std::abort();
}

}  // namespace shmstate::internal

#define SHMSTATE_INVARIANT(condition) \
  (static_cast<bool>(condition) ? void() : ::shmstate::internal::stop_at_violation(__FILE__, __LINE__, #condition))
