// shmstate itself: a merger process, writers and readers through the public API.
#pragma once

#include <optional>

#include "contender.h"
#include "shmstate/reader.h"
#include "shmstate/writer.h"

namespace shmstate::bench {

class ShmstateClient : public ClientOf<ShmstateClient> {
 public:
  ShmstateClient(const std::string& path, Contender::Role role);

  void set(std::string_view key, std::int64_t value) { writer_->set(key, value); }
  [[nodiscard]] bool find(std::string_view key, std::int64_t& value) {
    return reader_->read(key, value) == Status::kOk;
  }
  void finish() override;
  [[nodiscard]] ScanResult scan() override;
  void hold_view(std::chrono::nanoseconds duration) override;

 protected:
  [[nodiscard]] Writer& writer() noexcept { return *writer_; }
  [[nodiscard]] Reader& reader() noexcept { return *reader_; }

 private:
  std::optional<Writer> writer_;
  std::optional<Reader> reader_;
};

class ShmstateContender : public Contender {
 public:
  ShmstateContender(std::string name, unsigned skills, std::vector<std::string> merger_options,
                    std::chrono::nanoseconds latency_pause);

  void start(const std::filesystem::path& directory, std::uint64_t key_count) override;
  /// Then waits until the merger has moved the memory to huge pages, which it does after a while.
  void load(const std::vector<Item>& items) override;
  [[nodiscard]] std::unique_ptr<Client> connect(Role role) override;
  [[nodiscard]] std::chrono::nanoseconds latency_pause() const noexcept override { return latency_pause_; }
  /// All that its files take.
  [[nodiscard]] double memory_bytes() override;
  [[nodiscard]] std::optional<double> feed_bytes() override;

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] double statistic(std::string_view name) const;

 private:
  std::vector<std::string> merger_options_;
  std::chrono::nanoseconds latency_pause_;
  std::string path_;
};

/// Its writers push bound keys, which they have all pushed before anything is measured.
class BoundShmstateContender final : public ShmstateContender {
 public:
  using ShmstateContender::ShmstateContender;
  void start(const std::filesystem::path& directory, std::uint64_t key_count) override;
  [[nodiscard]] std::unique_ptr<Client> connect(Role role) override;

 private:
  std::vector<Item> items_;
};

/// As most measurements want it: the merger looks for work all the time.
[[nodiscard]] std::unique_ptr<ShmstateContender> make_shmstate(std::vector<std::string> merger_options = {});

}  // namespace shmstate::bench
