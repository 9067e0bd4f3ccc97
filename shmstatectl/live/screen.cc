#include "live/screen.h"

#include <curses.h>
#include <langinfo.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "usage.h"

namespace shmstate::ctl {

namespace {

constexpr short kAlarmPair = 1;
constexpr int kEscapeDelayMs = 25;
constexpr int kRedrawKey = 'L' - '@';  // Ctrl-L

int attributes_of(Style style, bool has_colors) {
  switch (style) {
    case Style::kPlain: return 0;
    case Style::kTitle: return A_REVERSE | A_BOLD;
    case Style::kHeading: return A_REVERSE;
    case Style::kFaint: return A_DIM;
    case Style::kAlarm: return A_BOLD | (has_colors ? COLOR_PAIR(kAlarmPair) : 0);
  }
  return 0;
}

std::string ascii_of(std::string_view utf8) {
  std::string text;
  for (const char c : utf8) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80 || byte >= 0xc0) text += byte < 0x80 ? c : '?';  // the other bytes of a character follow its first
  }
  return text;
}

std::optional<TopKey> key_of(int typed) {
  switch (typed) {
    case KEY_UP: return TopKey::kUp;
    case KEY_DOWN: return TopKey::kDown;
    case KEY_PPAGE: return TopKey::kPageUp;
    case KEY_NPAGE: return TopKey::kPageDown;
    default: return typed > 0 && typed < 128 ? top_key(static_cast<char>(typed)) : std::nullopt;
  }
}

}  // namespace

Screen::Screen() {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0)
    throw UsageError("top needs a terminal; for files and pipes, use status");
  std::setlocale(LC_CTYPE, "");
  is_utf8_ = std::strcmp(::nl_langinfo(CODESET), "UTF-8") == 0;
  terminal_ = ::newterm(nullptr, stdout, stdin);
  if (terminal_ == nullptr)
    throw UsageError("top does not know this terminal; set TERM to one of its kind, for example xterm or vt100");
  ::set_escdelay(kEscapeDelayMs);
  ::cbreak();
  ::noecho();
  ::nonl();
  ::keypad(stdscr, TRUE);
  ::nodelay(stdscr, TRUE);
  ::curs_set(0);
  has_colors_ = ::has_colors() && ::start_color() == OK && ::use_default_colors() == OK;
  if (has_colors_) ::init_pair(kAlarmPair, COLOR_RED, -1);
}

Screen::~Screen() {
  ::endwin();
  ::delscreen(terminal_);
}

ScreenSize Screen::size() const {
  return {static_cast<std::size_t>(std::max(getmaxy(stdscr), 0)),
          static_cast<std::size_t>(std::max(getmaxx(stdscr), 0))};
}

void Screen::draw(const std::vector<Line>& lines) const {
  ::werase(stdscr);
  for (std::size_t row = 0; row < lines.size(); ++row) {
    ::wattrset(stdscr, attributes_of(lines[row].style, has_colors_));
    ::mvwaddstr(stdscr, static_cast<int>(row), 0, (is_utf8_ ? lines[row].text : ascii_of(lines[row].text)).c_str());
  }
  ::wattrset(stdscr, 0);
  ::wrefresh(stdscr);
}

std::optional<TopKey> Screen::read_key(std::chrono::nanoseconds at_most) {
  using std::chrono::milliseconds;
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  const auto timeout = std::max(std::chrono::ceil<milliseconds>(at_most), milliseconds(0));
  const int ready = ::poll(&input, 1, static_cast<int>(std::min<std::int64_t>(timeout.count(), 1'000'000)));
  if (ready > 0 && (input.revents & POLLIN) == 0) return TopKey::kQuit;
  const int typed = ::wgetch(stdscr);  // also tells of a new size
  if (typed == ERR && ready > 0) return TopKey::kQuit;
  if (typed == kRedrawKey) ::clearok(curscr, TRUE);
  return key_of(typed);
}

}  // namespace shmstate::ctl
