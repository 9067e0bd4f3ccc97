#include <atomic>
#include <boost/interprocess/ipc/message_queue.hpp>
#include <boost/lockfree/spsc_queue.hpp>

#include "contenders/contenders.h"
#include "contenders/queue_client.h"

namespace shmstate::bench {
namespace {

namespace ip = boost::interprocess;

constexpr std::size_t kCapacity = std::size_t{1} << 16;
constexpr std::size_t kMessageCapacity = 4096;

/// A plain SPSC ring of fixed elements with cached indices, as rigtorp's SPSCQueue has them.
class PlainRing {
 public:
  [[nodiscard]] bool push(const Item& item) noexcept {
    const std::uint64_t tail = tail_.load(std::memory_order_relaxed);
    if (tail - head_seen_ == kCapacity) {
      head_seen_ = head_.load(std::memory_order_acquire);
      if (tail - head_seen_ == kCapacity) return false;
    }
    items_[tail % kCapacity] = item;
    tail_.store(tail + 1, std::memory_order_release);
    return true;
  }
  [[nodiscard]] bool pop(Item& item) noexcept {
    const std::uint64_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_seen_) {
      tail_seen_ = tail_.load(std::memory_order_acquire);
      if (head == tail_seen_) return false;
    }
    item = items_[head % kCapacity];
    head_.store(head + 1, std::memory_order_release);
    return true;
  }

 private:
  alignas(64) std::atomic<std::uint64_t> tail_{0};
  std::uint64_t head_seen_ = 0;
  alignas(64) std::atomic<std::uint64_t> head_{0};
  std::uint64_t tail_seen_ = 0;
  alignas(64) std::array<Item, kCapacity> items_;
};

class BoostRing {
 public:
  [[nodiscard]] bool push(const Item& item) { return queue_.push(item); }
  [[nodiscard]] bool pop(Item& item) { return queue_.pop(item); }

 private:
  boost::lockfree::spsc_queue<Item, boost::lockfree::capacity<kCapacity>> queue_;
};

template <typename Queue>
class QueueContender final : public Contender {
 public:
  explicit QueueContender(std::string name) : Contender(std::move(name), kPush | kLatency) {}

  void start(const std::filesystem::path&, std::uint64_t) override {
    queue_ = new (map_shared(sizeof(Queue))) Queue();
    consumed_ = new (map_shared(sizeof(Consumed))) Consumed();
    servers_.emplace_back([this] { consume(*consumed_, [this](Item& item) { return queue_->pop(item); }); });
  }
  void load(const std::vector<Item>&) override {}
  void stop() override {
    Contender::stop();
    unmap_shared(queue_, sizeof(Queue));
    unmap_shared(consumed_, sizeof(Consumed));
  }
  [[nodiscard]] std::unique_ptr<Client> connect(Role) override {
    const auto push = [queue = queue_](const Item& item) {
      while (!queue->push(item)) relax();
    };
    return std::make_unique<QueueClient<decltype(push)>>(push, *consumed_);
  }

 private:
  Queue* queue_ = nullptr;
  Consumed* consumed_ = nullptr;
};

/// Boost's own queue between processes: a mutex, condition variables and a heap of messages.
class MessageQueueContender final : public Contender {
 public:
  MessageQueueContender() : Contender("boost message_queue", kPush | kLatency) {}

  void start(const std::filesystem::path& directory, std::uint64_t) override {
    name_in_shm_ = "shmstate-bench-" + directory.parent_path().filename().string();
    ip::message_queue::remove(name_in_shm_.c_str());
    queue_ = std::make_unique<ip::message_queue>(ip::create_only, name_in_shm_.c_str(), kMessageCapacity, sizeof(Item));
    consumed_ = new (map_shared(sizeof(Consumed))) Consumed();
    servers_.emplace_back([this] {
      consume(*consumed_, [this](Item& item) {
        std::size_t bytes = 0;
        unsigned priority = 0;
        return queue_->try_receive(&item, sizeof item, bytes, priority);
      });
    });
  }
  void load(const std::vector<Item>&) override {}
  void stop() override {
    Contender::stop();
    queue_.reset();
    ip::message_queue::remove(name_in_shm_.c_str());
    unmap_shared(consumed_, sizeof(Consumed));
  }
  [[nodiscard]] std::unique_ptr<Client> connect(Role) override {
    const auto push = [this](const Item& item) { queue_->send(&item, sizeof item, 0); };
    return std::make_unique<QueueClient<decltype(push)>>(push, *consumed_);
  }

 private:
  std::string name_in_shm_;
  std::unique_ptr<ip::message_queue> queue_;
  Consumed* consumed_ = nullptr;
};

}  // namespace

void add_queues(Contenders& contenders) {
  contenders.push_back(std::make_unique<QueueContender<PlainRing>>("plain SPSC ring"));
  contenders.push_back(std::make_unique<QueueContender<BoostRing>>("boost spsc_queue"));
  contenders.push_back(std::make_unique<MessageQueueContender>());
}

}  // namespace shmstate::bench
