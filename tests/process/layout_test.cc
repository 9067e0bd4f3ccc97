// docs/layout.md is enough: layout_reader.py, which was written from it alone, reads what the library reads, and what
// layout_writer.py writes is merged as what the library writes.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "harness/chosen_keys.h"
#include "harness/process_support.h"
#include "harness/test_instance.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;

std::string hex(std::string_view bytes) {
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    text += kDigits[static_cast<unsigned char>(byte) >> 4];
    text += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  return text;
}

std::string text_of(ValueView value) {
  if (value.type() == Type::kInt64) return "int64 " + std::to_string(value.int64());
  if (value.type() == Type::kBytes) return "bytes " + hex(value.bytes());
  std::array<char, 17> bits{};
  std::snprintf(bits.data(), bits.size(), "%016llx",
                static_cast<unsigned long long>(std::bit_cast<std::uint64_t>(value.float64())));
  return std::string("float64 ") + bits.data();
}

// A line of `layout_reader.py scan`.
std::string line_of(const EntryView& entry) {
  return hex(entry.key) + ' ' + text_of(entry.value) + " epoch=" + std::to_string(entry.changed_epoch) +
         " version=" + std::to_string(entry.version) + " expiry=" + std::to_string(entry.expiry_ns) +
         " ephemeral=" + (entry.ephemeral ? "1" : "0") + '\n';
}

std::string lines_of(Reader& reader) {
  std::vector<std::string> lines;
  for (const EntryView& entry : reader.snapshot()) lines.push_back(line_of(entry));
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

Program start_layout_reader(const std::filesystem::path& instance, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {SHMSTATE_LAYOUT_READER, instance.string()});
  return {"/usr/bin/python3", arguments};
}
std::string run_layout_reader(const std::filesystem::path& instance, const std::vector<std::string>& arguments) {
  Program program = start_layout_reader(instance, arguments);
  EXPECT_EQ(program.wait(), 0) << program.output();
  return program.output();
}

// Sizes at which keys are hashed differently, and keys move out of the slot.
std::size_t size_of_key(Random& random) {
  constexpr std::array<std::size_t, 19> kSizes{1,  3,   4,   8,   9,   16,   17,   24,   32,  40,
                                               48, 128, 129, 240, 241, 1008, 1009, 1025, 4096};
  return random.chance(50) ? kSizes[random.below(kSizes.size())] : random.between(1, 60);
}

void set_anything(Writer& writer, Random& random, const std::string& key) {
  SetOptions options;
  if (random.chance(20)) options.ttl = 1h;
  if (random.chance(20)) options.version = random.word();
  options.ephemeral = random.chance(20);
  switch (random.below(3)) {
    case 0: writer.set(key, static_cast<std::int64_t>(random.word()), options); break;
    case 1: writer.set(key, std::bit_cast<double>(random.word()), options); break;
    default: writer.set(key, random.bytes(random.chance(10) ? random.below(9'000) : random.below(50)), options);
  }
}

// So many keys whose hashes begin alike that there must be nodes of the directory.
void set_crowd(Writer& writer, const std::filesystem::path& instance) {
  std::ifstream control(instance / "control", std::ios::binary);
  std::uint64_t seed = 0;
  control.seekg(80).read(reinterpret_cast<char*>(&seed), sizeof seed);
  const ChosenKeys chosen(seed);
  for (std::uint64_t i = 0; i < 700; ++i) writer.set(chosen.with_hash(i << 24 | 0x12'3456), i);
}

// Of every entry there is, in slots and in blocks, with and without options, the document tells everything; and every
// entry is found by its key.
TEST(ProcessLayout, AReaderWrittenFromTheDocumentSeesTheSameState) {
  const TestDirectory directory;
  const auto instance = directory / "plant";
  const Program merger = start_merger(instance);
  Writer writer{instance.string()};
  Random random(1);
  std::vector<std::string> keys;
  for (int i = 0; i < 3'000; ++i) {
    keys.push_back(random.bytes(size_of_key(random)));
    set_anything(writer, random, keys.back());
    if (random.chance(20)) writer.erase(keys[random.below(keys.size())]);
    if (random.chance(10)) writer.erase(keys[random.below(keys.size())], random.word());
  }
  set_crowd(writer, instance);
  writer.erase("nobody", 1);  // a tombstone
  writer.set("somebody", 1);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  Reader reader(instance.string());
  EXPECT_EQ(run_layout_reader(instance, {"scan"}), lines_of(reader));

  const std::string found = run_layout_reader(instance, {"get", hex("somebody"), hex("nobody"), hex("never set")});
  EXPECT_EQ(found.substr(0, found.find(" epoch")), hex("somebody") + " int64 1");
  EXPECT_NE(found.find("\nNone\nNone\n"), std::string::npos) << found;
}

// The stamp protocol of the document holds while a writer goes on: what one batch changes is never seen in part,
// neither in a point read nor in a pinned snapshot, although the merger reuses the buffers all the time.
TEST(ProcessLayout, ItNeverSeesHalfABatchWhileAWriterGoesOn) {
  const TestDirectory directory;
  const auto instance = directory / "plant";
  const Program merger = start_merger(instance);
  Writer writer{instance.string(), {.full_timeout = kPatience}};
  const auto set_pair = [&writer](std::int64_t value) {
    Batch batch = writer.batch();
    batch.set("pair/a", value);
    batch.set("pair/b", value);
    must_be_ok(batch.commit(), "a batch");
  };
  set_pair(0);
  ASSERT_EQ(writer.flush(kPatience), Status::kOk);
  Program program = start_layout_reader(instance, {"pairs", "3000"});
  for (std::int64_t value = 1; !program.has_ended(); ++value) {
    set_pair(value);
    if (value % 64 == 0) std::this_thread::sleep_for(100us);
  }
  EXPECT_EQ(program.wait(), 0) << program.output();
  EXPECT_TRUE(program.output().starts_with("True ")) << program.output();
  EXPECT_TRUE(program.output().ends_with(" True\n")) << program.output() << "it saw no change: nothing was tested";
}

// By text and by ids, alone and in batches, through a ring that wraps, beside the library's own writer; and what nobody
// knows is rejected, without a quarantine.
TEST(ProcessLayout, AWriterWrittenFromTheDocumentIsMerged) {
  const TestDirectory directory;
  const auto instance = directory / "plant";
  const Program merger = start_merger(instance);
  Writer other{instance.string()};
  other.set("by both", 1);
  ASSERT_EQ(other.flush(kPatience), Status::kOk);
  constexpr int kAdds = 6000;  // 96,000 bytes
  {
    std::ofstream commands(directory / "commands");
    commands << "set text i:1\n"
             << "set named i:1 id\nadd named i:2 id\nset bytes b:00ff id\nset other f:0.5 id\nmax other f:1.5 id\n"
             << "set pair/a i:7 id;set pair/b i:7 id;add named i:1 id\n"
             << "set versioned i:1 version=5 id\nset versioned i:2 version=4 id\n"
             << "set gone i:1 id\nerase gone id\nset fleeting i:1 ttl=3600000000000 ephemeral id\n"
             << "add by_both i:1\n"
             << "raw 63000000080011200700000000000000\n"                   // an id that nobody has
             << "raw 080000000100190061000000000000000100000000000000\n";  // an operation of the future
    for (int i = 0; i < kAdds; ++i) commands << "add count i:1 id\n";
  }
  Program program{"/usr/bin/python3", {SHMSTATE_LAYOUT_WRITER, instance.string(), directory / "commands"}};
  EXPECT_EQ(program.wait(), 0) << program.output();
  EXPECT_EQ(program.output(), "1 " + std::to_string(15 + kAdds) + " 0 0 0 0 0 2 0 0\n");
  Reader reader(instance.string());
  EXPECT_EQ(reader.get<std::int64_t>("text"), 1);
  EXPECT_EQ(reader.get<std::int64_t>("named"), 4);
  EXPECT_EQ(reader.get<std::string>("bytes"), std::string("\0\xff", 2));
  EXPECT_EQ(reader.get<double>("other"), 1.5);
  EXPECT_EQ(reader.get<std::int64_t>("pair/a"), 7);
  EXPECT_EQ(reader.get<std::int64_t>("pair/b"), 7);
  EXPECT_EQ(reader.info("versioned")->version, 5U);
  EXPECT_EQ(reader.get<std::int64_t>("versioned"), 1);
  EXPECT_FALSE(reader.info("gone"));
  EXPECT_EQ(reader.get<std::int64_t>("count"), kAdds);
  eventually("an ephemeral key that goes with its writer", [&] { return !reader.info("fleeting"); });
}

}  // namespace
}  // namespace shmstate::test
