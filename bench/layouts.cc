// Candidates for the layout of the table, side by side: the same keys, hash and comparison, nothing of the publish
// protocol. What counts is the number of cold cache lines of a lookup, and where they lie. docs/decisions.md says what
// was chosen. All tables have the same room for entries, are on huge pages, and never grow.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <bit>
#include <cstring>
#include <memory>

#include "files/os.h"
#include "layout/hash.h"
#include "measure.h"
#include "shmstate/detail/buffer_view.h"
#include "workload.h"

namespace shmstate::bench {
using namespace internal;
namespace {

constexpr std::uint64_t kSeed = 0x9e37'79b9'7f4a'7c15;
constexpr std::size_t kStreamLength = std::size_t{1} << 18;
constexpr std::size_t kSegmentBytes = std::size_t{64} << 10;  // of the candidates with slots in place
constexpr std::size_t kGroupSlots = 15;
constexpr std::size_t kSegmentGroups = 67;
constexpr std::size_t kSegmentSlots = kSegmentGroups * kGroupSlots;

/// Zeroed memory on huge pages where there are some.
class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(round_up(bytes, kHugePage)) {
    void* const mapped =
        ::mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(mapped != MAP_FAILED, "no memory for a candidate");
    begin_ = static_cast<std::byte*>(mapped);
    const auto address = reinterpret_cast<std::uintptr_t>(begin_);
    aligned_ = begin_ + (round_up(address, kHugePage) - address);
    ::madvise(aligned_, bytes_, MADV_HUGEPAGE);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::munmap(begin_, bytes_ + kHugePage); }

  template <typename T>
  [[nodiscard]] T* at(std::size_t offset) const noexcept {
    return reinterpret_cast<T*>(aligned_ + offset);
  }

 private:
  static constexpr std::size_t kHugePage = os::kHugePageBytes;
  std::size_t bytes_;
  std::byte* begin_;
  std::byte* aligned_;
};

/// Everything about an entry in a line, as in the table, or only what a lookup wants.
struct alignas(64) WholeSlot {
  std::uint64_t head, changed_epoch, value, key[3], rest[2];
};
struct alignas(32) HotSlot {
  std::uint64_t value, key[3];
};

template <typename Slot>
[[nodiscard]] bool holds(const Slot& slot, const Item& item) noexcept {
  std::uint64_t difference = 0;
  for (std::size_t i = 0; i < 3; ++i) difference |= slot.key[i] ^ unaligned_word(item.key.data() + i * kWord);
  return difference == 0;
}
template <typename Slot>
void fill(Slot& slot, const Item& item) noexcept {
  slot.value = static_cast<std::uint64_t>(item.value);
  std::memcpy(slot.key, item.key.data(), sizeof slot.key);
}

/// The offset where a segment begins in its page, if that is to differ: multiplicative hashing (Knuth, The Art of
/// Computer Programming 3, 6.4) to one of its 1,024 lines.
[[nodiscard]] std::size_t rotated_origin(std::size_t segment) noexcept {
  return (segment * 2'654'435'761 & 0xffff'ffff) >> 22 << 6;
}

/// Where the tags of a segment are: at the start of its 64 KiB, at a line that depends on the segment, or with those of
/// all other segments.
enum class Tags : std::uint8_t { kAtStart, kRotated, kTogether };

struct alignas(16) Group {
  std::uint8_t tags[kGroupSlots];
  std::uint8_t overflow_count;

  /// A bit for each slot whose tag is `tag`.
  [[nodiscard]] std::uint32_t match(std::uint8_t tag) const noexcept {
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < kGroupSlots; ++i) bits |= std::uint32_t{tags[i] == tag} << i;
    return bits;
  }
};
[[nodiscard]] std::uint32_t group_of(std::uint64_t hash) noexcept {
  return static_cast<std::uint32_t>(((hash >> 24 & 0xffff'ffff) * kSegmentGroups) >> 32);
}

/// Groups of 15 slots with 16 bytes of tags: slots in place.
template <typename Slot, Tags kTags>
class Tagged {
 public:
  /// `capacity` is a power of two: of segments, each a little smaller.
  explicit Tagged(std::size_t capacity)
      : mask_(capacity / std::bit_ceil(kSegmentSlots) - 1),
        memory_((mask_ + 1) * kSegmentBytes),
        tags_((mask_ + 1) * kSegmentGroups * sizeof(Group)) {}

  void insert(const Item& item, std::uint64_t hash) {
    for (std::uint32_t group = group_of(hash);; group = (group + 1) % kSegmentGroups) {
      Group& tags = this->tags(hash & mask_, group);
      const std::uint32_t free = tags.match(0);
      if (free != 0) {
        const auto index = static_cast<std::size_t>(std::countr_zero(free));
        tags.tags[index] = tag_of(hash);
        fill(slot(hash & mask_, group * kGroupSlots + index), item);
        return;
      }
      ++tags.overflow_count;
    }
  }
  [[nodiscard, gnu::always_inline]] const std::uint64_t* find(const Item& item, std::uint64_t hash) const noexcept {
    std::uint32_t group = group_of(hash);
    for (;;) {
      const Group& tags = this->tags(hash & mask_, group);
      for (std::uint32_t match = tags.match(tag_of(hash)); match != 0; match &= match - 1) {
        const Slot& candidate =
            slot(hash & mask_, group * kGroupSlots + static_cast<std::size_t>(std::countr_zero(match)));
        if (holds(candidate, item)) return &candidate.value;
      }
      if (tags.overflow_count == 0) return nullptr;
      group = (group + 1) % kSegmentGroups;
    }
  }

 private:
  [[nodiscard]] std::size_t place(std::size_t segment, std::size_t offset) const noexcept {
    const std::size_t origin = kTags == Tags::kRotated ? rotated_origin(segment) : 0;
    return segment * kSegmentBytes + (origin + offset) % kSegmentBytes;
  }
  [[nodiscard]] Group& tags(std::size_t segment, std::size_t group) const noexcept {
    if constexpr (kTags == Tags::kTogether) return tags_.at<Group>(0)[segment * kSegmentGroups + group];
    return *memory_.at<Group>(place(segment, layout::kLine + group * sizeof(Group)));
  }
  [[nodiscard]] Slot& slot(std::size_t segment, std::size_t slot) const noexcept {
    return *memory_.at<Slot>(place(segment, kFirstSlot + slot * sizeof(Slot)));
  }

  static constexpr std::size_t kFirstSlot = (1 + kSegmentGroups / 4 + 1) * layout::kLine;

  std::size_t mask_;
  Memory memory_;
  Memory tags_;
};

/// Cells of half a hash and the number of an entry, probed linearly; entries dense, in the order of insertion.
class DenseBehindIndex {
 public:
  explicit DenseBehindIndex(std::size_t capacity)
      : mask_(capacity - 1), cells_(capacity * sizeof(std::uint64_t)), slots_((capacity + 1) * sizeof(WholeSlot)) {}

  void insert(const Item& item, std::uint64_t hash) {
    std::size_t at = hash & mask_;
    while (cells_.at<std::uint64_t>(0)[at] != 0) at = (at + 1) & mask_;
    cells_.at<std::uint64_t>(0)[at] = (hash >> 32 << 32) | ++count_;
    fill(slots_.at<WholeSlot>(0)[count_], item);
  }
  [[nodiscard, gnu::always_inline]] const std::uint64_t* find(const Item& item, std::uint64_t hash) const noexcept {
    for (std::size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const std::uint64_t cell = cells_.at<std::uint64_t>(0)[at];
      if (cell == 0) return nullptr;
      const WholeSlot& candidate = slots_.at<WholeSlot>(0)[cell & 0xffff'ffff];
      if (cell >> 32 == hash >> 32 && holds(candidate, item)) return &candidate.value;
    }
  }

 private:
  std::size_t mask_;
  std::uint64_t count_ = 0;
  Memory cells_;
  Memory slots_;
};

/// Lines of 12 tags and 12 places, as in docs/layout.md, and entries of 48 bytes in the order of insertion.
class LinesBeforeSlabs {
 public:
  explicit LinesBeforeSlabs(std::size_t capacity)
      : mask_(capacity / 8 - 1), lines_((mask_ + 1) * layout::kLine), entries_((capacity + 1) * sizeof(Entry)) {}

  void insert(const Item& item, std::uint64_t hash) {
    for (std::size_t at = hash & mask_;; at = (at + 1) & mask_) {
      layout::IndexLine& line = lines_.at<layout::IndexLine>(0)[at];
      const std::uint32_t free = TagWords(line).match(0);
      if (free != 0) {
        const int cell = std::countr_zero(free);
        line.tags[cell] = tag_of(hash);
        line.places[cell] = ++count_;
        fill(entries_.at<Entry>(0)[count_], item);
        return;
      }
      ++line.overflow_count;
    }
  }
  [[nodiscard, gnu::always_inline]] const std::uint64_t* find(const Item& item, std::uint64_t hash) const noexcept {
    for (std::size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const layout::IndexLine& line = lines_.at<layout::IndexLine>(0)[at];
      const TagWords tags(line);
      for (std::uint32_t match = tags.match(tag_of(hash)); match != 0; match &= match - 1) {
        const Entry& candidate = entries_.at<Entry>(0)[line.places[std::countr_zero(match)]];
        if (holds(candidate, item)) return &candidate.value;
      }
      if (tags.overflow_count() == 0) return nullptr;
    }
  }

 private:
  struct Entry {
    std::uint64_t head, changed_epoch, value, key[3];
  };

  std::size_t mask_;
  std::uint32_t count_ = 0;
  Memory lines_;
  Memory entries_;
};

/// No tags at all: slots are compared one after the other.
class LinearProbing {
 public:
  explicit LinearProbing(std::size_t capacity) : mask_(capacity - 1), slots_(capacity * sizeof(WholeSlot)) {}

  void insert(const Item& item, std::uint64_t hash) {
    std::size_t at = hash & mask_;
    while (slots_.at<WholeSlot>(0)[at].head != 0) at = (at + 1) & mask_;
    slots_.at<WholeSlot>(0)[at].head = 1;
    fill(slots_.at<WholeSlot>(0)[at], item);
  }
  [[nodiscard, gnu::always_inline]] const std::uint64_t* find(const Item& item, std::uint64_t hash) const noexcept {
    for (std::size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const WholeSlot& candidate = slots_.at<WholeSlot>(0)[at];
      if (candidate.head == 0) return nullptr;
      if (holds(candidate, item)) return &candidate.value;
    }
  }

 private:
  std::size_t mask_;
  Memory slots_;
};

template <typename Table>
void find(benchmark::State& state) {
  const auto capacity = static_cast<std::uint64_t>(state.range(0));
  const std::uint64_t key_count = capacity * static_cast<std::uint64_t>(state.range(1)) / 100;
  Table table(capacity);
  for (const Item& item : all_items(key_count)) table.insert(item, hash_key(item.name(), kSeed));
  const std::vector<Item> stream = make_stream(key_count, kStreamLength, Distribution::kUniform, 1);
  std::size_t place = 0;
  for ([[maybe_unused]] auto _ : state) {
    const Item& item = stream[place++ % kStreamLength];
    const std::uint64_t* const value = table.find(item, hash_key(item.name(), kSeed));
    if (value == nullptr || index_in(static_cast<std::int64_t>(*value)) != index_in(item.value)) {
      state.SkipWithError("a lookup found nothing, or another key");
      break;
    }
  }
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"room", "percent_full"})->ArgsProduct({{1 << 10, 1 << 17, 1 << 21}, {50, 85}});
}

BENCHMARK(find<Tagged<WholeSlot, Tags::kRotated>>)->Name("tags_rotated")->Apply(sizes);
BENCHMARK(find<Tagged<WholeSlot, Tags::kAtStart>>)->Name("tags_at_start_of_pages")->Apply(sizes);
BENCHMARK(find<Tagged<WholeSlot, Tags::kTogether>>)->Name("tags_together")->Apply(sizes);
BENCHMARK(find<Tagged<HotSlot, Tags::kRotated>>)->Name("tags_rotated_hot_slots")->Apply(sizes);
BENCHMARK(find<DenseBehindIndex>)->Name("dense_behind_index")->Apply(sizes);
BENCHMARK(find<LinesBeforeSlabs>)->Name("lines_before_slabs")->Apply(sizes);
BENCHMARK(find<LinearProbing>)->Name("linear_probing")->Apply(sizes);

}  // namespace
}  // namespace shmstate::bench

BENCHMARK_MAIN();
