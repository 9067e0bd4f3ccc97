#include "engine/segments.h"

#include <algorithm>
#include <bit>

#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"

namespace shmstate::internal {
namespace {

using layout::kLineCells;
using layout::kPageBytes;
using layout::kSegmentLines;

constexpr std::uint8_t kOverflowSticks = 255;
constexpr std::size_t kPageWords = kPageBytes / kWord;

std::uint64_t directory_pages(unsigned depth) {
  if (depth <= layout::kSmallDirectoryLog2) return 0;  // in the header
  return ((std::uint64_t{sizeof(std::uint32_t)} << depth) + kPageBytes - 1) / kPageBytes;
}

std::uint32_t next_line(std::uint32_t line) { return (line + 1) % kSegmentLines; }

std::uint64_t low_mask(unsigned bits) { return (std::uint64_t{1} << bits) - 1; }

// In private memory. Precondition: a cell is free.
void put(layout::Segment& image, std::uint64_t hash, Place place) {
  for (std::uint32_t i = home_line(hash);; i = next_line(i)) {
    layout::IndexLine& line = image.lines[i];
    const auto* const free = std::find(line.tags, line.tags + kLineCells, 0);
    if (const auto cell = free - line.tags; free != line.tags + kLineCells) {
      line.tags[cell] = tag_of(hash);
      line.places[cell] = place.unit;
      return;
    }
    if (line.overflow_count != kOverflowSticks) ++line.overflow_count;
  }
}

}  // namespace

/// What is in a segment, or in two that are merged.
struct Segments::Cells {
  std::array<Cell, layout::kSegmentCells> cells;
  std::size_t count = 0;
};

// ---- the way to a segment

std::uint64_t Segments::hash_of(const layout::Slot& slot) const noexcept {
  const SlotHead head = SlotHead::unpack(slot.head);
  const std::uint64_t* const words = slot.words + head.key_word();
  if (head.is_key_in_block()) return words[1];
  return hash_key({reinterpret_cast<const char*>(words), head.key_bytes()}, hash_seed_);
}

Segments::Level Segments::directory_level(DirectoryWord directory) noexcept {
  return {.offset = directory.offset(), .first_bit = 0, .end_bit = directory.depth, .depth = 0, .page = 0};
}

Segments::Level Segments::node_level(DirectoryEntry node) noexcept {
  return {.offset = node.page * kPageBytes,
          .first_bit = (node.level - 1) * layout::kNodeBits,
          .end_bit = node.level * layout::kNodeBits,
          .depth = node.depth,
          .page = node.page,
          .number = node.level};
}

std::uint64_t Segments::entry_in(const std::byte* buffer, const Level& level, std::uint32_t index) noexcept {
  const auto* const words = reinterpret_cast<const std::uint64_t*>(buffer + level.offset);
  return DirectoryEntry::in(words[DirectoryEntry::word_of(index)], index);
}

Segments::Path Segments::path_to(const BackBuffer& back, std::uint64_t hash) noexcept {
  Path path;
  path.levels[path.count++] = directory_level(directory_word(back));
  for (;;) {
    const std::uint64_t entry = entry_in(back.base(), path.last(), path.last().index_of(hash));
    const DirectoryEntry node = DirectoryEntry::unpack(entry);
    if (node.level == 0) {
      path.segment = node.page;
      return path;
    }
    SHMSTATE_INVARIANT(path.count < path.levels.size());
    path.levels[path.count++] = node_level(node);
  }
}

// All entries of a level whose hashes have the same `depth` low bits.
void Segments::set_entries(BackBuffer& back, const Level& level, std::uint64_t hash, unsigned depth,
                           std::uint64_t entry) {
  auto* const words = back.at<std::uint64_t>(level.offset);
  const std::uint32_t step = std::uint32_t{1} << (depth - level.first_bit);
  const std::uint32_t end = std::uint32_t{1} << (level.end_bit - level.first_bit);
  for (std::uint32_t i = level.index_of(hash) & (step - 1); i < end; i += step) {
    std::uint64_t& word = words[DirectoryEntry::word_of(i)];
    back.store(word, DirectoryEntry::with(word, i, entry));
  }
}

// Of segments and nodes that the directory itself names: as long as one is as deep, it cannot be halved.
void Segments::count_depth(const Level& level, unsigned depth, std::int64_t change) noexcept {
  if (level.number == 0) count_of_depth_[depth] += static_cast<std::uint64_t>(change);
}

// ---- cells

void Segments::set_byte(BackBuffer& back, std::uint8_t& byte, std::uint8_t value) {
  const auto address = reinterpret_cast<std::uintptr_t>(&byte);
  auto& word = *reinterpret_cast<std::uint64_t*>(address / kWord * kWord);
  const auto shift = static_cast<unsigned>(address % kWord * 8);
  back.store(word, (word & ~(std::uint64_t{0xff} << shift)) | std::uint64_t{value} << shift);
}

void Segments::set_place(BackBuffer& back, std::uint32_t& cell, Place place) {
  const auto address = reinterpret_cast<std::uintptr_t>(&cell);
  auto& word = *reinterpret_cast<std::uint64_t*>(address / kWord * kWord);
  const auto shift = static_cast<unsigned>(address % kWord * 8);
  back.store(word, (word & ~(std::uint64_t{0xffff'ffff} << shift)) | std::uint64_t{place.unit} << shift);
}

void Segments::insert(BackBuffer& back, std::uint64_t hash, Place place) {
  const std::uint64_t page = path_to(back, hash).segment;
  SHMSTATE_INVARIANT(entries_of_page_[page] < layout::kSegmentCells);
  ++entries_of_page_[page];
  ++occupied_count_;
  for (std::uint32_t i = home_line(hash);; i = next_line(i)) {
    layout::IndexLine& line = segment(back, page).lines[i];
    const std::uint32_t free = TagWords(line).match(0);
    if (free != 0) {
      const int cell = std::countr_zero(free);
      set_place(back, line.places[cell], place);
      crash_point(CrashPoint::kPlaceWritten);
      set_byte(back, line.tags[cell], tag_of(hash));
      return;
    }
    if (line.overflow_count != kOverflowSticks) {
      set_byte(back, line.overflow_count, static_cast<std::uint8_t>(line.overflow_count + 1));
    }
  }
}

std::uint32_t* Segments::find_cell(layout::Segment& segment, std::uint64_t hash, Place place) noexcept {
  std::uint32_t i = home_line(hash);
  for (std::size_t probes = 0; probes < kSegmentLines; ++probes, i = next_line(i)) {
    layout::IndexLine& line = segment.lines[i];
    for (std::uint32_t match = TagWords(line).match(tag_of(hash)); match != 0; match &= match - 1) {
      std::uint32_t& cell = line.places[std::countr_zero(match)];
      if (cell == place.unit) return &cell;
    }
  }
  SHMSTATE_INVARIANT(false);
  return nullptr;
}

void Segments::move(BackBuffer& back, std::uint64_t hash, Place from, Place to) {
  set_place(back, *find_cell(segment(back, path_to(back, hash).segment), hash, from), to);
  crash_point(CrashPoint::kPlaceSwitched);
}

void Segments::erase(BackBuffer& back, std::uint64_t hash, Place place) {
  const std::uint64_t page = path_to(back, hash).segment;
  layout::Segment& here = segment(back, page);
  const std::uint32_t* const cell = find_cell(here, hash, place);
  const auto offset =
      static_cast<std::size_t>(reinterpret_cast<const std::byte*>(cell) - reinterpret_cast<const std::byte*>(&here));
  const auto last = static_cast<std::uint32_t>(offset / layout::kLine);
  for (std::uint32_t i = home_line(hash); i != last; i = next_line(i)) {
    std::uint8_t& count = here.lines[i].overflow_count;
    if (count != kOverflowSticks) set_byte(back, count, static_cast<std::uint8_t>(count - 1));
  }
  set_byte(back, here.lines[last].tags[cell - here.lines[last].places], 0);
  crash_point(CrashPoint::kCellFreed);
  SHMSTATE_INVARIANT(entries_of_page_[page] > 0 && occupied_count_ > 0);
  --occupied_count_;
  if (--entries_of_page_[page] > kMergedEntriesMax / 2) return;
  while (merge(back, path_to(back, hash), hash)) {
  }
}

// ---- whole segments

void Segments::read_cells(const BackBuffer& back, std::uint64_t page, Cells& cells) const {
  const std::size_t first = cells.count;
  for (const layout::IndexLine& line : segment(back, page).lines) {
    for (std::uint32_t occupied = TagWords(line).occupied(); occupied != 0; occupied &= occupied - 1) {
      const Place place{.unit = line.places[std::countr_zero(occupied)]};
      __builtin_prefetch(&slot(back, place));
      cells.cells[cells.count++].place = place;
    }
  }
  for (std::size_t i = first; i < cells.count; ++i) cells.cells[i].hash = hash_of(slot(back, cells.cells[i].place));
}

// Makes a segment of those cells whose hashes have these bits in the mask. In a new page, nothing is known of what it
// held, in any buffer.
void Segments::write_segment(BackBuffer& back, std::uint64_t page, unsigned depth, const Cells& cells,
                             std::uint64_t bits, std::uint64_t mask, bool is_new) {
  layout::Segment image{};
  image.lines[0].depth = static_cast<std::uint8_t>(depth);
  std::size_t count = 0;
  for (std::size_t i = 0; i < cells.count; ++i) {
    if ((cells.cells[i].hash & mask) != bits) continue;
    put(image, cells.cells[i].hash, cells.cells[i].place);
    ++count;
  }
  const auto* const from = reinterpret_cast<const std::uint64_t*>(&image);
  auto* const to = back.at<std::uint64_t>(page * kPageBytes);
  for (std::size_t i = 0; i < kPageWords; ++i) {
    if (is_new || to[i] != from[i]) back.store(to[i], from[i]);
  }
  entries_of_page_[page] = static_cast<std::uint16_t>(count);
  depth_of_page_[page] = static_cast<std::uint8_t>(depth);
  crash_point(CrashPoint::kSegmentWritten);
}

bool Segments::create(BackBuffer& back) {
  const std::optional<std::uint64_t> first = pages_.allocate(back, 1);
  if (!first) return false;
  write_segment(back, *first, 0, Cells{}, 0, 0, true);
  back.store(back.header().directory, DirectoryWord::small(0).pack());
  set_entries(back, directory_level(directory_word(back)), 0, 0, *first);
  count_of_depth_[0] = 1;
  segment_count_ = 1;
  return true;
}

Segments::Room Segments::make_room(BackBuffer& back, std::uint64_t hash) {
  for (;;) {  // each split adds a bit of the hash, of which there are kDepthMax
    const Path path = path_to(back, hash);
    if (entries_of_page_[path.segment] < kSegmentEntriesMax) return Room::kYes;
    const unsigned depth = depth_of_page_[path.segment];
    const Room room = depth < path.last().end_bit ? split(back, path, hash) : widen(back, path, hash);
    if (room != Room::kYes) return room;
  }
}

Segments::Room Segments::split(BackBuffer& back, const Path& path, std::uint64_t hash) {
  const std::optional<std::uint64_t> added = pages_.allocate(back, 1);
  if (!added) return Room::kNoMemory;
  const unsigned depth = depth_of_page_[path.segment];
  const std::uint64_t bit = std::uint64_t{1} << depth;
  Cells cells;
  read_cells(back, path.segment, cells);
  write_segment(back, *added, depth + 1, cells, bit, bit, true);
  write_segment(back, path.segment, depth + 1, cells, 0, bit, false);
  set_entries(back, path.last(), hash | bit, depth + 1, *added);
  crash_point(CrashPoint::kSegmentSplit);
  count_depth(path.last(), depth, -1);
  count_depth(path.last(), depth + 1, 2);
  ++segment_count_;
  ++split_count_;
  return Room::kYes;
}

// The segment is as deep as what names it: more bits of the hash are needed there.
Segments::Room Segments::widen(BackBuffer& back, const Path& path, std::uint64_t hash) {
  const unsigned depth = depth_of_page_[path.segment];
  if (path.count == 1 && may_double(depth)) return double_directory(back) ? Room::kYes : Room::kNoMemory;
  if (depth == layout::kDepthMax) return Room::kCrowded;
  return add_node(back, path, hash) ? Room::kYes : Room::kNoMemory;
}

bool Segments::may_double(unsigned depth) const noexcept {
  if (depth >= layout::kDirectoryLog2Max) return false;
  return depth < layout::kSmallDirectoryLog2 || occupied_count_ / kEntriesPerDirectoryEntry >= std::uint64_t{2}
                                                                                                   << depth;
}

// Entries are indexed by low bits of the hash, so the second half of the doubled directory repeats the first.
bool Segments::double_directory(BackBuffer& back) {
  const DirectoryWord old = directory_word(back);
  DirectoryWord larger{.line = old.line, .depth = old.depth + 1};
  if (directory_pages(larger.depth) != directory_pages(old.depth)) {
    const std::optional<std::uint64_t> page = pages_.allocate(back, directory_pages(larger.depth));
    if (!page) return false;
    larger.line = *page * kSegmentLines;
  }
  const auto* const from = back.at<std::uint64_t>(old.offset());
  auto* const to = back.at<std::uint64_t>(larger.offset());
  if (old.depth == 0) {
    back.store(to[0], DirectoryEntry::with(from[0], 1, DirectoryEntry::in(from[0], 0)));
  } else {
    const std::size_t words = std::size_t{1} << (old.depth - 1);
    for (std::size_t i = 0; i < words; ++i) {
      if (larger.line != old.line) back.store(to[i], from[i]);
      back.store(to[words + i], from[i]);
    }
  }
  crash_point(CrashPoint::kDirectoryCopied);
  back.store(back.header().directory, larger.pack());
  crash_point(CrashPoint::kDirectoryDoubled);
  if (larger.line != old.line && directory_pages(old.depth) != 0) {
    pages_.release(old.line / kSegmentLines, directory_pages(old.depth));
  }
  return true;
}

void Segments::halve_directory(BackBuffer& back) {
  const DirectoryWord old = directory_word(back);
  DirectoryWord smaller{.line = old.line, .depth = old.depth - 1};
  const std::uint64_t pages = directory_pages(smaller.depth);
  const std::uint64_t old_pages = directory_pages(old.depth);
  if (pages == 0 && old_pages != 0) {
    smaller = DirectoryWord::small(smaller.depth);
    const auto* const from = back.at<std::uint64_t>(old.offset());
    for (std::size_t i = 0; i < std::size(back.header().small_directory); ++i) {
      back.store(back.header().small_directory[i], from[i]);
    }
  }
  back.store(back.header().directory, smaller.pack());
  crash_point(CrashPoint::kDirectoryHalved);
  if (pages != old_pages) pages_.release(old.line / kSegmentLines + pages, old_pages - pages);
}

// A node that begins at the first bits which are not all known. Its entries for other known bits are never looked at.
bool Segments::add_node(BackBuffer& back, const Path& path, std::uint64_t hash) {
  const std::optional<std::uint64_t> page = pages_.allocate(back, 1);
  if (!page) return false;
  const unsigned depth = depth_of_page_[path.segment];
  const DirectoryEntry node{.page = *page, .level = depth / layout::kNodeBits + 1, .depth = depth};
  auto* const words = back.at<std::uint64_t>(*page * kPageBytes);
  for (std::size_t i = 0; i < kPageWords; ++i) back.store(words[i], 0);
  set_entries(back, node_level(node), hash, depth, path.segment);
  crash_point(CrashPoint::kNodeWritten);
  set_entries(back, path.last(), hash, depth, node.pack());
  return true;
}

// Undoes a split, or a node that names a single segment. Returns whether there may be more to undo.
bool Segments::merge(BackBuffer& back, const Path& path, std::uint64_t hash) {
  const unsigned depth = depth_of_page_[path.segment];
  const Level& level = path.last();
  if (level.number != 0 && depth == level.depth) {
    set_entries(back, path.levels[path.count - 2], hash, depth, path.segment);
    pages_.release(level.page, 1);
    return true;
  }
  if (depth == 0) return false;
  const std::uint64_t bit = std::uint64_t{1} << (depth - 1);
  const DirectoryEntry other = DirectoryEntry::unpack(entry_in(back.base(), level, level.index_of(hash ^ bit)));
  if (other.level != 0 || depth_of_page_[other.page] != depth) return false;
  if (entries_of_page_[path.segment] + entries_of_page_[other.page] > kMergedEntriesMax) return false;
  Cells cells;
  read_cells(back, path.segment, cells);
  read_cells(back, other.page, cells);
  write_segment(back, path.segment, depth - 1, cells, 0, 0, false);
  set_entries(back, level, hash, depth - 1, path.segment);
  crash_point(CrashPoint::kSegmentsMerged);
  pages_.release(other.page, 1);
  count_depth(level, depth, -2);
  count_depth(level, depth - 1, 1);
  --segment_count_;
  while (directory_word(back).depth > 0 && count_of_depth_[directory_word(back).depth] == 0) halve_directory(back);
  return true;
}

// ---- taking over

bool Segments::resume(const BufferView& buffer, const Adopt& adopt) {
  const BufferView::Directory directory = buffer.directory(pages_.committed());
  if (directory.words == nullptr) return false;
  const DirectoryWord word = buffer.directory_word();
  const std::uint64_t pages = directory_pages(word.depth);
  if (pages == 0 ? word.line != DirectoryWord::small(0).line : word.line % kSegmentLines != 0) return false;
  if (pages != 0 && !pages_.adopt(word.line / kSegmentLines, pages)) return false;
  const auto* const base = reinterpret_cast<const std::byte*>(directory.words) - word.offset();
  return adopt_level(buffer, base, directory_level(word), 0, adopt);
}

// What is named by several entries counts at the first of them.
bool Segments::adopt_level(const BufferView& buffer, const std::byte* base, const Level& level, std::uint64_t low_bits,
                           const Adopt& adopt) {
  const std::uint32_t end = std::uint32_t{1} << (level.end_bit - level.first_bit);
  for (std::uint32_t i = 0; i < end; ++i) {
    const std::uint64_t bits = std::uint64_t{i} << level.first_bit | (low_bits & low_mask(level.first_bit));
    if ((bits & low_mask(level.depth)) != low_bits) continue;  // never looked at
    const std::uint64_t entry = entry_in(base, level, i);
    const DirectoryEntry named = DirectoryEntry::unpack(entry);
    if (!BufferView::is_segment_page(named.page, pages_.committed())) return false;
    const unsigned depth = named.level != 0 ? named.depth : buffer.segment(named.page).lines[0].depth;
    if (depth < level.depth || depth > level.end_bit) return false;
    if ((bits & low_mask(depth)) != bits) {
      if (entry_in(base, level, level.index_of(bits & low_mask(depth))) != entry) return false;
      continue;
    }
    count_depth(level, depth, 1);
    if (named.level == 0) {
      if (!adopt_segment(base, named.page, bits, depth, adopt)) return false;
      continue;
    }
    if (named.level <= level.number || named.level > layout::kNodeLevels || !pages_.adopt(named.page, 1)) return false;
    if (node_level(named).first_bit > depth || node_level(named).end_bit <= depth) return false;
    if (!adopt_level(buffer, base, node_level(named), bits, adopt)) return false;
  }
  return true;
}

bool Segments::adopt_segment(const std::byte* base, std::uint64_t page, std::uint64_t low_bits, unsigned depth,
                             const Adopt& adopt) {
  if (!pages_.adopt(page, 1)) return false;
  ++segment_count_;
  depth_of_page_[page] = static_cast<std::uint8_t>(depth);
  for (const layout::IndexLine& line : reinterpret_cast<const layout::Segment*>(base + page * kPageBytes)->lines) {
    for (std::uint32_t occupied = TagWords(line).occupied(); occupied != 0; occupied &= occupied - 1) {
      const auto cell = static_cast<std::size_t>(std::countr_zero(occupied));
      const Place place{.unit = line.places[cell]};
      if (!adopt(place)) return false;
      const std::uint64_t hash = hash_of(*reinterpret_cast<const layout::Slot*>(base + place.offset()));
      if ((hash & low_mask(depth)) != low_bits || tag_of(hash) != line.tags[cell]) return false;
      ++entries_of_page_[page];
      ++occupied_count_;
    }
  }
  return true;
}

}  // namespace shmstate::internal
