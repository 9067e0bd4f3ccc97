// What the state must be: the accepted mutations, replayed one after the other in the order in which the merger took
// them from the rings. Knows nothing of slots, lines, buffers or groups.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "layout/combine.h"
#include "layout/layout.h"
#include "layout/record.h"
#include "shmstate/value.h"

namespace shmstate::test {
using namespace internal;

/// The keys that are changed again and again, some of them too long for a slot; and those that only let the table grow.
inline constexpr std::size_t kKeyCount = 16;
inline constexpr std::size_t kGrowing = kKeyCount;

inline const std::array<std::string, kKeyCount>& keys() {
  static const std::array<std::string, kKeyCount> keys = [] {
    std::array<std::string, kKeyCount> made;
    for (std::size_t i = 0; i < kKeyCount; ++i) {
      made[i] = "key/" + std::to_string(i);
      if (i % 4 == 3) made[i].append(20 * i, 'k');
    }
    return made;
  }();
  return keys;
}
inline std::string growing_key(std::uint64_t number) { return "growing/" + std::to_string(number); }
inline std::optional<std::size_t> index_of(std::string_view key) {
  if (key.starts_with("growing/")) return kGrowing;
  for (std::size_t i = 0; i < kKeyCount; ++i) {
    if (keys()[i] == key) return i;
  }
  return std::nullopt;
}

/// A value, where bytes are a pattern of eight that repeats: cheap to copy and to compare.
struct Content {
  Type type = Type::kNone;
  std::uint64_t bits = 0;
  std::uint64_t bytes = 0;

  static Content of(ValueView view) noexcept {
    switch (view.type()) {
      case Type::kInt64: return {Type::kInt64, static_cast<std::uint64_t>(view.int64()), 0};
      case Type::kFloat64: return {Type::kFloat64, std::bit_cast<std::uint64_t>(view.float64()), 0};
      case Type::kBytes: {
        std::uint64_t pattern = 0;
        view.bytes().copy(reinterpret_cast<char*>(&pattern), sizeof pattern);
        return {Type::kBytes, pattern, view.bytes().size()};
      }
      case Type::kNone: break;
    }
    return {};
  }
  [[nodiscard]] bool is_nan() const noexcept {
    return type == Type::kFloat64 && std::isnan(std::bit_cast<double>(bits));
  }
  /// Whether a value is exactly this one, to its last byte.
  [[nodiscard]] bool is(ValueView view) const noexcept {
    if (of(view) != *this) return false;
    if (type != Type::kBytes) return true;
    const std::string_view seen = view.bytes();
    const std::size_t period = std::min(seen.size(), sizeof bits);
    return seen.substr(period) == seen.substr(0, seen.size() - period);
  }
  [[nodiscard]] Value to_value() const {
    switch (type) {
      case Type::kInt64: return static_cast<std::int64_t>(bits);
      case Type::kFloat64: return std::bit_cast<double>(bits);
      default: break;
    }
    std::string text(round_up(bytes, sizeof bits), '\0');
    for (std::size_t i = 0; i < text.size(); i += sizeof bits) std::memcpy(text.data() + i, &bits, sizeof bits);
    text.resize(bytes);
    return text;
  }
  bool operator==(const Content&) const = default;
};

/// An entry, or what a versioned erase left; nothing when both are false.
struct Known {
  bool is_entry = false;
  bool is_tombstone = false;
  Content content;
  std::uint64_t version = 0;
  std::uint64_t expiry_ns = 0;
  std::uint64_t owner = 0;  // ring id

  [[nodiscard]] bool exists() const noexcept { return is_entry || is_tombstone; }
  bool operator==(const Known&) const = default;
};

struct State {
  std::array<Known, kKeyCount> keys;
  std::uint64_t grown_count = 0;

  [[nodiscard]] std::uint64_t entry_count() const noexcept {
    std::uint64_t count = grown_count;
    for (const Known& known : keys) count += known.is_entry ? 1 : 0;
    return count;
  }
  [[nodiscard]] std::uint64_t tombstone_count() const noexcept {
    std::uint64_t count = 0;
    for (const Known& known : keys) count += known.is_tombstone ? 1 : 0;
    return count;
  }
};

/// A mutation as it was pushed.
struct Pushed {
  Operation operation = Operation::kSet;
  std::size_t key = 0;
  Content content;
  unsigned flags = 0;
  std::uint64_t ttl_ns = 0;
  std::uint64_t version = 0;

  static Pushed of(const Mutation& mutation, std::size_t key) noexcept {
    return {mutation.operation, key, Content::of(mutation.value), mutation.flags & ~unsigned{kById}, mutation.ttl_ns,
            mutation.version};
  }
  [[nodiscard]] bool has(RecordFlag flag) const noexcept { return (flags & flag) != 0; }
  bool operator==(const Pushed&) const = default;
};

/// When and for whom mutations are applied.
struct Applying {
  std::uint64_t ring_id;
  std::uint64_t now_ns;
  std::uint64_t tombstone_ns;
};

inline Known made_by(const Pushed& pushed, const Applying& how) noexcept {
  return {.is_entry = true,
          .is_tombstone = false,
          .content = pushed.content,
          .version = pushed.version,
          .expiry_ns = pushed.has(kWithTtl) ? how.now_ns + pushed.ttl_ns : 0,
          .owner = pushed.has(kEphemeral) ? how.ring_id : 0};
}

inline std::optional<layout::Reject> combine_into(Known& known, const Pushed& pushed, const Applying& how) noexcept {
  if (pushed.content.is_nan()) return layout::Reject::kOutOfRange;
  if (!known.is_entry) {
    known = made_by(pushed, how);
    return std::nullopt;
  }
  if (known.content.type != pushed.content.type) return layout::Reject::kWrongType;
  std::uint64_t& bits = known.content.bits;
  if (known.content.type == Type::kFloat64) {
    const std::optional<double> result =
        combine(pushed.operation, std::bit_cast<double>(bits), std::bit_cast<double>(pushed.content.bits));
    if (!result) return layout::Reject::kOutOfRange;
    bits = std::bit_cast<std::uint64_t>(*result);
    return std::nullopt;
  }
  const std::optional<std::int64_t> result =
      combine(pushed.operation, static_cast<std::int64_t>(bits), static_cast<std::int64_t>(pushed.content.bits));
  if (!result) return layout::Reject::kOutOfRange;
  bits = static_cast<std::uint64_t>(*result);
  return std::nullopt;
}

/// Returns why the mutation is refused, if it is.
inline std::optional<layout::Reject> replay(State& state, const Pushed& pushed, const Applying& how) noexcept {
  if (pushed.key == kGrowing) {
    ++state.grown_count;
    return std::nullopt;
  }
  Known& known = state.keys[pushed.key];
  if (pushed.operation != Operation::kSet && pushed.operation != Operation::kErase) {
    return combine_into(known, pushed, how);
  }
  const bool is_versioned = pushed.has(kWithVersion);
  if (is_versioned && known.exists() && pushed.version <= known.version) return std::nullopt;
  if (pushed.operation == Operation::kSet) {
    known = made_by(pushed, how);
  } else if (is_versioned) {
    known = {};
    known.is_tombstone = true;
    known.version = pushed.version;
    known.expiry_ns = how.now_ns + how.tombstone_ns;
  } else {
    known = {};
  }
  return std::nullopt;
}

/// How far a ring has been replayed.
struct Progress {
  std::uint64_t cursor = 0;
  std::uint64_t applied_count = 0;
  std::array<std::uint64_t, layout::kRejectCount> rejected{};
  std::size_t replayed = 0;  // of `RingLog::accepted`
};

/// What a ring accepted and no snapshot holds yet.
struct RingLog {
  struct Accepted {
    Pushed pushed;
    std::uint64_t end;         // position behind it in the stream
    bool is_followed = false;  // by another one of its batch
  };
  std::uint64_t accepted_end = 0;
  std::deque<Accepted> accepted;
  Progress back;
  Progress published;
  bool is_served = false;

  /// Replays up to a cursor; false when that lies within a mutation or a batch, or beyond what was accepted.
  bool replay_to(std::uint64_t cursor, State& state, const Applying& how) {
    while (back.cursor < cursor && back.replayed < accepted.size()) {
      const Accepted& next = accepted[back.replayed++];
      back.cursor = next.end;
      if (const std::optional<layout::Reject> reject = replay(state, next.pushed, how)) {
        ++back.rejected[static_cast<std::size_t>(*reject)];
      } else {
        ++back.applied_count;
      }
      if (next.is_followed && back.cursor >= cursor) return false;
    }
    return back.cursor == cursor;
  }
  void publish() {
    accepted.erase(accepted.begin(), accepted.begin() + static_cast<std::ptrdiff_t>(back.replayed));
    back.replayed = 0;
    published = back;
  }
  /// The merger died: what it had applied but not published is forgotten.
  void forget() { back = published; }
  [[nodiscard]] bool is_merged() const noexcept { return accepted.empty() && published.cursor == accepted_end; }
};

}  // namespace shmstate::test
