// What can be handed in as a value. Compiled with the compiler's extensions, among which are wider integers.
#include "shmstate/value.h"

#include <gtest/gtest.h>

#include <concepts>

namespace shmstate {
namespace {

__extension__ using Int128 = __int128;
__extension__ using Uint128 = unsigned __int128;

template <typename T>
concept IsValue = std::convertible_to<T, ValueView>;

TEST(Value, AnIntegerOf128BitsIsNoneInsteadOfBeingTruncated) {
  static_assert(std::integral<Int128> && std::integral<Uint128>, "not with this language standard");
  EXPECT_FALSE(IsValue<Int128>);
  EXPECT_FALSE(IsValue<Uint128>);
  EXPECT_TRUE(IsValue<std::int64_t> && IsValue<std::uint64_t> && IsValue<long long> && IsValue<bool> && IsValue<char>);
}

}  // namespace
}  // namespace shmstate
