#include "writer/conflation.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

#include "layout/combine.h"

namespace shmstate::internal {
namespace {

constexpr std::size_t kEntryOverhead = 256;  // about what the containers take for a key

// Whether finite numbers became an infinite one: from another entry, one by one, they might not have.
bool has_overflowed(double old, double operand, double result) {
  return std::isinf(result) && std::isfinite(old) && std::isfinite(operand);
}

// False when a sum overflows or is not a number: then the merger decides what becomes of it.
bool fold_number(Value& number, const Mutation& mutation) noexcept {
  if (double* const held = std::get_if<double>(&number)) {
    const double operand = mutation.value.float64();
    const std::optional<double> result = combine(mutation.operation, *held, operand);
    if (!result || has_overflowed(*held, operand, *result)) return false;
    *held = *result;
    return true;
  }
  auto& held = std::get<std::int64_t>(number);
  const std::optional<std::int64_t> result = combine(mutation.operation, held, mutation.value.int64());
  if (result) held = *result;
  return result.has_value();
}

bool is_versioned(std::uint8_t flags) { return (flags & kWithVersion) != 0; }

bool is_set_or_erase(const Mutation& mutation) {
  return mutation.operation == Operation::kSet || mutation.operation == Operation::kErase;
}

bool replaces_everything(const Mutation& mutation) {
  return is_set_or_erase(mutation) && !is_versioned(mutation.flags);
}

}  // namespace

Conflation::Step::Step(const Mutation& mutation)
    : operation(mutation.operation),
      flags(static_cast<std::uint8_t>(mutation.flags & ~(kById | kBatchContinues))),
      ttl_ns(mutation.ttl_ns),
      version(mutation.version),
      value(mutation.value.to_value()),
      has_value(mutation.value.type() != Type::kNone) {}

Mutation Conflation::Step::mutation(std::string_view key) const noexcept {
  Mutation mutation{
      .operation = operation, .key = key, .value = {}, .flags = flags, .ttl_ns = ttl_ns, .version = version};
  if (has_value) mutation.value = ValueView(value);
  return mutation;
}

// All that an addition needs and that allocating may fail for.
struct Conflation::Prepared {
  Steps steps;                  // of each mutation
  std::vector<Entry*> entries;  // of each mutation; that of a new key is in `made`
  Entries made;
  std::list<Entry*> made_entries;
  std::uint64_t id = 0;  // of the group that all of them join
  Group* group = nullptr;
};

bool Conflation::add(std::span<const Mutation> batch, std::uint64_t batch_max) {
  if (!has_room(batch, batch_max)) return false;

  Prepared prepared = prepare(batch);
  join_groups(prepared);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    Entry& entry = *prepared.entries[i];
    const std::size_t before = bytes_of(entry);
    const std::size_t count_before = entry.second.steps.size();
    Steps step;
    step.splice(step.begin(), prepared.steps, prepared.steps.begin());
    fold(entry.second.steps, batch[i], step);
    const std::size_t after = bytes_of(entry);
    prepared.group->bytes += after - before;
    prepared.group->count += entry.second.steps.size() - count_before;
    bytes_ += after - before;
  }
  return true;
}

// Counts as if nothing but what a plain set replaces would fold: simple, and safe.
bool Conflation::has_room(std::span<const Mutation> batch, std::uint64_t batch_max) const {
  std::size_t grown = 0;
  std::size_t replaced = 0;
  std::size_t replaced_count = 0;
  std::size_t joined = 0;
  std::size_t joined_count = 0;
  std::unordered_set<std::string_view> keys;
  std::unordered_set<std::uint64_t> groups;
  for (const Mutation& mutation : batch) {
    const auto found = entries_.find(std::string(mutation.key));
    const bool is_first = keys.insert(mutation.key).second;
    grown += record_bytes(mutation) + (found == entries_.end() ? mutation.key.size() + kEntryOverhead : 0);
    if (found == entries_.end()) continue;
    if (groups.insert(found->second.group).second) {
      joined += groups_.at(found->second.group).bytes;
      joined_count += groups_.at(found->second.group).count;
    }
    if (is_first && replaces_everything(mutation)) {
      replaced += bytes_of(*found);
      replaced_count += found->second.steps.size();
    }
  }
  const std::size_t group_bytes = joined + grown - replaced;
  return bytes_ + grown - replaced <= bytes_max_ && group_bytes <= group_bytes_max_ &&
         is_batch_allowed(joined_count + batch.size() - replaced_count, group_bytes, batch_max);
}

// The group comes last: only that is seen from outside, as soon as it is made.
Conflation::Prepared Conflation::prepare(std::span<const Mutation> batch) {
  Prepared prepared;
  prepared.id = next_group_;
  for (const Mutation& mutation : batch) {
    prepared.steps.emplace_back(mutation);
    std::string key(mutation.key);
    if (const auto found = entries_.find(key); found != entries_.end()) {
      prepared.entries.push_back(&*found);
      prepared.id = std::min(prepared.id, found->second.group);
      continue;
    }
    const auto [entry, is_new] = prepared.made.try_emplace(std::move(key));
    prepared.entries.push_back(&*entry);
    if (is_new) prepared.made_entries.push_back(&*entry);
  }
  const std::size_t entry_count = entries_.size() + prepared.made.size();
  if (entry_count >= entries_.bucket_count()) entries_.reserve(2 * entry_count);
  prepared.group = &groups_[prepared.id];
  return prepared;
}

// The groups of all keys in the batch become one, at the place of the oldest.
void Conflation::join_groups(Prepared& prepared) noexcept {
  Group& joined = *prepared.group;
  if (prepared.id == next_group_) ++next_group_;
  for (Entry* const entry : prepared.made_entries) {
    entry->second.group = prepared.id;
    bytes_ += entry->first.size() + kEntryOverhead;
  }
  joined.entries.splice(joined.entries.end(), prepared.made_entries);
  entries_.merge(prepared.made);
  for (const Entry* const entry : prepared.entries) {
    if (entry->second.group == prepared.id) continue;
    const auto other = groups_.find(entry->second.group);
    for (Entry* const moved : other->second.entries) moved->second.group = prepared.id;
    joined.entries.splice(joined.entries.end(), other->second.entries);
    joined.bytes += other->second.bytes;
    joined.count += other->second.count;
    groups_.erase(other);
  }
}

// The steps must have the effect of all mutations one after the other, whatever the entry is when they are merged.
// Takes `step`, which is the mutation, if it is needed.
void Conflation::fold(Steps& steps, const Mutation& mutation, Steps& step) noexcept {
  if (is_set_or_erase(mutation) && is_versioned(mutation.flags)) {  // of two versions in a row the higher one counts
    if (!steps.empty() && is_versioned(steps.back().flags)) {
      if (mutation.version > steps.back().version) steps.back() = std::move(step.front());
      return;
    }
  } else if (replaces_everything(mutation)) {
    steps.clear();
  } else if (!steps.empty()) {
    Step& last = steps.back();
    const Mutation before = last.mutation(mutation.key);
    const bool same_type = last.has_value && before.value.type() == mutation.value.type();
    const bool into_set = last.operation == Operation::kSet && !is_versioned(last.flags);
    if (same_type && (into_set || last.operation == mutation.operation)) {
      if (fold_number(last.value, mutation)) return;
    }
  }
  steps.splice(steps.end(), step);
}

std::size_t Conflation::bytes_of(const Entry& entry) noexcept {
  std::size_t bytes = 0;
  for (const Step& step : entry.second.steps) bytes += record_bytes(step.mutation(entry.first));
  return bytes;
}

void Conflation::encode_front(std::byte* at) const noexcept {
  const Group& group = groups_.begin()->second;
  const std::byte* const end = at + group.bytes;
  for (const Entry* const entry : group.entries) {
    for (const Step& step : entry->second.steps) {
      const Mutation mutation = step.mutation(entry->first);
      const std::size_t bytes = record_bytes(mutation);
      encode_record(at, mutation, at + bytes == end ? 0 : kBatchContinues);
      at += bytes;
    }
  }
}

void Conflation::pop_front() noexcept {
  const auto group = groups_.begin();
  for (const Entry* const entry : group->second.entries) {
    bytes_ -= bytes_of(*entry) + entry->first.size() + kEntryOverhead;
    entries_.erase(entries_.find(entry->first));
  }
  groups_.erase(group);
}

}  // namespace shmstate::internal
