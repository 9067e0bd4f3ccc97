// What a writer keeps for itself while its ring is full: the latest of every key, because state needs only its last
// word.
//
// Mutations of one key fold: a set replaces what came before, sums add up, the higher of two maxima stays. Keys that
// one batch changed belong together until they are pushed, as one batch; so readers never see half of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/record.h"

namespace shmstate {

class Conflation {
 public:
  /// Holds at most `bytes_max`, and no group of keys that is larger than `group_bytes_max` as records.
  Conflation(std::size_t bytes_max, std::size_t group_bytes_max)
      : bytes_max_(bytes_max), group_bytes_max_(group_bytes_max) {}

  [[nodiscard]] bool empty() const noexcept { return groups_.empty(); }
  /// Takes checked mutations that belong together. Returns false, and nothing changed, when there is no room.
  [[nodiscard]] bool add(std::span<const Mutation> batch);

  /// The oldest group as records of one batch, valid until the next call. Precondition: not empty.
  [[nodiscard]] std::span<const std::byte> front();
  [[nodiscard]] std::size_t front_count() const noexcept { return front_count_; }
  void pop_front();

 private:
  struct Step {
    explicit Step(const Mutation& mutation);
    [[nodiscard]] Mutation mutation(std::string_view key) const;

    Operation operation;
    std::uint8_t flags;
    std::uint64_t ttl_ns;
    std::uint64_t version;
    Value value;
    bool has_value;
  };
  struct Pending {
    std::vector<Step> steps;
    std::uint64_t group = 0;
  };
  using Entry = std::unordered_map<std::string, Pending>::value_type;
  struct Group {
    std::vector<Entry*> entries;
    std::size_t bytes = 0;  // as records
  };

  [[nodiscard]] bool has_room(std::span<const Mutation> batch) const;
  static void fold(std::vector<Step>& steps, const Mutation& mutation);
  [[nodiscard]] static std::size_t bytes_of(const Entry& entry);
  [[nodiscard]] Group& join_groups(std::span<const Mutation> batch, std::uint64_t& id);

  std::size_t bytes_max_;
  std::size_t group_bytes_max_;
  std::size_t bytes_ = 0;
  std::uint64_t next_group_ = 1;
  std::unordered_map<std::string, Pending> entries_;
  std::map<std::uint64_t, Group> groups_;  // in the order of their oldest mutation
  std::vector<std::byte> encoded_;
  std::size_t front_count_ = 0;
};

}  // namespace shmstate
