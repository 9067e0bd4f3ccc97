#include "shmstate/reader.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "changes.h"
#include "entry.h"
#include "files/fork.h"
#include "layout/hash.h"
#include "many_read.h"
#include "point_read.h"

namespace shmstate {

using namespace internal;
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr auto kSleepMax = std::chrono::milliseconds(100);  // so that waiting survives a merger that restarts
constexpr std::int32_t kReadsPerCheck = 1024;
constexpr std::uint64_t kCheckIntervalNs = 100'000'000;
constexpr std::uint64_t kSilenceNs = 1'000'000'000;  // of the merger, before its directory is looked at

std::optional<nanoseconds> time_left(std::uint64_t expiry_ns) noexcept {
  if (expiry_ns == 0) return std::nullopt;
  const std::uint64_t now = os::now_ns();
  return nanoseconds(expiry_ns > now ? expiry_ns - now : 0);
}

}  // namespace

std::optional<nanoseconds> EntryView::time_to_live() const noexcept { return time_left(expiry_ns); }

namespace {
[[gnu::noinline]] std::uint64_t hash_of_any(const char* key, std::size_t key_bytes, std::uint64_t seed) noexcept {
  return hash_key({key, key_bytes}, seed);
}
}  // namespace

// Flattened, and apart from other lengths, so that a key of the common ones costs no more than it must.
[[gnu::flatten]] std::uint64_t internal::hash_of(const char* key, std::size_t key_bytes, std::uint64_t seed) noexcept {
  return key_bytes - 17 < 16 ? hash_key({key, key_bytes}, seed) : hash_of_any(key, key_bytes, seed);
}

/// In a child of fork the plain read is zero, answers nothing, and so leads here.
struct Reader::Impl : WithWipedWords<PlainRead> {
  Impl(std::string_view instance, const ReaderOptions& options)
      : point(Attachment::open(instance_path(instance), options.attach_timeout, options.survive_truncation), plain()),
        survive_truncation(options.survive_truncation),
        path(files()->control.path().string()) {
    const Version version = current_version(files()->publication());
    if (options.prefault && files()->snapshot.is_possible(version)) files()->snapshot.prefault(version.buffer);
  }

  [[nodiscard]] PlainRead& plain() noexcept { return wiped(); }
  [[nodiscard]] const std::shared_ptr<Attachment>& files() const noexcept { return point.files(); }

  // ---- whether these are the files to read

  /// Reattaches in a child of fork, where locks and descriptors are the parent's, and to an instance that replaced this
  /// one in the same place: looks for that rarely, and only when the merger is silent or says so.
  void reattach_if_replaced() noexcept {
    const bool is_forked = !maker.is_this_process();
    const std::uint64_t now = os::now_ns();
    if (now < next_check_ns && !(is_forked && attached == Status::kOk)) return;
    next_check_ns = now + kCheckIntervalNs;
    if (is_forked) return reattach();
    const layout::Heartbeat& heartbeat = files()->control.heartbeat();
    const bool is_silent = now - heartbeat.beat_ns.load(std::memory_order_relaxed) > kSilenceNs;  // or nonsense
    if (!is_silent && heartbeat.retired.load(std::memory_order_acquire) == 0) return;  // pair: heartbeat.retired
    is_gone = !files()->control.is_current();
    if (is_gone) reattach();
  }

  void reattach() noexcept {
    const os::NoCancellation shield;
    try {
      auto found = Attachment::open(files()->control.path(), nanoseconds::zero(), survive_truncation);
      if (found->control.geometry().instance_id != point.geometry().instance_id) ++reattach_count;
      point = PointRead(std::move(found), plain());
      is_gone = false;
      maker = Maker();
      attached = Status::kOk;
    } catch (const Error& error) {  // not there yet: keep what we have, unless it is the parent's
      if (!maker.is_this_process()) attached = error.status();
    } catch (const std::exception&) {
      if (!maker.is_this_process()) attached = Status::kNoMemory;
    }
  }

  /// Before a key is hashed: the seed is the instance's.
  [[nodiscard, gnu::always_inline]] Status check_files_sometimes() noexcept {
    return plain().count() ? Status::kOk : check_files();
  }
  [[nodiscard, gnu::noinline, gnu::cold]] Status check_files() noexcept {
    reattach_if_replaced();
    plain().allow(attached == Status::kOk ? kReadsPerCheck : 0);
    return attached;
  }
  /// The same before what is rare. Throws `Error` when a child of fork could not attach.
  void must_have_files() {
    reattach_if_replaced();
    if (attached != Status::kOk) fail(attached);
  }

  // ---- one key

  static std::string_view bytes_in(const std::string_view& key) noexcept { return key; }
  static std::string_view bytes_in(const Key& key) noexcept { return key.bytes(); }
  static std::string_view bytes_in(const Lookup& lookup) noexcept {
    return lookup.bound == nullptr ? lookup.key : lookup.bound->bytes();
  }

  /// A point read in the general way: `take(buffer, slot, head)` copies the value out.
  template <typename Take>
  Status read_with(std::string_view bytes, Take&& take) {
    if (const Status status = check_key(bytes); status != Status::kOk) return status;
    if (const Status status = check_files_sometimes(); status != Status::kOk) return status;
    const HashedKey key = point.hashed(bytes);
    return point.on_current([&](const BufferView& view) { return PointRead::look_up(view, key, take); });
  }
  template <typename Take>
  Status read_with(Key& bound, Take&& take) {
    if (const Status status = check_key(bound.bytes()); status != Status::kOk) return status;
    if (const Status status = check_files_sometimes(); status != Status::kOk) return status;
    const HashedKey key = point.hashed(bound);
    return point.on_current([&](const BufferView& view) { return PointRead::look_up_hinted(view, key, take, &bound); });
  }

  template <typename AnyKey, typename Number>
  Status read_number(AnyKey& key, Number& value) {
    Number seen{};
    const Status status = read_with(key, [&](const BufferView&, const layout::Slot& slot, const SlotHead& head) {
      return take_number(slot, head, seen);
    });
    if (status == Status::kOk) value = seen;
    return status;
  }
  template <typename AnyKey>
  Status read(AnyKey& key, std::string& value) {
    return read_with(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
      return take_string(view, slot, head, value);
    });
  }
  template <typename AnyKey>
  Status read(AnyKey& key, Value& value) {
    return read_with(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
      return take_value(view, slot, head, value);
    });
  }

  // ---- several keys as of one epoch

  static Key* bound_in(const std::string_view&) noexcept { return nullptr; }
  static Key* bound_in(Key& key) noexcept { return &key; }
  static Key* bound_in(Lookup& lookup) noexcept { return lookup.bound; }

  template <typename AnyKey>
  [[nodiscard]] HashedKey hashed_in(AnyKey& key) const noexcept {
    Key* const bound = bound_in(key);
    return bound == nullptr ? point.hashed(bytes_in(key)) : point.hashed(*bound);
  }
  /// Calls `take_one(i, read)` for each key, perhaps again for all of them; `read` has `number` and `take`.
  template <typename AnyKey, typename TakeOne>
  Status for_many(std::span<AnyKey> keys, Position* position, TakeOne&& take_one) {
    reattach_if_replaced();
    if (attached != Status::kOk) return attached;
    const auto read_all = [&](const BufferView& view) {
      ManyRead many(view);
      for (std::size_t first = 0; first < keys.size(); first += ManyRead::kAtOnce) {
        const std::span<AnyKey> some = keys.subspan(first, std::min(keys.size() - first, ManyRead::kAtOnce));
        for (std::size_t i = 0; i < some.size(); ++i) many.begin(i, hashed_in(some[i]), bound_in(some[i]));
        for (std::size_t i = 0; i < some.size(); ++i) many.match(i);
        for (std::size_t i = 0; i < some.size(); ++i) {
          if (take_one(first + i, many.one(i, bytes_in(some[i]), bound_in(some[i]))) == Status::kDamaged) {
            return Status::kDamaged;
          }
        }
      }
      return Status::kOk;
    };
    Epoch epoch = 0;
    const Status status = point.on_current(read_all, &epoch);
    if (position != nullptr) *position = {.instance = point.geometry().instance_id, .epoch = epoch};
    return status;
  }
  template <typename AnyKey>
  Status read_many(std::span<AnyKey> keys, std::vector<std::optional<Value>>& values, Position* position) {
    values.resize(keys.size());
    return for_many(keys, position, [&](std::size_t i, const ManyRead::One& read) {
      if (!values[i]) values[i].emplace();
      const Status status = read.take([&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
        return take_value(view, slot, head, *values[i]);
      });
      if (status != Status::kOk) values[i].reset();
      return status;
    });
  }
  template <typename AnyKey, typename Number>
  Status read_many(std::span<AnyKey> keys, std::span<std::optional<Number>> values, Position* position) {
    if (values.size() < keys.size()) return Status::kInvalidArgument;
    return for_many(keys, position, [&](std::size_t i, const ManyRead::One& read) {
      if (const PlainRead::Answer plain = read.number(kTypeOf<Number>); plain.seen == PlainRead::Seen::kNumber) {
        values[i] = std::bit_cast<Number>(plain.bits);
        return Status::kOk;
      }
      Number seen{};
      const Status status = read.take([&](const BufferView&, const layout::Slot& slot, const SlotHead& head) {
        return take_number(slot, head, seen);
      });
      values[i] = status == Status::kOk ? std::optional(seen) : std::nullopt;
      return status;
    });
  }
  Status read_many(std::span<Lookup> lookups, Position* position) {
    return for_many(lookups, position, [&](std::size_t i, const ManyRead::One& read) {
      Lookup& lookup = lookups[i];
      lookup.value = {};
      lookup.value_bytes = 0;
      lookup.status = read.take([&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
        return take_into(view, slot, head, lookup);
      });
      return lookup.status;
    });
  }
  /// The same, and throws `Error` where that says why nothing was read.
  template <typename... Arguments>
  Position get_many(Arguments&&... arguments) {
    Position position;
    if (const Status status = read_many(arguments..., &position); status != Status::kOk) fail(status);
    return position;
  }

  [[noreturn]] void fail(Status status) const {
    throw Error(status, "shmstate: " + quoted(files()->control.path()) + ": " + std::string(describe(status)));
  }

  PointRead point;
  bool survive_truncation;
  std::string path;
  Maker maker;                    // of the files
  Status attached = Status::kOk;  // or why a child of fork could not attach
  std::uint64_t next_check_ns = 0;
  std::uint64_t reattach_count = 0;
  bool is_gone = false;
};

// ---- Reader

Reader::Reader(std::string_view instance, ReaderOptions options)
    : impl_(std::make_unique<Impl>(instance, options)), plain_(&impl_->plain()) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

Status Reader::read_asking(std::string_view key, std::int64_t& value) noexcept {
  return impl_->read_number(key, value);
}
Status Reader::read_asking(std::string_view key, double& value) noexcept { return impl_->read_number(key, value); }
Status Reader::read_asking(std::string_view key, Float64& value) noexcept { return impl_->read_number(key, value); }
Status Reader::read_asking(Key& key, std::int64_t& value) noexcept { return impl_->read_number(key, value); }
Status Reader::read_asking(Key& key, double& value) noexcept { return impl_->read_number(key, value); }
Status Reader::read_asking(Key& key, Float64& value) noexcept { return impl_->read_number(key, value); }
Status Reader::read(std::string_view key, std::string& value) { return impl_->read(key, value); }
Status Reader::read(std::string_view key, Value& value) { return impl_->read(key, value); }
Status Reader::read(Key& key, std::string& value) { return impl_->read(key, value); }
Status Reader::read(Key& key, Value& value) { return impl_->read(key, value); }

Status Reader::read(std::string_view key, std::span<char> buffer, std::size_t& value_bytes) noexcept {
  return impl_->read_with(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
    if (head.type != Type::kBytes) return Status::kWrongType;
    value_bytes = head.value_bytes;
    return head.value_bytes <= buffer.size() ? take_bytes(view, slot, head, buffer.data()) : Status::kBufferTooSmall;
  });
}

Status Reader::read(std::string_view key, EntryInfo& info) noexcept {
  EntryInfo known;
  std::uint64_t expiry_ns = 0;
  const Status status = impl_->read_with(key, [&](const BufferView&, const layout::Slot& slot, const SlotHead& head) {
    known.type = head.type;
    known.value_bytes = head.value_bytes;
    known.changed_epoch = BufferView::changed_epoch(slot);
    known.version = version_of(slot, head);
    known.ephemeral = head.has(SlotHead::kOwned);
    expiry_ns = expiry_of(slot, head);
    return Status::kOk;
  });
  if (status != Status::kOk) return status;
  known.time_to_live = time_left(expiry_ns);
  info = known;
  return status;
}

std::optional<EntryInfo> Reader::info(std::string_view key) noexcept {
  EntryInfo known;
  return read(key, known) == Status::kOk ? std::optional(known) : std::nullopt;
}

Position Reader::get_many(std::span<const std::string_view> keys, std::vector<std::optional<Value>>& values) {
  return impl_->get_many(keys, values);
}
Position Reader::get_many(std::span<Key> keys, std::vector<std::optional<Value>>& values) {
  return impl_->get_many(keys, values);
}
Position Reader::get_many(std::span<const std::string_view> keys, std::span<std::optional<std::int64_t>> values) {
  return impl_->get_many(keys, values);
}
Position Reader::get_many(std::span<Key> keys, std::span<std::optional<std::int64_t>> values) {
  return impl_->get_many(keys, values);
}
Position Reader::get_many(std::span<const std::string_view> keys, std::span<std::optional<double>> values) {
  return impl_->get_many(keys, values);
}
Position Reader::get_many(std::span<Key> keys, std::span<std::optional<double>> values) {
  return impl_->get_many(keys, values);
}
Position Reader::get_many(std::span<Lookup> lookups) { return impl_->get_many(lookups); }

Status Reader::read_many(std::span<const std::string_view> keys, std::span<std::optional<std::int64_t>> values,
                         Position* position) noexcept {
  return impl_->read_many(keys, values, position);
}
Status Reader::read_many(std::span<Key> keys, std::span<std::optional<std::int64_t>> values,
                         Position* position) noexcept {
  return impl_->read_many(keys, values, position);
}
Status Reader::read_many(std::span<const std::string_view> keys, std::span<std::optional<double>> values,
                         Position* position) noexcept {
  return impl_->read_many(keys, values, position);
}
Status Reader::read_many(std::span<Key> keys, std::span<std::optional<double>> values, Position* position) noexcept {
  return impl_->read_many(keys, values, position);
}

Epoch Reader::epoch() noexcept { return position().epoch; }

Position Reader::position() noexcept {
  if (impl_->check_files_sometimes() != Status::kOk) return {};
  return impl_->files()->position_of(current_version(impl_->files()->publication()));
}

Position Reader::wait(const Position& position, nanoseconds timeout) noexcept {
  const auto began = Clock::now();
  impl_->reattach_if_replaced();
  for (;;) {
    const Shared<std::uint64_t>& word = impl_->files()->publication().epoch_word;
    const std::uint64_t packed = word.load(std::memory_order_acquire);  // pair: epoch_word
    Position now;
    if (impl_->attached == Status::kOk) now = impl_->files()->position_of(Version::unpack(packed));
    const auto waited = Clock::now() - began;
    if (!(now <= position) || waited >= timeout) return now;
    os::futex_wait(word.futex(), static_cast<std::uint32_t>(packed),
                   std::min<nanoseconds>(kSleepMax, timeout - waited));
    impl_->reattach_if_replaced();
  }
}

Status Reader::wait_change(std::string_view key, const Position& position, nanoseconds timeout) {
  const auto began = Clock::now();
  Position known = position;
  for (;;) {
    const Changes news = changes(known);
    const bool is_changed =
        std::any_of(news.changes.begin(), news.changes.end(), [&](const Change& change) { return change.key == key; });
    if (is_changed || news.gap_reason == GapReason::kRecreated) return Status::kOk;
    if (news.gap) {  // the entry itself still shows it, unless it was erased
      const std::optional<EntryInfo> entry = info(key);
      if (!entry || entry->changed_epoch > position.epoch) return Status::kOk;
    }
    known = news.position;
    const auto left = timeout - (Clock::now() - began);
    if (left <= nanoseconds::zero()) return Status::kTimeout;
    wait(known, left);
  }
}

nanoseconds Reader::age() noexcept {
  impl_->reattach_if_replaced();
  if (impl_->attached != Status::kOk) return nanoseconds::max();
  const std::uint64_t current_as_of =
      impl_->files()->control.heartbeat().current_as_of_ns.load(std::memory_order_relaxed);
  const std::uint64_t now = os::now_ns();
  return nanoseconds(now > current_as_of ? now - current_as_of : 0);
}

bool Reader::merger_running() noexcept {
  impl_->reattach_if_replaced();
  return impl_->attached == Status::kOk && impl_->files()->control.merger_running();
}

ReaderStatus Reader::status() noexcept {
  return {.merger_running = merger_running(),
          .age = age(),
          .reattach_count = impl_->reattach_count,
          .instance_gone = impl_->is_gone || impl_->attached != Status::kOk};
}

const std::string& Reader::path() const noexcept { return impl_->path; }

// ---- what needs a pinned buffer

Snapshot Reader::snapshot() {
  impl_->must_have_files();
  return Snapshot(impl_->files());
}

Changes Reader::changes(const Position& since) {
  impl_->must_have_files();
  return collect_changes(impl_->files(), since);
}

}  // namespace shmstate
