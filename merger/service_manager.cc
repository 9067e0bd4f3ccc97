#include "service_manager.h"

#include <systemd/sd-daemon.h>

#include <algorithm>
#include <cstdlib>

namespace shmstate::merger {
namespace {

constexpr std::uint64_t kIntervalMaxNs = 5'000'000'000;
constexpr std::uint64_t kNeverNs = std::uint64_t{1} << 60;  // some decades
constexpr std::uint64_t kReportsWithinWatchdog = 4;

std::uint64_t choose_interval() {
  std::uint64_t watchdog_us = 0;
  if (std::getenv("NOTIFY_SOCKET") == nullptr) return kNeverNs;
  if (::sd_watchdog_enabled(0, &watchdog_us) <= 0) return kIntervalMaxNs;
  return std::min(watchdog_us * 1000 / kReportsWithinWatchdog, kIntervalMaxNs);
}

}  // namespace

ServiceManager::ServiceManager() : interval_ns_(choose_interval()) {}

void ServiceManager::ready(const std::string& status) { ::sd_notify(0, ("READY=1\nSTATUS=" + status).c_str()); }

void ServiceManager::alive(const std::string& status) { ::sd_notify(0, ("WATCHDOG=1\nSTATUS=" + status).c_str()); }

void ServiceManager::reloading() { ::sd_notify(0, "RELOADING=1"); }

void ServiceManager::stopping() { ::sd_notify(0, "STOPPING=1"); }

}  // namespace shmstate::merger
