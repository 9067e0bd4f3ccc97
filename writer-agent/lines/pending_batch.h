// The mutations of a batch between `begin` and `commit`. Each source has its own, since many may be open at once while
// a writer has one at a time.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "lines/line_parser.h"

namespace shmstate::agent {

class PendingBatch {
 public:
  /// Copies a mutation.
  void append(const Command& mutation);
  void clear();

  [[nodiscard]] std::size_t count() const noexcept { return items_.size(); }
  /// What the batch needs in a ring, at least.
  [[nodiscard]] std::size_t ring_bytes() const noexcept { return ring_bytes_; }

  /// Calls `visit(const Command&)` for every mutation, in order.
  template <typename Visitor>
  void for_each(Visitor&& visit) const {
    std::string_view rest = bytes_;
    for (const Item& item : items_) visit(take(item, rest));
  }

 private:
  struct Item {
    Verb verb;
    std::size_t key_bytes;
    std::size_t value_bytes;  // of a value of type kBytes
    ValueView number;         // any other value
    SetOptions options;
  };

  static Command take(const Item& item, std::string_view& rest);

  std::vector<Item> items_;
  std::string bytes_;  // keys and values, one behind the other
  std::size_t ring_bytes_ = 0;
};

}  // namespace shmstate::agent
