// Runs a merge engine: gives it time, spins while there may be work, sleeps on the doorbell when there is none.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>

#include "core/instance_owner.h"
#include "core/merge_engine.h"

namespace shmstate {

struct ServiceOptions {
  std::filesystem::path instance;
  InstanceOptions files;
  MergeOptions merge;
  std::chrono::nanoseconds spin_time = std::chrono::microseconds(50);  // without work, before sleeping
  bool remove_at_exit = false;
};

class Service {
 public:
  /// Throws `Error` when the instance cannot be served.
  explicit Service(const ServiceOptions& options);

  /// Serves until `stop` becomes true, then drains and publishes everything. Returns false when the instance's
  /// directory was removed meanwhile.
  bool run(const std::atomic<bool>& stop);

 private:
  void sleep();
  void drain();
  void remove_files();

  ServiceOptions options_;
  InstanceOwner owner_;
  MergeEngine engine_;
};

}  // namespace shmstate
