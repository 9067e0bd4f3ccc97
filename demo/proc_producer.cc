// shmstate-proc-producer: samples one area of this host's metrics at a fixed rate and prints mutations for a
// writer-agent, one batch a sample.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>

#include "area.h"
#include "mutation_lines.h"
#include "options.h"
#include "stop_signal.h"

namespace shmstate::demo {
namespace {

void write_all(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written_bytes = ::write(STDOUT_FILENO, text.data(), text.size());
    if (written_bytes < 0 && errno == EINTR) continue;
    if (written_bytes < 0) throw std::system_error(errno, std::generic_category(), "cannot write to standard output");
    text.remove_prefix(static_cast<std::size_t>(written_bytes));
  }
}

/// Due times at a fixed rate, counted from the start; those that have passed already are missed, not made up for.
class Schedule {
 public:
  explicit Schedule(std::chrono::nanoseconds period) : period_(period), due_(Clock::now()) {}

  [[nodiscard]] Clock::time_point due() const { return due_; }

  void advance(Clock::time_point now) {
    due_ += period_;
    if (now < due_) return;
    const auto behind = (now - due_) / period_ + 1;
    missed_count_ += behind;
    due_ += behind * period_;
  }

  [[nodiscard]] std::int64_t missed_count() const { return missed_count_; }

 private:
  std::chrono::nanoseconds period_;
  Clock::time_point due_;
  std::int64_t missed_count_ = 0;
};

class Producer {
 public:
  explicit Producer(const std::string& area_name)
      : area_(make_area(area_name)), prefix_("producer/" + area_name + "/") {}

  void run(std::chrono::nanoseconds period) {
    Schedule schedule(period);
    while (!stop_requested()) {
      produce_sample(schedule.missed_count());
      schedule.advance(Clock::now());
      sleep_until(schedule.due());
    }
  }

 private:
  // `producer/samples` is the sum over all producers, and each producer's own count travels in the same batch: in any
  // consistent snapshot they agree.
  void produce_sample(std::int64_t missed_count) {
    const Clock::time_point start = Clock::now();
    lines_.begin();
    area_->sample(lines_);
    lines_.add("producer/samples", 1);
    lines_.set_integer(prefix_, "samples", ++sample_count_);
    lines_.set_integer(prefix_, "missed_samples", missed_count);
    lines_.set_integer(prefix_, "sample_us", (Clock::now() - start) / std::chrono::microseconds(1));
    write_all(lines_.commit(prefix_ + "mutations"));
  }

  std::unique_ptr<Area> area_;
  std::string prefix_;
  MutationLines lines_;
  std::int64_t sample_count_ = 0;
};

int run_producer(int argc, char** argv) {
  ProducerOptions options;
  if (const auto status = read_options(argc, argv, area_names(), options)) return *status;

  stop_on_signals();
  ::signal(SIGPIPE, SIG_IGN);                     // a write then fails with a message
  ::fcntl(STDOUT_FILENO, F_SETPIPE_SZ, 1 << 20);  // best effort: a whole sample fits, so a busy agent delays nothing
  Producer(options.area).run(std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 / options.rate_hz)));
  return 0;
}

}  // namespace
}  // namespace shmstate::demo

int main(int argc, char** argv) {
  try {
    return shmstate::demo::run_producer(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "shmstate: producer: {}\n", error.what());
    return 1;
  }
}
