// Values as callers hand them in and get them back: a typed view, and an owning variant. And what limits a mutation.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>

namespace shmstate {

inline constexpr std::size_t kKeyBytesMax = 4096;
inline constexpr std::size_t kValueBytesMax = std::size_t{1} << 20;
/// A batch is merged in one go, and whoever else pushes waits for that. So it is limited: in its mutations
/// (`Writer::batch_max`), and in bytes for each that it might have, as they lie in the ring. One mutation alone is
/// never too much.
inline constexpr std::uint64_t kBatchBytesPerMutation = 512;
[[nodiscard]] constexpr bool is_batch_allowed(std::uint64_t count, std::uint64_t bytes,
                                              std::uint64_t count_max) noexcept {
  return count <= 1 || (count <= count_max && bytes / kBatchBytesPerMutation <= count_max);
}

/// The type of a value; the numbers are part of the layout.
enum class Type : std::uint8_t { kNone = 0, kInt64 = 1, kFloat64 = 2, kBytes = 3 };

[[nodiscard]] constexpr std::string_view type_name(Type type) noexcept {
  switch (type) {
    case Type::kNone: return "none";
    case Type::kInt64: return "int64";
    case Type::kFloat64: return "float64";
    case Type::kBytes: return "bytes";
  }
  return "unknown";
}

/// An owning value. Text is bytes.
using Value = std::variant<std::int64_t, double, std::string>;

/// Any integer of up to 64 bits; to some compilers, wider ones are integers, too.
template <typename T>
concept Integer = std::integral<T> && sizeof(T) <= sizeof(std::int64_t);

/// A value that somebody else owns: 24 bytes, passed by value. Views of bytes live as long as what they point into.
class ValueView {
 public:
  constexpr ValueView() noexcept = default;

  /// An integer above the largest int64 has type `kNone`, and writing it is `Status::kOutOfRange`.
  template <Integer T>
  constexpr ValueView(T value) noexcept : number_{.int64 = static_cast<std::int64_t>(value)}, type_(Type::kInt64) {
    if constexpr (std::is_unsigned_v<T> && sizeof(T) >= sizeof(std::int64_t)) {
      if (value > static_cast<T>(std::numeric_limits<std::int64_t>::max())) type_ = Type::kNone;
    }
  }
  template <std::floating_point T>
  constexpr ValueView(T value) noexcept : number_{.float64 = static_cast<double>(value)}, type_(Type::kFloat64) {}
  constexpr ValueView(std::string_view bytes) noexcept
      : number_{.data = bytes.data()}, bytes_(bytes.size()), type_(Type::kBytes) {}
  constexpr ValueView(const char* text) noexcept : ValueView(std::string_view(text)) {}
  constexpr ValueView(const std::string& text) noexcept : ValueView(std::string_view(text)) {}
  constexpr ValueView(const Value& value) noexcept {
    std::visit([this](const auto& held) { *this = ValueView(held); }, value);
  }

  [[nodiscard]] constexpr Type type() const noexcept { return type_; }

  /// The value as one type; the caller has looked at `type()`.
  [[nodiscard]] constexpr std::int64_t int64() const noexcept { return number_.int64; }
  [[nodiscard]] constexpr double float64() const noexcept { return number_.float64; }
  [[nodiscard]] constexpr std::string_view bytes() const noexcept { return {number_.data, bytes_}; }

  /// A copy that owns its bytes. A view of type `kNone` becomes the integer 0.
  [[nodiscard]] Value to_value() const {
    switch (type_) {
      case Type::kFloat64: return float64();
      case Type::kBytes: return std::string(bytes());
      default: return type_ == Type::kNone ? std::int64_t{0} : int64();
    }
  }

  friend constexpr bool operator==(const ValueView& a, const ValueView& b) noexcept {
    if (a.type_ != b.type_) return false;
    switch (a.type_) {
      case Type::kInt64: return a.int64() == b.int64();
      case Type::kFloat64: return a.float64() == b.float64();
      case Type::kBytes: return a.bytes() == b.bytes();
      case Type::kNone: return true;
    }
    return false;
  }

 private:
  union Number {
    std::int64_t int64;
    double float64;
    const char* data;
  };
  Number number_{.int64 = 0};
  std::size_t bytes_ = 0;
  Type type_ = Type::kNone;
};

}  // namespace shmstate
