#include "engine/replicas.h"

#include <utility>

#include "protocol/invariant.h"
#include "shmstate/detail/crash_point.h"
#include "shmstate/detail/words.h"

namespace shmstate::internal {
namespace {

constexpr std::size_t kPrefetchAhead = 16;  // lines; covers the latency of memory at the speed of copying

std::uint64_t line_count(const Geometry& geometry) { return geometry.buffer_stride / layout::kLine; }

void copy_line(std::uint32_t line, const std::byte* from, std::byte* to) noexcept {
  crash_point(CrashPoint::kLineCopied);
  const std::size_t offset = std::size_t{line} * layout::kLine;
  const auto* const from_words = reinterpret_cast<const std::uint64_t*>(from + offset);
  auto* const to_words = reinterpret_cast<std::uint64_t*>(to + offset);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < layout::kLine / kWord; ++i) {
    store_word(to_words + i, from_words[i], std::memory_order_release);
  }
}

// Of an entry that changed in nothing else: the epoch of change and the value.
void copy_value(Place place, const std::byte* from, std::byte* to) noexcept {
  crash_point(CrashPoint::kValueCopied);
  const std::uint64_t offset = Differences::value_offset(place);
  const auto* const from_words = reinterpret_cast<const std::uint64_t*>(from + offset);
  auto* const to_words = reinterpret_cast<std::uint64_t*>(to + offset);
  store_word(to_words, from_words[0], std::memory_order_release);
  store_word(to_words + 1, from_words[1], std::memory_order_release);
}

std::uint64_t offset_of(std::uint32_t line) { return std::uint64_t{line} * layout::kLine; }
std::uint64_t offset_of(Place place) { return Differences::value_offset(place); }

// Calls `copy` for all lines or entries, and prefetches what it will touch.
template <typename What, typename Copy>
void copy_all(const std::vector<What>& all, const std::byte* from, std::byte* to, Copy&& copy) noexcept {
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (i + kPrefetchAhead < all.size()) {
      const std::uint64_t ahead = offset_of(all[i + kPrefetchAhead]);
      __builtin_prefetch(from + ahead, 0);
      __builtin_prefetch(to + ahead, 1);
    }
    copy(all[i], from, to);
  }
}

}  // namespace

Replicas::Replicas(InstanceOwner& owner)
    : owner_(owner), buffer_count_(owner.geometry().buffer_count), spare_(line_count(owner.geometry())) {
  for (std::uint32_t b = 0; b < buffer_count_; ++b) stale_.emplace_back(line_count(owner.geometry()));
  lacks_all_.assign(buffer_count_, false);
}

BackBuffer Replicas::first() {
  SHMSTATE_INVARIANT(current_.epoch == 0 && !is_claimed_);
  for (std::uint32_t b = 1; b < buffer_count_; ++b) lacks_all_[b] = true;
  return open(0);
}

void Replicas::resume_from(Version current) {
  set_current(current);
  for (std::uint32_t b = 0; b < buffer_count_; ++b) lacks_all_[b] = b != current.buffer;
}

void Replicas::set_current(Version version) {
  current_ = version;
  current_base_ = owner_.buffer(version.buffer);
}

void Replicas::check_claim(std::uint32_t buffer) const noexcept {
  SHMSTATE_INVARIANT(!is_claimed_);
  SHMSTATE_INVARIANT(buffer < buffer_count_ && buffer != current_.buffer);
}

BackBuffer Replicas::open(std::uint32_t buffer) {
  last_claimed_ = buffer;
  std::byte* const base = owner_.buffer(buffer);
  if (current_.epoch != 0) {
    lines_copied_ += catch_up(buffer, base);
    crash_point(CrashPoint::kBufferCaughtUp);
  }
  is_claimed_ = true;
  BackBuffer back(base, buffer, current_.epoch + 1, std::move(spare_));
  back.store(back.header().epoch, back.epoch());
  return back;
}

// Returns the number of lines copied.
std::uint64_t Replicas::catch_up(std::uint32_t buffer, std::byte* to) {
  Differences& stale = stale_[buffer];
  std::uint64_t copied = stale.size();
  if (lacks_all_[buffer]) {
    const std::uint64_t pages = reinterpret_cast<const layout::BufferHeader*>(current_base_)->page_count;
    const std::uint64_t lines = pages * layout::kPageBytes / layout::kLine;
    for (copied = 0; copied < lines; ++copied) copy_line(static_cast<std::uint32_t>(copied), current_base_, to);
    lacks_all_[buffer] = false;
  } else {
    copy_all(stale.lines(), current_base_, to, copy_line);
    copy_all(stale.entries(), current_base_, to, copy_value);
  }
  stale.clear();
  return copied;
}

void Replicas::publish(BackBuffer&& back) {
  SHMSTATE_INVARIANT(is_claimed_ && back.base() == owner_.buffer(back.index()));
  SHMSTATE_INVARIANT(back.epoch() == current_.epoch + 1 && back.header().epoch == back.epoch());
  SHMSTATE_INVARIANT(current_.epoch == 0 || is_being_written(owner_.publication(), back.index()));
  BackBuffer published = std::move(back);
  const Version version{.epoch = published.epoch(), .buffer = published.index()};
  publish_version(owner_.publication(), version);
  set_current(version);
  is_claimed_ = false;
  spare_ = std::move(published.written_);
  if (buffer_count_ == 2) {  // the other buffer was the current one until now and lacked nothing
    std::swap(stale_[1 - version.buffer], spare_);
    return;
  }
  for (std::uint32_t b = 0; b < buffer_count_; ++b) {
    if (b != version.buffer && !lacks_all_[b]) stale_[b].add(spare_);
  }
  spare_.clear();
}

}  // namespace shmstate::internal
