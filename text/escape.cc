#include "text/escape.h"

#include <charconv>
#include <cstdint>

namespace shmstate {
namespace {

std::optional<char> take_hex_byte(std::string_view& text) noexcept {
  std::uint8_t byte = 0;
  if (text.size() < 2 || std::from_chars(text.data(), text.data() + 2, byte, 16).ptr != text.data() + 2)
    return std::nullopt;
  text.remove_prefix(2);
  return static_cast<char>(byte);
}

}  // namespace

std::optional<char> take_escape(std::string_view& text) noexcept {
  if (text.empty()) return std::nullopt;
  const char kind = text.front();
  text.remove_prefix(1);
  switch (kind) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    case '0': return '\0';
    case '\\': return '\\';
    case '"': return '"';
    case 'x': return take_hex_byte(text);
    default: return std::nullopt;
  }
}

}  // namespace shmstate
