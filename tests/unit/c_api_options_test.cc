// The C API at its edges: sizes of structs, statuses, NULL, and what cannot be opened.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "harness/test_instance.h"
#include "shmstate/reader_c.h"
#include "shmstate/watch_c.h"
#include "shmstate/writer_c.h"

namespace shmstate {
using namespace internal;
namespace {

using test::TestInstance;

struct CloseHandle {
  void operator()(shmstate_writer* writer) const { shmstate_writer_close(writer); }
  void operator()(shmstate_reader* reader) const { shmstate_reader_close(reader); }
  void operator()(shmstate_snapshot* snapshot) const { shmstate_snapshot_close(snapshot); }
};
using WriterHandle = std::unique_ptr<shmstate_writer, CloseHandle>;
using ReaderHandle = std::unique_ptr<shmstate_reader, CloseHandle>;
using SnapshotHandle = std::unique_ptr<shmstate_snapshot, CloseHandle>;

WriterHandle open_writer(const std::string& path, const shmstate_writer_options* options = nullptr) {
  shmstate_writer* writer = nullptr;
  EXPECT_EQ(shmstate_writer_open(path.c_str(), options, &writer), SHMSTATE_OK);
  return WriterHandle(writer);
}
ReaderHandle open_reader(const std::string& path) {
  shmstate_reader* reader = nullptr;
  EXPECT_EQ(shmstate_reader_open(path.c_str(), nullptr, &reader), SHMSTATE_OK);
  return ReaderHandle(reader);
}
SnapshotHandle open_snapshot(const ReaderHandle& reader) {
  shmstate_snapshot* snapshot = nullptr;
  EXPECT_EQ(shmstate_snapshot_open(reader.get(), &snapshot), SHMSTATE_OK);
  return SnapshotHandle(snapshot);
}

template <typename T>
T sized() {
  T known{};
  known.struct_bytes = sizeof known;
  return known;
}

// A struct of a later version, as a caller has it who was compiled with that.
template <typename T>
struct Later {
  T known;
  std::uint64_t added;
};

// The structs are part of the ABI: no member moves, and none is added where an older one ended in padding.
TEST(CApi, StructsHaveTheirSizes) {
  EXPECT_EQ(sizeof(shmstate_value), 40U);
  EXPECT_EQ(sizeof(shmstate_writer_options), 80U);
  EXPECT_EQ(sizeof(shmstate_set_options), 32U);
  EXPECT_EQ(sizeof(shmstate_writer_counters), 112U);
  EXPECT_EQ(sizeof(shmstate_writer_status), 32U);
  EXPECT_EQ(sizeof(shmstate_reader_options), 40U);
  EXPECT_EQ(sizeof(shmstate_entry_info), 48U);
  EXPECT_EQ(sizeof(shmstate_reader_status), 32U);
  EXPECT_EQ(sizeof(shmstate_entry), 96U);
  EXPECT_EQ(sizeof(shmstate_change), 80U);
  EXPECT_EQ(sizeof(shmstate_lookup), 80U);
  EXPECT_EQ(sizeof(shmstate_watch_batch), 56U);
  EXPECT_EQ(sizeof(shmstate_position), 24U);
}

// Every status has a text of its own, and every other number has one, too.
TEST(CApi, EveryStatusHasAText) {
  std::set<std::string> texts;
  for (int status = SHMSTATE_OK; status >= SHMSTATE_CROWDED; --status) texts.insert(shmstate_strerror(status));
  EXPECT_EQ(texts.size(), 31U);
  EXPECT_EQ(texts.count("unknown status"), 0U);
  EXPECT_STREQ(shmstate_strerror(SHMSTATE_OK), "ok");
  for (const int other : {1, -31, -256, -257, std::numeric_limits<int>::min(), std::numeric_limits<int>::max()}) {
    EXPECT_STREQ(shmstate_strerror(other), "unknown status") << other;
  }
}

// A caller of an older version, whose struct ends earlier, gets the defaults for what it does not know.
TEST(CApi, SmallerOptionsAreTakenWithDefaults) {
  TestInstance instance;
  auto options = sized<shmstate_writer_options>();
  options.struct_bytes = offsetof(shmstate_writer_options, when_full);
  options.ring_bytes = 65536;
  options.when_full = 99;          // garbage behind the caller's struct
  options.error_bytes = SIZE_MAX;  // the same
  const WriterHandle writer = open_writer(instance.path(), &options);
  auto set_options = sized<shmstate_set_options>();
  set_options.struct_bytes = offsetof(shmstate_set_options, version);
  set_options.version = 5;
  set_options.has_version = 1;
  EXPECT_EQ(shmstate_writer_set_int64(writer.get(), "key", SHMSTATE_TEXT, 1, &set_options), SHMSTATE_OK);
  instance.pump();
  EXPECT_EQ(instance.reader().info("key")->version, 0U);
  const auto ring = rings_path(instance.path()) / ring_name(shmstate_writer_get_ring_id(writer.get()));
  EXPECT_EQ(std::filesystem::file_size(ring), layout::kRingHeaderBytes + 65536U + 16384U);
}

// A caller of a later version is served as long as it does not ask for what this version does not know.
TEST(CApi, LargerOptionsAreTakenWhenTheRestIsZero) {
  TestInstance instance;
  const WriterHandle writer = open_writer(instance.path());
  Later<shmstate_set_options> options{};
  options.known.struct_bytes = sizeof options;
  options.known.version = 3;
  options.known.has_version = 1;
  EXPECT_EQ(shmstate_writer_set_int64(writer.get(), "key", 3, 1, &options.known), SHMSTATE_OK);
  options.added = 1;
  EXPECT_EQ(shmstate_writer_set_int64(writer.get(), "key", 3, 2, &options.known), SHMSTATE_INVALID_ARGUMENT);
  instance.pump();
  EXPECT_EQ(instance.reader().get<std::int64_t>("key"), 1);
  EXPECT_EQ(instance.reader().info("key")->version, 3U);
}

// A struct is filled as far as the caller has room, and what this version does not know is zero.
TEST(CApi, StructsAreFilledAsFarAsBothKnowThem) {
  TestInstance instance;
  const WriterHandle writer = open_writer(instance.path());
  ASSERT_EQ(shmstate_writer_set_bytes(writer.get(), "key", 3, "text", 4, nullptr), SHMSTATE_OK);
  instance.pump();
  auto counters = sized<shmstate_writer_counters>();
  counters.struct_bytes = offsetof(shmstate_writer_counters, failed);
  counters.failed = 77;
  EXPECT_EQ(shmstate_writer_get_counters(writer.get(), &counters), SHMSTATE_OK);
  EXPECT_EQ(counters.pushed, 1U);
  EXPECT_EQ(counters.failed, 77U);
  EXPECT_EQ(counters.struct_bytes, offsetof(shmstate_writer_counters, failed));

  const ReaderHandle reader = open_reader(instance.path());
  const SnapshotHandle snapshot = open_snapshot(reader);
  Later<shmstate_entry> entry{};
  entry.known.struct_bytes = sizeof entry;
  entry.added = 77;
  EXPECT_EQ(shmstate_snapshot_get(snapshot.get(), "key", 3, &entry.known), SHMSTATE_OK);
  EXPECT_EQ(std::string_view(entry.known.value.bytes, entry.known.value.value_bytes), "text");
  EXPECT_EQ(entry.added, 0U);
  EXPECT_EQ(entry.known.struct_bytes, sizeof entry);
}

// A size that nobody has set, or that cannot be one, is refused; of the rest only where a reason can be written is
// looked at.
TEST(CApi, ImpossibleSizesAreRefused) {
  TestInstance instance;
  const WriterHandle writer = open_writer(instance.path());
  const ReaderHandle reader = open_reader(instance.path());
  const SnapshotHandle snapshot = open_snapshot(reader);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{7}, std::size_t{4097}, SIZE_MAX}) {
    shmstate_writer_options writer_options{};
    shmstate_reader_options reader_options{};
    shmstate_set_options set_options{};
    shmstate_writer_counters counters{};
    shmstate_entry_info info{};
    shmstate_reader_status status{};
    shmstate_entry entry{};
    writer_options.struct_bytes = reader_options.struct_bytes = set_options.struct_bytes = bytes;
    counters.struct_bytes = info.struct_bytes = status.struct_bytes = entry.struct_bytes = bytes;
    shmstate_writer* no_writer = writer.get();
    shmstate_reader* no_reader = reader.get();
    EXPECT_EQ(shmstate_writer_open(instance.path().c_str(), &writer_options, &no_writer), SHMSTATE_INVALID_ARGUMENT);
    EXPECT_EQ(shmstate_reader_open(instance.path().c_str(), &reader_options, &no_reader), SHMSTATE_INVALID_ARGUMENT);
    EXPECT_EQ(no_writer, nullptr);
    EXPECT_EQ(no_reader, nullptr);
    EXPECT_EQ(shmstate_writer_set_int64(writer.get(), "k", 1, 1, &set_options), SHMSTATE_INVALID_ARGUMENT);
    EXPECT_EQ(shmstate_writer_get_counters(writer.get(), &counters), SHMSTATE_INVALID_ARGUMENT);
    EXPECT_EQ(shmstate_reader_get_info(reader.get(), "k", 1, &info), SHMSTATE_INVALID_ARGUMENT);
    EXPECT_EQ(shmstate_reader_get_status(reader.get(), &status), SHMSTATE_INVALID_ARGUMENT);
    EXPECT_EQ(shmstate_snapshot_get(snapshot.get(), "k", 1, &entry), SHMSTATE_INVALID_ARGUMENT);
    EXPECT_EQ(shmstate_snapshot_next(snapshot.get(), &entry), SHMSTATE_INVALID_ARGUMENT);
  }
}

// A size within a member, with which half of its value would be taken, is refused.
TEST(CApi, SizesThatCutAMemberAreRefused) {
  TestInstance instance;
  const WriterHandle writer = open_writer(instance.path());
  auto options = sized<shmstate_set_options>();
  options.ttl_ns = std::int64_t{1} << 32;
  for (options.struct_bytes = 8; options.struct_bytes <= sizeof options; ++options.struct_bytes) {
    EXPECT_EQ(shmstate_writer_set_int64(writer.get(), "k", 1, 1, &options),
              options.struct_bytes % 8 == 0 ? SHMSTATE_OK : SHMSTATE_INVALID_ARGUMENT)
        << options.struct_bytes;
  }
}

// A push that was refused for its arguments is reported like any other one: by the next flush, once, and counted; in a
// batch by its commit.
TEST(CApi, APushWithSenselessArgumentsIsReportedByTheNextFlush) {
  TestInstance instance;
  const WriterHandle handle = open_writer(instance.path());
  shmstate_writer* const writer = handle.get();
  auto options = sized<shmstate_set_options>();
  options.struct_bytes = 7;
  Later<shmstate_set_options> later{};
  later.known.struct_bytes = sizeof later;
  later.added = 1;
  auto negative = sized<shmstate_set_options>();
  negative.ttl_ns = -1;
  const std::vector<std::function<int()>> senseless{
      [&] { return shmstate_writer_set_int64(writer, "k", 1, 1, &options); },
      [&] { return shmstate_writer_set_float64(writer, "k", 1, 1, &options); },
      [&] { return shmstate_writer_set_bytes(writer, "k", 1, "v", 1, &options); },
      [&] { return shmstate_writer_set_int64(writer, "k", 1, 1, &later.known); },
      [&] { return shmstate_writer_set_int64(writer, "k", 1, 1, &negative); },
      [&] { return shmstate_writer_set_bytes(writer, "k", 1, nullptr, 1, nullptr); },
      [&] { return shmstate_writer_set_int64(writer, nullptr, 1, 1, nullptr); },
      [&] { return shmstate_writer_add_int64(writer, nullptr, 1, 1); },
      [&] { return shmstate_writer_erase(writer, nullptr, 1); }};
  std::uint64_t failed = 0;
  for (std::size_t i = 0; i < senseless.size(); ++i) {
    EXPECT_EQ(senseless[i](), SHMSTATE_INVALID_ARGUMENT) << i;
    EXPECT_EQ(shmstate_writer_flush(writer, 0), SHMSTATE_INVALID_ARGUMENT) << i;
    EXPECT_EQ(shmstate_writer_flush(writer, 0), SHMSTATE_OK) << i;
    auto counters = sized<shmstate_writer_counters>();
    ASSERT_EQ(shmstate_writer_get_counters(writer, &counters), SHMSTATE_OK);
    EXPECT_EQ(counters.failed, ++failed) << i;
    EXPECT_EQ(counters.pushed, 0U) << i;

    EXPECT_EQ(shmstate_batch_begin(writer), SHMSTATE_OK);
    EXPECT_EQ(senseless[i](), SHMSTATE_INVALID_ARGUMENT) << i;
    EXPECT_EQ(shmstate_batch_commit(writer), SHMSTATE_INVALID_ARGUMENT) << i;
    EXPECT_EQ(shmstate_writer_flush(writer, 0), SHMSTATE_INVALID_ARGUMENT) << i;
    ++failed;
  }
}

TEST(CApi, SenselessLookupsAndWatchesAreRefused) {
  TestInstance instance;
  const ReaderHandle reader = open_reader(instance.path());
  EXPECT_EQ(shmstate_reader_get_many(nullptr, nullptr, 0, nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_many(reader.get(), nullptr, 1, nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_many(reader.get(), nullptr, 0, nullptr), SHMSTATE_OK);
  std::array<shmstate_lookup, 3> lookups{};
  lookups[1].key = "k";
  lookups[1].key_bytes = 1;
  lookups[1].buffer_bytes = 1;
  lookups[2].key = "";
  EXPECT_EQ(shmstate_reader_get_many(reader.get(), lookups.data(), lookups.size(), nullptr), SHMSTATE_OK);
  EXPECT_EQ(lookups[0].status, SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(lookups[1].status, SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(lookups[2].status, SHMSTATE_KEY_EMPTY);

  shmstate_watch* watch = nullptr;
  shmstate_changes* changes = nullptr;
  EXPECT_EQ(shmstate_watch_open(nullptr, nullptr, 0, nullptr, &watch), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_watch_open(instance.path().c_str(), nullptr, 0, nullptr, nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_watch_open_since(instance.path().c_str(), nullptr, 0, nullptr, nullptr, &watch),
            SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_watch_next(nullptr, 0, nullptr, &changes), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_watch_get_fd(nullptr), SHMSTATE_INVALID_ARGUMENT);
  shmstate_watch_close(nullptr);
  ASSERT_EQ(shmstate_watch_open(instance.path().c_str(), nullptr, 0, nullptr, &watch), SHMSTATE_OK);
  shmstate_watch_batch batch{};
  batch.struct_bytes = 7;
  EXPECT_EQ(shmstate_watch_next(watch, 0, &batch, &changes), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_watch_next(watch, 0, nullptr, nullptr), SHMSTATE_INVALID_ARGUMENT);
  shmstate_watch_close(watch);
}

/// What is written when opening is refused for these arguments; `added` is a member of a later version.
template <typename Options, typename Handle>
std::string refusal(int (*open)(const char*, const Options*, Handle**), const char* instance, std::size_t struct_bytes,
                    std::uint64_t added, Handle** handle) {
  std::array<char, 200> text{};
  Later<Options> options{};
  options.known.struct_bytes = struct_bytes;
  options.known.error_text = text.data();
  options.known.error_bytes = text.size();
  options.added = added;
  EXPECT_EQ(open(instance, &options.known, handle), SHMSTATE_INVALID_ARGUMENT);
  return text.data();
}

template <typename Options, typename Handle>
void check_refusals(int (*open)(const char*, const Options*, Handle**)) {
  const TestInstance instance;
  const std::string path = instance.path();
  Handle* handle = nullptr;
  EXPECT_EQ(refusal(open, path.c_str(), 5000, 0, &handle), "")
      << "of a struct that nobody has set, nothing is believed";
  EXPECT_NE(refusal(open, path.c_str(), sizeof(Options) + 4, 0, &handle).find("struct_bytes"), std::string::npos);
  EXPECT_NE(refusal(open, path.c_str(), sizeof(Later<Options>), 1, &handle).find("option"), std::string::npos);
  EXPECT_NE(refusal(open, nullptr, sizeof(Options), 0, &handle).find("instance"), std::string::npos);
  EXPECT_NE(refusal(open, path.c_str(), sizeof(Options), 0, static_cast<Handle**>(nullptr)).find("handle"),
            std::string::npos);
}

// An invalid argument, too, is named in the caller's buffer, as far as the struct reaches that.
TEST(CApi, OpeningWithAnInvalidArgumentSaysWhy) {
  check_refusals(shmstate_writer_open);
  check_refusals(shmstate_reader_open);
}

// A writer that wants to survive a truncated ring does, in C as in C++.
TEST(CApi, AWriterCanSurviveATruncatedRing) {
  TestInstance instance;
  auto options = sized<shmstate_writer_options>();
  options.survive_truncation = 1;
  const WriterHandle writer = open_writer(instance.path(), &options);
  std::filesystem::resize_file(rings_path(instance.path()) / ring_name(shmstate_writer_get_ring_id(writer.get())), 0);
  EXPECT_EQ(shmstate_writer_set_int64(writer.get(), "k", 1, 1, nullptr), SHMSTATE_OK);
  EXPECT_EQ(shmstate_writer_flush(writer.get(), 0), SHMSTATE_RING_QUARANTINED);
}

// What cannot be opened says why, in the caller's buffer, however small that is; nothing is thrown.
TEST(CApi, OpeningFailsWithTheWholeReason) {
  std::array<char, 200> text{};
  auto options = sized<shmstate_reader_options>();
  options.attach_timeout_ns = -1;
  options.error_text = text.data();
  options.error_bytes = text.size();
  shmstate_reader* reader = nullptr;
  EXPECT_EQ(shmstate_reader_open("/nonexistent/plant", &options, &reader), SHMSTATE_NO_INSTANCE);
  EXPECT_EQ(reader, nullptr);
  EXPECT_NE(std::string_view(text.data()).find("/nonexistent/plant"), std::string_view::npos) << text.data();
  text.fill('x');
  options.error_bytes = 10;
  EXPECT_EQ(shmstate_reader_open("/nonexistent/plant", &options, &reader), SHMSTATE_NO_INSTANCE);
  EXPECT_STREQ(text.data(), "shmstate:");
  EXPECT_EQ(text[10], 'x');

  auto writer_options = sized<shmstate_writer_options>();
  writer_options.attach_timeout_ns = -1;
  writer_options.error_text = text.data();
  writer_options.error_bytes = text.size();
  shmstate_writer* writer = nullptr;
  EXPECT_EQ(shmstate_writer_open("/nonexistent/plant", &writer_options, &writer), SHMSTATE_NO_INSTANCE);
  writer_options.when_full = 3;
  EXPECT_EQ(shmstate_writer_open("/nonexistent/plant", &writer_options, &writer), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_NE(std::string_view(text.data()).find("when_full"), std::string_view::npos) << text.data();
  EXPECT_EQ(writer, nullptr);
}

// A full ring is reported as the options say: at once, or after the timeout; conflation keeps the last value.
TEST(CApi, WhenFullIsObeyed) {
  TestInstance instance;
  auto options = sized<shmstate_writer_options>();
  options.ring_bytes = 65536;
  options.full_timeout_ns = 1;
  const std::string value(32'000, 'x');
  const auto fill = [&](std::int32_t when_full) {
    options.when_full = when_full;
    const WriterHandle writer = open_writer(instance.path(), &options);
    int status = SHMSTATE_OK;
    for (int i = 0; i < 4 && status == SHMSTATE_OK; ++i) {
      status = shmstate_writer_set_bytes(writer.get(), "key", 3, value.data(), value.size(), nullptr);
    }
    instance.pump();
    return status;
  };
  EXPECT_EQ(fill(SHMSTATE_FAIL), SHMSTATE_RING_FULL);
  EXPECT_EQ(fill(SHMSTATE_BLOCK), SHMSTATE_TIMEOUT);
  EXPECT_EQ(fill(SHMSTATE_CONFLATE), SHMSTATE_OK);
}

// NULL in place of a handle, a key or a result is an error, and closing NULL does nothing.
TEST(CApi, NullIsAnError) {
  TestInstance instance;
  const ReaderHandle reader = open_reader(instance.path());
  const WriterHandle writer = open_writer(instance.path());
  std::int64_t number = 0;
  std::size_t value_bytes = 0;
  shmstate_position position{};
  EXPECT_EQ(shmstate_writer_open(instance.path().c_str(), nullptr, nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_open(instance.path().c_str(), nullptr, nullptr), SHMSTATE_INVALID_ARGUMENT);
  shmstate_reader* none = nullptr;
  EXPECT_EQ(shmstate_reader_open(nullptr, nullptr, &none), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_writer_set_int64(nullptr, "k", 1, 1, nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_writer_set_int64(writer.get(), nullptr, SHMSTATE_TEXT, 1, nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_writer_set_bytes(writer.get(), "k", 1, nullptr, 1, nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_writer_flush(nullptr, 0), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_batch_begin(nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_batch_commit(nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_int64(nullptr, "k", 1, &number), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_int64(reader.get(), nullptr, 1, &number), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_int64(reader.get(), "k", 1, nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_bytes(reader.get(), "k", 1, nullptr, 8, &value_bytes), SHMSTATE_INVALID_ARGUMENT);
  shmstate_snapshot* no_snapshot = nullptr;
  shmstate_changes* no_changes = nullptr;
  EXPECT_EQ(shmstate_snapshot_open(nullptr, &no_snapshot), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_snapshot_check(nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_changes_open(nullptr, &position, &no_changes), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_changes_open(reader.get(), nullptr, &no_changes), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_position(nullptr, &position), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_position(reader.get(), nullptr), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_wait(nullptr, &position, 0), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_wait(reader.get(), nullptr, 0), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_snapshot_get_position(nullptr, &position), SHMSTATE_INVALID_ARGUMENT);
  EXPECT_EQ(shmstate_reader_get_path(nullptr), nullptr);
  EXPECT_LT(shmstate_reader_get_age(nullptr), 0);
  EXPECT_EQ(shmstate_writer_get_ticket(nullptr), 0U);
  shmstate_batch_abort(nullptr);
  shmstate_writer_close(nullptr);
  shmstate_reader_close(nullptr);
  shmstate_snapshot_close(nullptr);
  shmstate_changes_close(nullptr);
}

// Keys out of range are told apart, by reader, snapshot and writer alike.
TEST(CApi, KeysAreChecked) {
  TestInstance instance;
  const WriterHandle writer = open_writer(instance.path());
  const ReaderHandle reader = open_reader(instance.path());
  const SnapshotHandle snapshot = open_snapshot(reader);
  const std::string key(kKeyBytesMax + 1, 'k');
  std::int64_t number = 0;
  auto entry = sized<shmstate_entry>();
  auto info = sized<shmstate_entry_info>();
  EXPECT_EQ(shmstate_writer_erase(writer.get(), key.data(), key.size()), SHMSTATE_KEY_TOO_LONG);
  EXPECT_EQ(shmstate_reader_get_int64(reader.get(), key.data(), key.size(), &number), SHMSTATE_KEY_TOO_LONG);
  EXPECT_EQ(shmstate_reader_get_info(reader.get(), key.data(), key.size(), &info), SHMSTATE_KEY_TOO_LONG);
  EXPECT_EQ(shmstate_snapshot_get(snapshot.get(), key.data(), key.size(), &entry), SHMSTATE_KEY_TOO_LONG);
  EXPECT_EQ(shmstate_reader_get_info(reader.get(), "", 0, &info), SHMSTATE_KEY_EMPTY);
  EXPECT_EQ(shmstate_reader_get_info(reader.get(), "k", 1, &info), SHMSTATE_NOT_FOUND);
}

// Timeouts of any size end: negative ones at once, and the longest overflow nothing.
TEST(CApi, TimeoutsOfAnySizeAreTaken) {
  TestInstance instance;
  const WriterHandle writer = open_writer(instance.path());
  const ReaderHandle reader = open_reader(instance.path());
  ASSERT_EQ(shmstate_writer_set_int64(writer.get(), "k", 1, 1, nullptr), SHMSTATE_OK);
  EXPECT_EQ(shmstate_writer_flush(writer.get(), std::numeric_limits<std::int64_t>::min()), SHMSTATE_TIMEOUT);
  shmstate_position known{};
  ASSERT_EQ(shmstate_reader_get_position(reader.get(), &known), SHMSTATE_OK);
  EXPECT_EQ(shmstate_reader_wait(reader.get(), &known, -1), SHMSTATE_TIMEOUT);
  instance.pump();
  EXPECT_EQ(shmstate_writer_flush(writer.get(), std::numeric_limits<std::int64_t>::max()), SHMSTATE_OK);
  EXPECT_EQ(shmstate_reader_wait(reader.get(), &known, std::numeric_limits<std::int64_t>::max()), SHMSTATE_OK);

  auto options = sized<shmstate_writer_options>();
  options.shared = 1;
  options.full_timeout_ns = std::numeric_limits<std::int64_t>::max();
  const WriterHandle shared = open_writer(instance.path(), &options);
  EXPECT_EQ(shmstate_writer_set_int64(shared.get(), "k", 1, 2, nullptr), SHMSTATE_OK);
}

// A snapshot that the merger took back says so, and nothing read from it is given out as good.
TEST(CApi, ExpiredSnapshotsSaySo) {
  TestInstance instance({}, {.pin_time_max = std::chrono::milliseconds(1)});
  const WriterHandle writer = open_writer(instance.path());
  const ReaderHandle reader = open_reader(instance.path());
  ASSERT_EQ(shmstate_writer_set_int64(writer.get(), "k", 1, 1, nullptr), SHMSTATE_OK);
  instance.pump();
  const SnapshotHandle snapshot = open_snapshot(reader);
  auto entry = sized<shmstate_entry>();
  ASSERT_EQ(shmstate_snapshot_check(snapshot.get()), SHMSTATE_OK);
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(shmstate_writer_set_int64(writer.get(), "k", 1, i, nullptr), SHMSTATE_OK);
    instance.step();
  }
  EXPECT_EQ(shmstate_snapshot_check(snapshot.get()), SHMSTATE_EXPIRED);
  EXPECT_EQ(shmstate_snapshot_get(snapshot.get(), "k", 1, &entry), SHMSTATE_EXPIRED);
  EXPECT_EQ(shmstate_snapshot_next(snapshot.get(), &entry), SHMSTATE_EXPIRED);
}

}  // namespace
}  // namespace shmstate
