// The reader: what it finds, what it says when it finds nothing, and that it never sees half a change.
#include "shmstate/reader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <iterator>
#include <limits>
#include <optional>
#include <ranges>
#include <string>
#include <thread>
#include <vector>

#include "harness/positions.h"
#include "harness/test_instance.h"
#include "protocol/publish.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::at_epoch;
using test::EngineThread;
using test::error_of;
using test::Random;
using test::ring_of;
using test::TestInstance;
using ::testing::HasSubstr;

static_assert(std::input_iterator<Snapshot::Iterator>);
static_assert(std::ranges::input_range<const Snapshot>);

const std::string kTooLongKey(kKeyBytesMax + 1, 'k');

// ---- point reads

class ReaderTest : public testing::Test {
 protected:
  void SetUp() override {
    writer_.set("int", 42);
    writer_.set("float", 1.5);
    writer_.set("text", "some text");
    writer_.set("empty", "");
    writer_.set("huge", std::string(kValueBytesMax, 'h'));
    writer_.set(std::string(kKeyBytesMax, 'k'), 7);
    writer_.set("gone", 1);
    writer_.erase("gone");
    instance_.pump();
  }

  TestInstance instance_;
  Writer writer_ = instance_.writer();
  Reader reader_ = instance_.reader();
};

TEST_F(ReaderTest, AnIntegerIsReadAsOneAndAsNothingElse) {
  std::int64_t value = -1;
  EXPECT_EQ(reader_.read("int", value), Status::kOk);
  EXPECT_EQ(value, 42);
  EXPECT_EQ(reader_.read(std::string(kKeyBytesMax, 'k'), value), Status::kOk);
  EXPECT_EQ(value, 7);
  EXPECT_EQ(reader_.read("float", value), Status::kWrongType);
  EXPECT_EQ(reader_.read("text", value), Status::kWrongType);
  EXPECT_EQ(reader_.read("empty", value), Status::kWrongType);
  EXPECT_EQ(reader_.read("missing", value), Status::kNotFound);
  EXPECT_EQ(reader_.read("gone", value), Status::kNotFound);
  EXPECT_EQ(reader_.read("", value), Status::kKeyEmpty);
  EXPECT_EQ(reader_.read(kTooLongKey, value), Status::kKeyTooLong);
  EXPECT_EQ(value, 7) << "a failed read leaves the value alone";
}

TEST_F(ReaderTest, AFloatIsReadAsOneAndAsNothingElse) {
  double value = -1;
  EXPECT_EQ(reader_.read("float", value), Status::kOk);
  EXPECT_EQ(value, 1.5);
  EXPECT_EQ(reader_.read("text", value), Status::kWrongType);
  EXPECT_EQ(reader_.read("missing", value), Status::kNotFound);
  EXPECT_EQ(reader_.read("", value), Status::kKeyEmpty);
  EXPECT_EQ(reader_.read(kTooLongKey, value), Status::kKeyTooLong);
  EXPECT_EQ(value, 1.5);
}

// Enough keys that groups run over, tags meet by chance, and a few keys lie far from home.
TEST_F(ReaderTest, EachOfManyKeysIsFoundAndNoOtherOneIs) {
  constexpr int kKeys = 20'000;
  const auto key = [](int i) {
    return "many/" + std::to_string(i) + std::string(static_cast<std::size_t>(i) % 30, 'k');
  };
  for (int i = 0; i < kKeys; ++i) {
    if (i % 3 != 0) writer_.set(key(i), i);
    if (i % 1000 == 0) instance_.pump();
  }
  instance_.pump();
  std::vector<std::string> names;
  for (int i = 0; i < kKeys; ++i) names.push_back(key(i));
  const std::vector<std::string_view> keys(names.begin(), names.end());
  std::vector<Key> bound(names.begin(), names.end());
  std::vector<std::optional<std::int64_t>> values(kKeys);
  std::vector<std::optional<std::int64_t>> values_of_bound(kKeys);
  for (int round = 0; round < 2; ++round) {
    ASSERT_EQ(reader_.read_many(keys, values), Status::kOk);
    ASSERT_EQ(reader_.read_many(bound, values_of_bound), Status::kOk);
    for (int i = 0; i < kKeys; ++i) {
      const auto index = static_cast<std::size_t>(i);
      const std::optional<std::int64_t> expected = i % 3 != 0 ? std::optional<std::int64_t>(i) : std::nullopt;
      ASSERT_EQ(reader_.get<std::int64_t>(keys[index]), expected) << keys[index];
      ASSERT_EQ(reader_.get<std::int64_t>(bound[index]), expected) << keys[index];
      ASSERT_EQ(values[index], expected) << keys[index];
      ASSERT_EQ(values_of_bound[index], expected) << keys[index];
    }
  }
}

TEST_F(ReaderTest, ABoundKeyIsFoundWhereItWasSetAgain) {
  Key key("int");
  EXPECT_EQ(reader_.get<std::int64_t>(key), 42);
  writer_.erase("int");
  instance_.pump();
  EXPECT_EQ(reader_.get<std::int64_t>(key), std::nullopt);
  for (int i = 0; i < 3'000; ++i) writer_.set("other/" + std::to_string(i), i);
  writer_.set("int", 43);
  instance_.pump();
  EXPECT_EQ(reader_.get<std::int64_t>(key), 43);
}

// With the epoch word of what was read last, but a stamp that says that the merger has begun to write the buffer.
TEST_F(ReaderTest, NothingInABufferThatIsBeingWrittenIsBelieved) {
  std::int64_t value = 0;
  ASSERT_EQ(reader_.read("int", value), Status::kOk);
  const layout::Publication& publication = instance_.owner().publication();
  const Version now = current_version(publication);
  Shared<std::uint64_t>& stamp = instance_.owner().publication().stamps[now.buffer];
  stamp.store(layout::kWriting, std::memory_order_relaxed);
  Key bound("int");
  const std::vector<std::string_view> keys{"int", "missing"};
  std::vector<std::optional<std::int64_t>> values(keys.size());
  EXPECT_EQ(reader_.read("int", value), Status::kDamaged);
  EXPECT_EQ(reader_.read("missing", value), Status::kDamaged);
  EXPECT_EQ(reader_.read(bound, value), Status::kDamaged);
  EXPECT_EQ(reader_.read_many(keys, values), Status::kDamaged);
  stamp.store(now.epoch, std::memory_order_relaxed);
  EXPECT_EQ(reader_.read("int", value), Status::kOk);
  EXPECT_EQ(reader_.read("missing", value), Status::kNotFound);
}

TEST_F(ReaderTest, ReadManySaysWhyItReadNothing) {
  const std::vector<std::string_view> keys{"int", "text", "missing", "", kTooLongKey, "float"};
  std::vector<std::optional<double>> values(keys.size());
  Position position;
  EXPECT_EQ(reader_.read_many(keys, std::span(values).first(5), &position), Status::kInvalidArgument);
  ASSERT_EQ(reader_.read_many(keys, values, &position), Status::kOk);
  EXPECT_EQ(position, reader_.position());
  EXPECT_THAT(values, testing::ElementsAre(42.0, std::nullopt, std::nullopt, std::nullopt, std::nullopt, 1.5));
}

TEST_F(ReaderTest, ForEachVisitsWhatTheIteratorsVisit) {
  for (int i = 0; i < 3'000; ++i)
    writer_.set("key/" + std::to_string(i), i % 7 == 0 ? ValueView("text") : ValueView(i));
  writer_.set("expires", 1, {.ttl = 1h, .ephemeral = true, .version = 7});
  instance_.pump();
  const Snapshot snapshot = reader_.snapshot();
  const auto described = [](const EntryView& entry) {
    return std::string(entry.key) + (entry.ephemeral ? " ephemeral " : " ") + std::to_string(entry.changed_epoch) +
           " " + std::to_string(entry.version) + " " + std::to_string(entry.expiry_ns) +
           std::visit([](const auto& value) { return ::testing::PrintToString(value); }, entry.value.to_value());
  };
  std::vector<std::string> visited;
  std::vector<std::string> iterated;
  snapshot.for_each([&](const EntryView& entry) { visited.push_back(described(entry)); });
  for (const EntryView& entry : snapshot) iterated.push_back(described(entry));
  EXPECT_EQ(visited.size(), snapshot.size());
  EXPECT_EQ(visited, iterated);
}

TEST_F(ReaderTest, BytesAreReadIntoAString) {
  std::string value = "before";
  EXPECT_EQ(reader_.read("int", value), Status::kWrongType);
  EXPECT_EQ(reader_.read("missing", value), Status::kNotFound);
  EXPECT_EQ(reader_.read("", value), Status::kKeyEmpty);
  EXPECT_EQ(reader_.read(kTooLongKey, value), Status::kKeyTooLong);
  EXPECT_EQ(value, "before");
  EXPECT_EQ(reader_.read("text", value), Status::kOk);
  EXPECT_EQ(value, "some text");
  EXPECT_EQ(reader_.read("empty", value), Status::kOk);
  EXPECT_EQ(value, "");
  EXPECT_EQ(reader_.read("huge", value), Status::kOk);
  EXPECT_EQ(value, std::string(kValueBytesMax, 'h'));
}

TEST_F(ReaderTest, AValueTakesWhateverItIs) {
  Value value;
  EXPECT_EQ(reader_.read("text", value), Status::kOk);
  EXPECT_EQ(value, Value("some text"));
  EXPECT_EQ(reader_.read("int", value), Status::kOk);
  EXPECT_EQ(value, Value(std::int64_t{42}));
  EXPECT_EQ(reader_.read("float", value), Status::kOk);
  EXPECT_EQ(value, Value(1.5));
  EXPECT_EQ(reader_.read("empty", value), Status::kOk);
  EXPECT_EQ(value, Value(""));
  EXPECT_EQ(reader_.read("missing", value), Status::kNotFound);
  EXPECT_EQ(reader_.read("", value), Status::kKeyEmpty);
  EXPECT_EQ(reader_.read(kTooLongKey, value), Status::kKeyTooLong);
}

TEST_F(ReaderTest, BytesAreReadIntoTheCallersBufferAndNeverBeyondIt) {
  std::string buffer(20, '#');
  std::size_t bytes = 0;
  EXPECT_EQ(reader_.read("text", std::span(buffer.data(), 9), bytes), Status::kOk);
  EXPECT_EQ(bytes, 9U);
  EXPECT_EQ(buffer, "some text###########");
  buffer.assign(20, '#');
  bytes = 0;
  EXPECT_EQ(reader_.read("text", std::span(buffer.data(), 8), bytes), Status::kBufferTooSmall);
  EXPECT_EQ(bytes, 9U) << "the size that is needed";
  EXPECT_EQ(buffer, std::string(20, '#'));
  EXPECT_EQ(reader_.read("huge", std::span(buffer), bytes), Status::kBufferTooSmall);
  EXPECT_EQ(bytes, kValueBytesMax);
  EXPECT_EQ(reader_.read("empty", std::span<char>(), bytes), Status::kOk);
  EXPECT_EQ(bytes, 0U);
  EXPECT_EQ(reader_.read("int", std::span(buffer), bytes), Status::kWrongType);
  EXPECT_EQ(reader_.read("missing", std::span(buffer), bytes), Status::kNotFound);
  EXPECT_EQ(reader_.read("", std::span(buffer), bytes), Status::kKeyEmpty);
  EXPECT_EQ(reader_.read(kTooLongKey, std::span(buffer), bytes), Status::kKeyTooLong);
}

TEST_F(ReaderTest, GetGivesTheValueOfThatTypeOrNothing) {
  EXPECT_EQ(reader_.get<std::int64_t>("int"), 42);
  EXPECT_EQ(reader_.get<double>("float"), 1.5);
  EXPECT_EQ(reader_.get<std::string>("text"), "some text");
  EXPECT_EQ(reader_.get<Value>("float"), Value(1.5));
  EXPECT_EQ(reader_.get<std::int64_t>("float"), std::nullopt);
  EXPECT_EQ(reader_.get<std::string>("int"), std::nullopt);
  EXPECT_EQ(reader_.get<std::int64_t>("missing"), std::nullopt);
  EXPECT_EQ(reader_.get<Value>("gone"), std::nullopt);
  EXPECT_EQ(reader_.get<Value>(""), std::nullopt);
  EXPECT_EQ(reader_.get<Value>(kTooLongKey), std::nullopt);
}

// `100` is an integer to whoever wrote it, and a number all the same to who wants a double.
TEST_F(ReaderTest, ADoubleIsAlsoReadFromAnInteger) {
  Key bound("int");
  double value = -1;
  EXPECT_EQ(reader_.get<double>("int"), 42.0);
  EXPECT_EQ(reader_.get<double>(bound), 42.0);
  EXPECT_EQ(reader_.get<double>(bound), 42.0) << "when it knows its place";
  EXPECT_EQ(reader_.read_fresh("int", value, 1h), Status::kOk);
  EXPECT_EQ(reader_.snapshot().get<double>("int"), 42.0);
  EXPECT_EQ(reader_.read("text", value), Status::kWrongType);
  EXPECT_EQ(reader_.read("missing", value), Status::kNotFound);
  EXPECT_EQ(value, 42.0) << "an error leaves it alone";
}

TEST_F(ReaderTest, AnIntegerBeyond53BitsIsReadAsTheNearestDouble) {
  constexpr std::int64_t kExact = std::int64_t{1} << 53;
  for (const std::int64_t value :
       {kExact, -kExact, kExact - 1, kExact + 1, kExact + 3, std::int64_t{-1}, std::numeric_limits<std::int64_t>::max(),
        std::numeric_limits<std::int64_t>::min()}) {
    writer_.set(std::string(100, 'k'), value);
    instance_.pump();
    EXPECT_EQ(reader_.get<double>(std::string(100, 'k')), static_cast<double>(value)) << value;
  }
}

TEST_F(ReaderTest, AStrictDoubleIsReadFromAFloatOnly) {
  Key bound("int");
  Float64 value{-1};
  EXPECT_EQ(reader_.read("float", value), Status::kOk);
  EXPECT_EQ(value.value, 1.5);
  EXPECT_EQ(reader_.read("int", value), Status::kWrongType);
  EXPECT_EQ(reader_.read(bound, value), Status::kWrongType);
  EXPECT_EQ(value.value, 1.5);
  EXPECT_FALSE(reader_.get<Float64>("int"));
  EXPECT_FALSE(reader_.snapshot().get<Float64>("int"));
  EXPECT_EQ(reader_.snapshot().get<Float64>("float")->value, 1.5);
}

TEST_F(ReaderTest, NumbersComeBackBitByBit) {
  const double nan = -std::numeric_limits<double>::quiet_NaN();
  for (const double value : {0.0, -0.0, nan, std::numeric_limits<double>::infinity(),
                             std::numeric_limits<double>::denorm_min(), std::numeric_limits<double>::max()}) {
    writer_.set("float", value);
    instance_.pump();
    const double read = reader_.get<double>("float").value();
    EXPECT_EQ(std::bit_cast<std::uint64_t>(read), std::bit_cast<std::uint64_t>(value)) << value;
  }
  for (const std::int64_t value : {std::int64_t{0}, std::int64_t{-1}, std::numeric_limits<std::int64_t>::min(),
                                   std::numeric_limits<std::int64_t>::max()}) {
    writer_.set("int", value);
    instance_.pump();
    EXPECT_EQ(reader_.get<std::int64_t>("int"), value);
  }
}

TEST_F(ReaderTest, GetManyReadsEachKeyAsOfOneEpoch) {
  const std::vector<std::string_view> keys{"int", "missing", "text", "", kTooLongKey, "float", "int", "huge"};
  std::vector<std::optional<Value>> values{Value(1.0)};
  EXPECT_EQ(reader_.get_many(keys, values), reader_.position());
  const std::vector<std::optional<Value>> expected{Value(std::int64_t{42}),
                                                   std::nullopt,
                                                   Value("some text"),
                                                   std::nullopt,
                                                   std::nullopt,
                                                   Value(1.5),
                                                   Value(std::int64_t{42}),
                                                   Value(std::string(kValueBytesMax, 'h'))};
  EXPECT_EQ(values, expected);
  EXPECT_EQ(reader_.get_many(std::span<const std::string_view>{}, values), reader_.position());
  EXPECT_TRUE(values.empty());
}

TEST_F(ReaderTest, GetManyTakesKeysThatRememberTheirPlace) {
  std::vector<Key> keys{Key("int"), Key("missing"), Key("text"), Key(""), Key(kTooLongKey), Key("float")};
  const std::vector<std::optional<Value>> expected{
      Value(std::int64_t{42}), std::nullopt, Value("some text"), std::nullopt, std::nullopt, Value(1.5)};
  std::vector<std::optional<Value>> values;
  for (int i = 0; i < 3; ++i) {  // at first their places are unknown
    EXPECT_EQ(reader_.get_many(keys, values), reader_.position());
    EXPECT_EQ(values, expected);
  }
  writer_.erase("text");
  writer_.set("int", 43);
  instance_.pump();
  reader_.get_many(keys, values);
  EXPECT_EQ(values[0], Value(std::int64_t{43}));
  EXPECT_EQ(values[2], std::nullopt);
}

TEST_F(ReaderTest, GetManyHandsOutNumbersOfOneType) {
  const std::vector<std::string_view> keys{"int", "missing", "text", "", "float"};
  std::vector<Key> bound{Key("int"), Key("missing"), Key("text"), Key(""), Key("float")};
  std::vector<std::optional<std::int64_t>> integers(keys.size(), -1);
  std::vector<std::optional<double>> floats(keys.size(), -1);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(i == 0 ? reader_.get_many(keys, integers) : reader_.get_many(bound, integers), reader_.position());
    EXPECT_EQ(i == 0 ? reader_.get_many(keys, floats) : reader_.get_many(bound, floats), reader_.position());
    EXPECT_EQ(integers[0], 42);
    EXPECT_EQ(floats[4], 1.5);
    for (const std::size_t none : {1U, 2U, 3U}) {
      EXPECT_EQ(integers[none], std::nullopt);
      EXPECT_EQ(floats[none], std::nullopt);
    }
    EXPECT_EQ(integers[4], std::nullopt);
  }
  integers.resize(2);
  EXPECT_EQ(error_of([&] { reader_.get_many(keys, integers); }).first, Status::kInvalidArgument);
}

TEST_F(ReaderTest, GetManyCopiesBytesIntoBuffersOfTheCaller) {
  std::array<char, 16> text{};
  std::array<char, 4> small{};
  Key bound("text");
  std::array<Lookup, 8> lookups{Lookup{.key = "int"},
                                Lookup{.key = "float"},
                                Lookup{.key = "text", .buffer = text},
                                Lookup{.key = "text", .buffer = small},
                                Lookup{.key = "missing", .buffer = small},
                                Lookup{.key = "empty"},
                                Lookup{.key = ""},
                                Lookup{.bound = &bound}};
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(reader_.get_many(lookups), reader_.position());
    EXPECT_EQ(lookups[0].value, ValueView(42));
    EXPECT_EQ(lookups[1].value, ValueView(1.5));
    EXPECT_EQ(lookups[2].value, ValueView("some text"));
    EXPECT_EQ(lookups[2].value.bytes().data(), text.data());
    EXPECT_EQ(lookups[3].status, Status::kBufferTooSmall);
    EXPECT_EQ(lookups[3].value_bytes, 9U);
    EXPECT_EQ(lookups[3].value.type(), Type::kNone);
    EXPECT_EQ(lookups[4].status, Status::kNotFound);
    EXPECT_EQ(lookups[5].status, Status::kOk);
    EXPECT_EQ(lookups[5].value, ValueView(""));
    EXPECT_EQ(lookups[6].status, Status::kKeyEmpty);
    EXPECT_EQ(lookups[7].status, Status::kBufferTooSmall);
    EXPECT_EQ(lookups[7].value_bytes, 9U);
  }
}

// ---- snapshots

TEST_F(ReaderTest, ASnapshotFindsWhatPointReadsFind) {
  const Snapshot snapshot = reader_.snapshot();
  EXPECT_EQ(snapshot.epoch(), reader_.epoch());
  EXPECT_EQ(snapshot.size(), 6U);
  EXPECT_EQ(snapshot.get<std::int64_t>("int"), 42);
  EXPECT_EQ(snapshot.get<double>("float"), 1.5);
  EXPECT_EQ(snapshot.get<std::string>("text"), "some text");
  EXPECT_EQ(snapshot.get<std::string_view>("text"), "some text");
  EXPECT_EQ(snapshot.get<std::string_view>("empty"), "");
  EXPECT_EQ(snapshot.get<Value>("text"), Value("some text"));
  EXPECT_EQ(snapshot.get<std::int64_t>("float"), std::nullopt);
  EXPECT_FALSE(snapshot.find("missing"));
  EXPECT_FALSE(snapshot.find("gone"));
  EXPECT_FALSE(snapshot.find(""));
  EXPECT_FALSE(snapshot.find(kTooLongKey));
  EXPECT_EQ(snapshot.find("int")->key, "int");
}

TEST_F(ReaderTest, AnEntryTellsInWhichEpochItChangedLast) {
  writer_.set("int", 43);
  instance_.step();
  const Epoch before = reader_.epoch();
  writer_.set("text", "other text");
  instance_.step();
  const Snapshot snapshot = reader_.snapshot();
  EXPECT_EQ(snapshot.find("int")->changed_epoch, before);
  EXPECT_EQ(snapshot.find("text")->changed_epoch, before + 1);
}

TEST_F(ReaderTest, ASnapshotStaysAsItWasWhatever) {
  const Snapshot snapshot = reader_.snapshot();
  const Epoch epoch = snapshot.epoch();
  const std::optional<EntryView> entry = snapshot.find("text");
  for (int i = 0; i < 10; ++i) {
    writer_.set("text", "other text");
    writer_.set("new", 1);
    instance_.step();
  }
  EXPECT_EQ(entry->value.bytes(), "some text");
  EXPECT_EQ(snapshot.get<std::string>("text"), "some text");
  EXPECT_EQ(snapshot.size(), 6U);
  EXPECT_EQ(snapshot.epoch(), epoch);
  EXPECT_FALSE(snapshot.expired());
  EXPECT_GT(reader_.epoch(), epoch) << "readers of the newest state are not held up by it";
}

TEST_F(ReaderTest, AnIteratorOutlivesTheMoveOfItsSnapshot) {
  Writer writer = instance_.writer();
  for (int i = 0; i < 100; ++i) writer.set("key" + std::to_string(i), i);
  instance_.pump();
  std::optional<Snapshot> first = reader_.snapshot();
  Snapshot::Iterator entry = first->begin();
  const Snapshot second = std::move(*first);
  first.reset();
  int count = 0;
  for (; entry != std::default_sentinel; ++entry) ++count;
  EXPECT_EQ(count, 106);
}

TEST_F(ReaderTest, ASnapshotOutlivesItsReader) {
  std::optional<Reader> reader = instance_.reader();
  const Snapshot snapshot = reader->snapshot();
  reader.reset();
  EXPECT_EQ(snapshot.get<std::int64_t>("int"), 42);
  EXPECT_EQ(std::ranges::distance(snapshot.begin(), snapshot.end()), 6);
}

TEST_F(ReaderTest, ABufferStaysPinnedUntilTheLastSnapshotOfItIsGone) {
  const auto is_pinned = [this] {
    const std::uint32_t buffer = current_version(instance_.owner().publication()).buffer;
    return os::is_locked(instance_.owner().snapshot_fd(), kPinByte + buffer);
  };
  std::optional<Snapshot> first = reader_.snapshot();
  std::optional<Snapshot> second = reader_.snapshot();
  EXPECT_TRUE(is_pinned());
  first.reset();
  EXPECT_TRUE(is_pinned());
  second.reset();
  EXPECT_FALSE(is_pinned());
  first = reader_.snapshot();
  Snapshot moved = std::move(*first);
  first.reset();
  EXPECT_TRUE(is_pinned()) << "a moved snapshot holds the pin";
  moved = reader_.snapshot();
  EXPECT_TRUE(is_pinned());
  EXPECT_EQ(moved.get<std::int64_t>("int"), 42);
}

TEST_F(ReaderTest, PointReadsPinNothing) {
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(reader_.get<std::string>("huge")->size(), kValueBytesMax);
    const std::uint32_t buffer = current_version(instance_.owner().publication()).buffer;
    ASSERT_FALSE(os::is_locked(instance_.owner().snapshot_fd(), kPinByte + buffer));
  }
}

TEST_F(ReaderTest, AReaderCanBeMovedAndAssigned) {
  Reader moved = std::move(reader_);
  EXPECT_EQ(moved.get<std::int64_t>("int"), 42);
  reader_ = std::move(moved);
  EXPECT_EQ(reader_.get<std::int64_t>("int"), 42);
  TestInstance other;
  reader_ = other.reader();
  EXPECT_EQ(reader_.get<std::int64_t>("int"), std::nullopt);
}

// ---- time

TEST_F(ReaderTest, WaitReturnsAtOnceWhenSomethingNewerIsThere) {
  EXPECT_EQ(reader_.wait({}, 1h), reader_.position());
  EXPECT_EQ(reader_.wait(at_epoch(reader_, reader_.epoch() - 1), 1h), reader_.position());
}

TEST_F(ReaderTest, APositionOfAnotherInstanceHasPassedAndItsChangesAreAGap) {
  const Position known = reader_.position();
  Position other = known;
  ++other.instance[0];
  EXPECT_EQ(reader_.wait(other, 1h), known);
  const Changes news = reader_.changes(other);
  EXPECT_EQ(news.gap_reason, GapReason::kRecreated);
  EXPECT_EQ(news.position, known);
  EXPECT_EQ(reader_.wait_change("int", other, 1h), Status::kOk);
  EXPECT_EQ(reader_.snapshot().position(), known);
}

TEST(Position, OrdersWhatOneInstancePublishedAndNowhereIsBeforeAll) {
  const Position nowhere;
  const Position early{.instance = {1}, .epoch = 1};
  const Position late{.instance = {1}, .epoch = 2};
  const Position other{.instance = {2}, .epoch = 1};
  EXPECT_TRUE(nowhere < early && early < late && late > nowhere && nowhere <= nowhere);
  EXPECT_TRUE(early <=> other == std::partial_ordering::unordered);
  EXPECT_FALSE(early == other);
}

TEST_F(ReaderTest, WaitEndsWhenItsTimeIsOver) {
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(reader_.wait(reader_.position(), 20ms), reader_.position());
  EXPECT_GE(std::chrono::steady_clock::now() - began, 20ms);
  EXPECT_EQ(reader_.wait(at_epoch(reader_, reader_.epoch() + 100), 0ns), reader_.position());
  EXPECT_EQ(reader_.wait(reader_.position(), -1s), reader_.position());
}

TEST_F(ReaderTest, WaitIsWokenByEachPublish) {
  for (int i = 0; i < 50; ++i) {
    const Position known = reader_.position();
    Position woken;
    std::thread waiting([&] { woken = reader_.wait(known, 1h); });
    writer_.set("int", i);
    instance_.step();
    waiting.join();
    ASSERT_EQ(woken, at_epoch(reader_, known.epoch + 1));
  }
}

TEST_F(ReaderTest, AMergerThatWasStartedAgainWakesToo) {
  const Position known = reader_.position();
  Position woken;
  std::thread waiting([&] { woken = reader_.wait(known, 1h); });
  instance_.restart();
  writer_.set("int", 1);
  instance_.pump();
  waiting.join();
  EXPECT_GT(woken, known);
}

TEST_F(ReaderTest, AgeIsTheTimeSinceTheMergerKnewThatNothingWaited) {
  const std::uint64_t before_ns = os::now_ns();
  instance_.engine().step(os::now_ns());
  const auto age = reader_.age();
  EXPECT_LE(age, std::chrono::nanoseconds(os::now_ns() - before_ns)) << "renewed by a step without work";
  std::this_thread::sleep_for(5ms);
  EXPECT_GE(reader_.age(), 5ms);
}

TEST_F(ReaderTest, AgeGrowsWithoutAMerger) {
  instance_.engine().step(os::now_ns());
  instance_.stop();
  const auto age = reader_.age();
  std::this_thread::sleep_for(5ms);
  EXPECT_GE(reader_.age(), age + 5ms);
}

TEST_F(ReaderTest, AgeGrowsWhileWorkWaitsBehindAPin) {
  const Snapshot pinned = reader_.snapshot();
  writer_.set("int", 1);
  instance_.engine().step(os::now_ns());
  writer_.set("int", 2);
  const std::uint64_t pushed_ns = os::now_ns();
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(instance_.engine().step(os::now_ns()), MergeEngine::Progress::kStalled);
  const std::chrono::nanoseconds waited(os::now_ns() - pushed_ns);
  EXPECT_GE(reader_.age(), waited);
}

TEST_F(ReaderTest, AgeGrowsWhileTheMergerIsBehind) {
  Writer flooding = instance_.writer(ring_of(kRingBytesMin));
  instance_.engine().step(os::now_ns());
  while (flooding.set("flood", 1) == Status::kOk) {
  }
  std::this_thread::sleep_for(5ms);
  const std::uint64_t looked_ns = os::now_ns();
  instance_.engine().step(looked_ns);  // a quarter of the ring
  EXPECT_GE(reader_.age(), 5ms);
  std::uint64_t later_ns = looked_ns;
  while (instance_.engine().has_work()) instance_.engine().step(later_ns += 1'000'000);
  const auto age = reader_.age();
  EXPECT_LE(age, std::chrono::nanoseconds(os::now_ns() - looked_ns))
      << "everything that was there when it looked is published";
}

TEST_F(ReaderTest, AReaderKnowsWhetherAMergerRuns) {
  EXPECT_TRUE(reader_.merger_running());
  instance_.stop();
  EXPECT_FALSE(reader_.merger_running());
  EXPECT_EQ(reader_.get<std::int64_t>("int"), 42) << "the last snapshot stays readable";
  EXPECT_EQ(Reader(instance_.path()).get<std::int64_t>("int"), 42) << "also for who comes now";
  instance_.start();
  EXPECT_TRUE(reader_.merger_running());
}

// ---- opening

class OpeningTest : public testing::Test {
 protected:
  [[nodiscard]] std::pair<Status, std::string> open() const {
    return error_of([this] { Reader reader(instance_.path(), {.attach_timeout = 0ns}); });
  }
  template <typename T>
  void overwrite(std::size_t offset, T value) {
    const os::Fd fd = os::open_file(instance_.path() + "/control", O_RDWR);
    ASSERT_EQ(::pwrite(fd.get(), &value, sizeof value, static_cast<off_t>(offset)), ssize_t{sizeof value});
  }

  TestInstance instance_;
};

TEST_F(OpeningTest, AnInstanceThatDoesNotExistIsNamedWithTheRemedy) {
  const auto [status, text] = error_of([] { Reader reader("/dev/shm/no/such", {.attach_timeout = 0ns}); });
  EXPECT_EQ(status, Status::kNoInstance);
  EXPECT_THAT(text, HasSubstr("/dev/shm/no/such"));
  EXPECT_THAT(text, HasSubstr("shmstate-merger"));
}

TEST_F(OpeningTest, AnImpossibleNameIsRefused) {
  for (const char* const name : {"", ".", ".."}) {
    EXPECT_EQ(error_of([&] { Reader reader(name, {.attach_timeout = 0ns}); }).first, Status::kInvalidArgument);
  }
}

TEST_F(OpeningTest, AnotherLayoutVersionIsRefusedWithBothVersions) {
  overwrite(offsetof(layout::Identity, layout_major), std::uint32_t{77});
  const auto [status, text] = open();
  EXPECT_EQ(status, Status::kVersionMismatch);
  EXPECT_THAT(text, HasSubstr("77." + std::to_string(layout::kLayoutMinor)));
  EXPECT_THAT(text, HasSubstr(std::to_string(layout::kLayoutMajor) + "." + std::to_string(layout::kLayoutMinor)));
}

TEST_F(OpeningTest, AnUnknownRequiredFeatureIsRefusedAndAnOptionalOneIsNot) {
  overwrite(offsetof(layout::Identity, optional_features), ~std::uint64_t{0});
  overwrite(offsetof(layout::Identity, layout_minor), std::uint32_t{99});
  EXPECT_EQ(open().first, Status::kOk);
  overwrite(offsetof(layout::Identity, required_features), std::uint64_t{1} << 63);
  EXPECT_EQ(open().first, Status::kVersionMismatch);
}

TEST_F(OpeningTest, AHalfCreatedInstanceIsNotReady) {
  overwrite(0, std::uint64_t{0});
  EXPECT_EQ(open().first, Status::kNotReady);
  std::filesystem::resize_file(instance_.path() + "/control", 0);
  EXPECT_EQ(open().first, Status::kNotReady);
}

TEST_F(OpeningTest, FilesThatAreNotWhatTheyShouldBeAreDamaged) {
  std::filesystem::resize_file(instance_.path() + "/snapshot", 4096);
  EXPECT_EQ(open().first, Status::kDamaged) << "a truncated snapshot";
  overwrite(0, std::uint64_t{0x1234});
  EXPECT_EQ(open().first, Status::kDamaged) << "another magic";
  std::filesystem::resize_file(instance_.path() + "/control", 100);  // its size is given in one step
  EXPECT_EQ(open().first, Status::kDamaged) << "a truncated control";
}

TEST_F(OpeningTest, AnImpossibleGeometryIsRefusedWhicheverFieldItIsIn) {
  using layout::Identity;
  const std::size_t words[] = {
      offsetof(Identity, control_bytes), offsetof(Identity, snapshot_bytes),    offsetof(Identity, buffer_offset),
      offsetof(Identity, buffer_stride), offsetof(Identity, buffer_count),      offsetof(Identity, first_page),
      offsetof(Identity, feed_offset),   offsetof(Identity, feed_record_count), offsetof(Identity, statistic_offset),
      offsetof(Identity, value_offset),  offsetof(Identity, ring_table_offset)};
  for (const std::size_t offset : words) {
    std::uint64_t good = 0;
    const os::Fd fd = os::open_file(instance_.path() + "/control", O_RDWR);
    ASSERT_EQ(::pread(fd.get(), &good, sizeof good, static_cast<off_t>(offset)), ssize_t{sizeof good});
    overwrite(offset, ~std::uint64_t{0});
    EXPECT_EQ(open().first, Status::kDamaged) << "offset " << offset;
    overwrite(offset, good);
    EXPECT_EQ(open().first, Status::kOk);
  }
}

TEST_F(OpeningTest, AReaderWaitsForAnInstanceToAppear) {
  const std::string path = instance_.path() + "-later";
  std::thread later([&] {
    std::this_thread::sleep_for(20ms);
    InstanceOwner owner(path, {.memory_limit_bytes = 64U << 20});
    const MergeEngine engine(owner, {}, {}, os::now_ns());
  });
  EXPECT_EQ(Reader(path, {.attach_timeout = 1h}).epoch(), 1U);
  later.join();
}

TEST_F(OpeningTest, PrefaultingChangesNothingThatIsRead) {
  Writer writer = instance_.writer();
  writer.set("k", 1);
  instance_.pump();
  EXPECT_EQ(Reader(instance_.path(), {.prefault = true}).get<std::int64_t>("k"), 1);
}

// ---- a damaged snapshot

// Everything a reader can do. What it finds does not matter, only that it comes back.
void read_everything(Reader& reader, const std::vector<std::string_view>& keys) {
  std::string buffer(100, '\0');
  std::size_t bytes = 0;
  std::int64_t int64 = 0;
  double float64 = 0;
  Value value;
  for (const std::string_view key : keys) {
    static_cast<void>(reader.read(key, int64));
    static_cast<void>(reader.read(key, float64));
    static_cast<void>(reader.read(key, value));
    static_cast<void>(reader.read(key, std::span(buffer), bytes));
    Key bound(key);
    for (int i = 0; i < 2; ++i) static_cast<void>(reader.read(bound, int64));
  }
  std::vector<std::optional<std::int64_t>> numbers(keys.size());
  static_cast<void>(reader.read_many(keys, numbers));
  static_cast<void>(error_of([&] {
    std::vector<std::optional<Value>> values;
    reader.get_many(keys, values);
  }));
  static_cast<void>(error_of([&] {
    const Snapshot snapshot = reader.snapshot();
    for (const std::string_view key : keys) static_cast<void>(error_of([&] { static_cast<void>(snapshot.find(key)); }));
    std::size_t sum = 0;
    for (const auto& [key, entry] : snapshot) {
      for (const char c : key) sum += static_cast<unsigned char>(c);
      if (entry.type() == Type::kBytes) {
        for (const char c : entry.bytes()) sum += static_cast<unsigned char>(c);
      }
    }
    snapshot.for_each([&sum](const EntryView& entry) {
      for (const char c : entry.key) sum += static_cast<unsigned char>(c);
    });
    volatile const std::size_t all_bytes_were_touched = sum;
    static_cast<void>(all_bytes_were_touched);
  }));
}

TEST(DamagedSnapshotTest, NoBytesInABufferMakeAReaderCrashOrHang) {
  TestInstance instance({.memory_limit_bytes = std::uint64_t{16} << 20, .ring_count_max = 16});
  Writer writer = instance.writer();
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < 3'000; ++i) {
    keys.push_back("key/" + std::to_string(i) + std::string(i % 3 * 30, 'k'));
    writer.set(keys.back(), i % 5 == 0 ? ValueView(keys.back()) : ValueView(i));
    if (i % 500 == 0) instance.pump();
  }
  instance.pump();
  std::vector<std::string_view> some_keys{"missing"};
  for (std::size_t i = 0; i < keys.size(); i += 100) some_keys.push_back(keys[i]);

  Reader reader = instance.reader();
  std::byte* const buffer = instance.owner().buffer(current_version(instance.owner().publication()).buffer);
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
  const std::size_t bytes = static_cast<std::size_t>(header.page_count) * layout::kPageBytes;
  const std::size_t directory = DirectoryWord::unpack(header.directory).offset();
  const std::vector<std::byte> good(buffer, buffer + bytes);
  Random random(70);
  for (int i = 0; i < test::steps(300); ++i) {
    for (std::size_t n = random.between(1, 200); n > 0; --n) {
      const std::size_t dice = random.below(10);
      const std::size_t at = dice == 0   ? random.below(sizeof(layout::BufferHeader))
                             : dice == 1 ? directory + random.below(64)
                                         : random.below(bytes);
      std::uint64_t word = random.word() >> random.below(64);
      if (random.chance(30)) word = ~word;
      std::memcpy(buffer + std::min(at, bytes - sizeof word), &word, random.chance(50) ? 1 : sizeof word);
    }
    read_everything(reader, some_keys);
    std::memcpy(buffer, good.data(), bytes);
  }
  // A buffer never changes within its epoch, so a reader may keep what it found in it: it is asked in the next one.
  writer.set("later", 1);
  instance.pump();
  EXPECT_EQ(reader.get<std::int64_t>("later"), 1);
  EXPECT_EQ(reader.get<std::int64_t>("key/1" + std::string(30, 'k')), 1) << "repaired";
}

// Whatever changes under a reader, at whatever moment, it comes back: nothing that was checked is loaded again.
TEST(DamagedSnapshotTest, ABufferThatChangesAtRandomWhileItIsReadMakesNoReaderCrashOrHang) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "views of a buffer that changes are a race by intention";
#endif
  TestInstance instance(
      {.memory_limit_bytes = std::uint64_t{4} << 20, .ring_count_max = 16, .feed_record_count = 1024});
  Writer writer = instance.writer();
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < 2'000; ++i) {
    keys.push_back("key/" + std::to_string(i) + std::string(i % 3 * 30, 'k'));
    writer.set(keys.back(), i % 5 == 0 ? ValueView(keys.back()) : ValueView(i));
    if (i % 500 == 0) instance.pump();
  }
  instance.pump();
  const std::vector<std::string_view> some_keys(keys.begin(), keys.begin() + 30);
  Reader reader = instance.reader();
  std::byte* const buffer = instance.owner().buffer(current_version(instance.owner().publication()).buffer);
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
  const std::size_t words = static_cast<std::size_t>(header.page_count) * layout::kPageBytes / kWord;
  const std::size_t directory = DirectoryWord::unpack(header.directory).offset() / kWord;
  auto* const first = reinterpret_cast<std::uint64_t*>(buffer);
  auto* const feed = reinterpret_cast<std::uint64_t*>(instance.owner().feed());
  const std::vector<std::uint64_t> good(first, first + words);
  std::atomic<bool> stop{false};
  std::thread scribbler([&] {  // a word is spoilt, and soon as it was, so that most is good at any time
    Random random(71);
    while (!stop.load(std::memory_order_relaxed)) {
      const std::size_t dice = random.below(8);
      const std::size_t at = dice == 0   ? random.below(sizeof(layout::BufferHeader) / kWord)
                             : dice == 1 ? directory + random.below(8)
                                         : random.below(words);
      store_word(first + at, random.word() >> random.below(64), std::memory_order_release);
      store_word(feed + random.below(2048), random.word() >> random.below(64), std::memory_order_release);
      for (std::size_t pause = random.below(200); pause > 0; --pause) os::relax();
      if (random.chance(90)) store_word(first + at, good[at], std::memory_order_release);
    }
  });
  for (int i = 0; i < test::steps(300); ++i) {
    read_everything(reader, some_keys);
    static_cast<void>(error_of([&] { static_cast<void>(reader.changes(at_epoch(reader, reader.epoch() - 3))); }));
  }
  stop.store(true, std::memory_order_relaxed);
  scribbler.join();
}

// A damaged buffer may name one value many times; that does not keep a reader for ever.
TEST(DamagedSnapshotTest, ABlockThatManyEntriesNameIsDamage) {
  TestInstance instance({.memory_limit_bytes = std::uint64_t{16} << 20, .ring_count_max = 16});
  Writer writer = instance.writer();
  const std::string large(100'000, 'v');
  for (int i = 0; i < 8; ++i) writer.set("key/" + std::to_string(i), large);
  for (int i = 8; i < 400; ++i) writer.set("key/" + std::to_string(i), i);
  instance.pump();
  std::byte* const buffer = instance.owner().buffer(current_version(instance.owner().publication()).buffer);
  const BufferView view(buffer, instance.owner().geometry().pages_max());
  const auto slot_of = [&](int i) -> layout::Slot& {
    const std::string key = "key/" + std::to_string(i);
    Place place;
    SlotHead head;
    EXPECT_EQ(view.find({.bytes = key, .hash = hash_key(key, instance.owner().geometry().hash_seed)}, place, head),
              BufferView::Found::kYes);
    return *reinterpret_cast<layout::Slot*>(buffer + place.offset());
  };
  for (int i = 8; i < 400; ++i) {
    slot_of(i).head = SlotHead(slot_of(i).head % 4096 + 1, large.size(), Type::kBytes).pack();
    slot_of(i).words[0] = slot_of(0).words[0];
  }
  Reader reader = instance.reader();
  std::size_t seen = 0;
  const Status status = error_of([&] {
                          for (const EntryView& entry : reader.snapshot()) seen += entry.key.size();
                        }).first;
  EXPECT_EQ(status, Status::kDamaged);
}

TEST(DamagedSnapshotTest, AnImpossibleEpochWordIsAnErrorAndNoHang) {
  TestInstance instance;
  Reader reader = instance.reader();
  Shared<std::uint64_t>& word = instance.owner().publication().epoch_word;
  const std::uint64_t good = word.load(std::memory_order_relaxed);
  for (const std::uint64_t damage : {std::uint64_t{0}, ~std::uint64_t{0}, good | 7, good + 8}) {
    word.store(damage, std::memory_order_relaxed);
    Value value;
    EXPECT_EQ(reader.read("k", value), Status::kDamaged) << damage;
    EXPECT_EQ(error_of([&] { static_cast<void>(reader.snapshot()); }).first, Status::kDamaged) << damage;
  }
  word.store(good, std::memory_order_relaxed);
}

// ---- while the merger publishes in another thread

constexpr std::size_t kTogether = 200;

std::string together_key(std::size_t i) { return "together/" + std::to_string(i); }

// Sets all the keys to one number, and again to the next, each time in one batch.
class NumberingThread {
 public:
  explicit NumberingThread(const TestInstance& instance) : writer_(instance.writer()) {
    push(0);
    thread_ = std::jthread([this](const std::stop_token& stop) {
      for (std::int64_t n = 1; !stop.stop_requested(); ++n) push(n);
    });
  }

 private:
  void push(std::int64_t n) {
    Batch batch = writer_.batch();
    for (std::size_t i = 0; i < kTogether; ++i) batch.set(together_key(i), n);
    EXPECT_EQ(batch.commit(), Status::kOk);
  }
  Writer writer_;
  std::jthread thread_;
};

class PublishingTest : public testing::TestWithParam<std::uint32_t> {};

TEST_P(PublishingTest, EachSnapshotIsConsistentFromItsFirstToItsLastEntry) {
  TestInstance instance({.buffer_count = GetParam()});
  const EngineThread merging(instance);
  const NumberingThread numbering(instance);
  Reader reader = instance.reader();
  Epoch epoch = 0;
  std::int64_t last = 0;
  for (int i = 0; i < test::steps(2'000) || last == 0; ++i) {
    const Snapshot snapshot = reader.snapshot();
    ASSERT_GE(snapshot.epoch(), epoch);
    epoch = snapshot.epoch();
    if (snapshot.size() == 0) continue;
    ASSERT_EQ(snapshot.size(), kTogether);
    const std::int64_t n = snapshot.begin()->value.int64();
    ASSERT_GE(n, last);
    last = n;
    std::size_t count = 0;
    for (const auto& [key, value] : snapshot) {
      ASSERT_EQ(value.int64(), n) << key;
      ++count;
    }
    ASSERT_EQ(count, kTogether);
    ASSERT_FALSE(snapshot.expired());
  }
}

TEST_P(PublishingTest, GetManyNeverMixesTwoEpochs) {
  TestInstance instance({.buffer_count = GetParam()});
  const EngineThread merging(instance);
  const NumberingThread numbering(instance);
  Reader reader = instance.reader();
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kTogether; i += 10) names.push_back(together_key(i));
  const std::vector<std::string_view> keys(names.begin(), names.end());
  std::vector<std::optional<Value>> values;
  Position last;
  for (int i = 0; i < test::steps(20'000); ++i) {
    const Position now = reader.get_many(keys, values);
    ASSERT_GE(now, last);
    last = now;
    for (const std::optional<Value>& value : values) ASSERT_EQ(value, values.front());
  }
}

TEST_P(PublishingTest, ReadManyNeverMixesTwoEpochs) {
  TestInstance instance({.buffer_count = GetParam()});
  const EngineThread merging(instance);
  const NumberingThread numbering(instance);
  Reader reader = instance.reader();
  std::vector<std::string> names;
  for (std::size_t i = 0; i < kTogether; ++i) names.push_back(together_key(i));
  const std::vector<std::string_view> keys(names.begin(), names.end());
  std::vector<Key> bound(names.begin(), names.end());
  std::vector<std::optional<std::int64_t>> values(kTogether);
  Epoch epoch = 0;
  for (int i = 0; i < test::steps(5'000); ++i) {
    Position position;
    ASSERT_EQ(i % 2 == 0 ? reader.read_many(keys, values, &position) : reader.read_many(bound, values, &position),
              Status::kOk);
    ASSERT_GE(position.epoch, epoch);
    epoch = position.epoch;
    for (const std::optional<std::int64_t>& value : values) ASSERT_EQ(value, values.front());
  }
}

// The table grows meanwhile, so keys move from segment to segment, and with each publish the buffer that was read from
// is written.
TEST_P(PublishingTest, AKeyThatIsThereIsNeverMissingAndOneThatIsNotIsNeverFound) {
  TestInstance instance({.buffer_count = GetParam()});
  constexpr std::int64_t kThere = 300;
  Writer writer = instance.writer();
  for (std::int64_t i = 0; i < kThere; ++i) writer.set("there/" + std::to_string(i), i);
  instance.pump();
  const EngineThread merging(instance);
  const std::jthread growing([&](const std::stop_token& stop) {
    for (std::int64_t i = 0; !stop.stop_requested(); ++i) {
      writer.set("other/" + std::to_string(i % 30'000), i);
    }
  });
  Reader reader = instance.reader();
  for (int i = 0; i < test::steps(200'000); ++i) {
    const std::string number = std::to_string(i % kThere);
    std::int64_t value = -1;
    ASSERT_EQ(reader.read("there/" + number, value), Status::kOk) << "read " << i;
    ASSERT_EQ(value, i % kThere);
    ASSERT_EQ(reader.read("gone/" + number, value), Status::kNotFound) << "read " << i;
  }
}

TEST_P(PublishingTest, PointReadsNeverGoBack) {
  TestInstance instance({.buffer_count = GetParam()});
  const EngineThread merging(instance);
  const NumberingThread numbering(instance);
  Reader reader = instance.reader();
  std::int64_t last = -1;
  for (int i = 0; i < test::steps(100'000); ++i) {
    const std::int64_t n = reader.get<std::int64_t>(together_key(static_cast<std::size_t>(i) % kTogether)).value_or(-1);
    ASSERT_GE(n, last) << "another key of the same batch was newer";
    last = n;
  }
}

// A value that is a function of one number: its length, and every byte of it.
std::string whole_value(std::uint64_t n) {
  std::string value((kValueBytesMax - n % 100'000) / sizeof n * sizeof n, '\0');
  for (std::size_t at = 0; at < value.size(); at += sizeof n) std::memcpy(&value[at], &n, sizeof n);
  return value;
}
bool is_whole(std::string_view value) {
  std::uint64_t n = 0;
  std::memcpy(&n, value.data(), sizeof n);
  return value.size() == (kValueBytesMax - n % 100'000) / sizeof n * sizeof n &&
         std::memcmp(value.data(), value.data() + sizeof n, value.size() - sizeof n) == 0;
}

class OverwritingThread {
 public:
  explicit OverwritingThread(const TestInstance& instance) : writer_(instance.writer(ring_of(8U << 20))) {
    writer_.set("huge", whole_value(0));
    thread_ = std::jthread([this](const std::stop_token& stop) {
      for (std::uint64_t n = 1; !stop.stop_requested(); ++n) writer_.set("huge", whole_value(n * 0x9e37'79b9));
    });
  }

 private:
  Writer writer_;
  std::jthread thread_;
};

TEST_P(PublishingTest, AHugeValueThatIsOverwrittenAllTheTimeIsNeverTorn) {
  TestInstance instance({.buffer_count = GetParam()});
  const EngineThread merging(instance);
  const OverwritingThread overwriting(instance);
  Reader reader = instance.reader();
  while (!reader.get<std::string>("huge")) std::this_thread::yield();
  std::string buffer(kValueBytesMax, '\0');
  for (int i = 0; i < test::steps(200); ++i) {
    std::string value;
    ASSERT_EQ(reader.read("huge", value), Status::kOk);
    ASSERT_TRUE(is_whole(value));
    std::size_t bytes = 0;
    ASSERT_EQ(reader.read("huge", std::span(buffer), bytes), Status::kOk);
    ASSERT_TRUE(is_whole({buffer.data(), bytes}));
    const Snapshot snapshot = reader.snapshot();
    ASSERT_TRUE(is_whole(snapshot.find("huge")->value.bytes()));
  }
}

INSTANTIATE_TEST_SUITE_P(Buffers, PublishingTest, testing::Values(2U, 3U),
                         [](const auto& test) { return "Of" + std::to_string(test.param); });

TEST(ExpiringTest, WhatIsReadFromABufferThatIsReclaimedIsWholeOrSaidToBeExpired) {
  TestInstance instance({}, {.pin_time_max = 1ns});
  const EngineThread merging(instance);
  const OverwritingThread overwriting(instance);
  Reader reader = instance.reader();
  while (!reader.get<std::string>("huge")) std::this_thread::yield();
  for (int i = 0; i < test::steps(500); ++i) {
    std::string value;
    const Status status = reader.read("huge", value);
    ASSERT_TRUE(status == Status::kOk || status == Status::kExpired) << describe(status);
    ASSERT_TRUE(status == Status::kExpired || is_whole(value));
    const auto [failure, text] = error_of([&] {
      const Snapshot snapshot = reader.snapshot();
      const std::string copy(snapshot.find("huge").value().value.bytes());
      EXPECT_TRUE(snapshot.expired() || is_whole(copy));
    });
    ASSERT_TRUE(failure == Status::kOk || failure == Status::kExpired) << text;
  }
}

}  // namespace
}  // namespace shmstate
