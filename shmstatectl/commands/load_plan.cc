#include "commands/load_plan.h"

#include "shmstate/value.h"

namespace shmstate::ctl {

namespace {

struct Group {
  std::size_t end;
  std::size_t bytes;
};

// The entries of one epoch.
Group group_at(const std::vector<Entry>& entries, std::size_t begin) {
  const std::uint64_t epoch = entries[begin].changed_epoch;
  Group group{.end = begin + 1, .bytes = set_bytes(entries[begin])};
  while (epoch != 0 && group.end < entries.size() && entries[group.end].changed_epoch == epoch) {
    group.bytes += set_bytes(entries[group.end++]);
  }
  return group;
}

class Planner {
 public:
  Planner(const std::vector<Entry>& entries, const BatchLimits& limits) : entries_(entries), limits_(limits) {}

  [[nodiscard]] LoadPlan run() {
    for (std::size_t begin = 0; begin < entries_.size();) {
      const Group group = group_at(entries_, begin);
      take(begin, group);
      begin = group.end;
    }
    end_batch(entries_.size());
    return plan_;
  }

 private:
  void take(std::size_t begin, const Group& group) {
    const std::size_t count = group.end - begin;
    if (!fits(count, group.bytes)) end_batch(begin);
    if (count > 1 && !fits(count, group.bytes)) return split(begin, group.end);
    count_ += count;
    bytes_ += group.bytes;
    if (count_ >= limits_.entries || bytes_ >= limits_.bytes) end_batch(group.end);
  }

  void split(std::size_t begin, std::size_t end) {
    ++plan_.split_count;
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t bytes = set_bytes(entries_[i]);
      if (!fits(1, bytes)) end_batch(i);
      ++count_;
      bytes_ += bytes;
    }
    end_batch(end);
  }

  [[nodiscard]] bool fits(std::size_t count, std::size_t bytes) const {
    return count_ + count <= limits_.entries_max && bytes_ + bytes <= limits_.bytes_max;
  }

  void end_batch(std::size_t end) {
    if (count_ > 0) plan_.ends.push_back(end);
    count_ = 0;
    bytes_ = 0;
  }

  const std::vector<Entry>& entries_;
  const BatchLimits& limits_;
  LoadPlan plan_;
  std::size_t count_ = 0;  // of the batch that is being filled
  std::size_t bytes_ = 0;
};

}  // namespace

std::size_t set_bytes(const Entry& entry) {
  constexpr std::size_t kHeadAndOptions = 32;
  constexpr std::size_t kRoundingUp = 16;
  const ValueView value(entry.value);
  const std::size_t value_bytes = value.type() == Type::kBytes ? value.bytes().size() : sizeof(std::int64_t);
  return kHeadAndOptions + kRoundingUp + entry.key.size() + value_bytes;
}

LoadPlan plan_batches(const std::vector<Entry>& entries, const BatchLimits& limits) {
  return Planner(entries, limits).run();
}

}  // namespace shmstate::ctl
