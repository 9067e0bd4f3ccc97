// Scenarios, and the proof that each memory order is needed by one of them: it is weakened, and some scenario must
// fail.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "checked_memory.h"
#include "harness/explored.h"

namespace shmstate::model {

struct Outcome {
  bool holds = true;
  std::string fault;   // what the checker calls it
  std::string report;  // its words, with the history of the fault
};

/// The first schedule of the random ones; each has a number, and is determined by it.
inline rl::iteration_t first_schedule() {
  static const rl::iteration_t first = [] {
    const char* const given = std::getenv("SHMSTATE_TEST_SEED");
    const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::printf("SHMSTATE_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
    return static_cast<rl::iteration_t>(seed % 1'000'000'000);
  }();
  return first;
}

/// Ten times as many when SHMSTATE_TEST_LONG is set.
inline rl::iteration_t schedules(rl::iteration_t count) {
  const char* const is_long = std::getenv("SHMSTATE_TEST_LONG");
  return is_long != nullptr && std::string_view(is_long) != "0" ? 10 * count : count;
}

/// As rl::simulate, which compiles each scenario with each of its schedulers, whichever is wanted. A run that fails is
/// run once more, for its history.
template <typename S, typename Scheduler>
Outcome check(rl::test_params& params, rl::iteration_t first) {
  rl::ostringstream report;  // with the allocator that the checker does not watch
  rl::ostringstream state;
  params.output_stream = &report;
  params.progress_stream = &report;
  params.execution_depth_limit = 4000;
  Outcome outcome;
  outcome.holds = rl::run_test<S, Scheduler>(params, state, false) == rl::test_result_success;
  test::explored(params.stop_iteration - std::min(first, params.stop_iteration), "schedules of models");
  if (!outcome.holds) {
    rl::ostringstream same_state;
    params.initial_state = state.str();
    params.collect_history = true;
    static_cast<void>(rl::run_test<S, Scheduler>(params, same_state, true));
  }
  outcome.fault = rl::test_result_str(params.test_result);
  outcome.report = std::string_view(report.str());
  return outcome;
}

/// Every schedule there is, and for each load the newest value or, where that is allowed, the one before.
template <typename S>
Outcome check_all() {
  rl::test_params params;
  params.search_type = rl::sched_full;
  return check<S, rl::full_search_scheduler<S::params::thread_count>>(params, 0);
}

/// Some random schedules, and for each load any value that is allowed, up to two before the newest.
template <typename S>
Outcome check_some(rl::iteration_t count) {
  rl::test_params params;
  params.initial_state = std::to_string(first_schedule());
  params.iteration_count = first_schedule() + count;
  return check<S, rl::random_scheduler<S::params::thread_count>>(params, first_schedule());
}

inline void expect_holds(const Outcome& outcome) {
  EXPECT_TRUE(outcome.holds) << outcome.fault << "\n" << outcome.report;
}

struct Scenario {
  std::string name;
  Outcome (*check)(rl::iteration_t count);
};

/// A mutant that must survive, and why; `text` is part of its line.
struct Exemption {
  std::string text;
  std::string reason;
};

/// An order in a source file.
struct SourceLine {
  std::string file;
  unsigned line;
  std::string text;
};

inline std::vector<SourceLine> ordered_lines(const std::string& path) {
  constexpr std::array<std::string_view, 5> kOrders{"memory_order_acquire", "memory_order_release",
                                                    "memory_order_acq_rel", "memory_order_seq_cst", "full_fence();"};
  std::vector<SourceLine> found;
  std::ifstream file(path);
  EXPECT_TRUE(file.is_open()) << path;
  unsigned number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const std::string code = line.substr(0, line.find("//"));
    const bool is_ordered = std::any_of(kOrders.begin(), kOrders.end(), [&code](std::string_view order) {
      return code.find(order) != std::string::npos;
    });
    if (!is_ordered || code.find("signal_fence") != std::string::npos) continue;
    found.push_back({path.substr(path.rfind('/') + 1), number, code.substr(code.find_first_not_of(' '))});
  }
  return found;
}

/// The orders that are weaker than that of a site, the strongest of them first.
inline std::vector<std::memory_order> weaker_orders(const Site& site) {
  using enum std::memory_order;
  switch (site.order) {
    case seq_cst:
      if (site.access == Access::kFence) return {relaxed};
      if (site.access == Access::kLoad) return {acquire, relaxed};
      if (site.access == Access::kStore) return {release, relaxed};
      return {acq_rel, relaxed};
    case acq_rel: return {acquire, release, relaxed};
    case acquire:
    case release: return {relaxed};
    default: return {};
  }
}

class MutationTest {
 public:
  MutationTest(std::vector<Scenario> scenarios, const std::vector<std::string>& paths,
               std::vector<Exemption> exemptions = {})
      : scenarios_(std::move(scenarios)), exemptions_(std::move(exemptions)) {
    for (const std::string& path : paths) {
      const std::vector<SourceLine> lines = ordered_lines(path);
      lines_.insert(lines_.end(), lines.begin(), lines.end());
    }
  }

  void run() {
    constexpr rl::iteration_t kEnoughToMeetAllSites = 2000;
    for (const Scenario& scenario : scenarios_) expect_holds(scenario.check(kEnoughToMeetAllSites));
    for (const SourceLine& line : lines_) weaken(line);
  }

 private:
  void weaken(const SourceLine& line) {
    bool is_met = false;
    for (std::size_t i = 0; i < Orders::count(); ++i) {
      const Site& site = Orders::site(i);
      if (site.file_name() != line.file || site.line != line.line) continue;
      is_met = true;
      for (const std::memory_order order : weaker_orders(site)) expect_found(line, site, order);
    }
    EXPECT_TRUE(is_met) << place(line) << ": no scenario comes here; add one";
  }

  void expect_found(const SourceLine& line, const Site& site, std::memory_order order) {
    const std::string mutant =
        place(line) + " -> " + (site.access == Access::kFence ? "none" : rl::format(to_relacy(order)));
    const Exemption* const exemption = exemption_of(line);
    Orders::weaken(site, order);
    const std::string finder = find_fault();
    Orders::restore();
    if (exemption != nullptr) {
      std::printf("%s\n    exempt: %s\n", mutant.c_str(), exemption->reason.c_str());
      EXPECT_EQ(finder, "") << mutant << ": needs no exemption any more";
    } else {
      std::printf("%s\n    %s\n", mutant.c_str(), finder.empty() ? "SURVIVES" : finder.c_str());
      EXPECT_NE(finder, "") << mutant << ": survives; the order is not needed, or a scenario is missing";
    }
  }

  [[nodiscard]] std::string find_fault() const {
    for (const Scenario& scenario : scenarios_) {
      const Outcome outcome = scenario.check(schedules(100'000));
      if (!outcome.holds) return scenario.name + ": " + outcome.fault;
    }
    return {};
  }
  [[nodiscard]] const Exemption* exemption_of(const SourceLine& line) const {
    for (const Exemption& exemption : exemptions_) {
      if (line.text.find(exemption.text) != std::string::npos) return &exemption;
    }
    return nullptr;
  }
  static std::string place(const SourceLine& line) {
    return line.file + ":" + std::to_string(line.line) + ": " + line.text;
  }

  std::vector<Scenario> scenarios_;
  std::vector<Exemption> exemptions_;
  std::vector<SourceLine> lines_;
};

}  // namespace shmstate::model
