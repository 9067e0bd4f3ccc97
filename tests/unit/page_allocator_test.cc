// The merger's memory: pages and blocks against a simple model of who owns what.
#include "engine/page_allocator.h"

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <vector>

#include "harness/own_replicas.h"
#include "protocol/invariant.h"
#include "shmstate/detail/buffer_slot.h"

namespace shmstate {
using namespace internal;
namespace {

using layout::kPageBytes;
using test::Random;

constexpr std::uint64_t kFirstPage = layout::kFirstPage;
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
    return {kPagesMax,
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
  EXPECT_EQ(pages_.committed(), kFirstPage + 201);
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
  PageAllocator rebuilt(kPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
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
  EXPECT_EQ(rebuilt.free_count(), 18U) << "a refusal takes nothing";
  ASSERT_TRUE(rebuilt.adopt(10, 3));
  for (const PageRun taken :
       {PageRun{10, 3}, PageRun{10, 1}, PageRun{12, 1}, PageRun{9, 2}, PageRun{12, 2}, PageRun{2, 18}}) {
    EXPECT_FALSE(rebuilt.adopt(taken.page, taken.count)) << taken.page << ", " << taken.count;
  }
  EXPECT_TRUE(rebuilt.adopt(2, 8));
  EXPECT_TRUE(rebuilt.adopt(13, 7));
  EXPECT_EQ(rebuilt.free_count(), 0U);
}

// ---- the map lies among the pages

class PagesAroundTheMap : public testing::Test {
 protected:
  static constexpr std::uint64_t kMapPage = 4096;  // the second one; the first lies before all others

  PageAllocator pages_{3 * kMapPage, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; }};
};

TEST_F(PagesAroundTheMap, APageOfTheMapIsNobodys) {
  std::set<std::uint64_t> given;
  for (std::uint64_t i = 0; i < 2 * kMapPage; ++i) {
    const std::optional<std::uint64_t> page = pages_.allocate(any_back(), 1);
    ASSERT_TRUE(page);
    ASSERT_TRUE(given.insert(*page).second);
  }
  EXPECT_FALSE(given.contains(kMapPage));
  EXPECT_FALSE(given.contains(2 * kMapPage));
  PageAllocator rebuilt(3 * kMapPage, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  rebuilt.start_from(pages_.committed());
  EXPECT_FALSE(rebuilt.adopt(kMapPage, 1));
  EXPECT_FALSE(rebuilt.adopt(kMapPage - 1, 2));
  for (const std::uint64_t page : given) ASSERT_TRUE(rebuilt.adopt(page, 1));
  EXPECT_EQ(rebuilt.free_count(), pages_.free_count());
}

TEST_F(PagesAroundTheMap, ARunThatDoesNotFitBeforeItLiesBehindIt) {
  ASSERT_TRUE(pages_.allocate(any_back(), kMapPage - 100));
  const std::optional<std::uint64_t> run = pages_.allocate(any_back(), 256);
  ASSERT_EQ(run, kMapPage + 1);
  const std::optional<std::uint64_t> before = pages_.allocate(any_back(), 50);
  ASSERT_TRUE(before);
  EXPECT_LT(*before, kMapPage) << "what lies before it still serves";
  pages_.release(*run, 256);
  pages_.release(*before, 50);
  EXPECT_EQ(pages_.allocate(any_back(), kMapPage), std::nullopt) << "no run is longer than what lies between";
}

// ---- what is kept for later

TEST(PageAllocatorReclaim, WhatIsKeptForLaterIsGivenBeforeMoreIsCommitted) {
  PageAllocator pages(kPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  std::optional<std::uint64_t> kept = pages.allocate(any_back(), 1);
  pages.set_reclaim([&](BackBuffer&) {
    if (kept) pages.release(*kept, 1);
    return std::exchange(kept, std::nullopt).has_value();
  });
  const std::uint64_t committed = pages.committed();
  EXPECT_TRUE(pages.allocate(any_back(), 1));
  EXPECT_EQ(pages.committed(), committed);
  EXPECT_TRUE(pages.allocate(any_back(), 1));
  EXPECT_GT(pages.committed(), committed);
}

// ---- blocks

struct Block {
  std::uint64_t offset;
  std::size_t bytes;
};

std::size_t random_size(Random& random) {
  const std::size_t dice = random.below(100);
  if (dice < 90) return random.between(1'000, 33'000);
  return dice < 98 ? random.between(33'000, 200'000) : kValueBytesMax;
}

class BlocksTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kBlockPagesMax = 4000;

  [[nodiscard]] static PageAllocator make_pages() {
    return {kBlockPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; }};
  }
  void allocate(std::size_t bytes) {
    const std::optional<std::uint64_t> offset = blocks_.allocate(any_back(), bytes);
    if (!offset) return;
    const std::uint64_t end = *offset + bytes;
    ASSERT_EQ(*offset % kPageBytes, 0U);
    ASSERT_GE(*offset, kFirstPage * kPageBytes);
    ASSERT_LE(end, pages_.committed() * kPageBytes);
    const auto next = ends_.upper_bound(*offset);  // the first block that ends behind this one's start
    ASSERT_TRUE(next == ends_.end() || next->second >= end) << "two blocks overlap";
    ends_[end] = *offset;
    given_.push_back({*offset, bytes});
    used_bytes_ += block_pages(bytes) * kPageBytes;
  }
  void release(std::size_t index) {
    const Block block = given_[index];
    blocks_.release(block.offset, block.bytes);
    ends_.erase(block.offset + block.bytes);
    used_bytes_ -= block_pages(block.bytes) * kPageBytes;
    given_[index] = given_.back();
    given_.pop_back();
  }
  void allocate_and_release(Random& random, int count) {
    for (int i = 0; i < count && !HasFatalFailure(); ++i) {
      if (given_.empty() || random.chance(52)) {
        allocate(random_size(random));
      } else {
        release(random.below(given_.size()));
      }
      ASSERT_EQ(blocks_.used_bytes(), used_bytes_);
    }
  }

  PageAllocator pages_ = make_pages();
  Blocks blocks_{pages_};
  std::vector<Block> given_;
  std::map<std::uint64_t, std::uint64_t> ends_;  // end of a block -> its offset
  std::uint64_t used_bytes_ = 0;
};

TEST_F(BlocksTest, NoTwoBlocksOverlapAndEveryPageIsCounted) {
  Random random(20);
  allocate_and_release(random, test::steps(50'000));
}

TEST_F(BlocksTest, AdoptingTheSameBlocksRebuildsTheSameState) {
  Random random(22);
  allocate_and_release(random, 3'000);
  PageAllocator other_pages = make_pages();
  other_pages.start_from(pages_.committed());
  Blocks rebuilt(other_pages);
  std::shuffle(given_.begin(), given_.end(), std::mt19937_64(random.word()));
  for (const Block& block : given_) ASSERT_TRUE(rebuilt.adopt(block.offset, block.bytes));
  EXPECT_EQ(rebuilt.used_bytes(), blocks_.used_bytes());
  EXPECT_EQ(other_pages.free_count(), pages_.free_count());
  for (const Block& block : given_) rebuilt.release(block.offset, block.bytes);
  EXPECT_EQ(rebuilt.used_bytes(), 0U);
  EXPECT_EQ(other_pages.free_count(), other_pages.committed() - kFirstPage) << "everything can be given back";
}

TEST_F(BlocksTest, BlocksThatCannotBeAreNotAdopted) {
  PageAllocator other_pages = make_pages();
  other_pages.start_from(kFirstPage + 20);
  Blocks rebuilt(other_pages);
  const std::uint64_t page = kFirstPage * kPageBytes;
  ASSERT_TRUE(rebuilt.adopt(page, 100));
  EXPECT_FALSE(rebuilt.adopt(page, 100)) << "the same again";
  EXPECT_FALSE(rebuilt.adopt(page + kPageBytes + 64, 100)) << "within a page";
  EXPECT_FALSE(rebuilt.adopt(0, 100)) << "in the header";
  EXPECT_FALSE(rebuilt.adopt((kFirstPage + 20) * kPageBytes, 100)) << "not committed";
  EXPECT_FALSE(rebuilt.adopt(page, 70'000)) << "over pages in use";
  EXPECT_FALSE(rebuilt.adopt(page + 19 * kPageBytes, 70'000)) << "over the end";
  EXPECT_FALSE(rebuilt.adopt(~std::uint64_t{0} - 4095, 100));
  EXPECT_EQ(rebuilt.used_bytes(), kPageBytes) << "a refusal counts nothing";
}

// What this program alone decides is checked in every build, also in those with NDEBUG.
TEST(InvariantDeathTest, AViolationNamesItsPlaceAndConditionAndStops) {
  const int two = 2;
  SHMSTATE_INVARIANT(two + two == 4);
  EXPECT_DEATH(SHMSTATE_INVARIANT(two + two == 5),
               "page_allocator_test.cc:[0-9]+: invariant violated: two \\+ two == 5");
}

TEST(InvariantDeathTest, APageThatIsReleasedTwiceStops) {
  PageAllocator pages(kPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  const std::optional<std::uint64_t> page = pages.allocate(any_back(), 1);
  ASSERT_TRUE(page);
  pages.release(*page, 1);
  EXPECT_DEATH(pages.release(*page, 1), "page_allocator.cc:[0-9]+: invariant violated");
}

TEST(InvariantDeathTest, ABlockThatIsReleasedTwiceStops) {
  PageAllocator pages(kPagesMax, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  Blocks blocks(pages);
  const std::optional<std::uint64_t> kept = blocks.allocate(any_back(), 100);
  const std::optional<std::uint64_t> block = blocks.allocate(any_back(), 100);
  ASSERT_TRUE(kept && block);
  blocks.release(*block, 100);
  EXPECT_DEATH(blocks.release(*block, 100), "page_allocator.cc:[0-9]+: invariant violated");
}

TEST(BlocksOfLittleMemory, ARefusalChangesNothing) {
  PageAllocator pages(kFirstPage + 4, [](BackBuffer&, std::uint64_t, std::uint64_t) { return true; });
  Blocks blocks(pages);
  ASSERT_TRUE(blocks.allocate(any_back(), 3 * kPageBytes));
  EXPECT_FALSE(blocks.allocate(any_back(), kValueBytesMax));
  EXPECT_EQ(blocks.used_bytes(), 3 * kPageBytes);
  EXPECT_TRUE(blocks.allocate(any_back(), 64)) << "what there is room for is still given";
  EXPECT_FALSE(blocks.allocate(any_back(), 64));
}

}  // namespace
}  // namespace shmstate
