// Runs every measurement and prints one JSON document. Within a repetition the contenders take turns at each
// measurement, so that a machine that changes its mood changes it for all of them. bench/run makes tables of it.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "contenders/shmstate.h"
#include "experiments.h"

namespace {

using namespace shmstate::bench;
using std::chrono::milliseconds;

struct Options {
  std::filesystem::path directory;
  std::filesystem::path output;
  std::vector<std::uint64_t> key_counts{1'000, 100'000, 1'000'000};
  std::vector<unsigned> writer_counts{1, 2, 4, 8, 64};
  std::vector<std::string> only_contenders;
  std::vector<std::string> only_experiments;
  int repetitions = 5;
  int slice_ms = 200;
  std::size_t stream_length = std::size_t{1} << 20;
  std::uint64_t large_key_count = 10'000'000;  // 0: none
  std::size_t random_bytes_max = std::size_t{1} << 30;
};

class Bench {
 public:
  explicit Bench(Options options) : options_(std::move(options)), slice_{milliseconds(options_.slice_ms)} {}

  void run() {
    measure_machine();
    for (const std::uint64_t key_count : options_.key_counts) run_size(key_count);
    run_idle_rings();
    run_held_views();
    run_growth();
    run_large();
    write();
  }
  [[nodiscard]] int failure_count() const noexcept { return failure_count_; }

 private:
  using Tags = nlohmann::json;

  [[nodiscard]] static bool is_among(const std::vector<std::string>& names, const std::string& name) {
    return names.empty() || std::find(names.begin(), names.end(), name) != names.end();
  }
  [[nodiscard]] bool wants(const std::string& experiment) const {
    return experiment == "load" || is_among(options_.only_experiments, experiment);
  }

  /// Makes one measurement and records it. A contender that fails is reported, and the others go on.
  template <typename Measure>
  void record(const std::string& experiment, const std::string& contender, Tags tags, Measure&& measure) {
    if (!wants(experiment)) return;
    tags["experiment"] = experiment;
    tags["contender"] = contender;
    try {
      tags["figures"] = measure();
    } catch (const std::exception& error) {
      ++failure_count_;
      tags["failed"] = error.what();
      std::fprintf(stderr, "shmstate: bench: %s of %s: %s\n", experiment.c_str(), contender.c_str(), error.what());
    }
    results_.push_back(std::move(tags));
  }

  void say(const std::string& what) const {
    std::fprintf(stderr, "shmstate: bench: %5.0f s: %s\n", stopwatch_.ns() / 1e9, what.c_str());
  }

  // ---- the machine

  void measure_machine() {
    say("the machine");
    for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
      measure_line_transfer_again();
      record("bandwidth", "machine", {}, [&] { return measure_bandwidth(slice_); });
    }
    const Slice short_slice{milliseconds(options_.slice_ms / 2)};
    for (std::size_t bytes = std::size_t{64} << 10; bytes <= options_.random_bytes_max; bytes *= 4) {
      record("random access", "machine", {{"bytes", bytes}}, [&] { return measure_random_access(bytes, short_slice); });
    }
  }
  void measure_line_transfer_again() {
    record("line transfer", "machine", {}, [&] { return measure_line_transfer(slice_); });
  }

  // ---- all contenders at one size

  [[nodiscard]] std::vector<std::unique_ptr<Contender>> start_all(const Workload& workload) {
    std::vector<std::unique_ptr<Contender>> started;
    for (auto& contender : make_contenders()) {
      if (!is_among(options_.only_contenders, contender->name())) continue;
      record("load", contender->name(), {{"keys", workload.key_count}}, [&]() -> Figures {
        const std::filesystem::path directory = options_.directory / std::to_string(++directory_count_);
        std::filesystem::create_directories(directory);
        contender->start(directory, workload.key_count);
        const Stopwatch stopwatch;
        contender->load(workload.items);
        const double spent_ns = stopwatch.ns();
        contender->pause();
        started.push_back(std::move(contender));
        return {{"spent", spent_ns}};
      });
    }
    return started;
  }

  void stop_all(std::vector<std::unique_ptr<Contender>>& contenders) {
    for (const auto& contender : contenders) contender->stop();
    contenders.clear();
    for (; directory_count_ > 0; --directory_count_) {
      std::filesystem::remove_all(options_.directory / std::to_string(directory_count_));
    }
  }

  /// One turn of each contender that takes part.
  template <typename Measure>
  void take_turns(std::vector<std::unique_ptr<Contender>>& contenders, Contender::Skill skill,
                  const std::string& experiment, const Tags& tags, Measure&& measure) {
    if (!wants(experiment)) return;
    for (const auto& contender : contenders) {
      if (!contender->can(skill)) continue;
      contender->resume();
      record(experiment, contender->name(), tags, [&] { return measure(*contender); });
      contender->pause();
    }
  }

  void run_size(std::uint64_t key_count) {
    say("loading " + std::to_string(key_count) + " keys");
    const Workload workload(key_count, options_.stream_length);
    auto contenders = start_all(workload);
    const Tags keys{{"keys", key_count}};
    for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
      say("repetition " + std::to_string(repetition + 1) + " of " + std::to_string(options_.repetitions));
      measure_line_transfer_again();
      for (const bool is_zipf : {false, true}) run_streams(contenders, workload, is_zipf, repetition);
      run_writers(contenders, workload);
      take_turns(contenders, Contender::kScan, "scan", keys,
                 [&](Contender& contender) { return measure_scan(contender, workload, slice_); });
      for (const std::size_t changed : {std::size_t{1}, std::size_t{100}}) {
        record("publish", "shmstate", {{"keys", key_count}, {"changed", changed}},
               [&] { return measure_publish(options_.directory, workload, changed, slice_); });
      }
    }
    take_turns(contenders, Contender::kMemory, "memory", keys, [&](Contender& contender) {
      const double bytes = contender.memory_bytes();
      Figures figures{{"bytes_per_key", bytes / static_cast<double>(key_count)}};
      if (const auto feed = contender.feed_bytes()) {
        figures["bytes_per_key_without_feed"] = (bytes - *feed) / static_cast<double>(key_count);
      }
      return figures;
    });
    run_idle(contenders, key_count);
    run_system_calls(contenders, workload);
    stop_all(contenders);
  }

  void run_streams(std::vector<std::unique_ptr<Contender>>& contenders, const Workload& workload, bool is_zipf,
                   int repetition) {
    const std::vector<Item>& stream = is_zipf ? workload.zipf : workload.uniform;
    const Tags tags{{"keys", workload.key_count}, {"distribution", is_zipf ? "zipf" : "uniform"}};
    take_turns(contenders, Contender::kRead, "read", tags,
               [&](Contender& contender) { return measure_read(contender, stream, slice_); });
    if (is_zipf && repetition >= 2) return;  // a second opinion, not a second run
    take_turns(contenders, Contender::kPush, "push", tags,
               [&](Contender& contender) { return measure_push(contender, stream, slice_); });
    take_turns(contenders, Contender::kReadFlood, "read while a writer floods", tags,
               [&](Contender& contender) { return measure_read_flood(contender, stream, slice_); });
    if (is_zipf) return;
    take_turns(contenders, Contender::kLatency, "push to readable", tags,
               [&](Contender& contender) { return measure_latency(contender, stream, slice_); });
  }

  void run_writers(std::vector<std::unique_ptr<Contender>>& contenders, const Workload& workload) {
    for (const unsigned writer_count : options_.writer_counts) {
      if (writer_count > 1 && workload.key_count != 100'000) continue;
      take_turns(contenders, Contender::kManyWriters, "throughput",
                 {{"keys", workload.key_count}, {"writers", writer_count}},
                 [&](Contender& contender) { return measure_throughput(contender, workload, writer_count, slice_); });
    }
  }

  void run_system_calls(std::vector<std::unique_ptr<Contender>>& contenders, const Workload& workload) {
    for (const auto& contender : contenders) {
      if (contender->name() != "shmstate") continue;
      contender->resume();
      record("system calls", contender->name(), {{"keys", workload.key_count}},
             [&] { return measure_system_calls(*contender, workload.uniform); });
      contender->pause();
    }
  }

  /// All at the same time: they have nothing to do.
  void run_idle(std::vector<std::unique_ptr<Contender>>& contenders, std::uint64_t key_count) {
    if (!wants("idle")) return;
    std::vector<Contender*> idle;
    for (const auto& contender : contenders) {
      if (contender->can(Contender::kIdle) && contender->has_server()) idle.push_back(contender.get());
    }
    for (Contender* const contender : idle) contender->resume();
    std::this_thread::sleep_for(milliseconds(500));
    std::vector<double> before_ns;
    for (const Contender* const contender : idle) before_ns.push_back(contender->cpu_ns());
    const Stopwatch stopwatch;
    std::this_thread::sleep_for(10 * slice_.time);
    const double spent_ns = stopwatch.ns();
    for (std::size_t i = 0; i < idle.size(); ++i) {
      record("idle", idle[i]->name(), {{"keys", key_count}}, [&]() -> Figures {
        return {{"cpu_share", (idle[i]->cpu_ns() - before_ns[i]) / spent_ns}};
      });
      idle[i]->pause();
    }
  }

  // ---- single questions

  void run_idle_rings() {
    if (!wants("idle rings")) return;
    say("1,000 idle rings");
    constexpr std::uint64_t kKeyCount = 100'000;
    constexpr unsigned kIdleRings = 1000;
    const Workload workload(kKeyCount, options_.stream_length);
    std::vector<std::unique_ptr<ShmstateContender>> contenders;
    for (int i = 0; i < 2; ++i) {
      contenders.push_back(make_shmstate());
      const std::filesystem::path directory = options_.directory / ("idle-rings-" + std::to_string(i));
      std::filesystem::create_directories(directory);
      contenders.back()->start(directory, kKeyCount);
      contenders.back()->load(workload.items);
    }
    contenders[0]->pause();
    const IdleRings idle(contenders[1]->path(), kIdleRings);
    contenders[1]->pause();
    for (int repetition = 0; repetition < options_.repetitions; ++repetition) {
      for (unsigned i = 0; i < 2; ++i) {
        contenders[i]->resume();
        const Tags tags{{"keys", kKeyCount}, {"idle_rings", i == 0 ? 0 : kIdleRings}};
        record("idle rings", "shmstate", tags, [&] {
          Figures figures = measure_throughput(*contenders[i], workload, 1, slice_);
          figures.merge(measure_latency(*contenders[i], workload.uniform, slice_));
          return figures;
        });
        contenders[i]->pause();
      }
    }
    contenders.clear();
    std::filesystem::remove_all(options_.directory / "idle-rings-0");
    std::filesystem::remove_all(options_.directory / "idle-rings-1");
  }

  void run_held_views() {
    if (!wants("held view")) return;
    say("readers that hold a view");
    const Workload workload(1'000, 1'000);
    auto contenders = start_all(workload);
    take_turns(contenders, Contender::kHoldView, "held view", {{"keys", workload.key_count}},
               [&](Contender& contender) { return measure_held_view(contender, workload.uniform, 5 * slice_.time); });
    stop_all(contenders);
  }

  void run_growth() {
    const std::uint64_t key_count = options_.key_counts.back();
    record("growth", "shmstate", {{"keys", key_count}}, [&] { return measure_growth(options_.directory, key_count); });
  }

  void run_large() {
    if (options_.large_key_count == 0 || !wants("large")) return;
    say(std::to_string(options_.large_key_count) + " keys");
    record("large", "shmstate", {{"keys", options_.large_key_count}},
           [&] { return measure_large(options_.directory / "large", options_.large_key_count, slice_); });
  }

  void write() const {
    std::ofstream file(options_.output);
    file << nlohmann::json{{"ns_per_tick", ns_per_tick()}, {"slice_ms", options_.slice_ms}, {"results", results_}}.dump(
                1)
         << '\n';
    must(file.good(), "cannot write " + options_.output.string());
    say("done");
  }

  Options options_;
  Slice slice_;
  Stopwatch stopwatch_;
  nlohmann::json results_ = nlohmann::json::array();
  int directory_count_ = 0;
  int failure_count_ = 0;
};

void add_options(CLI::App& app, Options& options) {
  app.add_option("--directory", options.directory, "Directory on a tmpfs for everything that is shared")->required();
  app.add_option("--output", options.output, "File for the results, as JSON")->required();
  app.add_option("--keys", options.key_counts, "Sizes of the state")->delimiter(',');
  app.add_option("--writers", options.writer_counts, "Numbers of writers at 100,000 keys")->delimiter(',');
  app.add_option("--contender", options.only_contenders, "Only these contenders")->delimiter(';');
  app.add_option("--experiment", options.only_experiments, "Only these measurements")->delimiter(';');
  app.add_option("--repetitions", options.repetitions, "Turns of each contender at each measurement");
  app.add_option("--slice-ms", options.slice_ms, "Time for one measurement of one contender");
  app.add_option("--stream", options.stream_length, "Draws before a stream of keys repeats, at most 1,048,576");
  app.add_option("--random-bytes", options.random_bytes_max, "Largest memory for random access");
  app.add_option("--large-keys", options.large_key_count, "Size of the largest instance; 0: none");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Measures shmstate and its contenders side by side; bench/run calls it."};
  Options options;
  add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    Bench bench(options);
    bench.run();
    return bench.failure_count() == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "shmstate: bench: %s\n", error.what());
    return 2;
  }
}
