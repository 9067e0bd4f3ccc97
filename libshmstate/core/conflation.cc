#include "core/conflation.h"

#include <algorithm>
#include <optional>
#include <unordered_set>

#include "core/combine.h"

namespace shmstate {
namespace {

constexpr std::size_t kEntryOverhead = 256;  // about what the containers take for a key

// False when a sum overflows: then the merger shall say so.
bool fold_number(Value& number, const Mutation& mutation) {
  if (double* const held = std::get_if<double>(&number)) {
    *held = combine(mutation.operation, *held, mutation.value.float64());
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
      flags(static_cast<std::uint8_t>(mutation.flags & ~(kWithHint | kBatchContinues))),
      ttl_ns(mutation.ttl_ns),
      version(mutation.version),
      value(mutation.value.to_value()),
      has_value(mutation.value.type() != Type::kNone) {}

Mutation Conflation::Step::mutation(std::string_view key) const {
  Mutation mutation{
      .operation = operation, .key = key, .value = {}, .flags = flags, .ttl_ns = ttl_ns, .version = version};
  if (has_value) mutation.value = ValueView(value);
  return mutation;
}

bool Conflation::add(std::span<const Mutation> batch) {
  if (!has_room(batch)) return false;

  std::uint64_t id = 0;
  Group& group = join_groups(batch, id);
  for (const Mutation& mutation : batch) {
    const auto [entry, is_new] = entries_.try_emplace(std::string(mutation.key));
    const std::size_t before = is_new ? 0 : bytes_of(*entry);
    if (is_new) {
      entry->second.group = id;
      group.entries.push_back(&*entry);
      bytes_ += entry->first.size() + kEntryOverhead;
    }
    fold(entry->second.steps, mutation);
    const std::size_t after = bytes_of(*entry);
    group.bytes += after - before;
    bytes_ += after - before;
  }
  return true;
}

// Counts as if nothing but what a plain set replaces would fold: simple, and safe.
bool Conflation::has_room(std::span<const Mutation> batch) const {
  std::size_t grown = 0;
  std::size_t replaced = 0;
  std::size_t joined = 0;
  std::unordered_set<std::string_view> keys;
  std::unordered_set<std::uint64_t> groups;
  for (const Mutation& mutation : batch) {
    const auto found = entries_.find(std::string(mutation.key));
    const bool is_first = keys.insert(mutation.key).second;
    grown += record_bytes(mutation) + (found == entries_.end() ? mutation.key.size() + kEntryOverhead : 0);
    if (found == entries_.end()) continue;
    if (groups.insert(found->second.group).second) joined += groups_.at(found->second.group).bytes;
    if (is_first && replaces_everything(mutation)) replaced += bytes_of(*found);
  }
  return bytes_ + grown - replaced <= bytes_max_ && joined + grown - replaced <= group_bytes_max_;
}

// The groups of all keys in the batch become one, at the place of the oldest.
Conflation::Group& Conflation::join_groups(std::span<const Mutation> batch, std::uint64_t& id) {
  id = next_group_;
  for (const Mutation& mutation : batch) {
    const auto found = entries_.find(std::string(mutation.key));
    if (found != entries_.end()) id = std::min(id, found->second.group);
  }
  if (id == next_group_) ++next_group_;
  Group& joined = groups_[id];
  for (const Mutation& mutation : batch) {
    const auto found = entries_.find(std::string(mutation.key));
    if (found == entries_.end() || found->second.group == id) continue;
    const auto other = groups_.find(found->second.group);
    for (Entry* const entry : other->second.entries) {
      entry->second.group = id;
      joined.entries.push_back(entry);
    }
    joined.bytes += other->second.bytes;
    groups_.erase(other);
  }
  return joined;
}

// The steps must have the effect of all mutations one after the other, whatever the entry is when they are merged.
void Conflation::fold(std::vector<Step>& steps, const Mutation& mutation) {
  if (is_set_or_erase(mutation) && is_versioned(mutation.flags)) {  // of two versions in a row the higher one counts
    if (!steps.empty() && is_versioned(steps.back().flags)) {
      if (mutation.version > steps.back().version) steps.back() = Step(mutation);
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
  steps.emplace_back(mutation);
}

std::size_t Conflation::bytes_of(const Entry& entry) {
  std::size_t bytes = 0;
  for (const Step& step : entry.second.steps) bytes += record_bytes(step.mutation(entry.first));
  return bytes;
}

std::span<const std::byte> Conflation::front() {
  const Group& group = groups_.begin()->second;
  encoded_.resize(group.bytes);
  front_count_ = 0;
  std::size_t position = 0;
  for (const Entry* const entry : group.entries) {
    for (const Step& step : entry->second.steps) {
      const Mutation mutation = step.mutation(entry->first);
      const std::size_t bytes = record_bytes(mutation);
      const bool is_last = position + bytes == group.bytes;
      encode_record(encoded_.data() + position, mutation, is_last ? 0 : kBatchContinues);
      position += bytes;
      ++front_count_;
    }
  }
  return encoded_;
}

void Conflation::pop_front() {
  const auto group = groups_.begin();
  for (const Entry* const entry : group->second.entries) {
    bytes_ -= bytes_of(*entry) + entry->first.size() + kEntryOverhead;
    entries_.erase(entries_.find(entry->first));
  }
  groups_.erase(group);
}

}  // namespace shmstate
