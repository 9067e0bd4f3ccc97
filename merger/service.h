// Runs a merge engine: gives it time, spins while there may be work, sleeps on the doorbell when there is none.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include "engine/instance_owner.h"
#include "engine/merge_engine.h"
#include "event_log.h"
#include "service_manager.h"

namespace shmstate::merger {
using namespace internal;

struct ServiceOptions {
  std::filesystem::path instance;
  InstanceOptions files{.buffer_count = kBuffersDefault};
  MergeOptions merge;
  std::chrono::nanoseconds spin_time = std::chrono::microseconds(50);  // without work, before sleeping
  bool remove_at_exit = false;
};

class Service {
 public:
  /// Throws `Error` when the instance cannot be served.
  explicit Service(const ServiceOptions& options);

  /// Serves until `request` is no longer zero. Returns false when the instance's directory was removed meanwhile.
  bool serve(const std::atomic<unsigned>& request);
  /// Takes what can change while the service runs: all but the instance and its files. Warns of what these do not
  /// follow.
  void reconfigure(const ServiceOptions& options);
  /// Drains and publishes everything.
  void finish();

 private:
  void sleep();
  void drain();
  void remove_files();
  void report(std::uint64_t now_ns);
  [[nodiscard]] std::string status(std::uint64_t now_ns);

  ServiceOptions options_;
  InstanceOwner owner_;
  EventLog event_log_;
  MergeEngine engine_;
  ServiceManager manager_;
  std::uint64_t reported_ns_;
  std::uint64_t next_report_ns_ = 0;
  std::uint64_t next_sign_of_life_ns_ = 0;
  std::uint64_t reported_count_ = 0;  // mutations applied until then
};

}  // namespace shmstate::merger
