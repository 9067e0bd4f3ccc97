// A set of line numbers: a bit for each line, and a list of those that are set.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace shmstate::internal {

class LineSet {
 public:
  explicit LineSet(std::uint64_t line_count)
      : bits_(static_cast<std::uint64_t*>(std::calloc(line_count / 64 + 1, sizeof(std::uint64_t)))) {
    if (!bits_) throw std::bad_alloc();
  }

  void insert(std::uint32_t line) {
    std::uint64_t& word = bits_[line / 64];
    const std::uint64_t bit = std::uint64_t{1} << line % 64;
    if ((word & bit) != 0) return;
    word |= bit;
    lines_.push_back(line);
  }
  void clear() noexcept {
    for (const std::uint32_t line : lines_) bits_[line / 64] = 0;
    lines_.clear();
  }
  [[nodiscard]] const std::vector<std::uint32_t>& lines() const noexcept { return lines_; }

 private:
  struct Free {
    void operator()(std::uint64_t* bits) const noexcept { std::free(bits); }
  };
  std::unique_ptr<std::uint64_t[], Free> bits_;  // calloc: memory only where lines are marked
  std::vector<std::uint32_t> lines_;
};

}  // namespace shmstate::internal
