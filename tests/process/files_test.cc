// What happens to an instance's files while merger, writers and readers run: whatever is truncated, grown, removed or
// replaced, nobody crashes or hangs, nobody is given a wrong value as good, and who can go on does.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "files/control.h"
#include "files/ring_file.h"
#include "harness/positions.h"
#include "harness/process_support.h"
#include "shmstate/inspect.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::test {
using namespace internal;
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr std::array<const char*, 3> kKeys{"short", "a key that lies in the heap, as it is too long for any slot",
                                           "long"};
constexpr std::array<std::size_t, 3> kValueBytes{5, 700, 100'000};

// One character over and over: a value that is torn, or was zeroed in part, shows.
void must_be_whole(const std::string& value, std::size_t bytes) {
  must(value.size() == bytes, "a value of " + std::to_string(value.size()) + " bytes");
  must(value.front() >= 'a' && value.front() <= 'z' && value.find_first_not_of(value.front()) == std::string::npos,
       "a torn value");
}

struct Seen {
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> pushes{0};  // that were accepted
  std::atomic<std::uint64_t> push_failures{0};
  std::atomic<std::uint64_t> victim_ring{0};
  std::atomic<std::uint8_t> victim_status{0};  // of its last flush
  std::atomic<std::uint64_t> good_reads{0};
  std::atomic<std::uint64_t> damaged_reads{0};
};

void keep_pushing(const std::string& instance, Seen& seen) {
  Writer writer(instance, {.name = "honest", .full_timeout = 10ms, .survive_truncation = true});
  for (std::uint64_t i = 0; !seen.stop; ++i) {
    const char c = static_cast<char>('a' + i % 26);
    Batch batch = writer.batch();
    for (std::size_t k = 0; k < kKeys.size(); ++k) batch.set(kKeys[k], std::string(kValueBytes[k], c));
    const bool is_pushed = batch.commit() == Status::kOk && writer.flush(10ms) == Status::kOk;
    ++(is_pushed ? seen.pushes : seen.push_failures);
  }
}

/// Has a ring that somebody else spoils.
void be_the_victim(const std::string& instance, Seen& seen) {
  Writer writer(instance, {.name = "victim", .ring_bytes = 64 << 10, .full_timeout = 10ms, .survive_truncation = true});
  seen.victim_ring = writer.ring_id();
  while (!seen.stop) {
    writer.add("victim", 1);
    seen.victim_status = static_cast<std::uint8_t>(writer.flush(10ms));
    std::this_thread::sleep_for(1ms);
  }
}

class CheckingReader {
 public:
  CheckingReader(const std::string& instance, Seen& seen)
      : reader_(instance, {.survive_truncation = true}), seen_(seen) {}

  void look() {
    for (std::size_t k = 0; k < kKeys.size(); ++k) {
      std::string value;
      const Status status = reader_.read(kKeys[k], value);
      if (status == Status::kOk) must_be_whole(value, kValueBytes[k]);
      must(status == Status::kOk || status == Status::kDamaged, "a read says " + std::string(describe(status)));
      ++(status == Status::kOk ? seen_.good_reads : seen_.damaged_reads);
    }
    attempt([&] {
      const std::vector<std::string_view> keys(kKeys.begin(), kKeys.end());
      std::vector<std::optional<Value>> values;
      reader_.get_many(keys, values);
      must(values[0] && values[1] && std::get<std::string>(*values[0])[0] == std::get<std::string>(*values[1])[0],
           "a split batch");
    });
    attempt([&] { scan(); });
    attempt([&] { static_cast<void>(reader_.changes(test::at_epoch(reader_, reader_.epoch() - 1))); });
    attempt([&] { static_cast<void>(inspect(reader_.path(), {.survive_truncation = true})); });
    static_cast<void>(reader_.age());
    static_cast<void>(reader_.wait(reader_.position(), 1ms));
  }

 private:
  /// An error says that something is wrong with the instance, and not that a reader asked for something impossible.
  static void attempt(const std::function<void()>& action) {
    try {
      action();
    } catch (const Error& error) {
      const Status status = error.status();
      must(status == Status::kDamaged || status == Status::kNoInstance || status == Status::kNotReady ||
               status == Status::kExpired,
           error.what());
    }
  }

  void scan() {
    const Snapshot snapshot = reader_.snapshot();
    for (const auto& [key, value] : snapshot) {
      if (value.type() != Type::kBytes) continue;
      const std::string copy(value.bytes());
      const auto* const known = std::find(kKeys.begin(), kKeys.end(), std::string(key));
      if (snapshot.expired()) break;
      must(known != kKeys.end(), "an unknown key");
      must_be_whole(copy, kValueBytes[static_cast<std::size_t>(known - kKeys.begin())]);
    }
  }

  Reader reader_;
  Seen& seen_;
};

void keep_looking(const std::string& instance, Seen& seen) {
  CheckingReader reader(instance, seen);
  while (!seen.stop) reader.look();
}

class FilesUnderLoad : public testing::Test {
 protected:
  void SetUp() override {
    merger_.emplace(start_merger(instance_, {"--feed-bytes", "64k"}));
    children_.emplace_back([this] { keep_pushing(instance_, *seen_); });
    children_.emplace_back([this] { be_the_victim(instance_, *seen_); });
    wait_for_progress();
    eventually("the victim's ring to be served", [this] { return state_of_victim() == "live"; });
    children_.emplace_back([this] { keep_looking(instance_, *seen_); });
    eventually("reads", [this] { return seen_->good_reads > 10; });
  }
  void TearDown() override {
    seen_->stop = true;
    expect_kept(children_);
  }

  void wait_for_progress() {
    const std::uint64_t before = seen_->pushes;
    eventually("pushes", [&] { return seen_->pushes > before + 10; });
  }
  /// All go on: writers are merged, and readers read what is good.
  void expect_that_all_go_on() {
    wait_for_progress();
    const std::uint64_t before = seen_->good_reads;
    eventually("reads", [&] { return seen_->good_reads > before + 10; });
    EXPECT_EQ(seen_->damaged_reads, 0U);
    EXPECT_FALSE(merger_->has_ended()) << merger_->output();
  }
  void expect_that_the_merger_ends(std::string_view reason) {
    EXPECT_EQ(merger_->wait(), 1) << merger_->output();
    EXPECT_NE(merger_->output().find(reason), std::string::npos) << merger_->output();
  }
  void expect_that_readers_say_damaged() {
    eventually("damaged", [this] { return seen_->damaged_reads > 10; });
  }
  void expect_that_readers_go_on() {
    const std::uint64_t before = seen_->good_reads;
    eventually("reads", [&] { return seen_->good_reads > before + 10; });
    EXPECT_EQ(seen_->damaged_reads, 0U);
  }
  void expect_victim(Status status) {
    eventually("the status of the victim", [&] { return Status{seen_->victim_status.load()} == status; });
  }
  void expect_victim(Status status, const std::string& state) {
    expect_victim(status);
    eventually("its state", [&] { return state_of_victim() == state; });
  }
  [[nodiscard]] std::string state_of_victim() const {
    for (const RingInfo& ring : inspect(instance_).rings) {
      if (ring.id == seen_->victim_ring) return ring.state;
    }
    return "none";
  }

  [[nodiscard]] fs::path victim() const { return rings_path(instance_) / ring_name(seen_->victim_ring); }
  [[nodiscard]] fs::path file(std::string_view name) const { return fs::path(instance_) / name; }
  static void grow(const fs::path& file) { fs::resize_file(file, fs::file_size(file) + (1 << 20)); }
  static void replace(const fs::path& file) {
    fs::copy_file(file, file.string() + ".new");
    fs::rename(file.string() + ".new", file);
  }

  TestDirectory directory_;
  std::string instance_ = directory_ / "plant";
  Board<Seen> seen_;
  std::optional<Program> merger_;
  std::vector<Child> children_;
};

// Files that grow are nothing to anybody.
TEST_F(FilesUnderLoad, GrownFilesDisturbNobody) {
  for (const fs::path& path : {file("control"), file("snapshot"), doorbell_path(instance_), victim()}) {
    grow(path);
    expect_that_all_go_on();
  }
  expect_victim(Status::kOk, "live");
  merger_->kill();
  merger_.emplace(start_merger(instance_));  // takes them as they are
  expect_that_all_go_on();
  expect_victim(Status::kOk, "live");
}

// Who has a file open goes on with it, whatever its name leads to.
TEST_F(FilesUnderLoad, RemovedAndReplacedFilesDisturbNobodyWhoIsAttached) {
  replace(victim());
  expect_that_all_go_on();
  fs::remove(victim());
  expect_that_all_go_on();
  expect_victim(Status::kOk, "live");
  replace(doorbell_path(instance_));
  expect_that_all_go_on();
  fs::remove(doorbell_path(instance_));
  expect_that_all_go_on();
  replace(file("snapshot"));
  expect_that_all_go_on();
  fs::remove(file("snapshot"));
  expect_that_all_go_on();
  EXPECT_THROW(Reader{instance_}, Error);
  fs::remove_all(rings_path(instance_));
  expect_that_all_go_on();
}

// A snapshot that lies where another one belongs, here one of some epochs ago, is not read.
TEST_F(FilesUnderLoad, NoReaderAttachesToAnotherSnapshot) {
  replace(file("snapshot"));
  wait_for_progress();
  try {
    Reader reader(instance_);
    FAIL() << "attached to a snapshot of another epoch";
  } catch (const Error& error) {
    EXPECT_EQ(error.status(), Status::kDamaged);
    EXPECT_NE(std::string(error.what()).find("snapshot is not the one that control describes"), std::string::npos);
  }
}

// A truncated ring is quarantined and named; its writer is told, the others go on.
TEST_F(FilesUnderLoad, TruncatedRingIsQuarantinedAndNamed) {
  fs::resize_file(victim(), 0);
  expect_victim(Status::kRingQuarantined, "quarantined");
  expect_that_all_go_on();
  EXPECT_NE(merger_->output().find("quarantined: its file was truncated"), std::string::npos) << merger_->output();
}

TEST_F(FilesUnderLoad, RingTruncatedInTheMiddleIsQuarantinedAndNamed) {
  fs::resize_file(victim(), 8192);
  expect_victim(Status::kRingQuarantined, "quarantined");
  expect_that_all_go_on();
}

TEST_F(FilesUnderLoad, TruncatedControlEndsTheMergerAndNobodyElse) {
  fs::resize_file(file("control"), 0);
  expect_that_the_merger_ends("was truncated, its state is lost; remove the directory");
  expect_that_readers_say_damaged();
  expect_victim(Status::kDamaged);
}

TEST_F(FilesUnderLoad, ControlTruncatedBehindItsHeaderEndsTheMergerAndNobodyElse) {
  fs::resize_file(file("control"), 4096);
  expect_that_the_merger_ends("was truncated, its state is lost");
  expect_that_readers_go_on();
}

TEST_F(FilesUnderLoad, TruncatedSnapshotEndsTheMergerAndNobodyElse) {
  fs::resize_file(file("snapshot"), 0);
  expect_that_the_merger_ends("was truncated, its state is lost");
  expect_that_readers_say_damaged();
}

// Of three buffers only one is left: two are in use, whichever these are.
TEST_F(FilesUnderLoad, AThirdOfASnapshotEndsTheMergerAndNobodyElse) {
  fs::resize_file(file("snapshot"), fs::file_size(file("snapshot")) / 3);
  expect_that_the_merger_ends("was truncated, its state is lost");
  seen_->good_reads = 0;
  eventually("reads", [this] { return seen_->good_reads + seen_->damaged_reads > 10; });
}

TEST_F(FilesUnderLoad, RemovedControlEndsTheMergerAndNobodyElse) {
  fs::remove(file("control"));
  expect_that_the_merger_ends("the directory was removed or replaced");
  expect_that_readers_go_on();
}

TEST_F(FilesUnderLoad, ReplacedDirectoryEndsTheMergerAndNobodyElse) {
  fs::rename(instance_, directory_ / "moved");
  fs::create_directory(instance_);
  expect_that_the_merger_ends("the directory was removed or replaced");
  expect_that_readers_go_on();
}

}  // namespace
}  // namespace shmstate::test
