// The open batch of a writer: records in private memory until they are pushed as one.
#pragma once

#include <vector>

#include "writer/conflating.h"

namespace shmstate::internal {

struct Batching : Conflating {
  using Conflating::Conflating;

  /// The number of a batch that is open from now on; 0: another one is.
  [[nodiscard]] std::uint64_t begin_batch() noexcept {
    if (open_batch_ != 0) return 0;
    return open_batch_ = ++last_batch_;
  }
  [[nodiscard]] Status add_to_batch(std::uint64_t number, const Mutation& mutation) noexcept;
  [[nodiscard]] Status commit_batch(std::uint64_t number) noexcept;
  void discard_batch(std::uint64_t number) noexcept {
    if (open_batch_ == number) clear_batch();
  }

 private:
  /// Whether the batch of this number is the open one, or becomes that because none is.
  [[nodiscard]] bool is_open(std::uint64_t number) noexcept {
    if (open_batch_ == 0) open_batch_ = number;
    return open_batch_ == number;
  }
  [[nodiscard, gnu::always_inline]] inline Status append(const Mutation& mutation) noexcept;
  [[nodiscard]] Status write_batch() noexcept;
  [[nodiscard]] Status conflate_batch() noexcept;
  void end_records() noexcept;
  void clear_batch() noexcept;

  std::uint64_t open_batch_ = 0;  // its number; 0: none is open
  std::uint64_t last_batch_ = 0;
  std::vector<std::byte> batch_;  // records, all marked as followed by another
  std::size_t batch_last_ = 0;    // where the last one begins
  std::uint64_t batch_count_ = 0;
  std::uint64_t batch_failures_ = 0;
  Status batch_status_ = Status::kOk;
};

}  // namespace shmstate::internal
