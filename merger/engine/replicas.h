// The buffers as byte replicas of each other.
//
// One buffer is current: it holds the newest epoch, and readers read it. After a publish, every other buffer is stale
// by exactly what the published one was written in; a claim catches up by copying just that, at the same offsets: whole
// lines, and of entries that changed in nothing else the two words of value and epoch of change. It is always copied
// from the current buffer, so it does not matter how often, in which order, or for which turn something was noted; and
// a buffer in which a merger died, or of which nothing is known, is copied as a whole. Nothing else here knows about
// tables, so whatever is laid out in a buffer is replicated; the cost is that of what changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/back_buffer.h"
#include "engine/differences.h"
#include "engine/instance_owner.h"
#include "protocol/publish.h"

namespace shmstate::internal {

class Replicas {
 public:
  explicit Replicas(InstanceOwner& owner);

  /// The newest epoch and its buffer.
  [[nodiscard]] Version current() const noexcept { return current_; }
  /// The buffer that was claimed last.
  [[nodiscard]] std::uint32_t last_claimed() const noexcept { return last_claimed_; }
  /// Lines copied to catch up, whole or in part, so far.
  [[nodiscard]] std::uint64_t lines_copied() const noexcept { return lines_copied_; }

  /// In a new instance: the first buffer, which nobody can read yet.
  [[nodiscard]] BackBuffer first();
  /// Takes an instance over. Only the current buffer is trusted.
  void resume_from(Version current);

  /// Claims a buffer other than the current one and brings it up to the newest epoch; nothing when it is pinned.
  /// With `anyway`, pins are overridden. No other claim may be open.
  template <typename Locks>
  [[nodiscard]] std::optional<BackBuffer> claim(Locks& locks, std::uint32_t buffer, bool anyway) {
    check_claim(buffer);
    if (!try_claim(owner_.publication(), locks, buffer, anyway)) return std::nullopt;
    return open(buffer);
  }
  /// Makes the buffer the current one.
  void publish(BackBuffer&& back);

 private:
  void check_claim(std::uint32_t buffer) const noexcept;
  [[nodiscard]] BackBuffer open(std::uint32_t buffer);
  std::uint64_t catch_up(std::uint32_t buffer, std::byte* to);
  void set_current(Version version);

  InstanceOwner& owner_;
  std::uint32_t buffer_count_;
  Version current_;
  std::byte* current_base_ = nullptr;
  std::uint32_t last_claimed_ = 0;
  bool is_claimed_ = false;         // a back buffer has been claimed and not been published
  Differences spare_;               // empty, for the next claim
  std::vector<Differences> stale_;  // by buffer: what it lacks
  std::vector<bool> lacks_all_;
  std::uint64_t lines_copied_ = 0;
};

}  // namespace shmstate::internal
