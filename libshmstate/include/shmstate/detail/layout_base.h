// What all shared structures have in common. layout/layout.h begins the description of the binary interface.
//
// Conventions: little-endian; every structure starts on a 64-byte line; offsets instead of pointers; zero means free
// or absent; `Shared<T>` fields change while others look at them, plain fields are constant once `magic` is stored,
// or (inside a buffer) change only while the buffer's stamp is `kWriting`.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace shmstate::internal::layout {

inline constexpr std::size_t kLine = 64;

/// A reader or writer of another major version must refuse; a newer minor version only adds.
inline constexpr std::uint32_t kLayoutMajor = 2;
inline constexpr std::uint32_t kLayoutMinor = 0;

using Id = std::array<std::uint8_t, 16>;

/// Reasons of the merger for refusing a mutation: indices of RingCursor::rejected.
enum class Reject : std::uint8_t {
  kWrongType = 0,
  kOutOfRange = 1,
  kNoMemory = 2,
  kLimit = 3,
  kBatchTooBig = 4,
  kUnknown = 5,  // an id that nobody has; an operation, type or flag of the future
  kCrowded = 6,  // too many keys whose hashes begin alike
};
inline constexpr std::size_t kRejectCount = 8;

}  // namespace shmstate::internal::layout
