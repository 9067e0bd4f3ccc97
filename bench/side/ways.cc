// Compiled against the interface of this revision and of others. What not all of them have stands in a `requires` of
// the lambda that uses it; nothing here relies on a method being const, or on the type of an epoch.
#include "side/ways.h"

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>

#include "contenders/shmstate.h"

namespace shmstate::bench {
namespace {

using Items = std::span<const Item>;
using Views = std::span<const std::string_view>;
using Numbers = std::span<std::optional<std::int64_t>>;
constexpr std::size_t kGroup = 16;  // mutations of a batch, keys of a get_many

/// `push(writer, items, salt)` does what is measured.
template <typename Push>
class PushingClient final : public ShmstateClient {
 public:
  PushingClient(const std::string& path, Push push)
      : ShmstateClient(path, Contender::Role::kBoth), push_(std::move(push)) {}
  void set_all(Items items, std::int64_t salt) override { push_(writer(), items, salt); }
  void set_each(Items items, std::int64_t salt, Durations& durations) override {
    for (std::size_t i = 0; i < items.size(); ++i) {
      const std::uint64_t start = ticks();
      push_(writer(), items.subspan(i, 1), salt);
      durations.add(ticks() - start);
    }
  }

 private:
  Push push_;
};

/// `read(reader, items)` does what is measured, and returns the sum of the numbers of the keys that it found.
template <typename Read>
class ReadingClient final : public ShmstateClient {
 public:
  ReadingClient(const std::string& path, Read read)
      : ShmstateClient(path, Contender::Role::kReader), read_(std::move(read)) {}
  [[nodiscard]] std::uint64_t get_all(Items items) override { return read_(reader(), items); }

 private:
  Read read_;
};

template <typename Push>
Way push_way(std::string name, Push push) {
  if constexpr (std::is_invocable_v<Push&, Writer&, Items, std::int64_t>) {
    return {std::move(name), true,
            [push](const std::string& path) { return std::make_unique<PushingClient<Push>>(path, push); }};
  } else {
    return {std::move(name), true, nullptr};
  }
}

template <typename Read>
Way read_way(std::string name, Read read) {
  if constexpr (std::is_invocable_v<Read&, Reader&, Items>) {
    return {std::move(name), false,
            [read](const std::string& path) { return std::make_unique<ReadingClient<Read>>(path, read); }};
  } else {
    return {std::move(name), false, nullptr};
  }
}

/// Calls `get(group)` for each group of items, and adds up.
std::uint64_t in_groups(Items items, auto&& get) {
  std::uint64_t sum = 0;
  while (!items.empty()) {
    const Items group = items.first(std::min(kGroup, items.size()));
    sum += get(group);
    items = items.subspan(group.size());
  }
  return sum;
}

/// A bound key for each key. Its first use is like that of a plain key, at the second a writer gives it an id: so all
/// are used twice before it counts.
class BoundKeys {
 public:
  explicit BoundKeys(std::uint64_t key_count) {
    for (std::uint64_t i = 0; i < key_count; ++i) keys_.emplace_back(item_of(i).name());
  }
  void prepare(auto&& use) {
    if (std::exchange(are_used_, true)) return;
    for (int round = 0; round < 2; ++round) {
      for (std::size_t i = 0; i < keys_.size(); ++i) use(keys_[i], static_cast<std::int64_t>(i));
    }
  }
  [[nodiscard]] Key& of(const Item& item) { return keys_[index_in(item.value)]; }

 private:
  std::vector<Key> keys_;
  bool are_used_ = false;
};

std::vector<Way> push_ways(const BoundKeys& bound) {
  return {
      push_way("push",
               [](auto& writer, Items items, std::int64_t salt) {
                 for (const Item& item : items) writer.set(item.name(), item.value + salt);
               }),
      push_way("push, bound key",
               [bound = bound](auto& writer, Items items, std::int64_t salt) mutable {
                 bound.prepare([&](Key& key, std::int64_t value) { writer.set(key, value); });
                 for (const Item& item : items) writer.set(bound.of(item), item.value + salt);
               }),
      push_way("push, batches of 16",
               [](auto& writer, Items items, std::int64_t salt) {
                 auto batch = writer.batch();
                 in_groups(items, [&](Items group) {
                   for (const Item& item : group) batch.set(item.name(), item.value + salt);
                   return batch.commit() == Status::kOk ? 0U : 1U;
                 });
               }),
  };
}

[[noreturn, gnu::cold]] void fail_at_key() { throw Failed("a key is missing, or there is one that nobody set"); }

std::uint64_t found(const auto& value) {
  if (!value) fail_at_key();
  return index_in(*value);
}

std::vector<Way> point_ways(const BoundKeys& bound) {
  return {
      read_way("read",
               [](auto& reader, Items items) {
                 std::uint64_t sum = 0;
                 for (const Item& item : items) {
                   std::int64_t value = 0;
                   if (reader.read(item.name(), value) != Status::kOk) fail_at_key();
                   sum += index_in(value);
                 }
                 return sum;
               }),
      read_way("read, absent key",
               [](auto& reader, Items items) {
                 std::uint64_t sum = 0;
                 for (Item item : items) {
                   item.key[0] = '-';
                   std::int64_t value = item.value;
                   if (reader.read(item.name(), value) != Status::kNotFound) fail_at_key();
                   sum += index_in(value);
                 }
                 return sum;
               }),
      read_way("read, bound key",
               [bound = bound](auto& reader, Items items) mutable {
                 bound.prepare([&](Key& key, std::int64_t value) { (void)reader.read(key, value); });
                 std::uint64_t sum = 0;
                 for (const Item& item : items) {
                   std::int64_t value = 0;
                   if (reader.read(bound.of(item), value) != Status::kOk) fail_at_key();
                   sum += index_in(value);
                 }
                 return sum;
               }),
  };
}

std::vector<Way> group_ways() {
  return {
      read_way("get_many of 16, values",
               [](auto& reader, Items items) {
                 std::vector<std::optional<Value>> values;
                 return in_groups(items, [&](Items group) {
                   std::array<std::string_view, kGroup> keys;
                   for (std::size_t i = 0; i < group.size(); ++i) keys[i] = group[i].name();
                   reader.get_many(Views(keys).first(group.size()), values);
                   std::uint64_t sum = 0;
                   for (const auto& value : values) sum += index_in(std::get<std::int64_t>(value.value()));
                   return sum;
                 });
               }),
      read_way(
          "get_many of 16, numbers",
          [](auto& reader, Items items) -> std::uint64_t requires requires(Views keys, Numbers values) {
            reader.get_many(keys, values);
          } {
            return in_groups(items, [&](Items group) {
              std::array<std::string_view, kGroup> keys;
              std::array<std::optional<std::int64_t>, kGroup> values;
              for (std::size_t i = 0; i < group.size(); ++i) keys[i] = group[i].name();
              reader.get_many(Views(keys).first(group.size()), Numbers(values).first(group.size()));
              std::uint64_t sum = 0;
              for (std::size_t i = 0; i < group.size(); ++i) sum += found(values[i]);
              return sum;
            });
          }),
  };
}

std::vector<Way> snapshot_ways() {
  return {
      read_way("snapshot, taken and dropped",
               [](auto& reader, Items items) {
                 for (std::size_t i = 0; i < items.size(); ++i) (void)reader.snapshot();
                 return index_sum(items.data(), items.size());
               }),
      read_way("find in a snapshot",
               [](auto& reader, Items items) {
                 auto snapshot = reader.snapshot();
                 std::uint64_t sum = 0;
                 for (const Item& item : items) sum += found(snapshot.template get<std::int64_t>(item.name()));
                 return sum;
               }),
  };
}

}  // namespace

std::vector<Way> make_ways(std::uint64_t key_count) {
  const BoundKeys bound(key_count);
  std::vector<Way> ways = push_ways(bound);
  for (const auto& more : {point_ways(bound), group_ways(), snapshot_ways()}) {
    ways.insert(ways.end(), more.begin(), more.end());
  }
  return ways;
}

}  // namespace shmstate::bench
