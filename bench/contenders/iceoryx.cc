#include <unistd.h>

#include <iceoryx_hoofs/log/logmanager.hpp>
#include <iceoryx_posh/popo/publisher.hpp>
#include <iceoryx_posh/popo/subscriber.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>

#include "contenders/contenders.h"
#include "contenders/queue_client.h"

namespace shmstate::bench {
namespace {

constexpr std::uint64_t kQueueCapacity = 256;  // the most that a subscriber can have

[[nodiscard]] iox::capro::ServiceDescription service() { return {"shmstate", "bench", "items"}; }

void join_runtime() {
  iox::log::LogManager::GetLogManager().SetDefaultLogLevel(iox::log::LogLevel::kError,
                                                           iox::log::LogLevelOutput::kHideLogLevel);
  const std::string name = "shmstate-bench-" + std::to_string(::getpid());
  iox::runtime::PoshRuntime::initRuntime(iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name.c_str()));
}

/// Nothing may be lost: a publisher waits for a slow subscriber.
[[nodiscard]] iox::popo::PublisherOptions publisher_options() {
  iox::popo::PublisherOptions options;
  options.subscriberTooSlowPolicy = iox::popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
  return options;
}
[[nodiscard]] iox::popo::SubscriberOptions subscriber_options() {
  iox::popo::SubscriberOptions options;
  options.queueCapacity = kQueueCapacity;
  options.queueFullPolicy = iox::popo::QueueFullPolicy::BLOCK_PRODUCER;
  return options;
}

class IceoryxContender final : public Contender {
 public:
  IceoryxContender() : Contender("iceoryx", kPush | kLatency) {}

  void start(const std::filesystem::path& directory, std::uint64_t) override {
    consumed_ = new (map_shared(sizeof(Consumed))) Consumed();
    servers_.emplace_back(std::vector<std::string>{"iox-roudi", "--monitoring-mode", "off", "--log-level", "error"},
                          directory / "log");
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    must(!servers_.back().has_ended(), "iox-roudi ended; see " + (directory / "log").string());
    servers_.emplace_back([this] {
      join_runtime();
      iox::popo::Subscriber<Item> subscriber(service(), subscriber_options());
      consume(*consumed_, [&](Item& item) {
        bool is_taken = false;
        subscriber.take().and_then([&](const auto& sample) {
          item = *sample;
          is_taken = true;
        });
        return is_taken;
      });
    });
  }
  void load(const std::vector<Item>&) override {}
  void stop() override {
    while (!servers_.empty()) servers_.pop_back();  // the daemon last
    unmap_shared(consumed_, sizeof(Consumed));
  }

  [[nodiscard]] std::unique_ptr<Client> connect(Role) override {
    join_runtime();
    const auto publisher = std::make_shared<iox::popo::Publisher<Item>>(service(), publisher_options());
    wait_until("a subscriber", [&] { return publisher->hasSubscribers(); });
    const auto push = [publisher](const Item& item) {
      const bool is_lent = !publisher->publishCopyOf(item).has_error();
      must(is_lent, "iceoryx has no memory left");
    };
    return std::make_unique<QueueClient<decltype(push)>>(push, *consumed_);
  }

 private:
  Consumed* consumed_ = nullptr;
};

}  // namespace

void add_iceoryx(Contenders& contenders) { contenders.push_back(std::make_unique<IceoryxContender>()); }

}  // namespace shmstate::bench
