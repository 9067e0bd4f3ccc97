// The buffers are replicas of each other: whatever mutations do to entries, slots, blocks and segments, a buffer that
// was claimed is the current one, byte for byte, also when it lacks several turns.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "harness/test_instance.h"

namespace shmstate {
using namespace internal;
namespace {

using namespace std::chrono_literals;
using test::Random;
using test::TestInstance;

class CatchUpPropertyTest : public testing::TestWithParam<std::uint32_t> {
 protected:
  CatchUpPropertyTest() { instance_.fix_hash_seed(random_.word()); }

  /// Of ever more keys: most fit into a slot, some do not.
  [[nodiscard]] std::string any_key() {
    const std::size_t number = random_.chance(50) ? random_.below(20) : random_.below(key_count_);
    return std::to_string(number).append(number % 10 == 9 ? 60 : number % 30, 'k');
  }
  [[nodiscard]] std::string any_bytes() { return random_.bytes(random_.below(random_.chance(80) ? 60 : 5'000)); }

  void mutate() {
    const std::string key = any_key();
    const std::size_t dice = random_.below(100);
    const auto number = static_cast<std::int64_t>(random_.below(100));
    if (dice < 50) {
      writer_->set(key, number);
    } else if (dice < 65) {
      writer_->add(key, number);
    } else if (dice < 75) {
      writer_->set(key, any_bytes());
    } else if (dice < 85) {
      writer_->erase(key);
    } else if (dice < 90) {
      writer_->set(key, number, {.ttl = std::chrono::milliseconds(1 + number)});
    } else if (dice < 94) {
      writer_->set(key, any_bytes(), {.version = random_.below(1'000)});
    } else if (dice < 97) {
      writer_->erase(key, random_.below(1'000));
    } else {
      writer_->set(key, number, {.ephemeral = true});
    }
  }

  /// What makes buffers lack more than one turn, or all of it.
  void disturb() {
    const std::size_t dice = random_.below(100);
    if (dice < 10) held_.push_back(reader_.snapshot());
    if (dice < 30 && held_.size() >= GetParam() - 1) held_.clear();
    if (dice == 30) instance_.restart();
    if (dice == 31) writer_.emplace(instance_.writer());  // its ephemeral keys go
  }

  void turn() {
    key_count_ += more_keys_;
    for (std::size_t n = random_.below(60); n > 0; --n) mutate();
    disturb();
    instance_.step(random_.chance(90) ? 1ms : 100ms);
    has_expired_ = has_expired_ || instance_.statistic(Stat::kExpired) > 0;  // which a restart sets back
  }

  static constexpr int kTurns = 1'000;
  const std::size_t more_keys_ = std::max<std::size_t>(1, 8'000 / static_cast<std::size_t>(test::steps(kTurns)));

  Random random_{70 + GetParam()};
  TestInstance instance_{{.buffer_count = GetParam()}};
  Reader reader_ = instance_.reader();
  std::optional<Writer> writer_{instance_.writer()};
  std::vector<Snapshot> held_;
  std::size_t key_count_ = 20;
  bool has_expired_ = false;
};

TEST_P(CatchUpPropertyTest, AClaimedBufferIsTheCurrentOneByteForByte) {
  for (int i = 0; i < test::steps(kTurns); ++i) {
    turn();
    ASSERT_TRUE(instance_.is_caught_up()) << "turn " << i;
  }
  EXPECT_GT(instance_.statistic(Stat::kSegments), 1U) << "nothing was ever moved";
  EXPECT_TRUE(has_expired_);
}

INSTANTIATE_TEST_SUITE_P(Buffers, CatchUpPropertyTest, testing::Values(2U, 3U),
                         [](const auto& test) { return "Of" + std::to_string(test.param); });

}  // namespace
}  // namespace shmstate
