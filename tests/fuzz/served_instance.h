// An instance with an honest writer, in the fuzzer's own process, beside which a hostile ring is served.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "harness/test_instance.h"
#include "input.h"
#include "shmstate/detail/buffer_slot.h"

namespace shmstate::fuzz {
using namespace internal;

class ServedInstance {
 public:
  static constexpr std::size_t kRingBytes = kRingBytesMin;

  ServedInstance()
      : instance_({.memory_limit_bytes = std::uint64_t{8} << 20, .ring_count_max = 4, .feed_record_count = 64}) {}

  [[nodiscard]] test::TestInstance& instance() noexcept { return instance_; }

  /// Pushes a value that `must_serve_everybody` looks for.
  void push_honestly() { must(honest_.set("honest", ++pushed_) == Status::kOk, "an honest writer can push"); }
  void push_honestly(const std::string& key) {
    must(honest_.set(key, 1) == Status::kOk, "an honest writer can push");
    if (honest_.ticket() % (kRingBytes / 2) < 64) pump();
  }
  /// Steps until nothing is left to do.
  void pump() {
    constexpr int kStepsMax = 100'000;
    for (int i = 0; i < kStepsMax; ++i) {
      if (instance_.step() == MergeEngine::Progress::kIdle && !instance_.engine().has_work()) return;
    }
    must(false, "the engine becomes idle");
  }
  void pass_rounds() {
    for (int i = 0; i < 3; ++i) instance_.step(std::chrono::milliseconds(100));
    pump();
  }

  /// Whatever the hostile ring did, the honest writer's mutations are there and the state is sound.
  void must_serve_everybody() {
    push_honestly();
    pump();
    Reader reader = instance_.reader();
    must(reader.get<std::int64_t>("honest") == pushed_, "another ring's mutations arrive");
    must_be_sound(reader.snapshot());
  }

 private:
  static void must_be_sound(const Snapshot& snapshot) {
    std::size_t entries = 0;
    for (const EntryView& entry : snapshot) {
      ++entries;
      const std::optional<EntryView> found = snapshot.find(entry.key);
      must(found && found->key.data() == entry.key.data() && test::is_same(found->value, entry.value),
           "each entry is found by its key");
    }
    must(entries == snapshot.size(), "the number of entries is right");
  }

  test::TestInstance instance_;
  Writer honest_ = instance_.writer(test::ring_of(kRingBytes));
  std::int64_t pushed_ = 0;
};

}  // namespace shmstate::fuzz
