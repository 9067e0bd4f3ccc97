#include "commands/commands.h"
#include "instance.h"
#include "interrupt.h"
#include "live/screen.h"
#include "live/top_view.h"
#include "usage.h"

namespace shmstate::ctl {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kIntervalMin = std::chrono::milliseconds(100);  // as often as the merger refreshes what is shown

// The instance may be gone, or being re-created: then the next look may find it.
std::vector<KeyCount> changes_of(ChangeSampler& sampler) {
  try {
    return sampler.take();
  } catch (const Error&) {
    return {};
  }
}

TopLook take_look(const std::string& instance, ChangeSampler& sampler) {
  TopLook look{.at = Clock::now()};
  try {
    look.info = look_at(instance);
    look.pin_holders = pin_holders(*look.info);
    look.changes = changes_of(sampler);
  } catch (const Error& error) {
    look.problem = error.what();
  }
  return look;
}

// Until the next look is due; false when it is the end.
bool serve_keys(Screen& screen, TopView& view, Clock::time_point deadline) {
  do {
    screen.draw(view.lines(screen.size()));
    const std::optional<TopKey> key = screen.read_key(deadline - Clock::now());
    if (is_interrupted() || (key && !view.press(*key))) return false;
  } while (Clock::now() < deadline);
  return true;
}

}  // namespace

ExitCode run_top(const Options& options) {
  if (options.json) throw UsageError("top shows a screen; for JSON, use status");
  if (options.refresh_interval < kIntervalMin)
    throw UsageError("top shows nothing new more often than every 100 ms; choose a longer --interval");
  const std::string instance = resolve_instance(options.instance);
  static_cast<void>(look_at(instance));  // one that is not there is told before the screen changes
  end_on_interrupt();
  ChangeSampler sampler(instance);
  TopView view(options.refresh_interval);
  Screen screen;
  do {
    if (!view.is_paused()) view.take(take_look(instance, sampler));
  } while (serve_keys(screen, view, Clock::now() + options.refresh_interval));
  return ExitCode::kOk;
}

}  // namespace shmstate::ctl
