// What a writer retains while its ring is full: the latest of every key, because state needs only its last word.
//
// Mutations of one key fold: a set replaces what came before, sums add up, the higher of two maxima stays. Keys that
// one batch changed belong together until they are pushed, as one batch; so readers never see half of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <list>
#include <map>
#include <span>
#include <string>
#include <unordered_map>

#include "layout/record.h"

namespace shmstate::internal {

class Conflation {
 public:
  /// Holds at most `bytes_max`, and no group of keys that is larger than `group_bytes_max` as records.
  Conflation(std::size_t bytes_max, std::size_t group_bytes_max)
      : bytes_max_(bytes_max), group_bytes_max_(group_bytes_max) {}

  [[nodiscard]] bool empty() const noexcept { return groups_.empty(); }
  /// Takes checked mutations that belong together. Returns false, and nothing changed, when there is no room, or they
  /// and what belongs to them would be more than a batch may hold. Throws std::bad_alloc, and nothing changed.
  [[nodiscard]] bool add(std::span<const Mutation> batch,
                         std::uint64_t batch_max = std::numeric_limits<std::uint64_t>::max());

  /// The oldest group, which is pushed as one batch of records. Precondition: not empty. Nothing here allocates, so
  /// what is retained can be pushed even when memory has run out.
  [[nodiscard]] std::size_t front_bytes() const noexcept { return groups_.begin()->second.bytes; }
  [[nodiscard]] std::size_t front_count() const noexcept { return groups_.begin()->second.count; }
  void encode_front(std::byte* at) const noexcept;
  void pop_front() noexcept;

 private:
  struct Step {
    explicit Step(const Mutation& mutation);
    [[nodiscard]] Mutation mutation(std::string_view key) const noexcept;

    Operation operation;
    std::uint8_t flags;
    std::uint64_t ttl_ns;
    std::uint64_t version;
    Value value;
    bool has_value;
  };
  // Lists: what was made beforehand is put into them without allocating.
  using Steps = std::list<Step>;
  struct Pending {
    Steps steps;
    std::uint64_t group = 0;
  };
  using Entries = std::unordered_map<std::string, Pending>;
  using Entry = Entries::value_type;
  struct Group {
    std::list<Entry*> entries;
    std::size_t bytes = 0;  // as records
    std::size_t count = 0;  // of records
  };
  struct Prepared;

  [[nodiscard]] bool has_room(std::span<const Mutation> batch, std::uint64_t batch_max) const;
  [[nodiscard]] Prepared prepare(std::span<const Mutation> batch);
  void join_groups(Prepared& prepared) noexcept;
  static void fold(Steps& steps, const Mutation& mutation, Steps& step) noexcept;
  [[nodiscard]] static std::size_t bytes_of(const Entry& entry) noexcept;

  std::size_t bytes_max_;
  std::size_t group_bytes_max_;
  std::size_t bytes_ = 0;
  std::uint64_t next_group_ = 1;
  Entries entries_;
  std::map<std::uint64_t, Group> groups_;  // in the order of their oldest mutation
};

}  // namespace shmstate::internal
