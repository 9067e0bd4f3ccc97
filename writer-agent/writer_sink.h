// Pushes mutations into the instance through one writer.
#pragma once

#include <cstdint>
#include <optional>

#include "lines/session.h"
#include "shmstate/writer.h"

namespace shmstate::agent {

/// Whether what a ring holds will never be merged.
[[nodiscard]] constexpr bool is_ring_loss(Status status) noexcept {
  return status == Status::kRingRefused || status == Status::kRingQuarantined || status == Status::kNoInstance ||
         status == Status::kDamaged;
}

class WriterSink final : public MutationSink {
 public:
  explicit WriterSink(Writer& writer) : writer_(&writer) {}

  Status push(const Command& mutation) override {
    return is_ring_loss(ring_loss_) ? ring_loss_ : note(apply(*writer_, mutation));
  }
  Status push_batch(const PendingBatch& pending) override {
    if (is_ring_loss(ring_loss_)) return ring_loss_;
    Batch batch = writer_->batch();
    pending.for_each([&](const Command& mutation) { (void)apply(batch, mutation); });  // commit returns the first error
    return note(batch.commit());
  }

  [[nodiscard]] std::uint64_t batch_max() const noexcept override { return writer_->batch_max(); }

  /// The reason why the ring is lost, or kOk.
  [[nodiscard]] Status ring_loss() const noexcept { return ring_loss_; }
  Status note(Status status) noexcept {
    if (is_ring_loss(status)) ring_loss_ = status;
    return status;
  }

 private:
  template <typename Target>
  static Status apply(Target& target, const Command& mutation) {
    const std::optional<std::uint64_t>& version = mutation.options.version;
    switch (mutation.verb) {
      case Verb::kSet: return target.set(mutation.key, mutation.value, mutation.options);
      case Verb::kAdd: return target.add(mutation.key, mutation.value);
      case Verb::kErase: return version ? target.erase(mutation.key, *version) : target.erase(mutation.key);
      default: return Status::kInvalidArgument;
    }
  }

  Writer* writer_;
  Status ring_loss_ = Status::kOk;
};

}  // namespace shmstate::agent
