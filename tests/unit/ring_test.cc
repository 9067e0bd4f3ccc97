// The ring: what the producer pushes, the consumer sees, byte by byte; and neither believes the other's nonsense.
#include "protocol/ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "files/ring_file.h"
#include "harness/test_instance.h"
#include "layout/record.h"
#include "shmstate/detail/ring_push.h"

namespace shmstate {
using namespace internal;
namespace {

constexpr std::uint64_t kDataBytes = kRingBytesMin;
constexpr std::uint64_t kMany = ~std::uint64_t{0} / 2;

class RingTest : public testing::Test {
 protected:
  std::unique_ptr<layout::RingHeader> header_ = std::make_unique<layout::RingHeader>();
  RingProducer<layout::RingHeader> producer_{*header_, kDataBytes};
  RingConsumer<layout::RingHeader> consumer_{*header_, kDataBytes, 0};

  void set_head(std::uint64_t head) { header_->head.store(head, std::memory_order_relaxed); }
};

TEST_F(RingTest, ANewRingIsEmptyAndHasRoomForAllItsBytes) {
  EXPECT_EQ(consumer_.tail(), consumer_.cursor());
  EXPECT_TRUE(producer_.has_room(kDataBytes));
  EXPECT_FALSE(producer_.has_room(kDataBytes + 1));
}

TEST_F(RingTest, ItIsFullAfterExactlyItsSizeAndNotAByteEarlier) {
  std::uint64_t pushed_bytes = 0;
  while (producer_.has_room(24)) {
    producer_.push(24);
    pushed_bytes += 24;
  }
  EXPECT_EQ(pushed_bytes, kDataBytes / 24 * 24);
  const std::uint64_t rest_bytes = kDataBytes - pushed_bytes;
  EXPECT_TRUE(producer_.has_room(rest_bytes));
  producer_.push(rest_bytes);
  EXPECT_FALSE(producer_.has_room(1));
  EXPECT_EQ(consumer_.tail(), kDataBytes);
  EXPECT_TRUE(consumer_.is_sane(consumer_.tail()));
}

TEST_F(RingTest, RoomComesBackByExactlyWhatTheConsumerReleased) {
  producer_.push(kDataBytes);
  consumer_.advance(64);
  producer_.refresh();
  EXPECT_FALSE(producer_.has_room(1)) << "applied is not released";
  EXPECT_FALSE(consumer_.release());
  producer_.refresh();
  EXPECT_TRUE(producer_.has_room(64));
  EXPECT_FALSE(producer_.has_room(65));
}

TEST_F(RingTest, TheProducerLooksAtTheConsumersIndexOnlyWhenToldTo) {
  producer_.push(kDataBytes);
  consumer_.advance(kDataBytes);
  EXPECT_FALSE(consumer_.release());
  EXPECT_FALSE(producer_.has_room(8)) << "its private copy is from before";
  producer_.refresh();
  EXPECT_TRUE(producer_.has_room(kDataBytes));
}

TEST_F(RingTest, WhatIsWrittenButNotPushedIsNotSeen) {
  EXPECT_EQ(consumer_.tail(), 0U);
  producer_.push(16);
  EXPECT_EQ(consumer_.tail(), 16U);
  EXPECT_EQ(producer_.tail(), 16U);
}

TEST_F(RingTest, AHeadBeyondTheTailIsNotBelieved) {
  producer_.push(kDataBytes);
  for (const std::uint64_t lie : {kDataBytes + 1, kDataBytes + 8, 2 * kDataBytes, kMany, ~std::uint64_t{0}}) {
    set_head(lie);
    producer_.refresh();
    EXPECT_FALSE(producer_.has_room(1)) << lie;
  }
}

TEST_F(RingTest, AHeadMoreThanARingBehindIsNotBelieved) {
  for (int lap = 1; lap <= 4; ++lap) {
    producer_.push(kDataBytes);
    consumer_.advance(kDataBytes);
    EXPECT_FALSE(consumer_.release());
    producer_.refresh();
  }
  set_head(0);
  producer_.refresh();
  EXPECT_TRUE(producer_.has_room(kDataBytes)) << "the last believable head still counts";
  EXPECT_FALSE(producer_.has_room(kDataBytes + 1));
}

TEST_F(RingTest, AHeadThatWentBackTakesRoomAwayAndGivesNone) {
  producer_.push(1024);
  consumer_.advance(1024);
  EXPECT_FALSE(consumer_.release());
  producer_.refresh();
  set_head(512);
  producer_.refresh();
  EXPECT_TRUE(producer_.has_room(kDataBytes - 512));
  EXPECT_FALSE(producer_.has_room(kDataBytes - 511));
}

TEST_F(RingTest, AnImpossibleTailIsNotSane) {
  producer_.push(1024);
  consumer_.advance(1024);
  EXPECT_TRUE(consumer_.is_sane(1024)) << "nothing new";
  EXPECT_TRUE(consumer_.is_sane(1024 + 8));
  EXPECT_TRUE(consumer_.is_sane(1024 + kDataBytes)) << "full";
  EXPECT_FALSE(consumer_.is_sane(1024 + kDataBytes + 8)) << "more than full";
  EXPECT_FALSE(consumer_.is_sane(1016)) << "before what was applied";
  EXPECT_FALSE(consumer_.is_sane(0));
  EXPECT_FALSE(consumer_.is_sane(1024 + 4)) << "records are whole words";
  EXPECT_FALSE(consumer_.is_sane(kMany));
  EXPECT_FALSE(consumer_.is_sane(~std::uint64_t{7}));
}

TEST_F(RingTest, AnotherProducerOfTheSameRingGoesOnWhereTheFirstStopped) {
  producer_.push(kDataBytes);
  consumer_.advance(64);
  EXPECT_FALSE(consumer_.release());
  const RingProducer<layout::RingHeader> next(*header_, kDataBytes);
  EXPECT_EQ(next.tail(), kDataBytes);
  EXPECT_TRUE(next.has_room(64));
  EXPECT_FALSE(next.has_room(65));
}

TEST_F(RingTest, ReleaseTellsWhetherTheProducerMustBeWoken) {
  producer_.push(64);
  consumer_.advance(32);
  EXPECT_FALSE(consumer_.release());
  producer_.announce_wait();
  EXPECT_EQ(producer_.head_before_sleep(), 32U);
  consumer_.advance(32);
  EXPECT_TRUE(consumer_.release());
  EXPECT_EQ(producer_.head_before_sleep(), 64U);
  producer_.end_wait();
  EXPECT_FALSE(consumer_.release());
}

// ---- the file

class RingFileTest : public testing::Test {
 protected:
  [[nodiscard]] RingFile create(std::uint64_t data_bytes = kDataBytes) const {
    return RingFile::create(
        directory_.path(),
        {.data_bytes = data_bytes, .names_bytes = kNamesBytes, .flags = 0, .name = "test", .instance_id = kInstance});
  }
  [[nodiscard]] std::optional<RingFile> open(std::uint64_t id, const layout::Id& instance = kInstance) const {
    return RingFile::open(directory_.path(), id, instance);
  }
  [[nodiscard]] std::filesystem::path path_of(std::uint64_t id) const { return directory_.path() / ring_name(id); }

  static constexpr layout::Id kInstance{1, 2, 3};
  static constexpr std::uint64_t kNamesBytes = 8192;
  test::TemporaryDirectory directory_;
};

TEST_F(RingFileTest, ARecordThatReachesOverTheEndIsInOnePieceAndContinuesAtTheFront) {
  const RingFile ring = create();
  const std::string text = "a record of some length, eight by eight bytes..";
  std::memcpy(ring.at(kDataBytes - 16), text.data(), text.size());
  EXPECT_EQ(std::memcmp(ring.at(0), text.data() + 16, text.size() - 16), 0);
  EXPECT_EQ(std::memcmp(ring.at(7 * kDataBytes - 16), text.data(), text.size()), 0) << "positions only grow";
}

TEST_F(RingFileTest, TheMergerSeesTheBytesOfTheWriter) {
  const RingFile theirs = create();
  const std::optional<RingFile> ours = open(theirs.id());
  ASSERT_TRUE(ours);
  EXPECT_EQ(ours->data_bytes(), kDataBytes);
  EXPECT_STREQ(ours->header().name, "test");
  std::memcpy(theirs.at(kDataBytes - 4), "sameness", 8);
  EXPECT_EQ(std::memcmp(ours->at(kDataBytes - 4), "sameness", 8), 0);
}

TEST_F(RingFileTest, ARingIsAbandonedOnceItsWriterIsGone) {
  std::optional<RingFile> theirs = create();
  const std::optional<RingFile> ours = open(theirs->id());
  ASSERT_TRUE(ours);
  EXPECT_FALSE(ours->is_abandoned());
  theirs.reset();
  EXPECT_TRUE(ours->is_abandoned());
}

TEST_F(RingFileTest, OnlyARingOfThisInstanceIsOpened) {
  const RingFile ring = create();
  EXPECT_TRUE(open(ring.id()));
  EXPECT_FALSE(open(ring.id(), {9})) << "of another instance";
  EXPECT_FALSE(open(ring.id() + 1)) << "no such file";
  std::filesystem::copy_file(path_of(ring.id()), path_of(0x77));
  EXPECT_FALSE(open(0x77)) << "its id is not its name";
  std::filesystem::create_directory(path_of(0x78));
  EXPECT_FALSE(open(0x78)) << "a directory";
  ASSERT_EQ(::mkfifo(path_of(0x79).c_str(), 0600), 0);
  EXPECT_FALSE(open(0x79)) << "a FIFO, without waiting for its other end";
  std::filesystem::rename(path_of(ring.id()), directory_.path() / "elsewhere");
  std::filesystem::create_symlink(directory_.path() / "elsewhere", path_of(ring.id()));
  EXPECT_FALSE(open(ring.id())) << "a symbolic link";
}

TEST_F(RingFileTest, AHeaderThatIsNotThatOfARingIsRefused) {
  using Damage = void (*)(layout::RingHeader&);
  const Damage damages[] = {
      [](layout::RingHeader& header) { header.magic ^= 1; },
      [](layout::RingHeader& header) { ++header.layout_major; },
      [](layout::RingHeader& header) { ++header.ring_id; },
      [](layout::RingHeader& header) { header.data_bytes *= 2; },
      [](layout::RingHeader& header) { header.data_bytes = 3 * kDataBytes / 2; },
      [](layout::RingHeader& header) { header.data_bytes = 0; },
      [](layout::RingHeader& header) { header.required_features = 2; },
      [](layout::RingHeader& header) { header.data_bytes = ~std::uint64_t{0}; },
      [](layout::RingHeader& header) { header.names_bytes += 1; },
      [](layout::RingHeader& header) { header.names_bytes = kNamesBytes + 4096; },
      [](layout::RingHeader& header) { header.names_bytes = ~4095U; },
  };
  for (const Damage damage : damages) {
    const RingFile ring = create();
    ASSERT_TRUE(open(ring.id()));
    damage(ring.header());
    EXPECT_FALSE(open(ring.id())) << "damage " << &damage - damages;
  }
}

TEST_F(RingFileTest, AFileOfAnotherSizeThanItSaysIsRefused) {
  const RingFile ring = create();
  for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{100}, layout::kRingHeaderBytes + kDataBytes,
                                    layout::kRingHeaderBytes + kDataBytes + kNamesBytes - 1}) {
    std::filesystem::resize_file(path_of(ring.id()), bytes);
    EXPECT_FALSE(open(ring.id())) << bytes;
  }
}

/// Until its end, this process can open no file.
class NoDescriptors {
 public:
  NoDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    rlimit none = before_;
    none.rlim_cur = 0;
    ::setrlimit(RLIMIT_NOFILE, &none);
  }
  NoDescriptors(const NoDescriptors&) = delete;
  NoDescriptors& operator=(const NoDescriptors&) = delete;
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(RingFileTest, ARingThatCannotBeOpenedNowIsNeitherGoneNorRemoved) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer needs a descriptor to look at an exception";
#endif
  const RingFile ring = create();
  {
    const NoDescriptors none;
    EXPECT_EQ(test::error_of([&] { static_cast<void>(open(ring.id())); }).first, Status::kSystem);
    RingFile::remove_broken(directory_.path(), ring.id(), false);
  }
  EXPECT_TRUE(open(ring.id()));
}

TEST_F(RingFileTest, AFileThatCannotBeLookedAtLeadsNowhereKnown) {
  const RingFile ring = create();
  const os::Fd file = os::open_file(path_of(ring.id()), O_RDONLY);
  EXPECT_EQ(leads_to(path_of(ring.id()), file), true);
  EXPECT_EQ(leads_to(path_of(ring.id() + 1), file), false) << "there is none";
  EXPECT_EQ(leads_to(path_of(ring.id()) / "below", file), false) << "there can be none";
  EXPECT_EQ(leads_to(directory_.path() / std::string(1000, 'n'), file), std::nullopt) << "nobody can tell";
  EXPECT_EQ(leads_to(path_of(ring.id()), os::Fd()), std::nullopt) << "of what?";
}

TEST_F(RingFileTest, AGroupThatCannotBeLookedUpIsNotOneThatDoesNotExist) {
  EXPECT_EQ(test::error_of([] { static_cast<void>(os::group_id("no-such-group")); }).first, Status::kInvalidArgument);
  const NoDescriptors none;
  EXPECT_EQ(test::error_of([] { static_cast<void>(os::group_id("no-such-group")); }).first, Status::kSystem);
  EXPECT_EQ(test::error_of([] { static_cast<void>(os::boot_id()); }).first, Status::kSystem);
}

TEST_F(RingFileTest, OnlySixteenHexDigitsThatAreNotZeroAreARingsName) {
  EXPECT_EQ(ring_id_of("00000000000000ff"), 0xffU);
  for (const char* const name : {"", "ff", "0000000000000000", "00000000000000FF", "00000000000000fg",
                                 "-0000000000000ff", "0x000000000000ff", "00000000000000ff0", " 0000000000000ff"}) {
    EXPECT_FALSE(ring_id_of(name)) << name;
  }
}

// ---- the inline push

/// What `RingPusher` pushes to, with as much room as the test says.
class RingPusherTest : public testing::Test {
 protected:
  RingPusherTest() { pusher_.unasked_end = &unasked_end_; }

  std::unique_ptr<layout::RingHeader> header_ = std::make_unique<layout::RingHeader>();
  std::vector<std::byte> data_ = std::vector<std::byte>(2 * kDataBytes);
  layout::Sleep sleep_{};
  std::uint64_t unasked_end_ = 0;
  RingPusher pusher_{*header_, data_.data(), kDataBytes, sleep_};
};

TEST_F(RingPusherTest, ItAsksUntilItWasToldOfRoomAndThenNeverBeforeThatEnds) {
  const TextMutation mutation(Operation::kSet, "12345678", 1);
  EXPECT_FALSE(pusher_.try_push(mutation)) << "as in a child of fork, and in a shared ring";
  unasked_end_ = 10 * mutation.bytes();
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(pusher_.try_push(mutation));
  EXPECT_FALSE(pusher_.try_push(mutation));
  EXPECT_EQ(header_->tail.load(std::memory_order_relaxed), unasked_end_);
  EXPECT_EQ(pusher_.pushed, 10U);
}

TEST_F(RingPusherTest, WhatIsInvalidOrNoNumberIsNotPlain) {
  const double nan = std::nan("");
  EXPECT_FALSE(TextMutation(Operation::kSet, "", 1).is_plain());
  EXPECT_FALSE(TextMutation(Operation::kSet, std::string(kKeyBytesMax + 1, 'k'), 1).is_plain());
  EXPECT_FALSE(TextMutation(Operation::kSet, "k", "text").is_plain());
  EXPECT_FALSE(TextMutation(Operation::kSet, "k", std::uint64_t{1} << 63).is_plain());
  EXPECT_FALSE(TextMutation(Operation::kErase, "k", {}).is_plain());
  EXPECT_FALSE(TextMutation(Operation::kAdd, "k", nan).is_plain());
  EXPECT_TRUE(TextMutation(Operation::kSet, "k", nan).is_plain());
}

// The record is the one that the library writes, word by word, whatever the key's length is.
TEST_F(RingPusherTest, ItsRecordsAreThoseOfTheLibrary) {
  std::string key;
  std::vector<std::byte> expected(kRecordBytesMax);
  for (std::size_t length = 1; length <= kKeyBytesMax; length += length < 70 ? 1 : 503) {
    key.resize(length, static_cast<char>('a' + length % 26));
    for (const ValueView& value : {ValueView(-7), ValueView(0.5)}) {
      for (const Operation operation : {Operation::kSet, Operation::kAdd, Operation::kMax, Operation::kMin}) {
        const std::size_t bytes = record_bytes(length, kWord, 0);
        encode_record(expected.data(), {.operation = operation, .key = key, .value = value}, 0);
        std::memset(pusher_.here(), 0xff, bytes);
        const std::byte* const at = pusher_.here();
        unasked_end_ = pusher_.tail() + bytes;
        ASSERT_TRUE(pusher_.try_push(TextMutation(operation, key, value)));
        ASSERT_EQ(std::memcmp(at, expected.data(), bytes), 0) << length;
      }
    }
  }
}

TEST_F(RingPusherTest, ItsRecordsByIdAreThoseOfTheLibrary) {
  std::vector<std::byte> expected(NamedMutation::bytes());
  for (const std::uint32_t id : {0U, 1U, 0x8000'0001U, ~0U}) {
    for (const ValueView& value : {ValueView(-7), ValueView(0.5)}) {
      for (const Operation operation : {Operation::kSet, Operation::kAdd, Operation::kMax, Operation::kMin}) {
        const Mutation mutation{.operation = operation, .key = "k", .value = value, .flags = kById, .id = id};
        ASSERT_EQ(record_bytes(mutation), expected.size());
        encode_record(expected.data(), mutation, 0);
        const std::byte* const at = pusher_.here();
        unasked_end_ = pusher_.tail() + expected.size();
        ASSERT_TRUE(pusher_.try_push(NamedMutation(operation, id, value)));
        ASSERT_EQ(std::memcmp(at, expected.data(), expected.size()), 0) << id;
      }
    }
  }
}

// ---- two threads

// The length of the record at a position, and its bytes, follow from the position alone.
std::uint64_t record_bytes_at(std::uint64_t position) { return 8 * (1 + position * 0x9e37'79b9'7f4a'7c15 % 61); }
std::uint64_t word_at(std::uint64_t position) { return (position + test::test_seed()) * 0xd134'2543'de82'ef95 + 1; }

TEST_F(RingFileTest, TenMillionBytesBetweenTwoThreadsArriveAsTheyWereWritten) {
  const auto total_bytes = static_cast<std::uint64_t>(test::steps(10'000'000));
  const RingFile theirs = create();
  const std::optional<RingFile> ours = open(theirs.id());
  ASSERT_TRUE(ours);

  std::jthread writer([&](const std::stop_token& stop) {
    RingProducer<layout::RingHeader> producer(theirs.header(), kDataBytes);
    while (producer.tail() < total_bytes) {
      const std::uint64_t bytes = record_bytes_at(producer.tail());
      while (!producer.has_room(bytes)) {
        if (stop.stop_requested()) return;
        std::this_thread::yield();
        producer.refresh();
      }
      for (std::uint64_t at = producer.tail(); at < producer.tail() + bytes; at += 8) {
        const std::uint64_t word = word_at(at);
        std::memcpy(theirs.at(producer.tail()) + (at - producer.tail()), &word, sizeof word);
      }
      producer.push(bytes);
    }
  });

  RingConsumer<layout::RingHeader> consumer(ours->header(), kDataBytes, 0);
  std::uint64_t wrong_words = 0;
  while (consumer.cursor() < total_bytes) {
    const std::uint64_t tail = consumer.tail();
    ASSERT_TRUE(consumer.is_sane(tail));
    if (tail == consumer.cursor()) std::this_thread::yield();
    while (consumer.cursor() < tail) {
      const std::uint64_t bytes = record_bytes_at(consumer.cursor());
      ASSERT_LE(consumer.cursor() + bytes, tail) << "a record was pushed in parts";
      for (std::uint64_t at = 0; at < bytes; at += 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, ours->at(consumer.cursor()) + at, sizeof word);
        if (word != word_at(consumer.cursor() + at)) ++wrong_words;
      }
      consumer.advance(bytes);
    }
    static_cast<void>(consumer.release());  // nobody sleeps
  }
  EXPECT_EQ(wrong_words, 0U);
  EXPECT_EQ(consumer.cursor(), consumer.tail());
}

}  // namespace
}  // namespace shmstate
