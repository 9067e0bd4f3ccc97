// How the live view looks: a screen of any size, a line of text, a closing summary. Pure: numbers in, text out.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "live_table.h"
#include "staleness_histogram.h"

namespace shmstate::demo {

struct LiveStatus {
  std::chrono::nanoseconds elapsed{};
  bool merger_running = false;
  std::uint64_t epoch = 0;
  std::uint64_t key_count = 0;
  std::uint64_t mutation_count = 0;  // merged, since the instance was created
  std::uint64_t publish_count = 0;
  double mutations_per_s = 0;  // of late
  double publishes_per_s = 0;
  std::chrono::nanoseconds age{};
  std::uint64_t snapshot_count = 0;       // looked through
  std::uint64_t torn_snapshot_count = 0;  // of these, with a part of a batch
};

struct ScreenSize {
  std::size_t rows = 24;
  std::size_t columns = 80;
};

/// Lines that fit the size, with the control sequences that draw them over the last screen.
[[nodiscard]] std::string render_screen(const LiveStatus& status, const StalenessHistogram& staleness,
                                        const LiveTable& table, ScreenSize size);
[[nodiscard]] std::string render_line(const LiveStatus& status, const StalenessHistogram& staleness);
[[nodiscard]] std::string render_summary(const LiveStatus& status, const StalenessHistogram& staleness);

}  // namespace shmstate::demo
