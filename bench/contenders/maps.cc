#include <absl/container/flat_hash_map.h>
#include <absl/hash/hash.h>
#include <absl/strings/string_view.h>

#include <boost/interprocess/allocators/allocator.hpp>
#include <boost/interprocess/managed_mapped_file.hpp>
#include <boost/interprocess/sync/interprocess_mutex.hpp>
#include <boost/interprocess/sync/scoped_lock.hpp>
#include <boost/unordered_map.hpp>
#include <cstring>

#include "contenders/contenders.h"

namespace shmstate::bench {
namespace {

namespace ip = boost::interprocess;

using InlineKey = std::array<char, 24>;

struct InlineKeyHash {
  [[nodiscard]] std::size_t operator()(const InlineKey& key) const noexcept {
    return absl::Hash<absl::string_view>()(absl::string_view(key.data(), key.size()));
  }
};

[[nodiscard]] InlineKey inline_key(std::string_view key) noexcept {
  InlineKey copy;
  std::memcpy(copy.data(), key.data(), copy.size());
  return copy;
}

// ---- private maps

template <typename Map>
[[nodiscard]] auto find_in(const Map& map, std::string_view key) {
  if constexpr (std::is_same_v<typename Map::key_type, std::string>) {
    return map.find(absl::string_view(key.data(), key.size()));
  } else {
    return map.find(inline_key(key));
  }
}

template <typename Map>
class PrivateMapClient final : public ClientOf<PrivateMapClient<Map>> {
 public:
  explicit PrivateMapClient(const Map& map) : map_(map) {}

  [[nodiscard]] bool find(std::string_view key, std::int64_t& value) {
    const auto found = find_in(map_, key);
    if (found == map_.end()) return false;
    value = found->second;
    return true;
  }

  [[nodiscard]] ScanResult scan() override {
    ScanResult result;
    for (const auto& [key, value] : map_) {
      ++result.entry_count;
      result.index_sum += index_in(value);
    }
    return result;
  }

 private:
  const Map& map_;
};

/// Lives in the bench's own process; measuring processes are forks of it.
template <typename Map>
class PrivateMap final : public Contender {
 public:
  explicit PrivateMap(std::string name) : Contender(std::move(name), kRead | kScan) {}

  void start(const std::filesystem::path&, std::uint64_t) override {}
  void load(const std::vector<Item>& items) override {
    for (const Item& item : items) map_[key_of(item)] = item.value;
  }
  void stop() override { Map().swap(map_); }
  [[nodiscard]] std::unique_ptr<Client> connect(Role) override { return std::make_unique<PrivateMapClient<Map>>(map_); }

 private:
  [[nodiscard]] static auto key_of(const Item& item) {
    if constexpr (std::is_same_v<typename Map::key_type, std::string>) {
      return std::string(item.name());
    } else {
      return item.key;
    }
  }
  Map map_;
};

// ---- a map in shared memory behind a mutex

using SharedPair = std::pair<const InlineKey, std::int64_t>;
using SharedAllocator = ip::allocator<SharedPair, ip::managed_mapped_file::segment_manager>;
using SharedMap = boost::unordered_map<InlineKey, std::int64_t, InlineKeyHash, std::equal_to<>, SharedAllocator>;

struct MutexMap {
  explicit MutexMap(const SharedAllocator& allocator) : map(16, InlineKeyHash(), std::equal_to<>(), allocator) {}
  ip::interprocess_mutex mutex;
  SharedMap map;
};

class MutexMapClient final : public ClientOf<MutexMapClient> {
 public:
  explicit MutexMapClient(const std::string& path)
      : segment_(ip::open_only, path.c_str()), shared_(*segment_.find<MutexMap>("map").first) {}

  void set(std::string_view key, std::int64_t value) {
    const ip::scoped_lock lock(shared_.mutex);
    shared_.map[inline_key(key)] = value;
  }
  [[nodiscard]] bool find(std::string_view key, std::int64_t& value) {
    const InlineKey wanted = inline_key(key);
    const ip::scoped_lock lock(shared_.mutex);
    const auto found = shared_.map.find(wanted);
    if (found == shared_.map.end()) return false;
    value = found->second;
    return true;
  }
  [[nodiscard]] ScanResult scan() override {
    const ip::scoped_lock lock(shared_.mutex);
    ScanResult result;
    for (const auto& [key, value] : shared_.map) {
      ++result.entry_count;
      result.index_sum += index_in(value);
    }
    return result;
  }
  void hold_view(std::chrono::nanoseconds duration) override {
    const ip::scoped_lock lock(shared_.mutex);
    std::this_thread::sleep_for(duration);
  }

 private:
  ip::managed_mapped_file segment_;
  MutexMap& shared_;
};

class MutexMapContender final : public Contender {
 public:
  MutexMapContender() : Contender("mutex map", kState | kHoldView) {}

  void start(const std::filesystem::path& directory, std::uint64_t key_count) override {
    path_ = (directory / "segment").string();
    ip::managed_mapped_file segment(ip::create_only, path_.c_str(), (std::size_t{1} << 20) + key_count * 128);
    auto* const shared = segment.construct<MutexMap>("map")(SharedAllocator(segment.get_segment_manager()));
    shared->map.reserve(key_count);
  }
  [[nodiscard]] std::unique_ptr<Client> connect(Role) override { return std::make_unique<MutexMapClient>(path_); }
  [[nodiscard]] double memory_bytes() override {
    const ip::managed_mapped_file segment(ip::open_only, path_.c_str());
    return static_cast<double>(segment.get_size() - segment.get_free_memory());
  }

 private:
  std::string path_;
};

}  // namespace

void add_maps(Contenders& contenders) {
  contenders.push_back(
      std::make_unique<PrivateMap<absl::flat_hash_map<std::string, std::int64_t>>>("absl, string keys"));
  contenders.push_back(
      std::make_unique<PrivateMap<absl::flat_hash_map<InlineKey, std::int64_t, InlineKeyHash>>>("absl, inline keys"));
  contenders.push_back(std::make_unique<MutexMapContender>());
}

}  // namespace shmstate::bench
