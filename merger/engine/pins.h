// Which buffer may be written next, and how long the merger waits for readers' pins.
//
// Prefers a buffer that nobody pins. Next, one whose pin has already expired: the merger does not wait for that lock a
// second time, whoever else may have pinned the buffer. It overrides other pins only when work has waited for the
// maximum pin time: then the pin expires.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/back_buffer.h"
#include "engine/engine_context.h"
#include "engine/replicas.h"
#include "protocol/pin_news.h"

namespace shmstate::internal {

class Pins {
 public:
  Pins(const EngineContext& context, Replicas& replicas) : context_(context), replicas_(replicas) {}

  /// Of the buffers that may be claimed now, claims the one that lacks least; nothing when there is none.
  [[nodiscard]] std::optional<BackBuffer> claim(std::uint64_t now_ns);
  /// After a failed claim. Without waiting work, a stall ends: its reason is gone.
  void wait(std::uint64_t now_ns, bool has_waiting_work) noexcept;

  /// Whether a buffer is pinned; readers are never asked, they may stand still.
  [[nodiscard]] bool is_pinned(std::uint32_t buffer) noexcept;
  /// The kernel is asked again, whatever readers have announced.
  void forget_news() noexcept { news_.forget(); }

  /// Whether work waits for a pin to end.
  [[nodiscard]] bool is_stalled() const noexcept { return stalled_since_ns_ != 0; }
  /// For how long work has waited.
  [[nodiscard]] std::uint64_t stalled_ns(std::uint64_t now_ns) const noexcept {
    return is_stalled() ? now_ns - stalled_since_ns_ : 0;
  }
  /// Time during which the merger itself stood still does not count against the readers.
  void excuse(std::uint64_t ns) noexcept {
    if (is_stalled()) stalled_since_ns_ += ns;
  }

 private:
  enum class Override : std::uint8_t { kNone, kExpired, kAll };

  [[nodiscard]] std::optional<BackBuffer> claim_newest(std::uint64_t now_ns, Override pins);
  [[nodiscard]] std::optional<std::uint32_t> newest_buffer_except(std::uint32_t excluded) const noexcept;
  void forget_ended_pins() noexcept;
  void end_stall(std::uint64_t now_ns) noexcept;

  EngineContext context_;
  Replicas& replicas_;
  PinNews news_;
  std::uint64_t stalled_since_ns_ = 0;
  std::uint32_t expired_ = 0;  // a bit for each buffer whose pin was overridden and still exists
};

}  // namespace shmstate::internal
