#include "contenders/shmstate.h"

#include <sys/stat.h>

#include "contenders/contenders.h"
#include "shmstate/inspect.h"

namespace shmstate::bench {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);

/// In a comparison, the other revision may have no names.
template <typename Options>
void make_room_for_names(Options& options) {
  if constexpr (requires { options.names_bytes; }) options.names_bytes = kNamesBytes;
}

[[nodiscard]] WriterOptions patient() {
  WriterOptions options;
  options.full_timeout = kPatience;
  make_room_for_names(options);
  return options;
}

}  // namespace

ShmstateClient::ShmstateClient(const std::string& path, Contender::Role role) {
  if (role != Contender::Role::kReader) writer_.emplace(path, patient());
  if (role != Contender::Role::kWriter) reader_.emplace(path, ReaderOptions{.prefault = true});
}

void ShmstateClient::finish() {
  const Status status = writer_->flush(kPatience);
  must(status == Status::kOk, "flush: " + std::string(describe(status)));
  const WriterCounters counters = writer_->counters();
  must(counters.applied == counters.pushed && counters.failed == 0, "not all that was pushed has been applied");
}

ScanResult ShmstateClient::scan() {
  ScanResult result;
  for (const auto& [key, value] : reader_->snapshot()) {
    ++result.entry_count;
    result.index_sum += index_in(value.int64());
  }
  return result;
}

void ShmstateClient::hold_view(std::chrono::nanoseconds duration) {
  const Snapshot snapshot = reader_->snapshot();
  std::this_thread::sleep_for(duration);
}

ShmstateContender::ShmstateContender(std::string name, unsigned skills, std::vector<std::string> merger_options,
                                     std::chrono::nanoseconds latency_pause)
    : Contender(std::move(name), skills), merger_options_(std::move(merger_options)), latency_pause_(latency_pause) {}

void ShmstateContender::start(const std::filesystem::path& directory, std::uint64_t key_count) {
  path_ = (directory / "instance").string();
  const std::uint64_t limit_bytes = (std::uint64_t{512} << 20) + key_count * 400;
  std::vector<std::string> command{SHMSTATE_MERGER, "--instance", path_, "--memory-limit", std::to_string(limit_bytes),
                                   "--max-rings",   "1100"};
  command.insert(command.end(), merger_options_.begin(), merger_options_.end());
  servers_.emplace_back(command, directory / "log");
  wait_until("a merger that serves", [&] {
    must(!servers_.back().has_ended(), "the merger ended; see " + (directory / "log").string());
    try {
      return inspect(path_).merger_running;
    } catch (const Error&) {
      return false;
    }
  });
}

void ShmstateContender::load(const std::vector<Item>& items) {
  Contender::load(items);
  for (double before = -1, now = 0; now != before; now = statistic("huge_page_bytes")) {
    before = now;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));  // several rounds of the merger
  }
}

std::unique_ptr<Client> ShmstateContender::connect(Role role) { return std::make_unique<ShmstateClient>(path_, role); }

double ShmstateContender::memory_bytes() {
  double bytes = 0;
  for (const char* const file : {"control", "snapshot", "pins"}) {
    struct stat info {};
    if (::stat((path_ + "/" + file).c_str(), &info) == 0) bytes += static_cast<double>(info.st_blocks) * 512;
  }
  return bytes;
}

std::optional<double> ShmstateContender::feed_bytes() {
  return memory_bytes() - static_cast<double>(inspect(path_).committed_bytes);
}

double ShmstateContender::statistic(std::string_view name) const {
  for (const StatisticInfo& info : inspect(path_).statistics) {
    if (info.name == name) return static_cast<double>(info.value);
  }
  throw Failed("shmstate has no statistic called " + std::string(name));
}

// ---- with bound keys

namespace {

class BoundShmstateClient final : public ShmstateClient {
 public:
  BoundShmstateClient(const std::string& path, Contender::Role role, const std::vector<Item>& items)
      : ShmstateClient(path, role) {
    keys_.reserve(items.size());
    for (const Item& item : items) keys_.emplace_back(item.name());
    for (int i = 0; i < kPushesToBind; ++i) set_all(items, 0);
    finish();
  }

  void set_all(std::span<const Item> items, std::int64_t salt) override {
    for (const Item& item : items) push(item, salt);
  }
  void set_each(std::span<const Item> items, std::int64_t salt, Durations& durations) override {
    for (const Item& item : items) {
      const std::uint64_t start = ticks();
      push(item, salt);
      durations.add(ticks() - start);
    }
  }

 private:
  static constexpr int kPushesToBind = 2;
  void push(const Item& item, std::int64_t salt) { writer().set(keys_[index_in(item.value)], item.value + salt); }
  std::vector<Key> keys_;
};

}  // namespace

void BoundShmstateContender::start(const std::filesystem::path& directory, std::uint64_t key_count) {
  ShmstateContender::start(directory, key_count);
  items_ = all_items(key_count);
}

std::unique_ptr<Client> BoundShmstateContender::connect(Role role) {
  if (role == Role::kReader) return ShmstateContender::connect(role);
  return std::make_unique<BoundShmstateClient>(path(), role, items_);
}

std::unique_ptr<ShmstateContender> make_shmstate(std::vector<std::string> merger_options) {
  merger_options.insert(merger_options.end(), {"--buffers", "2", "--spin-time", "1s"});
  return std::make_unique<ShmstateContender>("shmstate", Contender::kState & ~Contender::kIdle,
                                             std::move(merger_options), std::chrono::microseconds(2));
}

void add_shmstate(Contenders& contenders) {
  contenders.push_back(make_shmstate());
  contenders.push_back(std::make_unique<BoundShmstateContender>(
      "shmstate, bound keys", Contender::kPush | Contender::kManyWriters | Contender::kRead | Contender::kReadFlood,
      std::vector<std::string>{"--spin-time", "1s"}, std::chrono::microseconds(2)));
  contenders.push_back(std::make_unique<ShmstateContender>(
      "shmstate, merger sleeping", Contender::kPush | Contender::kLatency | Contender::kIdle | Contender::kHoldView,
      std::vector<std::string>{"--buffers", "2"}, std::chrono::microseconds(500)));
  contenders.push_back(std::make_unique<ShmstateContender>("shmstate, 3 buffers", Contender::kHoldView,
                                                           std::vector<std::string>{"--buffers", "3"},
                                                           std::chrono::microseconds(500)));
}

}  // namespace shmstate::bench
