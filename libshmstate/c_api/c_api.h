// What the implementations of the C API share: structs that carry their size, texts, times, and errors as numbers.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "files/os.h"
#include "shmstate/status.h"
#include "shmstate/status_c.h"
#include "shmstate/value.h"

namespace shmstate::internal::c_api {

inline constexpr std::size_t kStructBytesMax = 4096;  // a larger size is one that nobody has set

[[nodiscard]] constexpr int code(Status status) noexcept { return -static_cast<int>(status); }
inline constexpr int kInvalid = code(Status::kInvalidArgument);

/// Every `sizeof` is a multiple of the alignment; a size that is none would end within a member.
template <typename T>
[[nodiscard]] bool has_size(const T* given) noexcept {
  return given != nullptr && given->struct_bytes >= sizeof(given->struct_bytes) &&
         given->struct_bytes <= kStructBytesMax && given->struct_bytes % alignof(T) == 0;
}

/// Copies the members of the caller's struct that both sides know. False when its size cannot be one, or when it asks
/// for something that this version does not know.
template <typename T>
[[nodiscard]] bool take_struct(const T* given, T& known) noexcept {
  static_assert(std::is_trivially_copyable_v<T> && offsetof(T, struct_bytes) == 0);
  if (given == nullptr) return true;
  if (!has_size(given)) return false;
  const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
  std::memcpy(&known, bytes, std::min(given->struct_bytes, sizeof(T)));
  const bool is_longer = given->struct_bytes > sizeof(T);
  return !is_longer ||
         std::all_of(bytes + sizeof(T), bytes + given->struct_bytes, [](unsigned char byte) { return byte == 0; });
}

/// Fills the members of the caller's struct that both sides know, and makes the others zero. Precondition: `has_size`.
template <typename T>
void fill_struct(T known, T* out) noexcept {
  static_assert(std::is_trivially_copyable_v<T> && offsetof(T, struct_bytes) == 0);
  known.struct_bytes = out->struct_bytes;
  auto* const bytes = reinterpret_cast<unsigned char*>(out);
  const std::size_t both = std::min(known.struct_bytes, sizeof(T));
  std::memcpy(bytes, &known, both);
  std::memset(bytes + both, 0, known.struct_bytes - both);
}

[[nodiscard]] inline std::string_view text(const char* bytes, std::size_t count) noexcept {
  if (bytes == nullptr) return {};
  return count == SHMSTATE_TEXT ? std::string_view(bytes) : std::string_view(bytes, count);
}

[[nodiscard]] inline std::chrono::nanoseconds timeout(std::int64_t given_ns) noexcept {
  return std::chrono::nanoseconds(std::max(given_ns, std::int64_t{0}));
}
[[nodiscard]] inline std::chrono::nanoseconds timeout_or(std::int64_t given_ns,
                                                         std::chrono::nanoseconds by_default) noexcept {
  return given_ns == 0 ? by_default : timeout(given_ns);
}

[[nodiscard]] inline shmstate_value value_of(ValueView value) noexcept {
  shmstate_value out{};
  out.type = static_cast<std::int32_t>(value.type());
  switch (value.type()) {
    case Type::kInt64: out.int64 = value.int64(); break;
    case Type::kFloat64: out.float64 = value.float64(); break;
    case Type::kBytes:
      out.bytes = value.bytes().data();
      out.value_bytes = value.bytes().size();
      break;
    case Type::kNone: break;
  }
  return out;
}

inline void copy_text(std::string_view from, char* to, std::size_t to_bytes) noexcept {
  if (to == nullptr || to_bytes == 0) return;
  const std::size_t bytes = std::min(from.size(), to_bytes - 1);
  std::memcpy(to, from.data(), bytes);
  to[bytes] = '\0';
}

/// The code that `action` returns, or that of what it throws; then the whole text goes to `error_text`, if there is
/// one.
template <typename Action>
[[nodiscard]] int guarded(Action&& action, char* error_text = nullptr, std::size_t error_bytes = 0) noexcept {
  const os::NoCancellation shield;
  Status status = Status::kSystem;
  try {
    return action();
  } catch (const Error& error) {
    status = error.status();
    copy_text(error.what(), error_text, error_bytes);
  } catch (const std::bad_alloc&) {
    status = Status::kNoMemory;
    copy_text("shmstate: this process has no memory left", error_text, error_bytes);
  } catch (const std::exception& error) {
    copy_text(error.what(), error_text, error_bytes);
  }
  return code(status);
}

/// The caller's buffer for texts: it counts whatever else is wrong with the options, unless nobody has set their size.
template <typename Options>
[[nodiscard]] std::span<char> error_buffer(const Options* options) noexcept {
  constexpr std::size_t kEnd = offsetof(Options, error_bytes) + sizeof(options->error_bytes);
  const bool has_buffer =
      options != nullptr && options->struct_bytes >= kEnd && options->struct_bytes <= kStructBytesMax;
  if (!has_buffer || options->error_text == nullptr) return {};
  return {options->error_text, options->error_bytes};
}

/// Sets `*handle` to what `open(options)` returns, which may throw, or to nullptr.
template <typename Options, typename Handle, typename Open>
[[nodiscard]] int open_handle(const char* instance, const Options* options, Handle** handle, Open&& open) noexcept {
  if (handle != nullptr) *handle = nullptr;
  const auto refuse = [](const std::string& why) { throw Error(Status::kInvalidArgument, "shmstate: " + why); };
  const auto checked_open = [&] {
    if (instance == nullptr) refuse("the instance is NULL; give its name or the path of its directory");
    if (handle == nullptr) refuse("there is no place for the handle: NULL");
    Options known{};
    if (options != nullptr && !has_size(options)) {
      refuse("struct_bytes is " + std::to_string(options->struct_bytes) +
             ", which no version of the options has; set it to sizeof options");
    }
    if (!take_struct(options, known)) refuse("an option is set that this version of the library does not know");
    *handle = open(known);
    return SHMSTATE_OK;
  };
  const std::span<char> text = error_buffer(options);
  return guarded(checked_open, text.data(), text.size());
}

}  // namespace shmstate::internal::c_api
