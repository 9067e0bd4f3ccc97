// What a stored value is, by its type: the one place that lists the types which have values, for all that decode them.
#pragma once

#include <bit>
#include <cstdint>

#include "shmstate/value.h"

namespace shmstate::internal {

/// Calls `take(number)` with the std::int64_t or double that `bits()` are, or `take_bytes()`. A type that has no value
/// gives `otherwise`.
template <typename Bits, typename TakeNumber, typename TakeBytes, typename Result>
[[gnu::always_inline]] inline Result visit_value(Type type, Bits&& bits, TakeNumber&& take, TakeBytes&& take_bytes,
                                                 Result otherwise) {
  switch (type) {
    case Type::kInt64: return take(static_cast<std::int64_t>(bits()));
    case Type::kFloat64: return take(std::bit_cast<double>(bits()));
    case Type::kBytes: return take_bytes();
    default: return otherwise;
  }
}

}  // namespace shmstate::internal
