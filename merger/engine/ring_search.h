// Finds the files of new rings.
//
// Any writer may fill the directory of rings. It is therefore searched in parts, a ring that announces itself does not
// wait for the search, and a turn examines a bounded number of files either way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <unordered_set>

#include "engine/back_buffer.h"
#include "engine/engine_context.h"
#include "engine/ring_news.h"
#include "engine/ring_registry.h"

namespace shmstate::internal {

class RingSearch {
 public:
  RingSearch(const EngineContext& context, RingRegistry& rings)
      : context_(context), rings_(rings), news_(context.owner.rings_path()) {}

  /// Continues the search and admits what it finds.
  void advance(const Turn& turn, BackBuffer& back);
  /// Whether `advance` has more to do.
  [[nodiscard]] bool has_more() const noexcept;

  /// Makes the next turn read the news even if no writer has rung.
  void request_news() noexcept { must_read_news_ = true; }
  /// Makes the next turns search the whole directory, for files whose writer could not ring.
  void request_search() noexcept { must_search_ = true; }

  /// Whether the kernel reports new files; otherwise they are searched for.
  [[nodiscard]] bool is_watching() const noexcept { return news_.is_watching(); }
  /// Names of the directory that were read so far.
  [[nodiscard]] std::uint64_t names_read() const noexcept { return names_read_; }

 private:
  void read_news();
  void search_directory(const Turn& turn, BackBuffer& back);
  [[nodiscard]] bool begin_search();
  bool consider(const std::string& name, const Turn& turn, BackBuffer& back);
  void refuse(std::uint64_t id, std::uint64_t now_ns, std::string why);

  EngineContext context_;
  RingRegistry& rings_;
  RingNews news_;
  std::optional<std::filesystem::directory_iterator> search_;  // in progress
  std::unordered_set<std::uint64_t> refused_;                  // in this search
  std::unordered_set<std::uint64_t> refused_before_;  // in the previous one, so that each ring is reported once
  std::uint64_t names_read_ = 0;
  std::uint32_t registrations_seen_ = 0;
  bool must_read_news_ = true;
  bool must_search_ = true;
};

}  // namespace shmstate::internal
