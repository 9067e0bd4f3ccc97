#include "show/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <system_error>

#include "support/escape.h"

namespace shmstate::ctl {

namespace {

using std::chrono::nanoseconds;

constexpr std::int64_t kSecond = 1'000'000'000;  // ns
constexpr std::int64_t kHour = 3600 * kSecond;

std::size_t announced_bytes(unsigned char lead) noexcept {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  if (lead >= 0xF0 && lead < 0xF5) return 4;
  return 0;
}

bool is_continuation(char c) noexcept { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

bool is_overlong_or_no_character(char32_t code, std::size_t bytes) noexcept {
  return (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000) || (code >= 0xD800 && code <= 0xDFFF) ||
         code > 0x10FFFF;
}

bool is_harmless(char32_t code) noexcept {
  if (code < 0x20 || (code >= 0x7F && code < 0xA0)) return false;
  const bool breaks_lines_or_turns_text = code == 0x061C || (code >= 0x200E && code <= 0x200F) ||
                                          (code >= 0x2028 && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
  return !breaks_lines_or_turns_text;
}

std::string escaped_byte(char byte) {
  switch (byte) {
    case '\\': return "\\\\";
    case '\n': return "\\n";
    case '\t': return "\\t";
    case '\r': return "\\r";
    default: return fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
  }
}

std::string without_harm(std::string_view bytes, bool also_backslashes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const std::size_t size = utf8_sequence_bytes(bytes);
    const std::string_view sequence = bytes.substr(0, std::max<std::size_t>(size, 1));
    const bool keep = size != 0 && is_harmless(code_point(sequence)) && !(also_backslashes && sequence == "\\");
    if (keep) {
      text += sequence;
    } else {
      for (const char byte : sequence) text += escaped_byte(byte);
    }
    bytes.remove_prefix(sequence.size());
  }
  return text;
}

std::string two_units(std::int64_t count, std::int64_t small_per_big, std::string_view big, std::string_view small) {
  return fmt::format("{} {} {} {}", count / small_per_big, big, count % small_per_big, small);
}

std::vector<std::size_t> column_widths(const std::vector<std::vector<std::string>>& rows, std::size_t width_max) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i)
      widths[i] = std::max(widths[i], std::min(character_count(row[i]), width_max));
  }
  return widths;
}

}  // namespace

std::size_t utf8_sequence_bytes(std::string_view bytes) noexcept {
  if (bytes.empty()) return 0;
  const std::size_t size = announced_bytes(static_cast<unsigned char>(bytes[0]));
  if (size == 0 || size > bytes.size()) return 0;
  const std::string_view sequence = bytes.substr(0, size);
  if (!std::all_of(sequence.begin() + 1, sequence.end(), is_continuation)) return 0;
  return is_overlong_or_no_character(code_point(sequence), size) ? 0 : size;
}

char32_t code_point(std::string_view sequence) noexcept {
  const auto lead = static_cast<unsigned char>(sequence[0]);
  if (sequence.size() == 1) return lead;
  char32_t code = lead & (0x7Fu >> sequence.size());
  for (const char c : sequence.substr(1)) code = (code << 6) | (static_cast<unsigned char>(c) & 0x3Fu);
  return code;
}

bool is_utf8(std::string_view bytes) noexcept {
  while (!bytes.empty()) {
    const std::size_t size = utf8_sequence_bytes(bytes);
    if (size == 0) return false;
    bytes.remove_prefix(size);
  }
  return true;
}

std::string escaped(std::string_view bytes) { return without_harm(bytes, true); }

std::optional<std::string> unescaped(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const std::size_t plain = std::min(text.find('\\'), text.size());
    bytes += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    text.remove_prefix(1);
    const std::optional<char> byte = take_escape(text);
    if (!byte) return std::nullopt;
    bytes += *byte;
  }
  return bytes;
}

std::string printable(std::string_view message) { return without_harm(message, false); }

std::string in_quotes(std::string_view bytes) { return '"' + escaped(bytes) + '"'; }

std::string format_duration(nanoseconds duration) {
  const std::int64_t ns = duration.count();
  const auto value = static_cast<double>(ns);
  if (ns < 1'000) return fmt::format("{} ns", ns);
  if (ns < 1'000'000) return fmt::format("{:.1f} us", value / 1e3);
  if (ns < kSecond) return fmt::format("{:.1f} ms", value / 1e6);
  if (ns < 60 * kSecond) return fmt::format("{:.1f} s", value / 1e9);
  if (ns < kHour) return two_units(ns / kSecond, 60, "min", "s");
  if (ns < 24 * kHour) return two_units(ns / (60 * kSecond), 60, "h", "min");
  return two_units(ns / kHour, 24, "d", "h");
}

std::string format_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  std::string_view unit = "KiB";
  for (const std::string_view bigger : {"MiB", "GiB", "TiB", "PiB", "EiB"}) {
    if (value < 1024) break;
    value /= 1024;
    unit = bigger;
  }
  return fmt::format("{:.1f} {}", value, unit);
}

std::string format_rate(double per_s) {
  if (per_s > 0 && per_s < 0.95) return fmt::format("{:.1f}", per_s);
  if (per_s < 9'999.5) return fmt::format("{:.0f}", per_s);
  if (per_s < 999'500) return fmt::format("{:.1f}k", per_s / 1e3);
  if (per_s < 999.5e6) return fmt::format("{:.2f}M", per_s / 1e6);
  return fmt::format("{:.2f}G", per_s / 1e9);
}

std::optional<std::uint64_t> parse_version(std::string_view text) {
  std::uint64_t version = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
  return error == std::errc() && end == text.data() + text.size() ? std::optional(version) : std::nullopt;
}

std::optional<std::uint64_t> parse_count(std::string_view text) {
  const std::optional<std::uint64_t> count = parse_version(text);
  return count == 0 ? std::nullopt : count;
}

std::size_t character_count(std::string_view utf8) noexcept {
  return static_cast<std::size_t>(std::count_if(utf8.begin(), utf8.end(), [](char c) { return !is_continuation(c); }));
}

std::string padded(std::string cell, std::size_t width) {
  const std::size_t count = character_count(cell);
  cell.append(2 + (count < width ? width - count : 0), ' ');
  return cell;
}

std::string format_columns(const std::vector<std::vector<std::string>>& rows, std::size_t width_max) {
  const std::vector<std::size_t> widths = column_widths(rows, width_max);
  std::string text;
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) text += i + 1 < row.size() ? padded(row[i], widths[i]) : row[i];
    text += '\n';
  }
  return text;
}

}  // namespace shmstate::ctl
