// The layout, frozen. When a test here fails, files of older versions are no longer understood: take the change back,
// or raise kLayoutMajor (kLayoutMinor if it only adds), note it in CHANGELOG.md, and freeze the new layout here.
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "engine/feed.h"
#include "files/control.h"
#include "files/ring_file.h"
#include "harness/test_instance.h"
#include "layout/hash.h"
#include "layout/layout.h"
#include "layout/record.h"
#include "layout/statistics.h"
#include "protocol/publish.h"
#include "shmstate/detail/buffer_place.h"
#include "shmstate/detail/buffer_slot.h"
#include "shmstate/detail/buffer_view.h"

namespace shmstate {
using namespace internal;
namespace {

constexpr std::string_view kRemedy =
    "the layout changed: take it back, or raise the layout version and freeze it again";

struct Frozen {
  std::string_view what;
  std::size_t now;
  std::size_t frozen;
};

void expect_frozen(const std::vector<Frozen>& table) {
  for (const Frozen& line : table) EXPECT_EQ(line.now, line.frozen) << line.what << ": " << kRemedy;
}

#define SHMSTATE_SIZE(type, bytes) \
  Frozen { "sizeof(" #type ")", sizeof(layout::type), bytes }
#define SHMSTATE_AT(type, field, offset) \
  Frozen { #type "::" #field, offsetof(layout::type, field), offset }

TEST(LayoutTest, ControlIsFrozen) {
  expect_frozen({
      SHMSTATE_SIZE(Identity, 192),
      SHMSTATE_AT(Identity, magic, 0),
      SHMSTATE_AT(Identity, layout_major, 8),
      SHMSTATE_AT(Identity, layout_minor, 12),
      SHMSTATE_AT(Identity, required_features, 16),
      SHMSTATE_AT(Identity, optional_features, 24),
      SHMSTATE_AT(Identity, control_bytes, 32),
      SHMSTATE_AT(Identity, snapshot_bytes, 40),
      SHMSTATE_AT(Identity, instance_id, 48),
      SHMSTATE_AT(Identity, boot_id, 64),
      SHMSTATE_AT(Identity, hash_seed, 80),
      SHMSTATE_AT(Identity, created_ns, 88),
      SHMSTATE_AT(Identity, buffer_offset, 96),
      SHMSTATE_AT(Identity, buffer_stride, 104),
      SHMSTATE_AT(Identity, buffer_count, 112),
      SHMSTATE_AT(Identity, ring_count_max, 116),
      SHMSTATE_AT(Identity, first_page, 120),
      SHMSTATE_AT(Identity, statistic_count, 124),
      SHMSTATE_AT(Identity, feed_offset, 128),
      SHMSTATE_AT(Identity, feed_record_count, 136),
      SHMSTATE_AT(Identity, statistic_offset, 144),
      SHMSTATE_AT(Identity, value_offset, 152),
      SHMSTATE_AT(Identity, ring_table_offset, 160),
      SHMSTATE_AT(Identity, reserved, 168),

      SHMSTATE_SIZE(Publication, 128),
      SHMSTATE_AT(Publication, epoch_word, 0),
      SHMSTATE_AT(Publication, stamps, 64),

      SHMSTATE_SIZE(Heartbeat, 64),
      SHMSTATE_AT(Heartbeat, beat_ns, 0),
      SHMSTATE_AT(Heartbeat, current_as_of_ns, 8),
      SHMSTATE_AT(Heartbeat, feed_reserved, 16),
      SHMSTATE_AT(Heartbeat, merger_pid, 24),
      SHMSTATE_AT(Heartbeat, retired, 28),
      SHMSTATE_AT(Heartbeat, started_ns, 32),
      SHMSTATE_AT(Heartbeat, reserved, 40),

      SHMSTATE_SIZE(Sleep, 64),
      SHMSTATE_AT(Sleep, phase, 0),
      SHMSTATE_AT(Sleep, batch_max, 8),
      SHMSTATE_AT(Sleep, reserved, 16),

      SHMSTATE_SIZE(ControlHeader, 448),
      SHMSTATE_AT(ControlHeader, identity, 0),
      SHMSTATE_AT(ControlHeader, publication, 192),
      SHMSTATE_AT(ControlHeader, heartbeat, 320),
      SHMSTATE_AT(ControlHeader, sleep, 384),

      SHMSTATE_SIZE(StatisticName, 128),
      SHMSTATE_AT(StatisticName, name, 0),
      SHMSTATE_AT(StatisticName, unit, 32),
      SHMSTATE_AT(StatisticName, meaning, 48),

      SHMSTATE_SIZE(RingStatus, 128),
      SHMSTATE_AT(RingStatus, ring_id, 0),
      SHMSTATE_AT(RingStatus, state, 8),
      SHMSTATE_AT(RingStatus, owner_pid, 12),
      SHMSTATE_AT(RingStatus, owner_uid, 16),
      SHMSTATE_AT(RingStatus, quarantine_reason, 20),
      SHMSTATE_AT(RingStatus, tail, 24),
      SHMSTATE_AT(RingStatus, head, 32),
      SHMSTATE_AT(RingStatus, applied_count, 40),
      SHMSTATE_AT(RingStatus, rejected_count, 48),
      SHMSTATE_AT(RingStatus, ring_bytes, 56),
      SHMSTATE_AT(RingStatus, name, 64),
      SHMSTATE_AT(RingStatus, reserved, 112),
  });
}

TEST(LayoutTest, BuffersAreFrozen) {
  expect_frozen({
      SHMSTATE_SIZE(BufferHeader, 128),
      SHMSTATE_AT(BufferHeader, epoch, 0),
      SHMSTATE_AT(BufferHeader, published_ns, 8),
      SHMSTATE_AT(BufferHeader, entry_count, 16),
      SHMSTATE_AT(BufferHeader, directory, 24),
      SHMSTATE_AT(BufferHeader, page_count, 32),
      SHMSTATE_AT(BufferHeader, feed_end, 40),
      SHMSTATE_AT(BufferHeader, tombstone_count, 48),
      SHMSTATE_AT(BufferHeader, block_bytes, 56),
      SHMSTATE_AT(BufferHeader, small_directory, 64),
      SHMSTATE_AT(BufferHeader, more_cursors, 96),
      SHMSTATE_AT(BufferHeader, reserved, 104),

      SHMSTATE_SIZE(RingCursor, 128),
      SHMSTATE_AT(RingCursor, ring_id, 0),
      SHMSTATE_AT(RingCursor, cursor, 8),
      SHMSTATE_AT(RingCursor, applied_count, 16),
      SHMSTATE_AT(RingCursor, reserved, 24),
      SHMSTATE_AT(RingCursor, rejected, 64),

      SHMSTATE_SIZE(PageMap, 4096),

      SHMSTATE_AT(Slot, head, 0),
      SHMSTATE_AT(Slot, changed_epoch, 8),
      SHMSTATE_AT(Slot, words, 16),

      SHMSTATE_SIZE(IndexLine, 64),
      SHMSTATE_AT(IndexLine, tags, 0),
      SHMSTATE_AT(IndexLine, overflow_count, 12),
      SHMSTATE_AT(IndexLine, depth, 13),
      SHMSTATE_AT(IndexLine, reserved, 14),
      SHMSTATE_AT(IndexLine, places, 16),
      SHMSTATE_SIZE(Segment, 4096),

      SHMSTATE_SIZE(FeedRecord, 16),
      SHMSTATE_AT(FeedRecord, head, 0),
      SHMSTATE_AT(FeedRecord, body, 8),
  });
}

TEST(LayoutTest, RingsDoorbellAndPinsAreFrozen) {
  expect_frozen({
      SHMSTATE_SIZE(RingHeader, 512),
      SHMSTATE_AT(RingHeader, magic, 0),
      SHMSTATE_AT(RingHeader, layout_major, 8),
      SHMSTATE_AT(RingHeader, layout_minor, 12),
      SHMSTATE_AT(RingHeader, ring_id, 16),
      SHMSTATE_AT(RingHeader, data_bytes, 24),
      SHMSTATE_AT(RingHeader, instance_id, 32),
      SHMSTATE_AT(RingHeader, owner_pid, 48),
      SHMSTATE_AT(RingHeader, owner_uid, 52),
      SHMSTATE_AT(RingHeader, flags, 56),
      SHMSTATE_AT(RingHeader, names_bytes, 60),
      SHMSTATE_AT(RingHeader, name, 64),
      SHMSTATE_AT(RingHeader, created_ns, 112),
      SHMSTATE_AT(RingHeader, required_features, 120),
      SHMSTATE_AT(RingHeader, tail, 128),
      SHMSTATE_AT(RingHeader, name_count, 136),
      SHMSTATE_AT(RingHeader, unnamed_count, 144),
      SHMSTATE_AT(RingHeader, waiting, 256),
      SHMSTATE_AT(RingHeader, head, 384),
      SHMSTATE_AT(RingHeader, verdict, 392),
      SHMSTATE_AT(RingHeader, applied_count, 400),
      SHMSTATE_AT(RingHeader, rejected, 448),

      SHMSTATE_SIZE(NameEntry, 8),
      SHMSTATE_AT(NameEntry, offset, 0),
      SHMSTATE_AT(NameEntry, key_bytes, 4),
      SHMSTATE_AT(NameEntry, reserved, 6),

      SHMSTATE_SIZE(NamedRecordHead, 8),
      SHMSTATE_AT(NamedRecordHead, id, 0),
      SHMSTATE_AT(NamedRecordHead, value_bytes, 4),
      SHMSTATE_AT(NamedRecordHead, kind, 6),
      SHMSTATE_AT(NamedRecordHead, flags, 7),

      SHMSTATE_SIZE(RecordHead, 8),
      SHMSTATE_AT(RecordHead, value_bytes, 0),
      SHMSTATE_AT(RecordHead, key_bytes, 4),
      SHMSTATE_AT(RecordHead, kind, 6),
      SHMSTATE_AT(RecordHead, flags, 7),

      SHMSTATE_SIZE(Doorbell, 64),
      SHMSTATE_AT(Doorbell, wakes, 0),
      SHMSTATE_AT(Doorbell, registrations, 4),

      SHMSTATE_SIZE(PinWord, 64),
      SHMSTATE_AT(PinWord, announced, 0),
  });
}

TEST(LayoutTest, ConstantsAreFrozen) {
  const auto number = [](auto value) { return static_cast<std::size_t>(value); };
  expect_frozen({
      {"kLayoutMajor", layout::kLayoutMajor, 2},
      {"kLayoutMinor", layout::kLayoutMinor, 0},
      {"kRequiredFeatures", layout::kRequiredFeatures, 1},
      {"kOptionalFeatures", layout::kOptionalFeatures, 0},
      {"kLine", layout::kLine, 64},
      {"kBuffersMin", layout::kBuffersMin, 2},
      {"kBuffersMax", layout::kBuffersMax, 8},
      {"kRingsMax", layout::kRingsMax, 4096},
      {"kWriting", layout::kWriting, 0},
      {"kClaimed", layout::kClaimed, 9'223'372'036'854'775'808U},
      {"kBufferBits", layout::kBufferBits, 3},
      {"kPageBytes", layout::kPageBytes, 4096},
      {"kPagesMax", layout::kPagesMax, 1U << 24},
      {"kFirstPage", layout::kFirstPage, 2},
      {"kFirstCursors", layout::kFirstCursors, 31},
      {"kPageCursors", layout::kPageCursors, 32},
      {"kSmallDirectoryLog2", layout::kSmallDirectoryLog2, 3},
      {"kSlotUnitBytes", layout::kSlotUnitBytes, 16},
      {"kFirstSlotOffset", layout::kFirstSlotOffset, 8},
      {"kPageUnits", layout::kPageUnits, 255},
      {"kSlotUnitsMin", layout::kSlotUnitsMin, 2},
      {"kSlotUnitsMax", layout::kSlotUnitsMax, 127},
      {"kRejectCount", layout::kRejectCount, 8},
      {"kDirectoryLog2Max", layout::kDirectoryLog2Max, 21},
      {"kNodeBits", layout::kNodeBits, 10},
      {"kNodeLevels", layout::kNodeLevels, 3},
      {"kLineCells", layout::kLineCells, 12},
      {"kSegmentLines", layout::kSegmentLines, 64},
      {"kRingHeaderBytes", layout::kRingHeaderBytes, 4096},
      {"kRingShared", layout::kRingShared, 1},
      {"kRingFeatures", layout::kRingFeatures, 1},
      {"kRingBytesMin", kRingBytesMin, 65536},
      {"kRingBytesMax", kRingBytesMax, 1U << 30},
      {"kNamesBytesMax", kNamesBytesMax, 1U << 30},
      {"kNamesBytesStep", kNamesBytesStep, 4096},
      {"kNamedValueBytesMax", kNamedValueBytesMax, 65535},
      {"kKeyBytesMax", kKeyBytesMax, 4096},
      {"kValueBytesMax", kValueBytesMax, 1U << 20},
      {"kLifeByte", kLifeByte, 0},
      {"kPinByte", kPinByte, 0},
      {"kPusherByte", kPusherByte, 1},
      {"RingState::kFree", number(layout::RingState::kFree), 0},
      {"RingState::kLive", number(layout::RingState::kLive), 1},
      {"RingState::kFinished", number(layout::RingState::kFinished), 2},
      {"RingState::kQuarantined", number(layout::RingState::kQuarantined), 3},
      {"QuarantineReason::kNone", number(layout::QuarantineReason::kNone), 0},
      {"QuarantineReason::kTruncated", number(layout::QuarantineReason::kTruncated), 1},
      {"QuarantineReason::kImpossibleTail", number(layout::QuarantineReason::kImpossibleTail), 2},
      {"QuarantineReason::kNoMutation", number(layout::QuarantineReason::kNoMutation), 3},
      {"RingVerdict::kPending", number(layout::RingVerdict::kPending), 0},
      {"RingVerdict::kServed", number(layout::RingVerdict::kServed), 1},
      {"RingVerdict::kRefused", number(layout::RingVerdict::kRefused), 2},
      {"RingVerdict::kQuarantined", number(layout::RingVerdict::kQuarantined), 3},
      {"Reject::kWrongType", number(layout::Reject::kWrongType), 0},
      {"Reject::kOutOfRange", number(layout::Reject::kOutOfRange), 1},
      {"Reject::kNoMemory", number(layout::Reject::kNoMemory), 2},
      {"Reject::kLimit", number(layout::Reject::kLimit), 3},
      {"Reject::kBatchTooBig", number(layout::Reject::kBatchTooBig), 4},
      {"Reject::kUnknown", number(layout::Reject::kUnknown), 5},
      {"Reject::kCrowded", number(layout::Reject::kCrowded), 6},
      {"Type::kNone", number(Type::kNone), 0},
      {"Type::kInt64", number(Type::kInt64), 1},
      {"Type::kFloat64", number(Type::kFloat64), 2},
      {"Type::kBytes", number(Type::kBytes), 3},
      {"kFirstOpaque", number(kFirstOpaque), 4},
      {"kTombstone", number(kTombstone), 15},
      {"Operation::kSet", number(Operation::kSet), 1},
      {"Operation::kErase", number(Operation::kErase), 2},
      {"Operation::kAdd", number(Operation::kAdd), 3},
      {"Operation::kMax", number(Operation::kMax), 4},
      {"Operation::kMin", number(Operation::kMin), 5},
      {"kBatchContinues", number(kBatchContinues), 1},
      {"kEphemeral", number(kEphemeral), 2},
      {"kWithTtl", number(kWithTtl), 4},
      {"kWithVersion", number(kWithVersion), 8},
      {"kById", number(kById), 32},
      {"kUnknownWordFlags", number(kUnknownWordFlags), 192},
      {"FeedKind::kChanged", number(FeedKind::kChanged), 1},
      {"FeedKind::kErased", number(FeedKind::kErased), 3},
      {"FeedKind::kKey", number(FeedKind::kKey), 4},
      {"EraseReason::kErase", number(EraseReason::kErase), 0},
      {"EraseReason::kExpiry", number(EraseReason::kExpiry), 1},
      {"EraseReason::kOwnerGone", number(EraseReason::kOwnerGone), 2},
      {"SlotHead::kHasExpiry", number(SlotHead::kHasExpiry), 1},
      {"SlotHead::kHasVersion", number(SlotHead::kHasVersion), 2},
      {"SlotHead::kHasSourceTime", number(SlotHead::kHasSourceTime), 4},
      {"SlotHead::kHasStaleAfter", number(SlotHead::kHasStaleAfter), 8},
      {"SlotHead::kOwned", number(SlotHead::kOwned), 16},
      {"SlotHead::kWordsMax", SlotHead::kWordsMax, 252},
      {"SlotHead::kInlineKeyBytesMax", SlotHead::kInlineKeyBytesMax, 1008},
  });
}

// Bytes as hex digits, a space after every word.
std::string hex(const void* data, std::size_t bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes; ++i) {
    const auto byte = std::to_integer<unsigned>(static_cast<const std::byte*>(data)[i]);
    if (i != 0 && i % 8 == 0) text += ' ';
    text += {"0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]};
  }
  return text;
}

TEST(LayoutTest, MagicsAreTextInTheFile) {
  EXPECT_EQ(std::memcmp(&layout::kControlMagic, "SHMCTRL1", 8), 0) << kRemedy;
  EXPECT_EQ(std::memcmp(&layout::kRingMagic, "SHMRING1", 8), 0) << kRemedy;
}

TEST(LayoutTest, TheEpochWordHoldsTheBufferInItsLowBits) {
  EXPECT_EQ((Version{.epoch = 5, .buffer = 3}.pack()), 43U) << kRemedy;
  EXPECT_EQ((Version{.epoch = 0x0123'4567'89ab'cdef, .buffer = 7}.pack()), 0x091a'2b3c'4d5e'6f7fU) << kRemedy;
  EXPECT_EQ(Version::unpack(43).epoch, 5U) << kRemedy;
  EXPECT_EQ(Version::unpack(43).buffer, 3U) << kRemedy;
}

TEST(LayoutTest, APlaceIsTheOffsetOfItsSlotInUnits) {
  constexpr Place kPlace{.unit = 0x1234'56fe};
  EXPECT_EQ(kPlace.pack(), 0x1234'56feU) << kRemedy;
  EXPECT_EQ(kPlace.offset(), 0x1'2345'6fe8U) << kRemedy;
  EXPECT_EQ(kPlace.page(), 0x12'3456U) << kRemedy;
  EXPECT_EQ(Place::at_offset(kPlace.offset()), kPlace);
  EXPECT_EQ(Place::unpack(kPlace.pack()), kPlace);
  EXPECT_EQ(Place::unpack(std::uint64_t{1} << 32 | 5), Place{}) << "nowhere";
}

TEST(LayoutTest, TheMapOfThePagesLiesBehindTheHeaderAndInEvery4096thPage) {
  EXPECT_EQ(map_offset_of(2), 4096U + 2) << kRemedy;
  EXPECT_EQ(map_offset_of(4095), 4096U + 4095) << kRemedy;
  EXPECT_EQ(map_offset_of(4097), 4096U * 4096 + 1) << kRemedy;
  EXPECT_EQ(map_offset_of(9000), 8192U * 4096 + 808) << kRemedy;
}

TEST(LayoutTest, TheDirectoryWordHoldsTheDepthInItsLowBits) {
  constexpr DirectoryWord kDirectory{.line = 0x1234, .depth = layout::kDirectoryLog2Max};
  EXPECT_EQ(kDirectory.pack(), 0x12'3415U) << kRemedy;
  EXPECT_EQ(kDirectory.offset(), 0x4'8d00U) << kRemedy;
  EXPECT_EQ(DirectoryWord::unpack(kDirectory.pack()).line, kDirectory.line);
  EXPECT_EQ(DirectoryWord::unpack(kDirectory.pack()).depth, kDirectory.depth);
  EXPECT_EQ(DirectoryWord::small(3).pack(), 0x103U) << "in the header; " << kRemedy;
}

TEST(LayoutTest, TheCursorsWordHoldsTheCountInItsLowBits) {
  constexpr CursorPages kPages{.page = 0x1234, .count = 5};
  EXPECT_EQ(kPages.pack(), 0x1234'0005U) << kRemedy;
  EXPECT_EQ(CursorPages::unpack(kPages.pack()).page, kPages.page);
  EXPECT_EQ(CursorPages::unpack(kPages.pack()).capacity(), 31U + 5 * 32) << kRemedy;
}

TEST(LayoutTest, AWordOfTheDirectoryHoldsTwoEntriesTheEvenOneLow) {
  EXPECT_EQ(DirectoryEntry::word_of(6), 3U);
  EXPECT_EQ(DirectoryEntry::word_of(7), 3U);
  std::uint64_t word = DirectoryEntry::with(0, 6, 8);
  word = DirectoryEntry::with(word, 7, 9);
  EXPECT_EQ(word, 0x9'0000'0008U);
  EXPECT_EQ(DirectoryEntry::in(word, 6), 8U);
  EXPECT_EQ(DirectoryEntry::in(word, 7), 9U);
}

TEST(LayoutTest, AnEntryOfTheDirectoryIsAPageOrANode) {
  constexpr DirectoryEntry kNode{.page = 0x12'3456, .level = 3, .depth = 21};
  EXPECT_EQ(kNode.pack(), 0x5712'3456U) << kRemedy;
  EXPECT_EQ(DirectoryEntry::unpack(kNode.pack()).page, kNode.page);
  EXPECT_EQ(DirectoryEntry::unpack(kNode.pack()).level, kNode.level);
  EXPECT_EQ(DirectoryEntry::unpack(kNode.pack()).depth, kNode.depth);
  EXPECT_EQ(DirectoryEntry{.page = 7}.pack(), 7U) << kRemedy;
}

TEST(LayoutTest, SleepersWaitOnTheLowHalfOfALongWord) {
  alignas(8) std::uint64_t memory = 0x1111'1111'2222'2222;
  EXPECT_EQ(*reinterpret_cast<const Shared<std::uint64_t>*>(&memory)->futex(), 0x2222'2222U);
}

TEST(LayoutTest, TheHeadOfASlotHasItsFieldsAtTheirBits) {
  SlotHead head(0x235, 0x2'9abc, Type::kBytes, SlotHead::kHasVersion | SlotHead::kOwned, 0x5678);
  EXPECT_EQ(head.pack(), 0x5678'0246'29ab'c234U) << kRemedy;
  head.quality = 3;
  EXPECT_EQ(head.pack(), 0x5678'0e46'29ab'c234U) << kRemedy;
}

TEST(LayoutTest, HashBitsChooseDirectoryEntryLineAndTag) {
  constexpr std::uint64_t kHash = 0xab80'0025'4030'1234;
  EXPECT_EQ(hash_key("pump/7/rpm", 42), 0x752d'a7ef'373f'f468U) << kRemedy;
  EXPECT_EQ(hash_key("a", 0), 0xe6c6'32b6'1e96'4e1fU) << kRemedy;
  EXPECT_EQ(directory_index(kHash, 0), 0U) << kRemedy;
  EXPECT_EQ(directory_index(kHash, 8), 0x34U) << kRemedy;
  EXPECT_EQ(directory_index(kHash, 21), 0x10'1234U) << kRemedy;
  EXPECT_EQ(node_index(kHash, 1), 0x234U) << kRemedy;
  EXPECT_EQ(node_index(kHash, 2), 0x4U) << kRemedy;
  EXPECT_EQ(node_index(kHash, 3), 0x3U) << kRemedy;
  EXPECT_EQ(home_line(kHash), 0x25U) << kRemedy;
  EXPECT_EQ(tag_of(kHash), 0xab) << kRemedy;
  EXPECT_EQ(tag_of(kHash & 0xff'ffff'ffff'ffff), 1) << "zero means a free cell; " << kRemedy;
}

TEST(LayoutTest, RingFilesAreNamedByTheirIdInHex) {
  EXPECT_EQ(ring_name(0xabc), "0000000000000abc") << kRemedy;
  EXPECT_EQ(ring_id_of("0123456789abcdef"), 0x0123'4567'89ab'cdefU) << kRemedy;
}

std::string record_hex(const Mutation& mutation, std::uint8_t batch_flag = 0) {
  alignas(8) std::array<std::byte, 128> record{};
  encode_record(record.data(), mutation, batch_flag);
  return hex(record.data(), record_bytes(mutation));
}

TEST(LayoutTest, RecordsAreFrozen) {
  EXPECT_EQ(record_hex({.operation = Operation::kSet, .key = "pump/7/rpm", .value = 1480}),
            "080000000a001100 70756d702f372f72 706d000000000000 c805000000000000")
      << kRemedy;
  EXPECT_EQ(record_hex({.operation = Operation::kSet, .key = "pump/7/state", .value = "running slow"}, kBatchContinues),
            "0c0000000c003101 70756d702f372f73 7461746500000000 72756e6e696e6720 736c6f7700000000")
      << kRemedy;
  EXPECT_EQ(record_hex({.operation = Operation::kSet, .key = "k", .value = ""}), "0000000001003100 6b00000000000000")
      << kRemedy;
  EXPECT_EQ(record_hex({.operation = Operation::kAdd, .key = "12345678", .value = -0.5}),
            "0800000008002300 3132333435363738 000000000000e0bf")
      << kRemedy;
  EXPECT_EQ(record_hex({.operation = Operation::kSet, .key = "k", .value = 1480, .flags = kById, .id = 3}),
            "0300000008001120 c805000000000000")
      << kRemedy;
  EXPECT_EQ(record_hex({.operation = Operation::kSet, .key = "k", .value = "on", .flags = kById, .id = 3}),
            "0300000002003120 6f6e000000000000")
      << kRemedy;
  EXPECT_EQ(record_hex({.operation = Operation::kErase, .key = "k", .value = {}}), "0000000001000200 6b00000000000000")
      << kRemedy;
}

// What an instance holds after known mutations in its second epoch.
class LayoutOfAnInstance : public testing::Test {
 protected:
  void SetUp() override {
    writer_.set("pump/7/rpm", 1480);
    writer_.set("pump/7/state", "running slow");
    writer_.set("pump/7/efficiency/percent", 87.5);
    writer_.set("empty", "");
    writer_.erase("pump/7/rpm");
    writer_.set("pump/7/rpm", -1);
    instance_.pump();
    ASSERT_EQ(instance_.engine().epoch(), 2U);
  }

  [[nodiscard]] const std::byte* current() {
    return instance_.owner().buffer(current_version(instance_.owner().publication()).buffer);
  }
  [[nodiscard]] std::string slot_hex(std::string_view key) {
    const BufferView view(current(), instance_.owner().geometry().pages_max());
    Place at;
    SlotHead head;
    const HashedKey wanted{.bytes = key, .hash = hash_key(key, instance_.owner().geometry().hash_seed)};
    if (view.find(wanted, at, head) != BufferView::Found::kYes) return "not found";
    return hex(&view.slot(at), head.slot_bytes());
  }

  test::TestInstance instance_;
  Writer writer_ = instance_.writer();
};

TEST_F(LayoutOfAnInstance, SlotsAreFrozen) {
  const std::string epoch = " 0200000000000000 ";
  EXPECT_EQ(slot_hex("pump/7/rpm"), "0980000002000000" + epoch + "ffffffffffffffff 70756d702f372f72 706d000000000000")
      << kRemedy;
  EXPECT_EQ(slot_hex("pump/7/state"),
            "0bc0000006000000" + epoch + "72756e6e696e6720 736c6f7700000000 70756d702f372f73 7461746500000000")
      << kRemedy;
  EXPECT_EQ(slot_hex("pump/7/efficiency/percent"),
            "1880000004000000" + epoch +
                "0000000000e05540 70756d702f372f65 6666696369656e63 792f70657263656e "
                "7400000000000000")
      << kRemedy;
  EXPECT_EQ(slot_hex("empty"), "0400000006000000" + epoch + "656d707479000000") << kRemedy;
}

TEST_F(LayoutOfAnInstance, CursorsTellTheProgressOfEachRing) {
  layout::RingCursor cursor;
  std::memcpy(&cursor, current() + 128, sizeof cursor);
  EXPECT_EQ(cursor.ring_id, writer_.ring_id()) << kRemedy;
  EXPECT_EQ(cursor.cursor, writer_.ticket()) << kRemedy;
  EXPECT_EQ(cursor.applied_count, 6U) << kRemedy;
}

TEST_F(LayoutOfAnInstance, TheHeaderOfABufferDescribesIt) {
  layout::BufferHeader header;
  std::memcpy(&header, current(), sizeof header);
  EXPECT_EQ(header.epoch, 2U) << kRemedy;
  EXPECT_EQ(header.entry_count, 4U) << kRemedy;
  EXPECT_EQ(header.directory, 0x100U) << "in the header; " << kRemedy;
  EXPECT_GE(header.small_directory[0], 2U) << kRemedy;
  EXPECT_LT(header.small_directory[0], header.page_count) << kRemedy;
  EXPECT_EQ(header.feed_end, 8U) << kRemedy;
  EXPECT_EQ(header.tombstone_count, 0U) << kRemedy;
  EXPECT_EQ(header.block_bytes, 0U) << kRemedy;
}

TEST_F(LayoutOfAnInstance, FeedRecordsAreFrozen) {
  constexpr std::uint64_t kChanged = 2 << 12 | 1 << 8;
  constexpr std::uint64_t kErased = 2 << 12 | 3 << 8;
  constexpr std::uint64_t kKey = 2 << 12 | 4 << 8;
  constexpr std::array<std::uint64_t, 8> kHeads{kChanged, kChanged, kChanged, kChanged, kErased, kKey, kKey, kChanged};
  const layout::FeedRecord* const feed = instance_.owner().feed();
  for (std::size_t i = 0; i < kHeads.size(); ++i) EXPECT_EQ(feed[i].head, kHeads[i]) << i << ": " << kRemedy;
  EXPECT_EQ(feed[4].body, 10U) << "an erased key's length; " << kRemedy;
  EXPECT_EQ(hex(&feed[5].body, 8), "70756d702f372f72") << kRemedy;
  EXPECT_EQ(hex(&feed[6].body, 8), "706d000000000000") << kRemedy;
}

TEST_F(LayoutOfAnInstance, ARingFileDescribesItself) {
  const RingFile ring = instance_.open_ring(writer_);
  const layout::RingHeader& header = ring.header();
  EXPECT_EQ(header.magic, layout::kRingMagic) << kRemedy;
  EXPECT_EQ(header.ring_id, writer_.ring_id()) << kRemedy;
  EXPECT_EQ(header.data_bytes, ring.data_bytes()) << kRemedy;
  EXPECT_EQ(std::filesystem::file_size(instance_.owner().rings_path() / ring_name(ring.id())),
            layout::kRingHeaderBytes + ring.data_bytes() + ring.names().bytes())
      << kRemedy;
  EXPECT_EQ(hex(ring.at(0), 32), "080000000a001100 70756d702f372f72 706d000000000000 c805000000000000") << kRemedy;
}

TEST_F(LayoutOfAnInstance, NamesAreBehindTheDataTheIndexInFront) {
  Key first("pump/7/rpm");
  Key second("k");
  for (int i = 0; i < 2; ++i) {
    writer_.set(first, i);
    writer_.set(second, i);
  }
  const RingFile ring = instance_.open_ring(writer_);
  EXPECT_EQ(ring.header().required_features, layout::kRingNames) << kRemedy;
  EXPECT_EQ(ring.header().names_bytes, ring.data_bytes() / 4) << kRemedy;
  EXPECT_EQ(ring.header().name_count.load(std::memory_order_relaxed), 2U) << kRemedy;
  const std::byte* const names = ring.at(0) + 2 * ring.data_bytes();  // its mapping has the data twice
  EXPECT_EQ(hex(names, 24), "f0ff0f000a000000 e8ff0f0001000000 0000000000000000") << kRemedy;
  EXPECT_EQ(hex(names + ring.names().bytes() - 24, 24), "6b00000000000000 70756d702f372f72 706d000000000000")
      << kRemedy;
}

TEST_F(LayoutOfAnInstance, TheLineOfAKeyNamesItsPlace) {
  const std::uint64_t hash = hash_key("empty", instance_.owner().geometry().hash_seed);
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(current());
  const auto& segment = *reinterpret_cast<const layout::Segment*>(current() + header.small_directory[0] * 4096);
  const layout::IndexLine& line = segment.lines[hash >> 32 & 63];
  const auto* const tag = std::find(std::begin(line.tags), std::end(line.tags), tag_of(hash));
  ASSERT_NE(tag, std::end(line.tags)) << kRemedy;
  const std::uint64_t offset = std::uint64_t{line.places[tag - line.tags]} * 16 + 8;
  EXPECT_EQ(hex(current() + offset, 8), "0400000006000000") << kRemedy;
  EXPECT_EQ(std::to_integer<unsigned>(current()[4096 + offset / 4096]), 2U)
      << "its page has slots of 32 bytes; " << kRemedy;
  EXPECT_EQ(line.overflow_count, 0) << kRemedy;
  EXPECT_EQ(segment.lines[0].depth, 0) << kRemedy;
}

TEST(LayoutTest, StatisticsKeepTheirPlaces) {
  constexpr std::array<std::string_view, 25> kNames{"mutations_applied", "mutations_rejected",  "publishes",
                                                    "turn_duration_max", "turn_duration_total", "lines_copied",
                                                    "rings_live",        "rings_seen",          "rings_quarantined",
                                                    "rings_refused",     "pin_stalls",          "pin_stall_total",
                                                    "pin_stall_max",     "pins_expired",        "entries",
                                                    "segments",          "segment_splits",      "pages_committed",
                                                    "pages_free",        "heap_bytes",          "sleeps",
                                                    "commit_failures",   "tombstones",          "mutations_superseded",
                                                    "entries_expired"};
  ASSERT_GE(kStatDescriptions.size(), kNames.size()) << kRemedy;
  for (std::size_t i = 0; i < kNames.size(); ++i) EXPECT_EQ(kStatDescriptions[i].name, kNames[i]) << kRemedy;
}

TEST(LayoutTest, NoDescriptionOfAStatisticIsCutOff) {
  for (const StatDescription& description : kStatDescriptions) {
    EXPECT_LT(description.name.size(), sizeof layout::StatisticName::name) << description.name;
    EXPECT_LT(description.unit.size(), sizeof layout::StatisticName::unit) << description.name;
    EXPECT_LT(description.meaning.size(), sizeof layout::StatisticName::meaning) << description.name;
  }
}

}  // namespace
}  // namespace shmstate
