// What add, max and min make of two numbers: the one definition for merger and conflating writers.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>

#include "layout/record.h"
#include "shmstate/value.h"

namespace shmstate::internal {

/// Whether an operand of add, max or min is a number at all: a NaN would stick for ever.
[[nodiscard]] inline bool is_operand(Type type, std::uint64_t bits) noexcept {
  return type != Type::kFloat64 || !std::isnan(std::bit_cast<double>(bits));
}

/// Nothing when one of the two is no number, and when infinities of both signs would make a sum that is none.
[[nodiscard]] inline std::optional<double> combine(Operation operation, double old, double operand) noexcept {
  if (std::isnan(old) || std::isnan(operand)) return std::nullopt;
  switch (operation) {
    case Operation::kAdd: return std::isnan(old + operand) ? std::nullopt : std::optional(old + operand);
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
    const std::optional<double> result = combine(operation, std::bit_cast<double>(old), std::bit_cast<double>(operand));
    return result ? std::optional(std::bit_cast<std::uint64_t>(*result)) : std::nullopt;
  }
  const std::optional<std::int64_t> result =
      combine(operation, static_cast<std::int64_t>(old), static_cast<std::int64_t>(operand));
  return result ? std::optional(static_cast<std::uint64_t>(*result)) : std::nullopt;
}

}  // namespace shmstate::internal
