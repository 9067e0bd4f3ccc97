// The merger of the simulation: it steps, starts and dies, and what it publishes is compared with the oracle.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>

#include "protocol/publish.h"
#include "simulation/simulation.h"

namespace shmstate::test {
namespace {

constexpr std::uint64_t kLateNs = 3 << 20;  // so late a time to live may end: a tick of the timing wheel and its edges
constexpr std::size_t kHistoryMax = 64;

}  // namespace

bool Simulation::is_merger_busy() const noexcept {
  return std::any_of(frames_.begin(), frames_.end(),
                     [](const Frame* frame) { return frame->producer == nullptr && !frame->is_reader; });
}

void Simulation::step_merger() {
  if (is_merger_busy()) return;
  if (!engine_) return start_merger();
  static constexpr std::array<std::uint64_t, 6> kLater{10'000, 60'000, 1'000'000, 1'000'000, 20'000'000, 101'000'000};
  pass_time(kLater[dice_.below(kLater.size())]);
  step_ns_ = now_ns();
  if (!perform(nullptr, true, [this] { static_cast<void>(engine_->step(step_ns_)); })) bury_merger();
}

void Simulation::start_merger() {
  is_starting_ = true;
  step_ns_ = now_ns();
  const bool lived = perform(nullptr, engine_.has_value() || history_.size() > 1, [this] {
    owner_.emplace(path(), files_);
    const auto on_event = [this](const MergeEvent& event) {
      if (event.kind == MergeEvent::Kind::kRingQuarantined) fail("a ring was quarantined: " + event.detail);
    };
    engine_.emplace(*owner_, merge_, on_event, step_ns_, [this] {
      pass_time(dice_.below(8) * 100'000);  // turns are cut short at times
      return now_ns();
    });
  });
  is_starting_ = false;
  if (!lived) bury_merger();
}

void Simulation::bury_merger() {
  if (owner_) alike_pages_ = current_pages();
  engine_.reset();
  owner_.reset();
  back_ = now();
  for (auto& [id, log] : logs_) log.forget();
}

// The merger has taken something from a ring.
void Simulation::set_back_cursors() {
  const auto* const cursors = &ring_cursor(owner_->buffer(engine_->back_buffer()), 0);
  for (std::size_t i = 0; i < kRingsMax; ++i) {
    const std::uint64_t id = cursors[i].ring_id;
    const auto log = logs_.find(id);
    if (id == 0 || log == logs_.end() || cursors[i].cursor == log->second.back.cursor) continue;
    const Applying how{.ring_id = id, .now_ns = step_ns_, .tombstone_ns = kTombstoneNs};
    expect(log->second.replay_to(cursors[i].cursor, back_, how),
           "a cursor within a batch, or where nothing was pushed");
  }
}

void Simulation::check_publish() {
  const Version version = current_version(owner_->publication());
  expect(version.epoch == history_.back().epoch + 1, "epochs do not grow by one");
  const std::byte* const buffer = owner_->buffer(version.buffer);
  const auto& header = *reinterpret_cast<const layout::BufferHeader*>(buffer);
  const auto* const cursors = &ring_cursor(buffer, 0);
  expect(header.epoch == version.epoch, "a buffer with another epoch than its stamp");
  check_rings(cursors);
  const BufferView view(buffer, owner_->geometry().pages_max());
  for (std::size_t key = 0; key < kKeyCount; ++key) check_entry(key, view, cursors);
  expect(header.entry_count == back_.entry_count(), "the number of entries");
  expect(header.tombstone_count == back_.tombstone_count(), "the number of tombstones");
  history_.push_back({.epoch = version.epoch, .feed_end = header.feed_end, .state = back_});
  if (history_.size() > kHistoryMax) history_.pop_front();
}

const std::byte* Simulation::current_buffer() { return owner_->buffer(current_version(owner_->publication()).buffer); }

std::uint64_t Simulation::current_pages() {
  return reinterpret_cast<const layout::BufferHeader*>(current_buffer())->page_count;
}

// To the last byte.
void Simulation::check_catch_up() {
  const std::uint64_t bytes = std::min(alike_pages_, current_pages()) * layout::kPageBytes;
  expect(std::memcmp(current_buffer(), owner_->buffer(engine_->back_buffer()), bytes) == 0,
         "a claimed buffer that is not the current one");
}

void Simulation::check_rings(const layout::RingCursor* cursors) {
  ring_of_index_.clear();
  for (std::size_t i = 0; i < kRingsMax; ++i) {
    if (cursors[i].ring_id == 0) continue;
    ring_of_index_[i] = cursors[i].ring_id;
    if (finished_.contains(cursors[i].ring_id)) return fail("a cursor of a ring that was finished");
    RingLog& log = logs_[cursors[i].ring_id];  // the merger may find a ring before its maker knows its name
    log.is_served = true;
    expect(cursors[i].cursor == log.back.cursor, "state and cursor do not belong together");
    expect(cursors[i].applied_count == log.back.applied_count, "the number of applied mutations");
    for (std::size_t reason = 0; reason < layout::kRejectCount; ++reason) {
      expect(cursors[i].rejected[reason] == log.back.rejected[reason], "the number of rejected mutations");
    }
    log.publish();
  }
  std::erase_if(logs_, [this](const auto& log) {
    const std::uint64_t id = log.first;
    const RingLog& ring = log.second;
    const bool is_held = std::any_of(ring_of_index_.begin(), ring_of_index_.end(),
                                     [id](const auto& place) { return place.second == id; });
    if (is_held || !ring.is_served) return false;
    expect(ring.is_merged(), "a ring was finished before all it held was merged");
    const bool is_open = std::any_of(producers_.begin(), producers_.end(), [id](const Producer& producer) {
      return producer.writer && producer.writer->ring_id() == id;
    });
    expect(!is_open, "a ring was finished while its writer lives");
    finished_.insert(id);
    return true;
  });
}

bool Simulation::may_be_erased(const Known& known) const {
  if (known.expiry_ns != 0 && known.expiry_ns <= step_ns_) return true;
  if (known.owner == 0) return false;
  return std::none_of(producers_.begin(), producers_.end(), [&](const Producer& producer) {
    return producer.writer && producer.writer->ring_id() == known.owner;
  });
}

bool Simulation::must_be_erased(const Known& known) const {
  if (known.expiry_ns != 0 && known.expiry_ns + kLateNs <= step_ns_) return true;
  return known.owner != 0 && !logs_.contains(known.owner);
}

void Simulation::check_entry(std::size_t key, const BufferView& view, const layout::RingCursor* cursors) {
  Known& expected = back_.keys[key];
  Place at;
  SlotHead head;
  const BufferView::Found found = view.find({.bytes = keys()[key], .hash = hashes_[key]}, at, head);
  expect(found != BufferView::Found::kDamaged, "a damaged entry", key);
  if (found != BufferView::Found::kYes) {
    expect(!expected.exists() || may_be_erased(expected), "an entry is missing", key);
    expected = {};
    return;
  }
  expect(!must_be_erased(expected), "an entry outlived its time or its owner", key);
  const layout::Slot& slot = view.slot(at);
  const std::uint64_t owner = head.owner() == 0 ? 0 : cursors[head.owner() - 1].ring_id;
  expect(expected.exists(), "an entry that should not be", key);
  expect(expected.is_tombstone == (head.type == kTombstone), "an erasure", key);
  expect(expected.owner == owner, "an owner", key);
  const auto optional = [&](SlotHead::Flag flag) { return head.has(flag) ? slot.words[head.word_of(flag)] : 0; };
  expect(expected.expiry_ns == optional(SlotHead::kHasExpiry), "an expiry", key);
  expect(expected.version == optional(SlotHead::kHasVersion), "a version", key);
  if (expected.is_tombstone || head.type != expected.content.type) {
    return expect(expected.is_tombstone, "the type of a value", key);
  }
  const std::uint64_t* const words = view.value_words(slot, head);
  ValueView value = static_cast<std::int64_t>(*words);
  if (head.type == Type::kFloat64) value = std::bit_cast<double>(*words);
  if (head.type == Type::kBytes) value = std::string_view(reinterpret_cast<const char*>(words), head.value_bytes);
  expect(expected.content.is(value), "a value", key);
}

// What a writer may overwrite, the current snapshot holds.
void Simulation::check_heads() {
  for (const Producer& producer : producers_) {
    if (!producer.ring) continue;
    const auto log = logs_.find(producer.ring->id());
    if (log == logs_.end()) continue;
    expect(producer.ring->header().head.load(std::memory_order_relaxed) <= log->second.published.cursor,
           "a head moved before the publish");
  }
}

}  // namespace shmstate::test
