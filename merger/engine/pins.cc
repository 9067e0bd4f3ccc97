#include "engine/pins.h"

#include <algorithm>
#include <string>

#include "files/os.h"
#include "protocol/publish.h"

namespace shmstate::internal {
namespace {

struct Kernel {
  static void fence() noexcept { os::fence(); }
  [[nodiscard]] bool is_locked(std::uint32_t buffer) const noexcept {
    ++questions;
    return os::is_locked(snapshot_fd, kPinByte + buffer);
  }

  int snapshot_fd;
  std::uint64_t& questions;
};

}  // namespace

bool Pins::is_pinned(std::uint32_t buffer) noexcept {
  const Kernel kernel{context_.owner.snapshot_fd(), context_.statistics.pin_questions};
  if (!context_.owner.geometry().has_announced_pins) return kernel.is_locked(buffer);
  const bool is_pinned = news_.is_pinned(context_.owner.pin_word().announced, buffer, kernel);
  return context_.owner.is_pin_word_lost() ? kernel.is_locked(buffer) : is_pinned;
}

std::optional<BackBuffer> Pins::claim(std::uint64_t now_ns) {
  const auto pin_time_max = static_cast<std::uint64_t>(context_.options.pin_time_max.count());
  const bool is_too_long = pin_time_max != 0 && is_stalled() && stalled_ns(now_ns) >= pin_time_max;
  if (expired_ != 0) forget_ended_pins();
  if (std::optional<BackBuffer> back = claim_newest(now_ns, Override::kNone)) return back;
  if (expired_ != 0) {
    if (std::optional<BackBuffer> back = claim_newest(now_ns, Override::kExpired)) return back;
  }
  return is_too_long ? claim_newest(now_ns, Override::kAll) : std::nullopt;
}

void Pins::wait(std::uint64_t now_ns, bool has_waiting_work) noexcept {
  if (!has_waiting_work) {
    end_stall(now_ns);  // its ring was truncated
  } else if (!is_stalled()) {
    stalled_since_ns_ = now_ns;
    ++context_.statistics.stall_count;
  }
}

void Pins::forget_ended_pins() noexcept {
  for (std::uint32_t b = 0; b < context_.owner.geometry().buffer_count; ++b) {
    if ((expired_ >> b & 1) != 0 && !is_pinned(b)) expired_ &= ~(1U << b);
  }
}

std::optional<BackBuffer> Pins::claim_newest(std::uint64_t now_ns, Override pins) {
  std::uint32_t tried = 1U << replicas_.current().buffer;
  while (const std::optional<std::uint32_t> buffer = newest_buffer_except(tried)) {
    const std::uint32_t bit = 1U << *buffer;
    tried |= bit;
    if (pins == Override::kExpired && (expired_ & bit) == 0) continue;
    std::optional<BackBuffer> back = replicas_.claim(*this, *buffer, pins != Override::kNone);
    if (!back) continue;
    if (pins == Override::kAll) {
      expired_ |= bit;
      ++context_.statistics.pins_expired;
      context_.log.report(MergeEvent::Kind::kPinExpired, 0, "buffer " + std::to_string(*buffer));
    }
    end_stall(now_ns);
    return back;
  }
  return std::nullopt;
}

std::optional<std::uint32_t> Pins::newest_buffer_except(std::uint32_t excluded) const noexcept {
  const auto epoch_of = [this](std::uint32_t buffer) {
    return context_.owner.publication().stamps[buffer].load(std::memory_order_relaxed) & ~layout::kClaimed;
  };
  std::optional<std::uint32_t> newest;
  for (std::uint32_t b = 0; b < context_.owner.geometry().buffer_count; ++b) {
    if ((excluded >> b & 1) == 0 && (!newest || epoch_of(b) > epoch_of(*newest))) newest = b;
  }
  return newest;
}

void Pins::end_stall(std::uint64_t now_ns) noexcept {
  if (!is_stalled()) return;
  EngineStatistics& statistics = context_.statistics;
  statistics.stall_ns_total += stalled_ns(now_ns);
  statistics.stall_ns_max = std::max(statistics.stall_ns_max, stalled_ns(now_ns));
  stalled_since_ns_ = 0;
}

}  // namespace shmstate::internal
