// A writer whose memory runs out: the process's own at any one allocation, or that of the ring's file system.
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "harness/test_instance.h"
#include "layout/record.h"
#include "writer/conflation.h"

namespace {

int allocations_left = -1;  // until one fails; negative: none does
int commit_error = 0;       // what committing memory of a file fails with

/// Of the allocations of `action`, the one after `left` others fails. Returns whether there was one.
template <typename Action>
bool with_failing_allocation(int left, Action&& action) {
  allocations_left = left;
  try {
    action();
  } catch (const std::bad_alloc&) {
  }
  return std::exchange(allocations_left, -1) < 0;
}

}  // namespace

// In front of the libraries' own. Not inlined: the compiler would see a `free` of what is not from `malloc`.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* const memory = allocations_left >= 0 && allocations_left-- == 0 ? nullptr : std::malloc(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

// NOLINTNEXTLINE(readability-inconsistent-declaration-parameter-name): its names are reserved ones
extern "C" int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  if (commit_error == 0) return static_cast<int>(::syscall(SYS_fallocate, fd, mode, offset, bytes));
  errno = commit_error;
  return -1;
}

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::Random;
using test::ring_of;
using test::TestInstance;

constexpr std::size_t kPlenty = std::size_t{64} << 20;

struct Change {
  Operation operation = Operation::kSet;
  std::string key;
  Value value;
  std::uint64_t version = 0;  // 0: none
};
using Batch = std::vector<Change>;

Batch random_batch(Random& random) {
  Batch batch(random.between(1, 4));
  for (Change& change : batch) {
    change.key = "a key that is too long to lie within a string/" + std::to_string(random.below(4));
    change.value = random.chance(50) ? Value(std::string(100, 'v')) : Value(std::int64_t{1});
    if (change.value.index() == 0 && random.chance(50)) change.operation = Operation::kAdd;
    if (change.operation == Operation::kSet && random.chance(30)) change.version = random.between(1, 5);
  }
  return batch;
}

std::vector<Mutation> mutations_of(const Batch& batch) {
  std::vector<Mutation> mutations;
  for (const Change& change : batch) {
    Mutation& mutation = mutations.emplace_back();
    mutation.operation = change.operation;
    mutation.key = change.key;
    mutation.value = change.value;
    mutation.version = change.version;
    if (change.version != 0) mutation.flags |= kWithVersion;
  }
  return mutations;
}

void add_all(Conflation& conflation, std::span<const Batch> batches) {
  for (const Batch& batch : batches) ASSERT_TRUE(conflation.add(mutations_of(batch)));
}

/// All that it holds, group by group.
std::vector<std::string> drain(Conflation& conflation) {
  std::vector<std::string> groups;
  while (!conflation.empty()) {
    std::string& group = groups.emplace_back(conflation.front_bytes(), '\0');
    conflation.encode_front(reinterpret_cast<std::byte*>(group.data()));
    conflation.pop_front();
  }
  return groups;
}

std::vector<std::string> drained(std::span<const Batch> batches) {
  Conflation conflation(kPlenty, kPlenty);
  add_all(conflation, batches);
  return drain(conflation);
}

// Whichever allocation fails, the conflation is as it was before, and takes the same batch later.
TEST(NoMemory, AnAdditionThatFailsChangesNothingConflated) {
  for (int run = 0; run < test::steps(200); ++run) {
    Random random(static_cast<std::uint64_t>(run));
    std::vector<Batch> batches(random.between(1, 8));
    for (Batch& batch : batches) batch = random_batch(random);
    const std::span<const Batch> before = std::span(batches).first(batches.size() - 1);
    const std::vector<Mutation> last = mutations_of(batches.back());
    bool has_failed = true;
    for (int left = 0; has_failed; ++left) {
      for (const bool again : {false, true}) {
        Conflation conflation(kPlenty, kPlenty);
        add_all(conflation, before);
        has_failed = with_failing_allocation(left, [&] { static_cast<void>(conflation.add(last)); });
        if (has_failed && again) {
          ASSERT_TRUE(conflation.add(last));
        }
        ASSERT_EQ(drain(conflation), drained(has_failed && !again ? before : batches)) << "run " << run << ", " << left;
      }
    }
  }
}

class NoMemoryTest : public testing::Test {
 protected:
  /// Sums until the ring is full and something is conflated.
  void fill() {
    for (; writer_.counters().conflated == 0; ++sum_) ASSERT_EQ(writer_.add("sum", 1), Status::kOk);
  }

  TestInstance instance_;
  Writer writer_ = instance_.writer(ring_of(kRingBytesMin, WhenFull::kConflate));
  std::int64_t sum_ = 0;
};

TEST_F(NoMemoryTest, AConflatedBatchThatFailsIsNotKeptInPartAndQuarantinesNoRing) {
  Reader reader = instance_.reader();
  const std::string text(100, 'x');
  fill();
  int failures = 0;
  for (Status status = Status::kNoMemory; status != Status::kOk; ++failures) {
    auto batch = writer_.batch();
    batch.set("a", failures);
    batch.add("sum", 1);
    batch.set("text", text);
    const bool has_failed = with_failing_allocation(failures, [&] { status = batch.commit(); });
    ASSERT_EQ(status, has_failed ? Status::kNoMemory : Status::kOk) << failures;
  }
  EXPECT_GT(failures, 3);
  while (writer_.flush(0ns) == Status::kTimeout) instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
  EXPECT_EQ(reader.get<std::int64_t>("sum"), sum_ + 1);
  EXPECT_EQ(reader.get<std::int64_t>("a"), failures - 1);
  EXPECT_EQ(reader.get<std::string>("text"), text);
}

TEST_F(NoMemoryTest, AFlushOfWhatIsConflatedNeedsNone) {
  const std::string text(1'000, 'x');
  fill();
  ASSERT_EQ(writer_.set("text", text), Status::kOk);
  instance_.pump();
  Status status = Status::kOk;
  EXPECT_FALSE(with_failing_allocation(0, [&] { status = writer_.flush(0ns); }));
  EXPECT_EQ(status, Status::kTimeout) << "pushed, and not yet merged";
  instance_.pump();
  EXPECT_EQ(writer_.flush(0ns), Status::kOk);
  EXPECT_EQ(instance_.reader().get<std::int64_t>("sum"), sum_);
  EXPECT_EQ(instance_.reader().get<std::string>("text"), text);
}

TEST_F(NoMemoryTest, ARingWhoseMemoryMayNotGrowHasNoneWhateverTheReason) {
  Writer writer = instance_.writer();
  for (const int reason : {ENOSPC, ENOMEM, EDQUOT}) {
    commit_error = reason;
    EXPECT_EQ(writer.set("k", 1), Status::kNoMemory) << reason;
  }
  commit_error = EIO;
  EXPECT_EQ(writer.set("k", 1), Status::kSystem);
  commit_error = 0;
  EXPECT_EQ(writer.set("k", 1), Status::kOk);
}

}  // namespace
}  // namespace shmstate
