#include <lmdb.h>

#include "contenders/contenders.h"

namespace shmstate::bench {
namespace {

// On a tmpfs nothing is gained by syncing, and writing through the map saves copies.
constexpr unsigned kEnvironmentFlags = MDB_WRITEMAP | MDB_NOSYNC | MDB_NOMETASYNC | MDB_NOTLS;

void check(int error, const char* what) { must(error == 0, std::string(what) + ": " + mdb_strerror(error)); }

[[nodiscard]] MDB_val as_value(std::string_view key) { return {key.size(), const_cast<char*>(key.data())}; }

class LmdbClient final : public ClientOf<LmdbClient> {
 public:
  LmdbClient(const std::filesystem::path& directory, std::uint64_t map_bytes, std::size_t batch) : batch_(batch) {
    check(mdb_env_create(&environment_), "mdb_env_create");
    check(mdb_env_set_mapsize(environment_, map_bytes), "mdb_env_set_mapsize");
    check(mdb_env_open(environment_, directory.c_str(), kEnvironmentFlags, 0644), "mdb_env_open");
    MDB_txn* transaction = nullptr;
    check(mdb_txn_begin(environment_, nullptr, 0, &transaction), "mdb_txn_begin");
    check(mdb_dbi_open(transaction, nullptr, 0, &database_), "mdb_dbi_open");
    check(mdb_txn_commit(transaction), "mdb_txn_commit");
    check(mdb_txn_begin(environment_, nullptr, MDB_RDONLY, &reading_), "mdb_txn_begin");
    mdb_txn_reset(reading_);
  }
  ~LmdbClient() override {
    if (writing_ != nullptr) mdb_txn_abort(writing_);
    mdb_txn_abort(reading_);
    mdb_env_close(environment_);
  }
  LmdbClient(const LmdbClient&) = delete;
  LmdbClient& operator=(const LmdbClient&) = delete;

  void set(std::string_view key, std::int64_t value) {
    if (writing_ == nullptr) check(mdb_txn_begin(environment_, nullptr, 0, &writing_), "mdb_txn_begin");
    MDB_val name = as_value(key);
    MDB_val data{sizeof value, &value};
    check(mdb_put(writing_, database_, &name, &data, 0), "mdb_put");
    if (++pending_ >= batch_) push_pending();
  }
  void push_pending() {
    if (writing_ == nullptr) return;
    check(mdb_txn_commit(writing_), "mdb_txn_commit");
    writing_ = nullptr;
    pending_ = 0;
  }

  [[nodiscard]] bool find(std::string_view key, std::int64_t& value) {
    const View view(reading_);
    return find_in_view(key, value);
  }
  [[nodiscard]] std::uint64_t get_all(std::span<const Item> items) override {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < items.size(); i += batch_) {
      const View view(reading_);
      for (const Item& item : items.subspan(i, std::min(batch_, items.size() - i))) {
        std::int64_t value = 0;
        if (!find_in_view(item.name(), value)) throw Failed("key " + std::string(item.name()) + " is missing");
        sum += index_in(value);
      }
    }
    return sum;
  }

  [[nodiscard]] ScanResult scan() override {
    const View view(reading_);
    MDB_cursor* cursor = nullptr;
    check(mdb_cursor_open(reading_, database_, &cursor), "mdb_cursor_open");
    ScanResult result;
    MDB_val key;
    MDB_val data;
    while (mdb_cursor_get(cursor, &key, &data, MDB_NEXT) == 0) {
      ++result.entry_count;
      result.index_sum += index_in(*static_cast<const std::int64_t*>(data.mv_data));
    }
    mdb_cursor_close(cursor);
    return result;
  }
  void hold_view(std::chrono::nanoseconds duration) override {
    const View view(reading_);
    std::this_thread::sleep_for(duration);
  }

  [[nodiscard]] double used_bytes() const {
    MDB_envinfo info;
    MDB_stat stat;
    check(mdb_env_info(environment_, &info), "mdb_env_info");
    check(mdb_env_stat(environment_, &stat), "mdb_env_stat");
    return static_cast<double>((info.me_last_pgno + 1) * stat.ms_psize);
  }

 private:
  /// A read transaction, taken up again and again, which is cheaper than a new one.
  class View {
   public:
    explicit View(MDB_txn* transaction) : transaction_(transaction) {
      check(mdb_txn_renew(transaction_), "mdb_txn_renew");
    }
    View(const View&) = delete;
    View& operator=(const View&) = delete;
    ~View() { mdb_txn_reset(transaction_); }

   private:
    MDB_txn* transaction_;
  };

  [[nodiscard]] bool find_in_view(std::string_view key, std::int64_t& value) {
    MDB_val name = as_value(key);
    MDB_val data;
    if (mdb_get(reading_, database_, &name, &data) != 0) return false;
    value = *static_cast<const std::int64_t*>(data.mv_data);
    return true;
  }

  std::size_t batch_;
  std::size_t pending_ = 0;
  MDB_env* environment_ = nullptr;
  MDB_dbi database_ = 0;
  MDB_txn* writing_ = nullptr;
  MDB_txn* reading_ = nullptr;
};

class LmdbContender final : public Contender {
 public:
  LmdbContender(std::string name, std::size_t batch)
      : Contender(std::move(name), batch == 1 ? kState | kHoldView : +kState), batch_(batch) {}

  void start(const std::filesystem::path& directory, std::uint64_t key_count) override {
    directory_ = directory;
    map_bytes_ = (std::uint64_t{256} << 20) + key_count * 512;
  }
  void load(const std::vector<Item>& items) override {
    LmdbClient client(directory_, map_bytes_, 10'000);
    client.set_all(items, 0);
  }
  [[nodiscard]] std::unique_ptr<Client> connect(Role) override {
    return std::make_unique<LmdbClient>(directory_, map_bytes_, batch_);
  }
  [[nodiscard]] double memory_bytes() override { return LmdbClient(directory_, map_bytes_, 1).used_bytes(); }

 private:
  std::filesystem::path directory_;
  std::uint64_t map_bytes_ = 0;
  std::size_t batch_;
};

}  // namespace

void add_lmdb(Contenders& contenders) {
  contenders.push_back(std::make_unique<LmdbContender>("LMDB", 1));
  contenders.push_back(std::make_unique<LmdbContender>("LMDB, 1,000 in a transaction", 1'000));
}

}  // namespace shmstate::bench
