// The buffers of an instance without a merge engine, for tests of what the engine is made of.
#pragma once

#include "engine/back_buffer.h"
#include "engine/instance_owner.h"
#include "engine/replicas.h"
#include "harness/test_instance.h"

namespace shmstate::test {

class OwnReplicas {
 public:
  static constexpr std::uint64_t kPages = 16;  // that are committed

  explicit OwnReplicas(std::uint32_t buffer_count = 2)
      : owner_(directory_.path() / "plant",
               {.buffer_count = buffer_count, .memory_limit_bytes = std::uint64_t{64} << 20}),
        replicas_(owner_) {
    EXPECT_EQ(owner_.commit_pages(0, kPages), 0);
  }

  [[nodiscard]] internal::InstanceOwner& owner() noexcept { return owner_; }
  [[nodiscard]] internal::Replicas& replicas() noexcept { return replicas_; }

 private:
  TemporaryDirectory directory_;
  internal::InstanceOwner owner_;
  internal::Replicas replicas_;
};

}  // namespace shmstate::test
