// The text that a writer-agent reads: one batch of mutations after another, one mutation a line.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace shmstate::demo {

/// Builds batches and remembers which keys the last one set, so that a key that is not set again is erased: whatever
/// vanishes from the host (a process, a network interface) vanishes from the state with the next sample.
class MutationLines {
 public:
  void begin();
  void set_integer(std::string_view prefix, std::string_view name, std::int64_t value);
  void set_float(std::string_view prefix, std::string_view name, double value);
  void set_text(std::string_view prefix, std::string_view name, std::string_view value);
  /// A key that other writers add to, too: it is never erased.
  void add(std::string_view key, std::int64_t delta);
  /// Erases the keys that were set in the last batch and not in this one, then sets `count_key` to the number of
  /// mutations of all batches, this one included. Returns the whole batch; it lives until the next `begin`.
  [[nodiscard]] std::string_view commit(std::string_view count_key);

  [[nodiscard]] std::int64_t mutation_count() const { return mutation_count_; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  void start_set(std::string_view verb, std::string_view prefix, std::string_view name);
  void append_lasting(std::string_view verb, std::string_view key, std::int64_t number);
  void append_number(std::int64_t number);
  void remember(std::string_view key);
  void erase_what_was_not_set_again();

  std::string text_;
  std::unordered_map<std::string, std::int64_t, Hash, std::equal_to<>> last_batch_of_key_;
  std::int64_t batch_count_ = 0;
  std::int64_t mutation_count_ = 0;
};

/// A key or a value as one word of a line: quoted, with C-like escapes, where its bytes need that.
void append_word(std::string& text, std::string_view prefix, std::string_view name);

}  // namespace shmstate::demo
