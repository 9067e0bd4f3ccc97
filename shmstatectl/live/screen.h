// The terminal as a screen of lines. While it lives, the terminal is its own; then it is as it was before.
#pragma once

#include <chrono>
#include <optional>
#include <vector>

#include "live/top_view.h"

struct screen;  // of curses

namespace shmstate::ctl {

class Screen {
 public:
  /// Throws `UsageError` when standard input or output is no terminal that can do it.
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  [[nodiscard]] ScreenSize size() const;
  void draw(const std::vector<Line>& lines) const;
  /// Waits for a key that means something. Nothing after `at_most`, a signal, or a change of the size; `kQuit` when the
  /// terminal is gone.
  [[nodiscard]] std::optional<TopKey> read_key(std::chrono::nanoseconds at_most);

 private:
  struct ::screen* terminal_;
  bool has_colors_ = false;
  bool is_utf8_ = false;
};

}  // namespace shmstate::ctl
