// One side of a comparison: an instance with this revision's merger, and the measurements of the bench on it, made when
// bench/against asks for them. Reads the name of a measurement per line, and answers each with a line of JSON.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "contenders/shmstate.h"
#include "experiments.h"
#include "side/ways.h"

namespace {

using namespace shmstate::bench;  // NOLINT(google-build-using-namespace): this file is the bench
using Json = nlohmann::json;

constexpr std::size_t kStreamLength = std::size_t{1} << 18;
constexpr std::size_t kCountedLength = 10'000;

/// The contender whose clients do it in the way that is being measured.
class Side final : public ShmstateContender {
 public:
  Side() : ShmstateContender("shmstate", kState, {"--spin-time", "1s"}, std::chrono::microseconds(2)) {}

  void use(const Way* way) { way_ = way; }
  [[nodiscard]] std::unique_ptr<Client> connect(Role role) override {
    return way_ != nullptr ? way_->connect(path()) : ShmstateContender::connect(role);
  }

 private:
  const Way* way_ = nullptr;
};

class Measurements {
 public:
  Measurements(Side& side, const Workload& workload, Slice slice)
      : side_(side), workload_(workload), slice_(slice), ways_(make_ways(workload.key_count)) {}

  [[nodiscard]] const std::vector<Way>& ways() const noexcept { return ways_; }

  [[nodiscard]] Figures make(const std::string& name) {
    if (name == "apply") return measure_throughput(side_, workload_, 1, slice_);
    if (name == "push to readable") return measure_latency(side_, workload_.uniform, slice_);
    if (name == "scan") return measure_scan(side_, workload_, slice_);
    if (name == "memory") return {{"bytes_per_key", side_.memory_bytes() / static_cast<double>(workload_.key_count)}};
    const Way& way = way_called(name);
    side_.use(&way);
    const auto back = std::unique_ptr<Side, void (*)(Side*)>(&side_, [](Side* side) { side->use(nullptr); });
    return way.is_push ? measure_push(side_, workload_.uniform, slice_)
                       : measure_read(side_, workload_.uniform, slice_);
  }

  [[nodiscard]] const Way& way_called(const std::string& name) const {
    for (const Way& way : ways_) {
      if (way.name == name && way.connect) return way;
    }
    throw Failed("there is no measurement \"" + name + "\" here");
  }

 private:
  Side& side_;
  const Workload& workload_;
  Slice slice_;
  std::vector<Way> ways_;
};

void say(const Json& answer) { std::cout << answer.dump() << std::endl; }

/// What the interface of this revision lacks.
Json greeting(const Measurements& measurements) {
  Json lacks = Json::array();
  for (const Way& way : measurements.ways()) {
    if (!way.connect) lacks.push_back(way.name);
  }
  return {{"lacks", lacks}};
}

void serve(Side& side, Measurements& measurements) {
  side.pause();
  say(greeting(measurements));
  for (std::string name; std::getline(std::cin, name);) {
    side.resume();
    Json answer;
    try {
      answer = measurements.make(name);
    } catch (const std::exception& error) {
      answer["failed"] = error.what();
    }
    side.pause();
    say(answer);
  }
}

}  // namespace

// Found by name, so neither inlined nor renamed.
extern "C" [[gnu::noinline]] std::uint64_t measured_operations(Client& client, std::span<const Item> items,
                                                               bool is_push) {
  if (!is_push) return client.get_all(items);
  client.set_all(items, 0);
  return index_sum(items.data(), items.size());
}

namespace {

/// For callgrind: once for the caches of the client, once to be counted. Says of how many operations.
int count(const Way& way, const std::string& path, const std::vector<Item>& stream) {
  const std::unique_ptr<Client> client = way.connect(path);
  const auto operate = [&](auto&& operations) {
    const std::uint64_t sum = operations();
    if (way.is_push) client->finish();
    return sum;
  };
  operate([&] {
    if (way.is_push) client->set_all(stream, 0);
    return way.is_push ? 0 : client->get_all(stream);
  });
  const std::uint64_t sum = operate([&] { return measured_operations(*client, stream, way.is_push); });
  std::printf("%zu\n", stream.size());
  return sum == index_sum(stream.data(), stream.size()) ? 0 : 1;
}

int run(const std::filesystem::path& directory, std::uint64_t key_count, Slice slice, const char* counted) {
  const Workload workload(key_count, counted != nullptr ? kCountedLength : kStreamLength);
  Side side;
  side.start(directory, key_count);
  side.load(workload.items);
  Measurements measurements(side, workload, slice);
  if (counted != nullptr) return count(measurements.way_called(counted), side.path(), workload.uniform);
  serve(side, measurements);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::fprintf(stderr, "usage: %s DIRECTORY KEYS SLICE_MS [MEASUREMENT, to be counted by callgrind]\n", argv[0]);
    return 2;
  }
  try {
    return run(argv[1], std::stoull(argv[2]), {std::chrono::milliseconds(std::stoi(argv[3]))},
               argc == 5 ? argv[4] : nullptr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "shmstate: bench: %s\n", error.what());
    return 1;
  }
}
