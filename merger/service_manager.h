// What systemd hears of the service: ready, alive, reloading, stopping. Without systemd, nobody hears anything.
#pragma once

#include <cstdint>
#include <string>

namespace shmstate::merger {

class ServiceManager {
 public:
  ServiceManager();

  /// When `alive` is due at the latest: several times within the time that the watchdog allows.
  [[nodiscard]] std::uint64_t interval_ns() const noexcept { return interval_ns_; }

  void ready(const std::string& status);
  /// Feeds the watchdog. For the loop alone to call, when it has got around.
  void alive(const std::string& status);
  void reloading();
  void stopping();

 private:
  std::uint64_t interval_ns_;
};

}  // namespace shmstate::merger
