// What add, max and min make of two numbers: the one definition for merger and conflating writers.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>

#include "core/record.h"
#include "shmstate/value.h"

namespace shmstate {

[[nodiscard]] inline double combine(Operation operation, double old, double operand) noexcept {
  switch (operation) {
    case Operation::kAdd: return old + operand;
    case Operation::kMax: return operand > old ? operand : old;
    case Operation::kMin: return operand < old ? operand : old;
    default: return operand;
  }
}

/// Nothing when a sum overflows.
[[nodiscard]] inline std::optional<std::int64_t> combine(Operation operation, std::int64_t old,
                                                         std::int64_t operand) noexcept {
  std::int64_t sum = 0;
  switch (operation) {
    case Operation::kAdd: return __builtin_add_overflow(old, operand, &sum) ? std::nullopt : std::optional(sum);
    case Operation::kMax: return std::max(old, operand);
    case Operation::kMin: return std::min(old, operand);
    default: return operand;
  }
}

/// As bits, as they lie in a slot; both numbers have this type.
[[nodiscard]] inline std::optional<std::uint64_t> combine_bits(Operation operation, Type type, std::uint64_t old,
                                                               std::uint64_t operand) noexcept {
  if (type == Type::kFloat64) {
    return std::bit_cast<std::uint64_t>(combine(operation, std::bit_cast<double>(old), std::bit_cast<double>(operand)));
  }
  const std::optional<std::int64_t> result =
      combine(operation, static_cast<std::int64_t>(old), static_cast<std::int64_t>(operand));
  return result ? std::optional(static_cast<std::uint64_t>(*result)) : std::nullopt;
}

}  // namespace shmstate
