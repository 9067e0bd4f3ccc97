// Cuts a stream of bytes into lines: in place where a line lies whole in a chunk, with bounded memory where not. Takes
// a byte order mark off the beginning of the stream.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "support/byte_order_mark.h"

namespace shmstate::agent {

struct Line {
  std::string_view text;     ///< without its newline, and without a carriage return before it
  std::uint64_t number = 0;  ///< counts from 1
  bool is_too_long = false;  ///< `text` is its beginning; the rest of the line will be skipped
  bool is_utf16 = false;     ///< the stream said so at its beginning: no line of it means anything
};

class LineSplitter {
 public:
  explicit LineSplitter(std::size_t line_bytes_max) : line_bytes_max_(line_bytes_max) {}

  /// Calls `on_line(const Line&)` for each line that ends in `chunk`, until it returns false. Returns how many bytes
  /// were taken; the caller feeds the others later.
  template <typename OnLine>
  std::size_t feed(std::string_view chunk, OnLine&& on_line) {
    std::string_view rest = chunk;
    bool go_on = true;
    while (go_on && !rest.empty()) {
      const std::size_t newline = rest.find('\n');
      const bool ends = newline != std::string_view::npos;
      const std::string_view piece = rest.substr(0, newline);
      rest.remove_prefix(ends ? newline + 1 : rest.size());
      go_on = take(piece, ends, on_line);
    }
    return chunk.size() - rest.size();
  }

  /// The input has ended: what follows the last newline is a line, too.
  template <typename OnLine>
  void finish(OnLine&& on_line) {
    if (!is_skipping_ && !carry_.empty()) emit_carry(on_line);
    drop_unfinished();
    is_at_start_ = true;
    is_utf16_ = false;
  }

  /// Forgets the beginning of a line that will never be whole. Returns whether there was one.
  bool drop_unfinished() {
    const bool had_one = !carry_.empty() && !is_skipping_;
    release_carry();
    is_skipping_ = false;
    return had_one;
  }

  /// Skips what is left of a line whose beginning was not seen.
  void skip_rest_of_line() {
    is_skipping_ = true;
    is_at_start_ = false;
  }

 private:
  static constexpr std::size_t kCarryBytesKept = std::size_t{64} << 10;
  static constexpr std::size_t kBeginningBytes = 100;  // of a line that is too long

  template <typename OnLine>
  bool take(std::string_view piece, bool ends, OnLine& on_line) {
    if (is_skipping_) {
      is_skipping_ = !ends;
      return true;
    }
    if (carry_.size() + piece.size() > line_bytes_max_) {
      is_skipping_ = !ends;
      const std::size_t bytes = std::min(kBeginningBytes, line_bytes_max_);
      std::string beginning = carry_.substr(0, bytes);
      beginning.append(piece.substr(0, bytes - beginning.size()));
      release_carry();
      return emit(beginning, on_line, true);
    }
    if (ends && carry_.empty()) return emit(piece, on_line);
    carry_.append(piece);
    return !ends || emit_carry(on_line);
  }

  template <typename OnLine>
  bool emit_carry(OnLine& on_line) {
    const bool go_on = emit(carry_, on_line);
    release_carry();
    return go_on;
  }

  template <typename OnLine>
  bool emit(std::string_view text, OnLine& on_line, bool is_too_long = false) {
    if (std::exchange(is_at_start_, false)) {
      is_utf16_ = has_utf16_mark(text);
      text = without_utf8_mark(text);
    }
    if (text.ends_with('\r') && !is_too_long) text.remove_suffix(1);
    return on_line(Line{text, ++number_, is_too_long, is_utf16_});
  }

  void release_carry() {
    carry_.clear();
    if (carry_.capacity() > kCarryBytesKept) carry_.shrink_to_fit();
  }

  std::size_t line_bytes_max_;
  std::uint64_t number_ = 0;
  bool is_skipping_ = false;
  bool is_at_start_ = true;  // of the stream
  bool is_utf16_ = false;
  std::string carry_;
};

}  // namespace shmstate::agent
