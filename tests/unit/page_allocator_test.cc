// The merger's memory: pages and heap blocks against a simple model of who owns what.
#include "engine/page_allocator.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "harness/own_replicas.h"
#include "protocol/invariant.h"
#include "shmstate/detail/buffer_slot.h"

namespace shmstate {
using namespace internal;
namespace {

using layout::kPageBytes;
using test::Random;

constexpr std::uint64_t kFirstPage = 3;
constexpr std::uint64_t kPagesMax = 500;

// Allocating takes a back buffer, to say there how much is committed; these tests commit nothing.
BackBuffer& any_back() {
  static test::OwnReplicas own;
  static BackBuffer back = own.replicas().first();
  return back;
}

// Which pages are in use, one by one, and how far memory was committed.
class PageModel {
 public:
  [[nodiscard]] bool commit(std::uint64_t first, std::uint64_t end) {
    EXPECT_EQ(first, committed_) << "memory is committed from front to back";
    EXPECT_LE(end, kPagesMax);
    if (end > commit_limit_) return false;
    committed_ = end;
    return true;
  }
  void limit_commits(std::uint64_t pages) { commit_limit_ = pages; }

  void take(std::uint64_t page, std::uint64_t count) {
    ASSERT_GE(page, kFirstPage);
    ASSERT_LE(page + count, committed_) << "not committed";
    for (std::uint64_t i = page; i < page + count; ++i) {
      ASSERT_FALSE(used_[i]) << "page " << i << " is given twice";
      used_[i] = true;
    }
    used_count_ += count;
  }
  void give_back(std::uint64_t page, std::uint64_t count) {
    for (std::uint64_t i = page; i < page + count; ++i) used_[i] = false;
    used_count_ -= count;
  }

  [[nodiscard]] std::uint64_t committed() const { return committed_; }
  [[nodiscard]] std::uint64_t free_count() const { return committed_ - kFirstPage - used_count_; }
  /// The longest run that is free now, or would be if all that may be committed were.
  [[nodiscard]] std::uint64_t longest_run() const {
    std::uint64_t longest = 0;
    std::uint64_t run = 0;
    for (std::uint64_t i = kFirstPage; i < std::min(kPagesMax, commit_limit_); ++i) {
      run = used_[i] ? 0 : run + 1;
      longest = std::max(longest, run);
    }
    return longest;
  }

 private:
  std::vector<bool> used_ = std::vector<bool>(kPagesMax, false);
  std::uint64_t used_count_ = 0;
  std::uint64_t committed_ = kFirstPage;
  std::uint64_t commit_limit_ = kPagesMax;
};

struct PageRun {
  std::uint64_t page;
  std::uint64_t count;
};

class PageAllocatorTest : public testing::Test {
 protected:
  [[nodiscard]] PageAllocator make() {
    return {kFirstPage, kPagesMax,
            [this](BackBuffer&, std::uint64_t first, std::uint64_t end) { return model_.commit(first, end); }};
  }
  void allocate(std::uint64_t count) {
    const std::optional<std::uint64_t> page = pages_.allocate(any_back(), count);
    if (!page) return;
    model_.take(*page, count);
    runs_.push_back({*page, count});
  }
  void release(std::size_t index) {
    pages_.release(runs_[index].page, runs_[index].count);
    model_.give_back(runs_[index].page, runs_[index].count);
    runs_[index] = runs_.back();
    runs_.pop_back();
  }
  void expect_agreement() {
    ASSERT_EQ(pages_.committed(), model_.committed());
    ASSERT_EQ(pages_.free_count(), model_.free_count());
  }

  PageModel model_;
  PageAllocator pages_ = make();
  std::vector<PageRun> runs_;
};

TEST_F(PageAllocatorTest, NoPageIsGivenTwiceAndEachIsCountedOnce) {
  Random random(10);
  for (int i = 0; i < test::steps(20'000); ++i) {
    if (runs_.empty() || random.chance(55)) {
      allocate(random.chance(80) ? 1 : random.between(2, 16));
    } else {
      release(random.below(runs_.size()));
    }
    if (HasFatalFailure()) return;
    expect_agreement();
  }
  EXPECT_GT(model_.committed(), kPagesMax / 2) << "the test is too gentle";
}

TEST_F(PageAllocatorTest, EverythingGivenBackBecomesOneRunAgain) {
  Random random(11);
  for (int round = 0; round < test::steps(50); ++round) {
    for (int i = 0; i < 100; ++i) allocate(random.between(1, 8));
    while (!runs_.empty()) release(random.below(runs_.size()));
    const std::uint64_t committed = pages_.committed();
    ASSERT_EQ(pages_.free_count(), committed - kFirstPage);
    allocate(committed - kFirstPage);
    ASSERT_EQ(pages_.committed(), committed) << "the free pages are not one run";
    release(0);
  }
}

TEST_F(PageAllocatorTest, ManyCyclesOfUseCommitNoMoreThanTheFirst) {
  std::uint64_t committed = 0;
  for (int cycle = 0; cycle < 100; ++cycle) {
    for (int i = 0; i < 60; ++i) allocate(1 + static_cast<std::uint64_t>(i % 4));
    while (!runs_.empty()) release(runs_.size() / 2);
    if (cycle == 0) committed = pages_.committed();
    ASSERT_EQ(pages_.committed(), committed) << "cycle " << cycle;
  }
}

TEST_F(PageAllocatorTest, ARefusalChangesNothing) {
  allocate(1);
  model_.limit_commits(pages_.committed() + 3);
  EXPECT_FALSE(pages_.allocate(any_back(), 1000));
  EXPECT_FALSE(pages_.allocate(any_back(), 50));
  expect_agreement();
  allocate(3);
  EXPECT_EQ(runs_.size(), 2U) << "what there is room for is still given";
}

TEST_F(PageAllocatorTest, ReadingAheadIsGivenUpWhenThereIsOnlyRoomForWhatIsNeeded) {
  allocate(200);
  model_.limit_commits(pages_.committed() + 1);
  while (pages_.free_count() > 0) allocate(1);
  allocate(1);
  expect_agreement();
  EXPECT_EQ(pages_.committed(), 204U);
}

TEST_F(PageAllocatorTest, MemoryRunsOutOnlyWhenNoRunIsLongEnough) {
  Random random(12);
  for (int i = 0; i < 5'000; ++i) {
    const std::uint64_t count = random.between(1, 16);
    const std::size_t before = runs_.size();
    const std::uint64_t longest_run = model_.longest_run();
    allocate(count);
    if (HasFatalFailure()) return;
    ASSERT_EQ(runs_.size() > before, longest_run >= count)
        << count << " pages wanted, a run of " << longest_run << " is there or can be committed";
    if (random.chance(50) && !runs_.empty()) release(random.below(runs_.size()));
  }
}

TEST_F(PageAllocatorTest, AdoptingTheSameRunsRebuildsTheSameState) {
  Random random(13);
  for (int i = 0; i < 300; ++i) {
    if (runs_.empty() || random.chance(60)) {
      allocate(random.between(1, 5));
    } else {
      release(random.below(runs_.size()));
    }
  }
  PageAllocator rebuilt(kFirstPage, kPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  rebuilt.start_from(pages_.committed());
  std::shuffle(runs_.begin(), runs_.end(), std::mt19937_64(random.word()));
  for (const PageRun& run : runs_) ASSERT_TRUE(rebuilt.adopt(run.page, run.count));
  EXPECT_EQ(rebuilt.committed(), pages_.committed());
  EXPECT_EQ(rebuilt.free_count(), pages_.free_count());
  for (int i = 0; i < 50 && rebuilt.free_count() > 0; ++i) {
    const std::uint64_t count = random.between(1, 3);
    ASSERT_EQ(rebuilt.allocate(any_back(), count), pages_.allocate(any_back(), count))
        << "they hand out the same pages from here on";
  }
}

TEST_F(PageAllocatorTest, PagesThatAreNotFreeAreNotAdopted) {
  PageAllocator rebuilt = make();
  rebuilt.start_from(20);
  EXPECT_FALSE(rebuilt.adopt(0, 1)) << "the header's page";
  EXPECT_FALSE(rebuilt.adopt(kFirstPage - 1, 2)) << "half in the header";
  EXPECT_FALSE(rebuilt.adopt(20, 1)) << "not committed";
  EXPECT_FALSE(rebuilt.adopt(19, 2)) << "half not committed";
  EXPECT_FALSE(rebuilt.adopt(5, 0)) << "nothing";
  EXPECT_FALSE(rebuilt.adopt(5, ~std::uint64_t{0})) << "an overflow";
  EXPECT_FALSE(rebuilt.adopt(~std::uint64_t{0}, 1));
  EXPECT_FALSE(rebuilt.adopt(~std::uint64_t{0} - 1, 10));
  EXPECT_EQ(rebuilt.free_count(), 17U) << "a refusal takes nothing";
  ASSERT_TRUE(rebuilt.adopt(10, 3));
  for (const PageRun taken :
       {PageRun{10, 3}, PageRun{10, 1}, PageRun{12, 1}, PageRun{9, 2}, PageRun{12, 2}, PageRun{3, 17}}) {
    EXPECT_FALSE(rebuilt.adopt(taken.page, taken.count)) << taken.page << ", " << taken.count;
  }
  EXPECT_TRUE(rebuilt.adopt(3, 7));
  EXPECT_TRUE(rebuilt.adopt(13, 7));
  EXPECT_EQ(rebuilt.free_count(), 0U);
}

// ---- heap blocks

struct Block {
  std::uint64_t offset;
  std::size_t bytes;
};

std::size_t random_size(Random& random) {
  const std::size_t dice = random.below(100);
  if (dice < 60) return random.between(1, 600);
  if (dice < 90) return random.between(600, 33'000);
  return dice < 98 ? random.between(33'000, 200'000) : kValueBytesMax;
}

class HeapTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kHeapPagesMax = 2000;

  [[nodiscard]] static PageAllocator make_pages() {
    return {kFirstPage, kHeapPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; }};
  }
  void allocate(std::size_t bytes) {
    const std::optional<std::uint64_t> offset = heap_.allocate(any_back(), bytes);
    if (!offset) return;
    const std::uint64_t end = *offset + heap_block_bytes(bytes);
    ASSERT_EQ(*offset % layout::kLine, 0U);
    ASSERT_GE(*offset, kFirstPage * kPageBytes);
    ASSERT_LE(end, pages_.committed() * kPageBytes);
    const auto next = ends_.upper_bound(*offset);  // the first block that ends behind this one's start
    ASSERT_TRUE(next == ends_.end() || next->second >= end) << "two blocks overlap";
    ends_[end] = *offset;
    blocks_.push_back({*offset, bytes});
    used_bytes_ += heap_block_bytes(bytes);
  }
  void release(std::size_t index) {
    const Block block = blocks_[index];
    heap_.release(block.offset, block.bytes);
    ends_.erase(block.offset + heap_block_bytes(block.bytes));
    used_bytes_ -= heap_block_bytes(block.bytes);
    blocks_[index] = blocks_.back();
    blocks_.pop_back();
  }

  PageAllocator pages_ = make_pages();
  Heap heap_{pages_};
  std::vector<Block> blocks_;
  std::map<std::uint64_t, std::uint64_t> ends_;  // end of a block -> its offset
  std::uint64_t used_bytes_ = 0;
};

TEST_F(HeapTest, NoTwoBlocksOverlapAndEveryByteIsCounted) {
  Random random(20);
  for (int i = 0; i < test::steps(50'000); ++i) {
    if (blocks_.empty() || random.chance(52)) {
      allocate(random_size(random));
    } else {
      release(random.below(blocks_.size()));
    }
    if (HasFatalFailure()) return;
    ASSERT_EQ(heap_.used_bytes(), used_bytes_);
  }
}

TEST_F(HeapTest, PagesOfReleasedBlocksGoBack) {
  Random random(21);
  for (int round = 0; round < test::steps(10); ++round) {
    for (int i = 0; i < 500; ++i) allocate(random_size(random));
    while (!blocks_.empty()) release(random.below(blocks_.size()));
    ASSERT_EQ(heap_.used_bytes(), 0U);
    ASSERT_EQ(pages_.free_count(), pages_.committed() - kFirstPage);
    const std::uint64_t committed = pages_.committed();
    ASSERT_TRUE(pages_.allocate(any_back(), committed - kFirstPage)) << "the free pages are one run";
    ASSERT_EQ(pages_.committed(), committed);
    pages_.release(kFirstPage, committed - kFirstPage);
  }
}

TEST_F(HeapTest, BlocksOfOneSizeFillTheirPageBeforeAnotherIsTaken) {
  for (const std::size_t bytes : {std::size_t{64}, std::size_t{640}, kPageBytes / 2}) {
    const std::uint64_t before = pages_.committed() - pages_.free_count();
    for (std::size_t i = 0; i < kPageBytes / bytes; ++i) allocate(bytes);
    EXPECT_EQ(pages_.committed() - pages_.free_count(), before + 1) << bytes;
    allocate(bytes);
    EXPECT_EQ(pages_.committed() - pages_.free_count(), before + 2) << bytes;
  }
}

TEST_F(HeapTest, AHoleIsFilledByABlockOfAnySizeOfItsClass) {
  for (int i = 0; i < 200; ++i) allocate(100);
  const std::uint64_t committed = pages_.committed();
  for (int round = 0; round < 10'000; ++round) {
    release(static_cast<std::size_t>(round) % blocks_.size());
    allocate(65 + static_cast<std::size_t>(round) % 64);
  }
  EXPECT_EQ(pages_.committed(), committed);
}

TEST_F(HeapTest, AdoptingTheSameBlocksRebuildsTheSameState) {
  Random random(22);
  for (int i = 0; i < 3'000; ++i) {
    if (blocks_.empty() || random.chance(55)) {
      allocate(random_size(random));
    } else {
      release(random.below(blocks_.size()));
    }
  }
  PageAllocator other_pages = make_pages();
  other_pages.start_from(pages_.committed());
  Heap rebuilt(other_pages);
  std::shuffle(blocks_.begin(), blocks_.end(), std::mt19937_64(random.word()));
  for (const Block& block : blocks_) ASSERT_TRUE(rebuilt.adopt(block.offset, block.bytes));
  EXPECT_EQ(rebuilt.used_bytes(), heap_.used_bytes());
  EXPECT_EQ(other_pages.free_count(), pages_.free_count());
  for (const Block& block : blocks_) rebuilt.release(block.offset, block.bytes);
  EXPECT_EQ(rebuilt.used_bytes(), 0U);
  EXPECT_EQ(other_pages.free_count(), other_pages.committed() - kFirstPage) << "everything can be given back";
}

TEST_F(HeapTest, AnAdoptedHeapGivesOnlyWhatIsFree) {
  allocate(100);
  allocate(100);
  allocate(70'000);
  PageAllocator other_pages = make_pages();
  other_pages.start_from(pages_.committed());
  Heap rebuilt(other_pages);
  for (const Block& block : blocks_) ASSERT_TRUE(rebuilt.adopt(block.offset, block.bytes));
  for (int i = 0; i < 2000; ++i) {
    const std::optional<std::uint64_t> offset = rebuilt.allocate(any_back(), 100);
    ASSERT_TRUE(offset);
    for (const Block& block : blocks_) {
      const bool is_apart =
          *offset >= block.offset + heap_block_bytes(block.bytes) || *offset + heap_block_bytes(100) <= block.offset;
      ASSERT_TRUE(is_apart) << *offset;
    }
  }
}

TEST_F(HeapTest, BlocksThatCannotBeAreNotAdopted) {
  PageAllocator other_pages = make_pages();
  other_pages.start_from(kFirstPage + 20);
  Heap rebuilt(other_pages);
  const std::uint64_t page = kFirstPage * kPageBytes;
  ASSERT_TRUE(rebuilt.adopt(page + 128, 100));
  EXPECT_FALSE(rebuilt.adopt(page + 128, 100)) << "the same again";
  EXPECT_FALSE(rebuilt.adopt(page + 64, 100)) << "between two blocks";
  EXPECT_FALSE(rebuilt.adopt(page + 256, 200)) << "another size in the same page";
  EXPECT_FALSE(rebuilt.adopt(0, 100)) << "in the header";
  EXPECT_FALSE(rebuilt.adopt((kFirstPage + 20) * kPageBytes, 100)) << "not committed";
  EXPECT_FALSE(rebuilt.adopt(page + kPageBytes + 64, 70'000)) << "pages of its own begin with a page";
  EXPECT_FALSE(rebuilt.adopt(page, 70'000)) << "over pages in use";
  EXPECT_FALSE(rebuilt.adopt(page + 19 * kPageBytes, 70'000)) << "over the end";
  EXPECT_FALSE(rebuilt.adopt(~std::uint64_t{0} - 63, 100));
  EXPECT_EQ(rebuilt.used_bytes(), heap_block_bytes(100)) << "a refusal counts nothing";
}

// What this program alone decides is checked in every build, also in those with NDEBUG.
TEST(InvariantDeathTest, AViolationNamesItsPlaceAndConditionAndStops) {
  const int two = 2;
  SHMSTATE_INVARIANT(two + two == 4);
  EXPECT_DEATH(SHMSTATE_INVARIANT(two + two == 5),
               "page_allocator_test.cc:[0-9]+: invariant violated: two \\+ two == 5");
}

TEST(InvariantDeathTest, APageThatIsReleasedTwiceStops) {
  PageAllocator pages(kFirstPage, kPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  const std::optional<std::uint64_t> page = pages.allocate(any_back(), 1);
  ASSERT_TRUE(page);
  pages.release(*page, 1);
  EXPECT_DEATH(pages.release(*page, 1), "page_allocator.cc:[0-9]+: invariant violated");
}

TEST(InvariantDeathTest, ABlockThatIsReleasedTwiceStops) {
  PageAllocator pages(kFirstPage, kPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  Heap heap(pages);
  const std::optional<std::uint64_t> kept = heap.allocate(any_back(), 100);
  const std::optional<std::uint64_t> block = heap.allocate(any_back(), 100);
  ASSERT_TRUE(kept && block);
  heap.release(*block, 100);
  EXPECT_DEATH(heap.release(*block, 100), "page_allocator.cc:[0-9]+: invariant violated");
}

TEST(HeapOfLittleMemory, ARefusalChangesNothing) {
  PageAllocator pages(kFirstPage, kFirstPage + 4, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  Heap heap(pages);
  ASSERT_TRUE(heap.allocate(any_back(), 3 * kPageBytes));
  EXPECT_FALSE(heap.allocate(any_back(), kValueBytesMax));
  EXPECT_EQ(heap.used_bytes(), 3 * kPageBytes);
  EXPECT_TRUE(heap.allocate(any_back(), 64)) << "what there is room for is still given";
  EXPECT_TRUE(heap.allocate(any_back(), 64));
  EXPECT_FALSE(heap.allocate(any_back(), 128)) << "the last page holds blocks of 64 bytes";
}

}  // namespace
}  // namespace shmstate
