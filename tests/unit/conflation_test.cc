// What a writer keeps while its ring is full has the effect of all it was given, whatever the state it meets.
#include "writer/conflation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "harness/test_instance.h"
#include "layout/combine.h"
#include "layout/record.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::Random;

constexpr std::size_t kPlenty = std::size_t{64} << 20;

// ---- the model: what the merger makes of mutations

struct Entry {
  bool is_tombstone = false;
  Value value;
  std::uint64_t version = 0;
  std::uint64_t ttl_ns = 0;
  bool is_ephemeral = false;

  bool operator==(const Entry& other) const {
    return is_tombstone == other.is_tombstone && test::is_same(value, other.value) && version == other.version &&
           ttl_ns == other.ttl_ns && is_ephemeral == other.is_ephemeral;
  }
};
using State = std::map<std::string, Entry>;

Entry entry_of(const Mutation& mutation) {
  const bool is_erase = mutation.operation == Operation::kErase;
  return {.is_tombstone = is_erase,
          .value = is_erase ? Value() : mutation.value.to_value(),
          .version = mutation.version,
          .ttl_ns = mutation.ttl_ns,
          .is_ephemeral = (mutation.flags & kEphemeral) != 0};
}

void combine_into(State& state, const Mutation& mutation) {
  const auto [at, is_new] = state.try_emplace(std::string(mutation.key), entry_of(mutation));
  if (is_new) return;
  Entry& entry = at->second;
  if (entry.is_tombstone) {
    entry = entry_of(mutation);
  } else if (ValueView(entry.value).type() != mutation.value.type()) {
    return;  // rejected
  } else if (auto* const number = std::get_if<double>(&entry.value)) {
    *number = combine(mutation.operation, *number, mutation.value.float64()).value_or(*number);
  } else {
    auto& sum = std::get<std::int64_t>(entry.value);
    sum = combine(mutation.operation, sum, mutation.value.int64()).value_or(sum);
  }
}

void apply_to(State& state, const Mutation& mutation) {
  const std::string key(mutation.key);
  const auto at = state.find(key);
  const bool is_versioned = (mutation.flags & kWithVersion) != 0;
  switch (mutation.operation) {
    case Operation::kSet:
    case Operation::kErase:
      if (is_versioned) {
        if (at == state.end() || mutation.version > at->second.version) state[key] = entry_of(mutation);
      } else if (mutation.operation == Operation::kSet) {
        state[key] = entry_of(mutation);
      } else if (at != state.end()) {
        state.erase(at);  // also what a tombstone remembers
      }
      return;
    default: return combine_into(state, mutation);
  }
}

// ---- conflated records

struct Group {
  std::vector<std::byte> bytes;
  std::vector<Mutation> mutations;  // their views point into `bytes`
};

Group take_front(Conflation& conflation) {
  Group group;
  group.bytes.resize(conflation.front_bytes());
  conflation.encode_front(group.bytes.data());
  const std::size_t count = conflation.front_count();
  for (std::size_t position = 0; position < group.bytes.size();) {
    RecordView record;
    if (!parse_record(group.bytes.data() + position, group.bytes.size() - position, record)) {
      ADD_FAILURE() << "not a record at " << position;
      break;
    }
    position += record.bytes;
    const bool continues = (record.flags & kBatchContinues) != 0;
    EXPECT_EQ(continues, position < group.bytes.size()) << "a group is exactly one batch";
    group.mutations.push_back(record.mutation());
  }
  EXPECT_EQ(group.mutations.size(), count);
  conflation.pop_front();
  return group;
}

void drain_into(Conflation& conflation, State& state, std::size_t groups = std::numeric_limits<std::size_t>::max()) {
  for (; groups > 0 && !conflation.empty(); --groups) {
    for (const Mutation& mutation : take_front(conflation).mutations) apply_to(state, mutation);
  }
}

// ---- random mutations

double random_infinity(Random& random) {
  return random.chance(50) ? std::numeric_limits<double>::infinity() : -std::numeric_limits<double>::infinity();
}

/// Small whole numbers, so that sums of floats are exact and sums of integers never overflow; and what is beyond
/// numbers.
Value random_value(Random& random, Operation operation) {
  const auto number = static_cast<std::int64_t>(random.below(41)) - 20;
  const std::size_t dice = random.below(operation == Operation::kSet ? 4 : 3);
  if (dice == 3) return random.bytes(random.below(30));
  if (dice == 2 && random.chance(20)) return random_infinity(random);
  if (dice == 2 && operation == Operation::kSet && random.chance(20)) return std::nan("");
  if (dice == 2) return static_cast<double>(number);
  return number;
}

struct Change {
  std::string key;
  Value value;
  Mutation mutation;
};

/// Filled in place: the mutation's views point into the change.
void randomise(Change& change, Random& random, std::size_t keys) {
  static constexpr std::array kOperations{Operation::kSet, Operation::kSet, Operation::kErase,
                                          Operation::kAdd, Operation::kMax, Operation::kMin};
  Mutation& mutation = change.mutation;
  mutation.operation = kOperations[random.below(kOperations.size())];
  change.key = "key/" + std::to_string(random.below(keys));
  change.value = random_value(random, mutation.operation);
  mutation.key = change.key;
  mutation.value = mutation.operation == Operation::kErase ? ValueView() : ValueView(change.value);
  const bool sets = mutation.operation == Operation::kSet;
  if ((sets || mutation.operation == Operation::kErase) && random.chance(50)) {
    mutation.flags |= kWithVersion;
    mutation.version = random.below(12);
  }
  if (sets && random.chance(30)) {
    mutation.flags |= kWithTtl;
    mutation.ttl_ns = 1 + random.below(1000);
  }
  if (sets && random.chance(20)) mutation.flags |= kEphemeral;
}

std::vector<Mutation> mutations_of(const std::vector<Change>& changes) {
  std::vector<Mutation> mutations;
  for (const Change& change : changes) mutations.push_back(change.mutation);
  return mutations;
}

std::vector<Change> random_batch(Random& random, std::size_t keys) {
  std::vector<Change> changes(random.chance(70) ? 1 : random.between(2, 6));
  for (Change& change : changes) randomise(change, random, keys);
  return changes;
}

State random_state(Random& random, std::size_t keys) {
  State state;
  for (std::size_t i = random.below(3 * keys); i > 0; --i) {
    Change change;
    randomise(change, random, keys);
    apply_to(state, change.mutation);
  }
  return state;
}

// ---- properties

/// What readers see of a state.
State visible(State state) {
  std::erase_if(state, [](const auto& entry) { return entry.second.is_tombstone; });
  return state;
}

/// The states that random mutations lead to, directly and conflated, from a random state; pushed in pieces.
struct Outcome {
  State direct;
  State conflated;
};
Outcome random_outcome(std::uint64_t run) {
  Random random(10'000 + run);
  const std::size_t keys = random.between(1, 6);
  Outcome outcome;
  outcome.direct = random_state(random, keys);
  outcome.conflated = outcome.direct;
  Conflation conflation(kPlenty, kPlenty);
  for (std::size_t i = random.between(1, 25); i > 0; --i) {
    const std::vector<Change> batch = random_batch(random, keys);
    for (const Change& change : batch) apply_to(outcome.direct, change.mutation);
    EXPECT_TRUE(conflation.add(mutations_of(batch)));
    if (random.chance(10)) drain_into(conflation, outcome.conflated, 1);
  }
  drain_into(conflation, outcome.conflated);
  return outcome;
}

// Conflated mutations lead to the same visible state as the mutations themselves, from whatever state.
TEST(Conflation, LeadsToTheSameVisibleStateFromAnyState) {
  for (int run = 0; run < test::steps(20'000); ++run) {
    const Outcome outcome = random_outcome(static_cast<std::uint64_t>(run));
    ASSERT_TRUE(visible(outcome.direct) == visible(outcome.conflated)) << "run " << run;
  }
}

// They also lead to the same tombstones, so a late mutation of an old version is superseded, or not, just the same.
TEST(Conflation, LeadsToTheSameTombstonesFromAnyState) {
  for (int run = 0; run < test::steps(20'000); ++run) {
    const Outcome outcome = random_outcome(static_cast<std::uint64_t>(run));
    ASSERT_TRUE(outcome.direct == outcome.conflated) << "run " << run;
  }
}

// The keys of a batch are pushed together, whatever was folded into them.
TEST(Conflation, BatchesStayWhole) {
  for (int run = 0; run < test::steps(2'000); ++run) {
    Random random(50'000 + static_cast<std::uint64_t>(run));
    Conflation conflation(kPlenty, kPlenty);
    std::vector<std::set<std::string>> batches;
    for (std::size_t i = random.between(1, 20); i > 0; --i) {
      const std::vector<Change> batch = random_batch(random, 30);
      std::set<std::string>& keys = batches.emplace_back();
      for (const Change& change : batch) keys.insert(change.key);
      ASSERT_TRUE(conflation.add(mutations_of(batch)));
    }
    while (!conflation.empty()) {
      std::set<std::string> pushed;
      for (const Mutation& mutation : take_front(conflation).mutations) pushed.insert(std::string(mutation.key));
      for (const auto& batch : batches) {
        const auto count =
            std::count_if(batch.begin(), batch.end(), [&](const auto& key) { return pushed.contains(key); });
        ASSERT_TRUE(count == 0 || static_cast<std::size_t>(count) == batch.size()) << "run " << run;
      }
    }
  }
}

Mutation plain(Operation operation, std::string_view key, ValueView value) {
  Mutation mutation;
  mutation.operation = operation;
  mutation.key = key;
  mutation.value = value;
  return mutation;
}

Mutation versioned(Mutation mutation, std::uint64_t version) {
  mutation.flags |= kWithVersion;
  mutation.version = version;
  return mutation;
}

std::string spell(const Mutation& mutation) {
  static constexpr std::array kNames{"?", "set", "erase", "add", "max", "min"};
  std::string text = kNames.at(static_cast<std::size_t>(mutation.operation));
  if (mutation.value.type() != Type::kNone) text += " " + std::string(type_name(mutation.value.type()));
  if ((mutation.flags & kWithVersion) != 0) text += " version " + std::to_string(mutation.version);
  return text;
}

struct Mismatches {
  std::size_t count = 0;
  std::string first;
};

// Every sequence of `length` steps from `state`, one of which may be pushed before the next is taken.
void try_all(const std::vector<Mutation>& alphabet, std::size_t length, std::vector<Mutation>& sequence,
             std::size_t prefix, Mismatches& mismatches) {
  if (sequence.size() == length) {
    State direct;
    for (const Mutation& mutation : sequence) apply_to(direct, mutation);
    State conflated;
    Conflation conflation(kPlenty, kPlenty);
    for (std::size_t i = 0; i < length; ++i) {
      if (i < prefix) {
        apply_to(conflated, sequence[i]);
      } else {
        ASSERT_TRUE(conflation.add(std::array{sequence[i]}));
      }
    }
    drain_into(conflation, conflated);
    if (direct == conflated || mismatches.count++ > 0) return;
    for (std::size_t i = 0; i < length; ++i) {
      mismatches.first += (i == 0 ? "" : i == prefix ? "; conflated: " : ", ") + spell(sequence[i]);
    }
    return;
  }
  for (const Mutation& mutation : alphabet) {
    sequence.push_back(mutation);
    try_all(alphabet, length, sequence, prefix, mismatches);
    sequence.pop_back();
  }
}

// The same for every sequence of up to four mutations of one key, of which the first have already been merged.
TEST(Conflation, EveryShortSequenceOfOneKeyLeadsToTheSameState) {
  const std::vector<Mutation> alphabet{
      plain(Operation::kSet, "key", 1),
      plain(Operation::kSet, "key", "text"),
      versioned(plain(Operation::kSet, "key", 2), 1),
      versioned(plain(Operation::kSet, "key", 3), 2),
      plain(Operation::kErase, "key", {}),
      versioned(plain(Operation::kErase, "key", {}), 1),
      versioned(plain(Operation::kErase, "key", {}), 2),
      plain(Operation::kAdd, "key", 4),
      plain(Operation::kAdd, "key", 0.5),
      plain(Operation::kMax, "key", 6),
      plain(Operation::kMin, "key", -1),
  };
  for (std::size_t length = 2; length <= 4; ++length) {
    for (std::size_t prefix = 0; prefix + 1 < length; ++prefix) {
      Mismatches mismatches;
      std::vector<Mutation> sequence;
      try_all(alphabet, length, sequence, prefix, mismatches);
      EXPECT_EQ(mismatches.count, 0U) << length << " mutations, " << prefix << " merged: " << mismatches.first;
    }
  }
}

// However often one key is set, added to or raised, it takes the room of one mutation.
TEST(Conflation, RepeatedMutationsOfAKeyTakeTheRoomOfOne) {
  Conflation conflation(4096, 4096);
  for (std::int64_t i = 0; i < 100'000; ++i) {
    ASSERT_TRUE(conflation.add(std::array{plain(Operation::kSet, "set", i)}));
    ASSERT_TRUE(conflation.add(std::array{plain(Operation::kAdd, "sum", 1)}));
    ASSERT_TRUE(conflation.add(std::array{plain(Operation::kMax, "max", i)}));
  }
  State state;
  drain_into(conflation, state);
  EXPECT_EQ(state.at("set").value, Value(std::int64_t{99'999}));
  EXPECT_EQ(state.at("sum").value, Value(std::int64_t{100'000}));
  EXPECT_EQ(state.at("max").value, Value(std::int64_t{99'999}));
}

// It never holds more than it may: then it says so, keeps what it has, and takes new keys again once there is room.
TEST(Conflation, IsBounded) {
  constexpr std::size_t kBytesMax = 16'384;
  Conflation conflation(kBytesMax, kPlenty);
  State expected;
  std::size_t count = 0;
  for (;; ++count) {
    const std::string key = "key/" + std::to_string(count);
    const Mutation mutation = plain(Operation::kSet, key, static_cast<std::int64_t>(count));
    if (!conflation.add(std::array{mutation})) break;
    apply_to(expected, mutation);
    ASSERT_LT(count, kBytesMax / 32);
  }
  EXPECT_GT(count, 10U);
  State state;
  drain_into(conflation, state, 1);
  EXPECT_TRUE(conflation.add(std::array{plain(Operation::kSet, "key/0", 0)}));
  drain_into(conflation, state);
  EXPECT_EQ(state, expected);
}

// The same batch again and again takes the room of one: a batch of n keys is not n times as large for being repeated.
TEST(Conflation, RepeatedBatchOfManyKeysTakesTheRoomOfOne) {
  constexpr std::size_t kGroupBytesMax = std::size_t{64} << 10;
  Conflation conflation(kPlenty, kGroupBytesMax);
  std::vector<std::string> keys;
  for (int i = 0; i < 100; ++i) keys.push_back("key/" + std::to_string(i));
  for (std::int64_t round = 0; round < 10; ++round) {
    std::vector<Mutation> batch;
    for (const std::string& key : keys) batch.push_back(plain(Operation::kSet, key, round));
    ASSERT_TRUE(conflation.add(batch)) << "round " << round << ": the batch needs 3 KiB of 64";
  }
}

// Keys that belong together are pushed as one batch, so there are no more of them than a batch may hold.
TEST(Conflation, GroupsAreNoLargerThanABatchMayBe) {
  Conflation conflation(kPlenty, kPlenty);
  constexpr std::uint64_t kBatchMax = 5;
  const std::array together{plain(Operation::kSet, "a", 1), plain(Operation::kSet, "b", 2),
                            plain(Operation::kSet, "c", 3)};
  const std::array joining{plain(Operation::kSet, "c", 4), plain(Operation::kSet, "d", 5),
                           plain(Operation::kSet, "e", 6)};
  const std::array too_many{plain(Operation::kSet, "e", 7), plain(Operation::kSet, "f", 8)};
  ASSERT_TRUE(conflation.add(together, kBatchMax));
  ASSERT_TRUE(conflation.add(joining, kBatchMax));
  EXPECT_FALSE(conflation.add(too_many, kBatchMax));
  EXPECT_TRUE(conflation.add(std::array{plain(Operation::kSet, "f", 8)}, kBatchMax)) << "a group of its own";
  EXPECT_EQ(conflation.front_count(), 5U);
  EXPECT_EQ(take_front(conflation).mutations.size(), 5U);
  EXPECT_EQ(take_front(conflation).mutations.size(), 1U);
}

// A sum that would overflow is left for the merger to refuse, and nothing else is lost with it.
TEST(Conflation, OverflowIsLeftToTheMerger) {
  Conflation conflation(kPlenty, kPlenty);
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  ASSERT_TRUE(conflation.add(std::array{plain(Operation::kSet, "sum", kMax - 1)}));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(conflation.add(std::array{plain(Operation::kAdd, "sum", 1)}));
  EXPECT_EQ(take_front(conflation).mutations.size(), 2U);
}

// So is a float sum that stops being a number, or a finite one: merged one by one, its parts may be fine.
TEST(Conflation, ASumThatIsNoFiniteNumberIsLeftToTheMerger) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr double kLarge = std::numeric_limits<double>::max();
  struct Case {
    double entry;
    std::vector<double> operands;
    double becomes;
  };
  const std::vector<Case> cases{{5, {kInfinity, -kInfinity}, kInfinity},
                                {5, {-kInfinity, kInfinity, 1}, -kInfinity},
                                {-kLarge, {kLarge, kLarge}, kLarge},
                                {kLarge, {-kLarge, -kLarge}, -kLarge}};
  for (const Case& tried : cases) {
    State state;
    apply_to(state, plain(Operation::kSet, "sum", tried.entry));
    Conflation conflation(kPlenty, kPlenty);
    for (const double operand : tried.operands)
      ASSERT_TRUE(conflation.add(std::array{plain(Operation::kAdd, "sum", operand)}));
    drain_into(conflation, state);
    EXPECT_EQ(state.at("sum").value, Value(tried.becomes)) << "from " << tried.entry;
  }
}

}  // namespace
}  // namespace shmstate
