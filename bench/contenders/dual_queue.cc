#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <unordered_map>

#include "contenders/contenders.h"

namespace shmstate::bench {
namespace {

constexpr std::size_t kChannelCapacity = std::size_t{1} << 16;
constexpr auto kTick = std::chrono::milliseconds(1);

using Map = std::unordered_map<std::string, std::int64_t>;

/// A bounded channel that blocks its writers.
class Channel {
 public:
  void push(std::string_view key, std::int64_t value) {
    std::unique_lock lock(mutex_);
    has_room_.wait(lock, [this] { return queue_.size() < kChannelCapacity; });
    queue_.emplace_back(key, value);
  }
  [[nodiscard]] std::deque<std::pair<std::string, std::int64_t>> take_all() {
    std::deque<std::pair<std::string, std::int64_t>> taken;
    {
      const std::scoped_lock lock(mutex_);
      taken.swap(queue_);
    }
    has_room_.notify_all();
    return taken;
  }

 private:
  std::mutex mutex_;
  std::condition_variable has_room_;
  std::deque<std::pair<std::string, std::int64_t>> queue_;
};

/// Writes go into the channel; at each tick the worker copies the map, applies them to the copy, and swaps it in.
class DualQueue {
 public:
  explicit DualQueue(std::shared_ptr<const Map> map) : map_(std::move(map)) {
    std::thread([this] { work(); }).detach();
  }

  void push(std::string_view key, std::int64_t value) {
    channel_.push(key, value);
    pushed_.fetch_add(1, std::memory_order_relaxed);
  }
  [[nodiscard]] std::shared_ptr<const Map> map() const { return map_.load(std::memory_order_acquire); }
  [[nodiscard]] std::uint64_t pushed() const { return pushed_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t applied() const { return applied_.load(std::memory_order_acquire); }

 private:
  [[noreturn]] void work() {
    pin_to_core(kServerCore);
    for (;;) {
      const auto writes = channel_.take_all();
      if (!writes.empty()) {
        auto copy = std::make_shared<Map>(*map());
        for (const auto& [key, value] : writes) (*copy)[key] = value;
        map_.store(std::move(copy), std::memory_order_release);
        applied_.fetch_add(writes.size(), std::memory_order_release);
      }
      std::this_thread::sleep_for(kTick);
    }
  }

  Channel channel_;
  std::atomic<std::shared_ptr<const Map>> map_;
  std::atomic<std::uint64_t> pushed_{0};
  std::atomic<std::uint64_t> applied_{0};
};

class DualQueueClient final : public ClientOf<DualQueueClient> {
 public:
  explicit DualQueueClient(DualQueue& queue) : queue_(queue) {}

  void set(std::string_view key, std::int64_t value) { queue_.push(key, value); }
  void finish() override {
    const std::uint64_t pushed = queue_.pushed();
    while (queue_.applied() < pushed) std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  [[nodiscard]] bool find(std::string_view key, std::int64_t& value) {
    const std::shared_ptr<const Map> map = queue_.map();
    const auto found = map->find(std::string(key));
    if (found == map->end()) return false;
    value = found->second;
    return true;
  }
  [[nodiscard]] ScanResult scan() override {
    const std::shared_ptr<const Map> map = queue_.map();
    ScanResult result;
    for (const auto& [key, value] : *map) {
      ++result.entry_count;
      result.index_sum += index_in(value);
    }
    return result;
  }
  void hold_view(std::chrono::nanoseconds duration) override {
    const std::shared_ptr<const Map> map = queue_.map();
    std::this_thread::sleep_for(duration);
  }

 private:
  DualQueue& queue_;
};

/// Lives in one process: each measuring process has its own, which begins with the map of the bench's process.
class DualQueueContender final : public Contender {
 public:
  DualQueueContender() : Contender("dual queue", (kState & ~(kMemory | kIdle)) | kHoldView) {}

  void start(const std::filesystem::path&, std::uint64_t) override {}
  void load(const std::vector<Item>& items) override {
    auto map = std::make_shared<Map>();
    for (const Item& item : items) (*map)[std::string(item.name())] = item.value;
    map_ = std::move(map);
  }
  void stop() override { map_.reset(); }
  [[nodiscard]] Party::Kind party_kind() const noexcept override { return Party::Kind::kThread; }
  [[nodiscard]] bool has_server() const noexcept override { return true; }
  [[nodiscard]] double cpu_ns() const override { return 0; }

  [[nodiscard]] std::unique_ptr<Client> connect(Role) override {
    const std::scoped_lock lock(mutex_);
    if (owner_ != ::getpid()) {
      owner_ = ::getpid();
      queue_ = new DualQueue(map_);  // its worker never ends, so neither does it
    }
    return std::make_unique<DualQueueClient>(*queue_);
  }

 private:
  std::shared_ptr<const Map> map_;
  std::mutex mutex_;
  pid_t owner_ = 0;
  DualQueue* queue_ = nullptr;
};

}  // namespace

void add_dual_queue(Contenders& contenders) { contenders.push_back(std::make_unique<DualQueueContender>()); }

}  // namespace shmstate::bench
