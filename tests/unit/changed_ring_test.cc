// A writer that changes what lies in its ring while the merger merges it: between the look at the key that chose a
// slot, and the mutation. Built with crash points, where the writer takes its turns.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <string>
#include <string_view>

#include "harness/meanwhile.h"
#include "harness/test_instance.h"

namespace shmstate {
using namespace internal;
namespace {

using test::Meanwhile;
using test::TestInstance;

class ChangedRing : public testing::Test {
 protected:
  ChangedRing() {
    writer_.set("k0", 0);
    writer_.set("k1", 1);
    instance_.pump();
  }

  /// Overwrites the key of the record that was pushed last.
  void change_key(std::string_view key) {
    const std::uint64_t record = writer_.ticket() - record_bytes(key.size(), kWord, 0);
    std::memcpy(ring_.at(record) + kWord, key.data(), key.size());
  }
  /// Pushes a mutation of "k0" that becomes one of another key once the merger has looked at it.
  void push_changing(std::int64_t value, std::string_view key) {
    ASSERT_EQ(writer_.set("k0", value), Status::kOk);
    const Meanwhile meanwhile(CrashPoint::kGroupStaged, [&] { change_key(key); });
    instance_.pump();
  }
  [[nodiscard]] std::int64_t read(std::string_view key) { return reader_.get<std::int64_t>(key).value_or(-1); }

  TestInstance instance_;
  Writer writer_ = instance_.writer();
  Reader reader_ = instance_.reader();
  RingFile ring_ = instance_.open_ring(writer_);
};

TEST_F(ChangedRing, AKeyThatChangesAfterItWasLookedForIsAnotherKey) {
  push_changing(7, "k1");
  EXPECT_EQ(read("k0"), 0);
  EXPECT_EQ(read("k1"), 7);
}

TEST_F(ChangedRing, AKeyThatChangesIntoANewOneIsInsertedWhereThatBelongs) {
  for (int i = 0; i < 32; ++i) push_changing(i, std::string("n").append(1, static_cast<char>('A' + i)));
  EXPECT_EQ(read("k0"), 0);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(read(std::string("n").append(1, static_cast<char>('A' + i))), i);
  instance_.restart();
  EXPECT_EQ(instance_.engine().table().entry_count(), 34U) << "a merger that starts finds each where its hash says";
}

TEST_F(ChangedRing, WhatIsNotPaddedIsTheSame) {
  ASSERT_EQ(writer_.set("text", "one"), Status::kOk);
  instance_.pump();
  constexpr std::uint64_t kBytes = record_bytes(2, kWord, 0);
  ASSERT_EQ(writer_.set("k0", 7), Status::kOk);
  std::memset(ring_.at(writer_.ticket() - kBytes) + kWord + 2, 0xff, kWord - 2);
  ASSERT_EQ(writer_.set("text", "two"), Status::kOk);
  std::memset(ring_.at(writer_.ticket() - kWord) + 3, 0xff, kWord - 3);
  instance_.pump();
  EXPECT_EQ(read("k0"), 7);
  EXPECT_EQ(reader_.get<std::string>("text"), "two");
  EXPECT_EQ(instance_.engine().table().entry_count(), 3U);
  const std::byte* const buffer = instance_.owner().buffer(current_version(instance_.owner().publication()).buffer);
  Place at;
  SlotHead head;
  const BufferView view(buffer, instance_.owner().geometry().pages_max());
  const HashedKey key{.bytes = "text", .hash = hash_key("text", instance_.owner().geometry().hash_seed)};
  ASSERT_EQ(view.find(key, at, head), BufferView::Found::kYes);
  EXPECT_EQ(view.slot(at).words[0] >> 24, 0U) << "in the buffer it is padded with zeros";
}

TEST_F(ChangedRing, WhatATruncatedFileReadsAsIsNoKey) {
  ASSERT_EQ(writer_.set("k0", 7), Status::kOk);
  {
    const Meanwhile meanwhile(CrashPoint::kGroupStaged, [&] { ASSERT_EQ(::ftruncate(ring_.fd(), 4096), 0); });
    instance_.pump();
  }
  EXPECT_EQ(read("k0"), 0);
  EXPECT_EQ(instance_.engine().table().entry_count(), 2U);
  EXPECT_EQ(instance_.count_events(MergeEvent::Kind::kRingQuarantined), 1U);
}

}  // namespace
}  // namespace shmstate
