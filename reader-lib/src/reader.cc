#include "shmstate/reader.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "attachment.h"
#include "changes.h"
#include "core/key_hints.h"
#include "entry.h"
#include "plain_view.h"

namespace shmstate {
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

struct Reader::Impl {
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

  /// Goes over to a new instance in the same place, if this one was removed. Looks rarely, and only when the merger is
  /// silent or says so.
  void look_around() noexcept {
    const std::uint64_t now = os::now_ns();
    if (now < next_look_ns) return;
    next_look_ns = now + kLookIntervalNs;
    const layout::Heartbeat& heartbeat = files->control.heartbeat();
    const bool is_silent = now - heartbeat.beat_ns.load(std::memory_order_relaxed) > kSilenceNs;  // or nonsense
    if (!is_silent && heartbeat.retired.load(std::memory_order_acquire) == 0) return;
    is_gone = !files->control.is_current();
    if (!is_gone) return;
    try {
      files = Attachment::open(files->control.path(), nanoseconds::zero(), survive_truncation);
      plain = PlainView(files->publication());
      is_gone = false;
      ++reattach_count;
    } catch (const std::exception&) {  // not there yet: go on with what we have
    }
  }

  void look_now_and_then() noexcept {  // before a key is hashed: the seed is the instance's
    if (++reads < kReadsPerLook) return;
    reads = 0;
    look_around();
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
    look_now_and_then();
    const HashedKey key = hashed(bytes);
    return read_current([&](const BufferView& view) { return read_in(view, key, take); });
  }
  template <typename Take>
  Status read_key(Key& bound, Take&& take) {
    if (const Status status = check_key(bound.bytes()); status != Status::kOk) return status;
    look_now_and_then();
    const HashedKey key = KeyHints::hashed(bound, geometry().instance_id, geometry().hash_seed);
    return read_current([&](const BufferView& view) {
      SlotHead head;
      const Location at = KeyHints::location(bound);
      if (view.is_at(at, key, head)) return take_at(view, at, head, take);
      return read_in(view, key, take, &bound);
    });
  }
  template <typename Take>
  static Status read_in(const BufferView& view, const HashedKey& key, Take&& take, Key* bound = nullptr) {
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
    if (key.size() - 1 >= SlotHead::kPlainKeyBytesMax || reads + 1 >= kReadsPerLook) return false;
    ++reads;
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
  template <typename AnyKey>
  [[gnu::noinline]] Status read_number(AnyKey& key, double& value) {
    double seen = 0;
    const Status status = read_key(key, [&](const BufferView&, const layout::Slot& slot, const SlotHead& head) {
      return take_double(slot, head, seen);
    });
    if (status == Status::kOk) value = seen;
    return status;
  }
  template <typename Number, typename AnyKey>
  [[gnu::noinline]] Status read_number(AnyKey& key, Number& value) {
    std::uint64_t bits = 0;
    const Status status = read_key(key, [&](const BufferView&, const layout::Slot& slot, const SlotHead& head) {
      return take_number(kTypeOf<Number>, slot, head, bits);
    });
    if (status == Status::kOk) value = std::bit_cast<Number>(bits);
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

  [[noreturn]] void fail(Status status) const {
    throw Error(status, "shmstate: " + quoted(files->control.path()) + ": " + std::string(describe(status)));
  }

  std::shared_ptr<Attachment> files;
  bool survive_truncation;
  std::string path;
  PlainView plain;
  std::uint32_t reads = 0;  // since the last look around
  std::uint64_t next_look_ns = 0;
  std::uint64_t reattach_count = 0;
  std::uint64_t changes_attachment = 0;  // the reattach_count at the last call of `changes`
  bool is_gone = false;
};

// ---- Reader

Reader::Reader(std::string_view instance, ReaderOptions options) : impl_(std::make_unique<Impl>(instance, options)) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

Status Reader::read(std::string_view key, std::int64_t& value) const noexcept { return impl_->read(key, value); }
Status Reader::read(std::string_view key, double& value) const noexcept { return impl_->read(key, value); }
Status Reader::read(std::string_view key, Float64& value) const noexcept { return impl_->read(key, value); }
Status Reader::read(std::string_view key, std::string& value) const { return impl_->read(key, value); }
Status Reader::read(std::string_view key, Value& value) const { return impl_->read(key, value); }
Status Reader::read(Key& key, std::int64_t& value) const noexcept { return impl_->read(key, value); }
Status Reader::read(Key& key, double& value) const noexcept { return impl_->read(key, value); }
Status Reader::read(Key& key, Float64& value) const noexcept { return impl_->read(key, value); }
Status Reader::read(Key& key, std::string& value) const { return impl_->read(key, value); }
Status Reader::read(Key& key, Value& value) const { return impl_->read(key, value); }

Status Reader::read(std::string_view key, std::span<char> buffer, std::size_t& value_bytes) const noexcept {
  return impl_->read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
    if (head.type != Type::kBytes) return Status::kWrongType;
    value_bytes = head.value_bytes;
    return head.value_bytes <= buffer.size() ? take_bytes(view, slot, head, buffer.data()) : Status::kBufferTooSmall;
  });
}

Status Reader::read(std::string_view key, EntryInfo& info) const noexcept {
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

std::optional<EntryInfo> Reader::info(std::string_view key) const noexcept {
  EntryInfo known;
  return read(key, known) == Status::kOk ? std::optional(known) : std::nullopt;
}

Epoch Reader::get_many(std::span<const std::string_view> keys, std::vector<std::optional<Value>>& values) const {
  impl_->look_around();
  std::vector<HashedKey> hashed;
  hashed.reserve(keys.size());
  for (const std::string_view key : keys) hashed.push_back(impl_->hashed(key));
  Epoch epoch = 0;
  const auto read_all = [&](const BufferView& view) {
    values.assign(keys.size(), std::nullopt);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      if (check_key(keys[i]) != Status::kOk) continue;
      Value value;
      const Status status =
          Impl::read_in(view, hashed[i], [&](const BufferView& buffer, const layout::Slot& slot, const SlotHead& head) {
            return take_value(buffer, slot, head, value);
          });
      if (status == Status::kDamaged) return status;
      if (status == Status::kOk) values[i] = std::move(value);
    }
    return Status::kOk;
  };
  if (const Status status = impl_->read_current(read_all, &epoch); status != Status::kOk) impl_->fail(status);
  return epoch;
}

Epoch Reader::epoch() const noexcept {
  impl_->look_now_and_then();
  return current_version(impl_->files->publication()).epoch;
}

Epoch Reader::wait(Epoch epoch, nanoseconds timeout) const noexcept {
  const auto began = Clock::now();
  const std::uint64_t attachment = impl_->reattach_count;
  for (;;) {
    const Shared<std::uint64_t>& word = impl_->files->publication().epoch_word;
    const auto* const futex = reinterpret_cast<const std::uint32_t*>(word.address());  // its low half
    const std::uint64_t packed = word.load(std::memory_order_acquire);
    const Epoch now = Version::unpack(packed).epoch;
    const auto waited = Clock::now() - began;
    if (now > epoch || waited >= timeout || attachment != impl_->reattach_count) return now;
    os::futex_wait(futex, static_cast<std::uint32_t>(packed), std::min<nanoseconds>(kSleepMax, timeout - waited));
    impl_->look_around();
  }
}

Status Reader::wait_change(std::string_view key, Epoch epoch, nanoseconds timeout) const {
  const auto began = Clock::now();
  Epoch known = epoch;
  for (;;) {
    const Changes news = changes(known);
    const bool is_changed =
        std::any_of(news.changes.begin(), news.changes.end(), [&](const Change& change) { return change.key == key; });
    if (is_changed) return Status::kOk;
    if (news.gap) {  // the entry itself still tells, unless it was erased
      const std::optional<EntryInfo> entry = info(key);
      if (!entry || entry->changed_epoch > epoch) return Status::kOk;
    }
    known = news.epoch;
    const auto left = timeout - (Clock::now() - began);
    if (left <= nanoseconds::zero()) return Status::kTimeout;
    wait(known, left);
  }
}

nanoseconds Reader::age() const noexcept {
  impl_->look_around();
  const std::uint64_t current_as_of =
      impl_->files->control.heartbeat().current_as_of_ns.load(std::memory_order_relaxed);
  const std::uint64_t now = os::now_ns();
  return nanoseconds(now > current_as_of ? now - current_as_of : 0);
}

bool Reader::merger_running() const noexcept { return impl_->files->control.merger_running(); }

ReaderStatus Reader::status() const noexcept {
  return {.merger_running = merger_running(),
          .age = age(),
          .reattach_count = impl_->reattach_count,
          .instance_gone = impl_->is_gone};
}

const std::string& Reader::path() const noexcept { return impl_->path; }

// ---- what needs a pinned buffer

Snapshot Reader::snapshot() const {
  impl_->look_around();
  return Snapshot(impl_->files);
}

Changes Reader::changes(Epoch since) const {
  impl_->look_around();
  const bool is_new_instance = impl_->changes_attachment != impl_->reattach_count;
  Changes news = collect_changes(impl_->files, is_new_instance ? std::nullopt : std::optional(since));
  impl_->changes_attachment = impl_->reattach_count;  // not if that threw
  return news;
}

}  // namespace shmstate
