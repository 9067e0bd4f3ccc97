#include "support/escape.h"

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

constexpr std::size_t kExcerptBytes = 64;

void append_escaped(std::string& text, char byte) {
  constexpr std::string_view kHex = "0123456789abcdef";
  const auto value = static_cast<unsigned char>(byte);
  switch (byte) {
    case '\n': text += "\\n"; return;
    case '\t': text += "\\t"; return;
    case '\r': text += "\\r"; return;
    case '\0': text += "\\0"; return;
    case '\\':
    case '"': (text += '\\') += byte; return;
    default: break;
  }
  if (byte >= ' ' && byte <= '~') {
    text += byte;
  } else {
    text += {'\\', 'x', kHex[value >> 4], kHex[value & 15]};
  }
}

}  // namespace

std::string excerpt(std::string_view bytes) {
  std::string text = "\"";
  for (const char byte : bytes.substr(0, kExcerptBytes)) append_escaped(text, byte);
  text += bytes.size() > kExcerptBytes ? "...\"" : "\"";
  return text;
}

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
