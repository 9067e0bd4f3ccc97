#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "contenders/contenders.h"
#include "files/os.h"

namespace shmstate::bench {
using namespace internal;
namespace {

constexpr std::size_t kLoadBatch = 1'000;
constexpr std::size_t kValueBytes = sizeof(std::int64_t);

/// Speaks memcached's meta commands, which take the fewest bytes and can be pipelined.
class MemcachedClient final : public ClientOf<MemcachedClient> {
 public:
  MemcachedClient(const std::string& path, std::size_t batch)
      : batch_(batch), socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    must(path.size() < sizeof address.sun_path, "the path of memcached's socket is too long");
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    must(::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0,
         "cannot connect to memcached");
  }

  // All but the last write of a batch are quiet: memcached answers only to failures.
  void set(std::string_view key, std::int64_t value) {
    const bool is_last = ++pending_ >= batch_;
    request_.append("ms ").append(key).append(is_last ? " 8\r\n" : " 8 q\r\n");
    request_.append(reinterpret_cast<const char*>(&value), kValueBytes).append("\r\n");
    if (!is_last) return;
    send_request();
    must(take_line() == "HD", "memcached refused a write");
    pending_ = 0;
  }
  void push_pending() {
    if (pending_ == 0) return;
    request_.append("mn\r\n");
    send_request();
    must(take_line() == "MN", "memcached refused a write");
    pending_ = 0;
  }

  [[nodiscard]] bool find(std::string_view key, std::int64_t& value) {
    ask(key);
    send_request();
    return take_value(value);
  }
  [[nodiscard]] std::uint64_t get_all(std::span<const Item> items) override {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < items.size(); i += batch_) {
      const auto part = items.subspan(i, std::min(batch_, items.size() - i));
      for (const Item& item : part) ask(item.name());
      send_request();
      for (std::size_t k = 0; k < part.size(); ++k) {
        std::int64_t value = 0;
        must(take_value(value), "a key is missing");
        sum += index_in(value);
      }
    }
    return sum;
  }

  [[nodiscard]] double used_bytes() {
    request_.append("stats slabs\r\n");
    send_request();
    double bytes = 0;
    constexpr std::string_view kName = "STAT total_malloced ";
    for (std::string line = take_line(); line != "END"; line = take_line()) {
      if (line.starts_with(kName)) bytes = std::stod(line.substr(kName.size()));
    }
    return bytes;
  }

 private:
  void ask(std::string_view key) { request_.append("mg ").append(key).append(" v\r\n"); }

  void send_request() {
    for (std::string_view rest = request_; !rest.empty();) {
      const ssize_t sent = ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
      must(sent > 0, "memcached hung up");
      rest.remove_prefix(static_cast<std::size_t>(sent));
    }
    request_.clear();
  }
  void receive() {
    reply_.erase(0, std::exchange(taken_, 0));
    char buffer[16384];
    const ssize_t got = ::recv(socket_.get(), buffer, sizeof buffer, 0);
    must(got > 0, "memcached hung up");
    reply_.append(buffer, static_cast<std::size_t>(got));
  }
  [[nodiscard]] std::string take_line() {
    std::size_t end = 0;
    while ((end = reply_.find("\r\n", taken_)) == std::string::npos) receive();
    std::string line = reply_.substr(taken_, end - taken_);
    taken_ = end + 2;
    return line;
  }
  [[nodiscard]] bool take_value(std::int64_t& value) {
    if (take_line() != "VA 8") return false;
    while (reply_.size() - taken_ < kValueBytes + 2) receive();
    std::memcpy(&value, reply_.data() + taken_, kValueBytes);
    taken_ += kValueBytes + 2;
    return true;
  }

  std::size_t batch_;
  std::size_t pending_ = 0;
  os::Fd socket_;
  std::string request_;
  std::string reply_;
  std::size_t taken_ = 0;
};

class MemcachedContender final : public Contender {
 public:
  MemcachedContender(std::string name, std::size_t batch)
      : Contender(std::move(name), kState & ~static_cast<unsigned>(kScan)), batch_(batch) {}

  void start(const std::filesystem::path& directory, std::uint64_t key_count) override {
    socket_ = (directory / "socket").string();
    const std::uint64_t limit_mb = 128 + key_count * 200 / 1'000'000;
    servers_.emplace_back(
        std::vector<std::string>{"memcached", "-s", socket_, "-t", "1", "-u", "root", "-m", std::to_string(limit_mb)},
        directory / "log");
    wait_for_server();
  }
  void load(const std::vector<Item>& items) override {
    MemcachedClient client(socket_, kLoadBatch);
    client.set_all(items, 0);
  }
  [[nodiscard]] std::unique_ptr<Client> connect(Role) override {
    return std::make_unique<MemcachedClient>(socket_, batch_);
  }
  [[nodiscard]] std::size_t burst() const noexcept override { return batch_ == 1 ? 100 : 1'000; }
  [[nodiscard]] double memory_bytes() override {
    resume();
    return MemcachedClient(socket_, 1).used_bytes();
  }

 private:
  std::string socket_;
  std::size_t batch_;
};

}  // namespace

void add_memcached(Contenders& contenders) {
  contenders.push_back(std::make_unique<MemcachedContender>("memcached", 1));
  contenders.push_back(std::make_unique<MemcachedContender>("memcached, 100 pipelined", 100));
}

}  // namespace shmstate::bench
