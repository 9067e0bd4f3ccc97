#include <hiredis/hiredis.h>

#include <algorithm>
#include <cstring>

#include "contenders/contenders.h"

namespace shmstate::bench {
namespace {

constexpr std::size_t kLoadBatch = 1'000;

struct FreeReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
struct FreeContext {
  void operator()(redisContext* context) const { redisFree(context); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

class RedisClient final : public ClientOf<RedisClient> {
 public:
  RedisClient(const std::string& socket, std::size_t batch)
      : batch_(batch), context_(redisConnectUnix(socket.c_str())) {
    must(context_ != nullptr && context_->err == 0, "cannot connect to Redis");
  }
  ~RedisClient() override { redisFree(context_); }
  RedisClient(const RedisClient&) = delete;
  RedisClient& operator=(const RedisClient&) = delete;

  void set(std::string_view key, std::int64_t value) {
    const char* words[] = {"SET", key.data(), reinterpret_cast<const char*>(&value)};
    const std::size_t sizes[] = {3, key.size(), sizeof value};
    redisAppendCommandArgv(context_, 3, words, sizes);
    if (++pending_ >= batch_) push_pending();
  }
  void push_pending() {
    for (; pending_ > 0; --pending_) must(take_reply()->type == REDIS_REPLY_STATUS, "Redis refused a write");
  }

  [[nodiscard]] bool find(std::string_view key, std::int64_t& value) {
    const char* words[] = {"GET", key.data()};
    const std::size_t sizes[] = {3, key.size()};
    redisAppendCommandArgv(context_, 2, words, sizes);
    return take_value(*take_reply(), value);
  }
  [[nodiscard]] std::uint64_t get_all(std::span<const Item> items) override {
    if (batch_ == 1) return ClientOf<RedisClient>::get_all(items);
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < items.size(); i += batch_) {
      sum += get_together(items.subspan(i, std::min(batch_, items.size() - i)));
    }
    return sum;
  }

  /// Not at one instant: Redis has no such scan, short of stopping everybody.
  [[nodiscard]] ScanResult scan() override {
    ScanResult result;
    std::string cursor = "0";
    do {
      const Reply page(static_cast<redisReply*>(redisCommand(context_, "SCAN %s COUNT 1000", cursor.c_str())));
      must(page != nullptr && page->elements == 2, "Redis cannot scan");
      cursor = page->element[0]->str;
      std::vector<Item> items(page->element[1]->elements);
      for (std::size_t i = 0; i < items.size(); ++i) {
        std::memcpy(items[i].key.data(), page->element[1]->element[i]->str, items[i].key.size());
      }
      if (items.empty()) continue;
      result.entry_count += items.size();
      result.index_sum += get_together(items);
    } while (cursor != "0");
    return result;
  }

  [[nodiscard]] double used_bytes() {
    const Reply reply(static_cast<redisReply*>(redisCommand(context_, "INFO memory")));
    must(reply != nullptr && reply->str != nullptr, "Redis does not answer");
    const char* const found = std::strstr(reply->str, "used_memory:");
    must(found != nullptr, "Redis does not say what memory it takes");
    return std::strtod(found + std::strlen("used_memory:"), nullptr);
  }

 private:
  [[nodiscard]] Reply take_reply() {
    void* reply = nullptr;
    must(redisGetReply(context_, &reply) == REDIS_OK, "Redis does not answer");
    return Reply(static_cast<redisReply*>(reply));
  }
  [[nodiscard]] static bool take_value(const redisReply& reply, std::int64_t& value) {
    if (reply.type != REDIS_REPLY_STRING || reply.len != sizeof value) return false;
    std::memcpy(&value, reply.str, sizeof value);
    return true;
  }
  [[nodiscard]] std::uint64_t get_together(std::span<const Item> items) {
    std::vector<const char*> words{"MGET"};
    std::vector<std::size_t> sizes{4};
    for (const Item& item : items) {
      words.push_back(item.key.data());
      sizes.push_back(item.key.size());
    }
    redisAppendCommandArgv(context_, static_cast<int>(words.size()), words.data(), sizes.data());
    const Reply reply = take_reply();
    must(reply->elements == items.size(), "Redis answered something else");
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < items.size(); ++i) {
      std::int64_t value = 0;
      must(take_value(*reply->element[i], value), "a key is missing");
      sum += index_in(value);
    }
    return sum;
  }

  std::size_t batch_;
  std::size_t pending_ = 0;
  std::unique_ptr<redisContext, FreeContext> connection_;
  redisContext* context_;
};

class RedisContender final : public Contender {
 public:
  RedisContender(std::string name, std::size_t batch) : Contender(std::move(name), kState), batch_(batch) {}

  void start(const std::filesystem::path& directory, std::uint64_t) override {
    socket_ = (directory / "socket").string();
    servers_.emplace_back(
        std::vector<std::string>{"redis-server", "--port", "0", "--unixsocket", socket_, "--save", "", "--appendonly",
                                 "no", "--dir", directory.string(), "--daemonize", "no"},
        directory / "log");
    wait_for_server();
  }
  void load(const std::vector<Item>& items) override {
    RedisClient client(socket_, kLoadBatch);
    client.set_all(items, 0);
  }
  [[nodiscard]] std::unique_ptr<Client> connect(Role) override {
    return std::make_unique<RedisClient>(socket_, batch_);
  }
  [[nodiscard]] std::size_t burst() const noexcept override { return batch_ == 1 ? 100 : 1'000; }
  [[nodiscard]] double memory_bytes() override {
    resume();
    return RedisClient(socket_, 1).used_bytes();
  }

 private:
  std::string socket_;
  std::size_t batch_;
};

}  // namespace

void add_redis(Contenders& contenders) {
  contenders.push_back(std::make_unique<RedisContender>("Redis", 1));
  contenders.push_back(std::make_unique<RedisContender>("Redis, 100 pipelined", 100));
}

}  // namespace shmstate::bench
