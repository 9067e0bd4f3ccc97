// Cuts a stream of bytes into lines: in place where a line lies whole in a chunk, with bounded memory where not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace shmstate::agent {

struct Line {
  std::string_view text;     ///< without its newline, and without a carriage return before it
  std::uint64_t number = 0;  ///< counts from 1
  bool is_too_long = false;  ///< `text` is empty; the rest of the line will be skipped
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
  }

  /// Forgets the beginning of a line that will never be whole. Returns whether there was one.
  bool drop_unfinished() {
    const bool had_one = !carry_.empty() && !is_skipping_;
    release_carry();
    is_skipping_ = false;
    return had_one;
  }

  /// Skips what is left of a line whose beginning was not seen.
  void skip_rest_of_line() { is_skipping_ = true; }

 private:
  static constexpr std::size_t kCarryBytesKept = std::size_t{64} << 10;

  template <typename OnLine>
  bool take(std::string_view piece, bool ends, OnLine& on_line) {
    if (is_skipping_) {
      is_skipping_ = !ends;
      return true;
    }
    if (carry_.size() + piece.size() > line_bytes_max_) {
      is_skipping_ = !ends;
      release_carry();
      return on_line(Line{{}, ++number_, true});
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
  bool emit(std::string_view text, OnLine& on_line) {
    if (text.ends_with('\r')) text.remove_suffix(1);
    return on_line(Line{text, ++number_, false});
  }

  void release_carry() {
    carry_.clear();
    if (carry_.capacity() > kCarryBytesKept) carry_.shrink_to_fit();
  }

  std::size_t line_bytes_max_;
  std::uint64_t number_ = 0;
  bool is_skipping_ = false;
  std::string carry_;
};

}  // namespace shmstate::agent
