#include "shmstate/reader.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "attachment.h"
#include "changes.h"
#include "entry.h"
#include "files/fork.h"
#include "plain_view.h"
#include "protocol/key_hints.h"

namespace shmstate {

using namespace internal;
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr int kReadTries = 8;                               // then the buffer is pinned, so that a read is bounded
constexpr auto kSleepMax = std::chrono::milliseconds(100);  // so that waiting survives a merger that restarts
constexpr std::uint32_t kReadsPerLook = 1024;
constexpr std::uint64_t kLookIntervalNs = 100'000'000;
constexpr std::uint64_t kSilenceNs = 1'000'000'000;  // of the merger, before its directory is looked at

Status check_key(std::string_view key) noexcept {
  if (key.empty()) return Status::kKeyEmpty;
  return key.size() <= kKeyBytesMax ? Status::kOk : Status::kKeyTooLong;
}

std::optional<nanoseconds> time_left(std::uint64_t expiry_ns) noexcept {
  if (expiry_ns == 0) return std::nullopt;
  const std::uint64_t now = os::now_ns();
  return nanoseconds(expiry_ns > now ? expiry_ns - now : 0);
}

}  // namespace

std::optional<nanoseconds> EntryView::time_to_live() const noexcept { return time_left(expiry_ns); }

/// In a child of fork they are zero: so it is time to look around.
struct ReaderWords {
  std::uint32_t reads_left;  // until the next look around
};

struct Reader::Impl : WithWipedWords<ReaderWords> {
  Impl(std::string_view instance, const ReaderOptions& options)
      : files(Attachment::open(instance_path(instance), options.attach_timeout, options.survive_truncation)),
        survive_truncation(options.survive_truncation),
        path(files->control.path().string()),
        plain(files->publication()) {
    const Version version = current_version(files->publication());
    if (options.prefault && files->snapshot.is_possible(version)) files->snapshot.prefault(version.buffer);
  }

  [[nodiscard]] const Geometry& geometry() const noexcept { return files->control.geometry(); }
  [[nodiscard]] HashedKey hashed(std::string_view bytes) const noexcept {
    return {.bytes = bytes, .hash = hash_key(bytes, geometry().hash_seed)};
  }

  /// Attaches anew in a child of fork, where locks and descriptors are the parent's. Goes over to a new instance in the
  /// same place, if this one was removed: looks for that rarely, and only when the merger is silent or says so.
  void look_around() noexcept {
    const bool is_forked = !maker.is_this_process();
    const std::uint64_t now = os::now_ns();
    if (now < next_look_ns && !(is_forked && attached == Status::kOk)) return;
    next_look_ns = now + kLookIntervalNs;
    if (is_forked) return attach_anew();
    const layout::Heartbeat& heartbeat = files->control.heartbeat();
    const bool is_silent = now - heartbeat.beat_ns.load(std::memory_order_relaxed) > kSilenceNs;  // or nonsense
    if (!is_silent && heartbeat.retired.load(std::memory_order_acquire) == 0) return;
    is_gone = !files->control.is_current();
    if (is_gone) attach_anew();
  }

  void attach_anew() noexcept {
    const os::NoCancellation shield;
    try {
      auto found = Attachment::open(files->control.path(), nanoseconds::zero(), survive_truncation);
      if (found->control.geometry().instance_id != geometry().instance_id) ++reattach_count;
      files = std::move(found);
      plain = PlainView(files->publication());
      is_gone = false;
      maker = Maker();
      attached = Status::kOk;
    } catch (const Error& error) {  // not there yet: go on with what we have, unless it is the parent's
      if (!maker.is_this_process()) attached = error.status();
    } catch (const std::exception&) {
      if (!maker.is_this_process()) attached = Status::kNoMemory;
    }
  }

  /// Before a key is hashed: the seed is the instance's.
  [[nodiscard, gnu::always_inline]] Status look_now_and_then() noexcept {
    const std::uint32_t left = wiped().reads_left;
    if (left == 0) return look_at_last();
    wiped().reads_left = left - 1;
    return Status::kOk;
  }
  [[nodiscard, gnu::noinline, gnu::cold]] Status look_at_last() noexcept {
    look_around();
    if (attached == Status::kOk) wiped().reads_left = kReadsPerLook;
    return attached;
  }
  /// The same before what is rare. Throws `Error` when a child of fork could not attach.
  void look_around_or_fail() {
    look_around();
    if (attached != Status::kOk) fail(attached);
  }

  /// Runs `read` on the current buffer until the buffer was intact behind it, and returns what it returned.
  template <typename Read>
  Status read_current(Read&& read, Epoch* epoch = nullptr) {
    const layout::Publication& publication = files->publication();
    Version version;
    for (int i = 0; i < kReadTries; ++i) {
      version = current_version(publication);
      if (!files->snapshot.is_possible(version)) return Status::kDamaged;
      const BufferView buffer = files->snapshot.buffer(version.buffer);
      const Status status = read(buffer);
      if (!is_intact(publication, version)) continue;
      plain.aim(version, buffer);
      if (epoch != nullptr) *epoch = version.epoch;
      return status;
    }
    return read_pinned(read, epoch);
  }
  template <typename Read>
  [[gnu::noinline, gnu::cold]] Status read_pinned(Read& read, Epoch* epoch) {
    const layout::Publication& publication = files->publication();
    Version version;
    if (const Status pinned = files->pin_current(version); pinned != Status::kOk) return pinned;
    const Status status = read(files->snapshot.buffer(version.buffer));
    const bool kept = is_kept(publication, version);
    files->snapshot.unpin(version.buffer);
    if (epoch != nullptr) *epoch = version.epoch;
    return kept ? status : Status::kExpired;
  }

  /// A point read: `take(buffer, slot, head)` copies the value out.
  template <typename Take>
  Status read_key(std::string_view bytes, Take&& take) {
    if (const Status status = check_key(bytes); status != Status::kOk) return status;
    if (const Status status = look_now_and_then(); status != Status::kOk) return status;
    const HashedKey key = hashed(bytes);
    return read_current([&](const BufferView& view) { return read_in(view, key, take); });
  }
  template <typename Take>
  Status read_key(Key& bound, Take&& take) {
    if (const Status status = check_key(bound.bytes()); status != Status::kOk) return status;
    if (const Status status = look_now_and_then(); status != Status::kOk) return status;
    const HashedKey key = KeyHints::hashed(bound, geometry().instance_id, geometry().hash_seed);
    return read_current([&](const BufferView& view) { return read_hinted(view, key, take, &bound); });
  }
  /// Where `bound` has seen the key, or else where it is.
  template <typename Take>
  static Status read_hinted(const BufferView& view, const HashedKey& key, Take&& take, Key* bound) {
    if (bound != nullptr) {
      SlotHead head;
      const Location at = KeyHints::location(*bound);
      if (view.is_at(at, key, head)) return take_at(view, at, head, take);
    }
    return read_in(view, key, take, bound);
  }
  template <typename Take>
  [[gnu::always_inline]] static Status read_in(const BufferView& view, const HashedKey& key, Take&& take,
                                               Key* bound = nullptr) {
    Location at;
    SlotHead head;
    switch (view.find(key, at, head)) {
      case BufferView::Found::kNo: return Status::kNotFound;
      case BufferView::Found::kDamaged: return Status::kDamaged;
      case BufferView::Found::kYes: break;
    }
    if (bound != nullptr) KeyHints::set_place(*bound, at);
    return take_at(view, at, head, take);
  }
  template <typename Take>
  static Status take_at(const BufferView& view, const Location& at, const SlotHead& head, Take&& take) {
    if (head.type == kTombstone) return Status::kNotFound;
    return take(view, view.segment(at.page).slots[at.slot], head);
  }

  /// Counts the read, unless its key is empty or long, or it is time to look around: that goes the general way.
  [[nodiscard, gnu::always_inline]] bool begin_plain(std::string_view key) {
    const std::uint32_t left = wiped().reads_left;
    if (key.size() - 1 >= SlotHead::kPlainKeyBytesMax || left == 0) return false;
    wiped().reads_left = left - 1;
    return true;
  }
  /// False says nothing. Flattened into `read`: no call is made on the way, so that nothing need be saved for it.
  [[nodiscard, gnu::always_inline]] bool read_plain(std::string_view key, Type type, std::uint64_t& bits) {
    return begin_plain(key) && plain.read(hashed(key), type, bits);
  }
  [[nodiscard, gnu::always_inline]] bool read_plain(const Key& bound, Type type, std::uint64_t& bits) {
    return begin_plain(bound.bytes()) && KeyHints::belongs_to(bound, geometry().instance_id) &&
           plain.read_at(KeyHints::location(bound), bound.bytes(), type, bits);
  }
  template <typename Number>
  static constexpr Type kTypeOf = std::is_same_v<Number, std::int64_t> ? Type::kInt64 : Type::kFloat64;

  template <typename Number, typename AnyKey>
  requires std::is_same_v<Number, std::int64_t> || std::is_same_v<Number, double> || std::is_same_v<Number, Float64>
  [[gnu::flatten]] Status read(AnyKey& key, Number& value) {
    std::uint64_t bits = 0;
    if (!read_plain(key, kTypeOf<Number>, bits)) return read_number(key, value);
    value = std::bit_cast<Number>(bits);
    return Status::kOk;
  }
  /// A double is also what an integer becomes.
  template <typename Number>
  static Status take(const layout::Slot& slot, const SlotHead& head, Number& value) noexcept {
    if constexpr (std::is_same_v<Number, double>) {
      return take_double(slot, head, value);
    } else {
      std::uint64_t bits = 0;
      const Status status = take_number(kTypeOf<Number>, slot, head, bits);
      value = std::bit_cast<Number>(bits);
      return status;
    }
  }
  template <typename AnyKey, typename Number>
  [[gnu::noinline]] Status read_number(AnyKey& key, Number& value) {
    Number seen{};
    const Status status = read_key(
        key, [&](const BufferView&, const layout::Slot& slot, const SlotHead& head) { return take(slot, head, seen); });
    if (status == Status::kOk) value = seen;
    return status;
  }
  template <typename AnyKey>
  Status read(AnyKey& key, std::string& value) {
    return read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
      return take_string(view, slot, head, value);
    });
  }
  template <typename AnyKey>
  Status read(AnyKey& key, Value& value) {
    return read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
      return take_value(view, slot, head, value);
    });
  }

  // ---- several keys as of one epoch

  static Key* bound_in(const std::string_view&) noexcept { return nullptr; }
  static Key* bound_in(Key& key) noexcept { return &key; }
  static Key* bound_in(Lookup& lookup) noexcept { return lookup.bound; }
  static std::string_view bytes_in(const std::string_view& key) noexcept { return key; }
  static std::string_view bytes_in(const Key& key) noexcept { return key.bytes(); }
  static std::string_view bytes_in(const Lookup& lookup) noexcept { return lookup.key; }

  template <typename AnyKey>
  [[nodiscard]] HashedKey hashed_in(AnyKey& key) const noexcept {
    Key* const bound = bound_in(key);
    return bound == nullptr ? hashed(bytes_in(key))
                            : KeyHints::hashed(*bound, geometry().instance_id, geometry().hash_seed);
  }
  /// Calls `take_one(i, look_up)` for each key, perhaps again for all of them; `look_up(take)` is a point read.
  template <typename AnyKey, typename TakeOne>
  Epoch for_many(std::span<AnyKey> keys, TakeOne&& take_one) {
    look_around_or_fail();
    many.clear();
    for (AnyKey& key : keys) many.push_back(hashed_in(key));
    const auto read_all = [&](const BufferView& view) {
      for (std::size_t i = 0; i < keys.size(); ++i) {
        const auto look_up = [&](auto&& take) {
          const Status status = check_key(many[i].bytes);
          return status == Status::kOk ? read_hinted(view, many[i], take, bound_in(keys[i])) : status;
        };
        if (take_one(i, look_up) == Status::kDamaged) return Status::kDamaged;
      }
      return Status::kOk;
    };
    Epoch epoch = 0;
    if (const Status status = read_current(read_all, &epoch); status != Status::kOk) fail(status);
    return epoch;
  }
  template <typename AnyKey>
  Epoch read_many(std::span<AnyKey> keys, std::vector<std::optional<Value>>& values) {
    values.resize(keys.size());
    return for_many(keys, [&](std::size_t i, auto&& look_up) {
      if (!values[i]) values[i].emplace();
      const Status status = look_up([&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
        return take_value(view, slot, head, *values[i]);
      });
      if (status != Status::kOk) values[i].reset();
      return status;
    });
  }
  template <typename AnyKey, typename Number>
  Epoch read_many(std::span<AnyKey> keys, std::span<std::optional<Number>> values) {
    if (values.size() < keys.size()) fail(Status::kInvalidArgument);
    return for_many(keys, [&](std::size_t i, auto&& look_up) {
      Number seen{};
      const Status status = look_up(
          [&](const BufferView&, const layout::Slot& slot, const SlotHead& head) { return take(slot, head, seen); });
      values[i] = status == Status::kOk ? std::optional(seen) : std::nullopt;
      return status;
    });
  }
  Epoch read_many(std::span<Lookup> lookups) {
    return for_many(lookups, [&](std::size_t i, auto&& look_up) {
      Lookup& lookup = lookups[i];
      lookup.value = {};
      lookup.value_bytes = 0;
      lookup.status = look_up([&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
        return take_into(view, slot, head, lookup);
      });
      return lookup.status;
    });
  }
  static Status take_into(const BufferView& view, const layout::Slot& slot, const SlotHead& head, Lookup& lookup) {
    std::uint64_t bits = 0;
    if (take_number(Type::kInt64, slot, head, bits) == Status::kOk) {
      lookup.value = static_cast<std::int64_t>(bits);
      return Status::kOk;
    }
    if (take_number(Type::kFloat64, slot, head, bits) == Status::kOk) {
      lookup.value = std::bit_cast<double>(bits);
      return Status::kOk;
    }
    if (head.type != Type::kBytes) return Status::kDamaged;
    lookup.value_bytes = head.value_bytes;
    if (head.value_bytes > lookup.buffer.size()) return Status::kBufferTooSmall;
    lookup.value = std::string_view(lookup.buffer.data(), head.value_bytes);
    return take_bytes(view, slot, head, lookup.buffer.data());
  }

  [[noreturn]] void fail(Status status) const {
    throw Error(status, "shmstate: " + quoted(files->control.path()) + ": " + std::string(describe(status)));
  }

  std::shared_ptr<Attachment> files;
  bool survive_truncation;
  std::string path;
  PlainView plain;
  Maker maker;                    // of `files`
  Status attached = Status::kOk;  // or why a child of fork could not attach
  std::uint64_t next_look_ns = 0;
  std::uint64_t reattach_count = 0;
  bool is_gone = false;
  std::vector<HashedKey> many;  // that are being read
};

// ---- Reader

Reader::Reader(std::string_view instance, ReaderOptions options) : impl_(std::make_unique<Impl>(instance, options)) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

Status Reader::read(std::string_view key, std::int64_t& value) noexcept { return impl_->read(key, value); }
Status Reader::read(std::string_view key, double& value) noexcept { return impl_->read(key, value); }
Status Reader::read(std::string_view key, Float64& value) noexcept { return impl_->read(key, value); }
Status Reader::read(std::string_view key, std::string& value) { return impl_->read(key, value); }
Status Reader::read(std::string_view key, Value& value) { return impl_->read(key, value); }
Status Reader::read(Key& key, std::int64_t& value) noexcept { return impl_->read(key, value); }
Status Reader::read(Key& key, double& value) noexcept { return impl_->read(key, value); }
Status Reader::read(Key& key, Float64& value) noexcept { return impl_->read(key, value); }
Status Reader::read(Key& key, std::string& value) { return impl_->read(key, value); }
Status Reader::read(Key& key, Value& value) { return impl_->read(key, value); }

Status Reader::read(std::string_view key, std::span<char> buffer, std::size_t& value_bytes) noexcept {
  return impl_->read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
    if (head.type != Type::kBytes) return Status::kWrongType;
    value_bytes = head.value_bytes;
    return head.value_bytes <= buffer.size() ? take_bytes(view, slot, head, buffer.data()) : Status::kBufferTooSmall;
  });
}

Status Reader::read(std::string_view key, EntryInfo& info) noexcept {
  EntryInfo known;
  std::uint64_t expiry_ns = 0;
  const Status status = impl_->read_key(key, [&](const BufferView&, const layout::Slot& slot, const SlotHead& head) {
    known.type = head.type;
    known.value_bytes = head.value_bytes;
    known.changed_epoch = BufferView::changed_epoch(slot);
    known.version = version_of(slot, head);
    known.ephemeral = head.owner != 0;
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

Epoch Reader::get_many(std::span<const std::string_view> keys, std::vector<std::optional<Value>>& values) {
  return impl_->read_many(keys, values);
}
Epoch Reader::get_many(std::span<Key> keys, std::vector<std::optional<Value>>& values) {
  return impl_->read_many(keys, values);
}
Epoch Reader::get_many(std::span<const std::string_view> keys, std::span<std::optional<std::int64_t>> values) {
  return impl_->read_many(keys, values);
}
Epoch Reader::get_many(std::span<Key> keys, std::span<std::optional<std::int64_t>> values) {
  return impl_->read_many(keys, values);
}
Epoch Reader::get_many(std::span<const std::string_view> keys, std::span<std::optional<double>> values) {
  return impl_->read_many(keys, values);
}
Epoch Reader::get_many(std::span<Key> keys, std::span<std::optional<double>> values) {
  return impl_->read_many(keys, values);
}
Epoch Reader::get_many(std::span<Lookup> lookups) { return impl_->read_many(lookups); }

Epoch Reader::epoch() noexcept { return position().epoch; }

Position Reader::position() noexcept {
  if (impl_->look_now_and_then() != Status::kOk) return {};
  return impl_->files->position_of(current_version(impl_->files->publication()));
}

Position Reader::wait(const Position& position, nanoseconds timeout) noexcept {
  const auto began = Clock::now();
  impl_->look_around();
  for (;;) {
    const Shared<std::uint64_t>& word = impl_->files->publication().epoch_word;
    const auto* const futex = reinterpret_cast<const std::uint32_t*>(word.address());  // its low half
    const std::uint64_t packed = word.load(std::memory_order_acquire);
    Position now;
    if (impl_->attached == Status::kOk) now = impl_->files->position_of(Version::unpack(packed));
    const auto waited = Clock::now() - began;
    if (!(now <= position) || waited >= timeout) return now;
    os::futex_wait(futex, static_cast<std::uint32_t>(packed), std::min<nanoseconds>(kSleepMax, timeout - waited));
    impl_->look_around();
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
    if (news.gap) {  // the entry itself still tells, unless it was erased
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
  impl_->look_around();
  if (impl_->attached != Status::kOk) return nanoseconds::max();
  const std::uint64_t current_as_of =
      impl_->files->control.heartbeat().current_as_of_ns.load(std::memory_order_relaxed);
  const std::uint64_t now = os::now_ns();
  return nanoseconds(now > current_as_of ? now - current_as_of : 0);
}

bool Reader::merger_running() noexcept {
  impl_->look_around();
  return impl_->attached == Status::kOk && impl_->files->control.merger_running();
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
  impl_->look_around_or_fail();
  return Snapshot(impl_->files);
}

Changes Reader::changes(const Position& since) {
  impl_->look_around_or_fail();
  return collect_changes(impl_->files, since);
}

}  // namespace shmstate
