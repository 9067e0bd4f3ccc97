// What `top` shows, and what its keys do: everything but the terminal.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "doctor/pin_holders.h"
#include "live/hot_keys.h"
#include "live/rates.h"
#include "shmstate/inspect.h"

namespace shmstate::ctl {

enum class Style : std::uint8_t { kPlain, kTitle, kHeading, kFaint, kAlarm };

struct Line {
  std::string text;  // without control characters, and not wider than the screen
  Style style = Style::kPlain;
};

struct ScreenSize {
  std::size_t rows = 24;
  std::size_t columns = 80;
};

enum class TopKey : std::uint8_t {
  kQuit,
  kPause,
  kSortBacklog,
  kSortRate,
  kSortRejected,
  kSortName,
  kUp,
  kDown,
  kPageUp,
  kPageDown,
};
/// What a character means, if anything.
[[nodiscard]] std::optional<TopKey> top_key(char typed) noexcept;

/// What one look at the instance found.
struct TopLook {
  std::chrono::steady_clock::time_point at;
  std::optional<InstanceInfo> info = std::nullopt;
  std::string problem = {};  // why there is no `info`
  std::vector<PinHolder> pin_holders = {};
  std::vector<KeyCount> changes = {};  // since the look before
};

class TopView {
 public:
  explicit TopView(std::chrono::nanoseconds interval) : interval_(interval) {}

  void take(TopLook look);
  /// False when it was the key to quit.
  [[nodiscard]] bool press(TopKey key);
  [[nodiscard]] bool is_paused() const noexcept { return is_paused_; }

  /// At most `size.rows` lines.
  [[nodiscard]] std::vector<Line> lines(ScreenSize size) const;

 private:
  enum class Order : std::uint8_t { kBacklog, kRate, kRejected, kName };

  [[nodiscard]] std::vector<Line> head_lines() const;
  [[nodiscard]] std::vector<Line> alarm_lines() const;
  [[nodiscard]] std::string title_text() const;
  [[nodiscard]] std::string publish_text() const;
  [[nodiscard]] std::string mutations_text() const;
  [[nodiscard]] std::string memory_text() const;
  [[nodiscard]] std::string pins_text() const;
  [[nodiscard]] std::vector<Line> ring_lines(ScreenSize size) const;
  [[nodiscard]] std::vector<Line> key_lines(std::size_t rows) const;
  [[nodiscard]] std::vector<const RingInfo*> sorted_rings() const;
  [[nodiscard]] std::string ring_text(const RingInfo& ring, std::size_t name_columns) const;
  [[nodiscard]] double ring_rate(const RingInfo& ring) const;
  [[nodiscard]] std::string help_text() const;
  [[nodiscard]] std::string statistic_text(std::string_view name) const;

  std::chrono::nanoseconds interval_;
  TopLook look_;  // the last one that found an instance, with the problem of the last one
  std::optional<Rates> rates_;
  std::optional<std::chrono::steady_clock::time_point> made_anew_at_;
  HotKeys hot_keys_;
  Order order_ = Order::kBacklog;
  std::size_t first_ring_ = 0;
  bool is_paused_ = false;
};

}  // namespace shmstate::ctl
