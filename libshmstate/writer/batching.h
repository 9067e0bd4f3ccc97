// The open batch of a writer: records in private memory until they are pushed as one.
#pragma once

#include <vector>

#include "writer/conflating.h"

namespace shmstate::internal {

struct Batching : Conflating {
  Batching(std::string_view instance, WriterOptions wanted);
  ~Batching() override { open_batch->writer = nullptr; }

  /// The number of a batch that is open from now on; 0: another one is.
  [[nodiscard]] std::uint64_t begin_batch() noexcept {
    if (open_batch->number != 0) return 0;
    allow_more();
    return open_batch->number = ++last_number_;
  }
  [[nodiscard]] Status add_to_batch(std::uint64_t number, const Mutation& mutation) noexcept;
  [[nodiscard]] Status commit_batch(std::uint64_t number) noexcept;
  void discard_batch(std::uint64_t number) noexcept {
    if (open_batch->number == number) clear_batch();
  }

  const std::shared_ptr<OpenBatch> open_batch = std::make_shared<OpenBatch>();

 private:
  void leave_ring() noexcept override;
  [[nodiscard]] std::vector<Mutation> mutations() const;
  /// Whether the batch of this number is the open one, or becomes that because none is.
  [[nodiscard]] bool is_open(std::uint64_t number) noexcept {
    if (open_batch->number == 0) open_batch->number = number;
    return open_batch->number == number;
  }
  [[nodiscard]] Status append(const Mutation& mutation) noexcept;
  /// As much as is allowed now, and there is memory for.
  void allow_more() noexcept;
  [[nodiscard]] Status write_batch() noexcept;
  [[nodiscard]] Status conflate_batch() noexcept;
  void end_records() noexcept;
  void clear_batch() noexcept;

  std::uint64_t last_number_ = 0;
  std::vector<std::byte> memory_;  // of the records, all marked as followed by another
  std::uint64_t failures_ = 0;
  Status status_ = Status::kOk;
};

}  // namespace shmstate::internal
