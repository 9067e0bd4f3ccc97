// A merge engine inside the measuring process, which moves only when it is told.
#pragma once

#include <filesystem>
#include <vector>

#include "engine/instance_owner.h"
#include "engine/merge_engine.h"
#include "measure.h"
#include "shmstate/writer.h"
#include "workload.h"

namespace shmstate::bench {
using namespace internal;

class OwnEngine {
 public:
  OwnEngine(const std::filesystem::path& path, std::uint64_t key_count)
      : owner_(path, {.memory_limit_bytes = (std::uint64_t{512} << 20) + key_count * 400}),
        engine_(
            owner_, {}, [](const MergeEvent&) {}, os::now_ns()) {}

  /// Merges until the rings are empty.
  void pump() {
    while (engine_.step(os::now_ns()) == MergeEngine::Progress::kWorked || engine_.has_work()) {
    }
  }
  void fill(Writer& writer, const std::vector<Item>& items) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      must(writer.set(items[i].name(), items[i].value) == Status::kOk, "a push failed");
      if (i % kBurst == 0) pump();
    }
    pump();
  }
  [[nodiscard]] MergeEngine& engine() noexcept { return engine_; }

 private:
  InstanceOwner owner_;
  MergeEngine engine_;
};

}  // namespace shmstate::bench
