#include <absl/container/flat_hash_map.h>
#include <absl/hash/hash.h>
#include <absl/strings/string_view.h>

#include <pthread.h>
#include <sys/mman.h>

#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "contenders/contenders.h"

namespace shmstate::bench {
namespace {

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
//
// As well as it can be had: the fastest map with inline keys, in memory that all processes have at the same address
// (they are forks of the one that made it), behind one mutex that works across processes.

/// Memory that is handed out from its beginning to its end; whoever allocates has the mutex.
struct Arena {
  std::byte* next;
  std::byte* end;
  std::size_t used_bytes;
};

template <typename T>
class ArenaAllocator {
 public:
  using value_type = T;

  explicit ArenaAllocator(Arena& arena) noexcept : arena_(&arena) {}
  template <typename Other>
  explicit ArenaAllocator(const ArenaAllocator<Other>& other) noexcept : arena_(&other.arena()) {}

  [[nodiscard]] T* allocate(std::size_t count) {
    const std::size_t bytes = bytes_of(count);
    if (static_cast<std::size_t>(arena_->end - arena_->next) < bytes) throw std::bad_alloc();
    arena_->used_bytes += bytes;
    return reinterpret_cast<T*>(std::exchange(arena_->next, arena_->next + bytes));
  }
  void deallocate(T* /*memory*/, std::size_t count) noexcept { arena_->used_bytes -= bytes_of(count); }

  [[nodiscard]] Arena& arena() const noexcept { return *arena_; }
  friend bool operator==(const ArenaAllocator&, const ArenaAllocator&) noexcept = default;

 private:
  static constexpr std::size_t kLine = 64;
  [[nodiscard]] static std::size_t bytes_of(std::size_t count) noexcept {
    return (count * sizeof(T) + kLine - 1) / kLine * kLine;
  }
  Arena* arena_;
};

using SharedMap = absl::flat_hash_map<InlineKey, std::int64_t, InlineKeyHash, std::equal_to<>,
                                      ArenaAllocator<std::pair<const InlineKey, std::int64_t>>>;

class Mutex {
 public:
  Mutex() {
    pthread_mutexattr_t attributes;
    ::pthread_mutexattr_init(&attributes);
    ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    ::pthread_mutex_init(&mutex_, &attributes);
    ::pthread_mutexattr_destroy(&attributes);
  }
  void lock() noexcept { ::pthread_mutex_lock(&mutex_); }
  void unlock() noexcept { ::pthread_mutex_unlock(&mutex_); }

 private:
  pthread_mutex_t mutex_;
};

struct MutexMap {
  MutexMap(std::byte* memory, std::byte* end)
      : arena{.next = memory, .end = end, .used_bytes = 0}, map(SharedMap::allocator_type(arena)) {}
  alignas(64) Mutex mutex;
  alignas(64) Arena arena;
  SharedMap map;
};

class MutexMapClient final : public ClientOf<MutexMapClient> {
 public:
  explicit MutexMapClient(MutexMap& shared) : shared_(shared) {}

  void set(std::string_view key, std::int64_t value) {
    const InlineKey wanted = inline_key(key);
    const std::lock_guard lock(shared_.mutex);
    shared_.map[wanted] = value;
  }
  [[nodiscard]] bool find(std::string_view key, std::int64_t& value) {
    const InlineKey wanted = inline_key(key);
    const std::lock_guard lock(shared_.mutex);
    const auto found = shared_.map.find(wanted);
    if (found == shared_.map.end()) return false;
    value = found->second;
    return true;
  }
  [[nodiscard]] ScanResult scan() override {
    const std::lock_guard lock(shared_.mutex);
    ScanResult result;
    for (const auto& [key, value] : shared_.map) {
      ++result.entry_count;
      result.index_sum += index_in(value);
    }
    return result;
  }
  void hold_view(std::chrono::nanoseconds duration) override {
    const std::lock_guard lock(shared_.mutex);
    std::this_thread::sleep_for(duration);
  }

 private:
  MutexMap& shared_;
};

class MutexMapContender final : public Contender {
 public:
  MutexMapContender() : Contender("mutex map", kState | kHoldView) {}
  MutexMapContender(const MutexMapContender&) = delete;
  MutexMapContender& operator=(const MutexMapContender&) = delete;
  ~MutexMapContender() override { stop(); }

  void start(const std::filesystem::path& /*directory*/, std::uint64_t key_count) override {
    bytes_ = kBytesAtLeast + key_count * kBytesPerKey;
    auto* const memory = static_cast<std::byte*>(map_shared(bytes_));
    ::madvise(memory, bytes_, MADV_HUGEPAGE);  // as shmstate has them
    shared_ = new (memory) MutexMap(memory + kHeadBytes, memory + bytes_);
    shared_->map.reserve(key_count);
  }
  /// The map's memory goes as a whole.
  void stop() override {
    if (shared_ != nullptr) unmap_shared(std::exchange(shared_, nullptr), bytes_);
  }
  [[nodiscard]] std::unique_ptr<Client> connect(Role) override { return std::make_unique<MutexMapClient>(*shared_); }
  [[nodiscard]] double memory_bytes() override { return static_cast<double>(shared_->arena.used_bytes); }

 private:
  static constexpr std::size_t kHeadBytes = 4096;
  static constexpr std::size_t kBytesAtLeast = std::size_t{1} << 20;
  static constexpr std::size_t kBytesPerKey = 192;  // half full, and room to become larger
  MutexMap* shared_ = nullptr;
  std::size_t bytes_ = 0;
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
