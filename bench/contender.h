// What is compared: each contender behind the same small interface, doing the same work through its own best API. The
// loops over many operations are instantiated for each contender, so that the interface costs nothing within them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "measure.h"
#include "workload.h"

namespace shmstate::bench {

struct ScanResult {
  std::uint64_t entry_count = 0;
  std::uint64_t index_sum = 0;
};

/// A writer, a reader, or both, in the process that asked for it.
class Client {
 public:
  Client() = default;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;
  virtual ~Client() = default;

  /// Writes each item, its value increased by `salt`: a measurement of its own salt can tell its writes from others.
  virtual void set_all(std::span<const Item> items, std::int64_t salt) = 0;
  virtual void set_each(std::span<const Item> items, std::int64_t salt, Durations& durations) = 0;
  /// Returns once all that was written is readable.
  virtual void finish() = 0;

  /// Reads all items; the sum of the key numbers in the values found. Throws `Failed` when a key is missing.
  [[nodiscard]] virtual std::uint64_t get_all(std::span<const Item> items) = 0;
  [[nodiscard]] virtual std::int64_t get(const Item& item) = 0;
  /// Whether a reader has this write; a queue's client says whether its consumer has taken the last one.
  [[nodiscard]] virtual bool has_arrived(const Item& item, std::int64_t salt) { return get(item) == item.value + salt; }
  [[nodiscard]] virtual ScanResult scan() = 0;
  /// Holds one consistent view of the state for so long.
  virtual void hold_view(std::chrono::nanoseconds duration) = 0;
};

/// The loops. `Derived` has set(key, value), and find(key, value&), and hides what else it can do better.
template <typename Derived>
class ClientOf : public Client {
 public:
  void set_all(std::span<const Item> items, std::int64_t salt) override {
    for (const Item& item : items) self().set(item.name(), item.value + salt);
    self().push_pending();
  }
  void set_each(std::span<const Item> items, std::int64_t salt, Durations& durations) override {
    for (const Item& item : items) {
      const std::uint64_t start = ticks();
      self().set(item.name(), item.value + salt);
      durations.add(ticks() - start);
    }
    self().push_pending();
  }
  void finish() override {}
  [[nodiscard]] std::uint64_t get_all(std::span<const Item> items) override {
    std::uint64_t sum = 0;
    for (const Item& item : items) {
      std::int64_t value = 0;
      if (!self().find(item.name(), value)) throw Failed("key " + std::string(item.name()) + " is missing");
      sum += index_in(value);
    }
    return sum;
  }
  [[nodiscard]] std::int64_t get(const Item& item) override {
    std::int64_t value = 0;
    if (!self().find(item.name(), value)) throw Failed("key " + std::string(item.name()) + " is missing");
    return value;
  }
  [[nodiscard]] ScanResult scan() override { throw Failed("cannot scan"); }
  void hold_view(std::chrono::nanoseconds) override { throw Failed("cannot hold a view"); }

  void set(std::string_view, std::int64_t) { throw Failed("cannot write"); }
  [[nodiscard]] bool find(std::string_view, std::int64_t&) { throw Failed("cannot read"); }
  /// For contenders that collect writes: sends what is not sent yet.
  void push_pending() {}

 private:
  Derived& self() noexcept { return static_cast<Derived&>(*this); }
};

class Contender {
 public:
  /// What takes part in which measurement.
  enum Skill : unsigned {
    kPush = 1,
    kManyWriters = 2,
    kRead = 4,
    kReadFlood = 8,
    kLatency = 16,
    kScan = 32,
    kMemory = 64,
    kIdle = 128,
    kHoldView = 256,
    kState = kPush | kManyWriters | kRead | kReadFlood | kLatency | kScan | kMemory | kIdle,
  };
  enum class Role : std::uint8_t { kWriter, kReader, kBoth };

  Contender(std::string name, unsigned skills) : name_(std::move(name)), skills_(skills) {}
  Contender(const Contender&) = delete;
  Contender& operator=(const Contender&) = delete;
  virtual ~Contender() = default;

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] bool can(Skill skill) const noexcept { return (skills_ & skill) == skill; }

  /// Starts it in an own directory, for so many keys, with nothing in it.
  virtual void start(const std::filesystem::path& directory, std::uint64_t key_count) = 0;
  /// Puts all keys in. By default as a client.
  virtual void load(const std::vector<Item>& items);
  virtual void stop() { servers_.clear(); }
  [[nodiscard]] virtual std::unique_ptr<Client> connect(Role role) = 0;

  /// Who else takes part: processes, or threads of the one process in which the contender lives.
  [[nodiscard]] virtual Party::Kind party_kind() const noexcept { return Party::Kind::kProcess; }
  /// Whether a process of its own stands between writers and readers (and takes the second core).
  [[nodiscard]] virtual bool has_server() const noexcept { return !servers_.empty(); }
  /// Writes of one burst, and operations before the clock is looked at: less where each takes long.
  [[nodiscard]] virtual std::size_t burst() const noexcept { return kBurst; }
  /// A pause before each write whose way to a reader is measured.
  [[nodiscard]] virtual std::chrono::nanoseconds latency_pause() const noexcept { return std::chrono::microseconds(2); }
  /// Memory that the state takes, keys, values, and what belongs to them.
  [[nodiscard]] virtual double memory_bytes() { throw Failed("does not say what memory it takes"); }
  /// How much of that is a change feed, for contenders that have one.
  [[nodiscard]] virtual std::optional<double> feed_bytes() { return std::nullopt; }

  virtual void pause() {
    for (const Server& server : servers_) server.pause();
  }
  virtual void resume() {
    for (const Server& server : servers_) server.resume();
  }
  [[nodiscard]] virtual double cpu_ns() const {
    double total_ns = 0;
    for (const Server& server : servers_) total_ns += server.cpu_ns();
    return total_ns;
  }

 protected:
  /// Waits until a client can connect to the server that was started last.
  void wait_for_server() {
    wait_until(name_, [this] {
      must(!servers_.back().has_ended(), "the server of " + name_ + " ended");
      try {
        return connect(Role::kBoth) != nullptr;
      } catch (const Failed&) {
        return false;
      }
    });
  }

  std::vector<Server> servers_;

 private:
  std::string name_;
  unsigned skills_;
};

/// All contenders that were built in, by `make_…` of contenders/*.
[[nodiscard]] std::vector<std::unique_ptr<Contender>> make_contenders();

}  // namespace shmstate::bench
