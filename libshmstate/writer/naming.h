// The ids of bound keys in this writer's ring: which a key gets, and where its name goes.
#pragma once

#include "protocol/key_ids.h"
#include "writer/ring_access.h"

namespace shmstate::internal {

struct Naming : RingAccess {
  using RingAccess::RingAccess;

  /// Lets a mutation name its key by an id, if the key has one in this ring or gets one now.
  void name(Mutation& mutation, Key& key) noexcept;

 private:
  static constexpr std::uint64_t kCommitStep = std::uint64_t{64} << 10;

  /// False when there is no room for another name, or no memory.
  [[nodiscard]] bool add_name(Key& key) noexcept;
  [[nodiscard]] bool commit_names(std::uint64_t index_end, std::uint64_t names_begin) noexcept;
  [[nodiscard]] bool commit(std::uint64_t begin, std::uint64_t end) const noexcept;
};

}  // namespace shmstate::internal
