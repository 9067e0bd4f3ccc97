#include "support/duration_text.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <system_error>

namespace shmstate {
namespace {

using std::chrono::nanoseconds;

struct Unit {
  std::string_view name;
  double ns;
};
constexpr std::array<Unit, 6> kUnits = {
    {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"min", 60e9}, {"h", 3600e9}}};

}  // namespace

std::optional<nanoseconds> parse_duration(std::string_view text) noexcept {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  const std::string_view name = text.empty() ? "s" : text;
  const auto* const unit =
      std::find_if(kUnits.begin(), kUnits.end(), [name](const Unit& candidate) { return candidate.name == name; });
  constexpr double kLongest = 1e18;  // ns, some thirty years; more would not fit
  if (unit == kUnits.end() || number * unit->ns > kLongest) return std::nullopt;
  const nanoseconds duration(std::llround(number * unit->ns));
  const bool is_lost = number > 0 && duration == nanoseconds::zero();  // and zero often means never
  return is_lost ? std::nullopt : std::optional(duration);
}

}  // namespace shmstate
