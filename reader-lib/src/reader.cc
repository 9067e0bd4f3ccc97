#include "shmstate/reader.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>

#include "core/buffer_view.h"
#include "core/instance.h"
#include "core/publish.h"

namespace shmstate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kReadTries = 8;  // then the buffer is pinned, so that a read is bounded
constexpr int kPinTries = 1000;
constexpr auto kSleepMax = std::chrono::milliseconds(100);  // so that waiting survives a merger that restarts

// How an entry's value is taken out of a buffer. `kDamaged` may only mean that the merger is writing it.
Status take_number(Type type, const BufferView&, const layout::Slot& slot, const SlotHead& head, std::uint64_t& word) {
  if (head.type != type) return Status::kWrongType;
  word = load_word(slot.words, std::memory_order_acquire);
  return Status::kOk;
}

Status take_bytes(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head, char* out) {
  const std::uint64_t* const words = buffer.value_words(slot, head);
  if (words == nullptr) return Status::kDamaged;
  std::size_t left = head.value_bytes;
  for (std::size_t i = 0; left > 0; ++i) {
    const std::uint64_t word = load_word(words + i, std::memory_order_acquire);
    const std::size_t bytes = std::min(left, kWord);
    std::memcpy(out, &word, bytes);
    out += bytes;
    left -= bytes;
  }
  return Status::kOk;
}

Status take_string(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head, std::string& value) {
  if (head.type != Type::kBytes) return Status::kWrongType;
  value.resize(head.value_bytes);
  return take_bytes(buffer, slot, head, value.data());
}

Status take_value(const BufferView& buffer, const layout::Slot& slot, const SlotHead& head, Value& value) {
  switch (head.type) {
    case Type::kInt64: value = static_cast<std::int64_t>(load_word(slot.words, std::memory_order_acquire)); break;
    case Type::kFloat64: value = std::bit_cast<double>(load_word(slot.words, std::memory_order_acquire)); break;
    case Type::kBytes: {
      std::string* const held = std::get_if<std::string>(&value);
      return take_string(buffer, slot, head, held != nullptr ? *held : value.emplace<std::string>());
    }
    default: return Status::kDamaged;
  }
  return Status::kOk;
}

Status check_key(std::string_view key) noexcept {
  if (key.empty()) return Status::kKeyEmpty;
  return key.size() <= kKeyBytesMax ? Status::kOk : Status::kKeyTooLong;
}

}  // namespace

struct Reader::Impl {
  Impl(std::string_view instance, const ReaderOptions& options)
      : control(instance_path(instance), options.attach_timeout), path(control.path().string()) {
    const std::filesystem::path file = control.path() / "snapshot";
    snapshot_fd = os::open_file(file, O_RDONLY);
    if (!snapshot_fd.is_open()) os::throw_errno("cannot open " + file.string(), errno);
    const std::optional<os::FileInfo> info = os::file_info(snapshot_fd.get());
    if (!info || info->bytes < geometry().snapshot_bytes) {
      throw Error(Status::kDamaged, "shmstate: " + quoted(control.path()) +
                                        ": snapshot is truncated; remove the directory and restart the merger");
    }
    snapshot = Mapping(snapshot_fd, Access::kReadOnly, 0, static_cast<std::size_t>(geometry().snapshot_bytes),
                       file.string());
    if (options.prefault) prefault();
  }

  [[nodiscard]] const Geometry& geometry() const noexcept { return control.geometry(); }
  [[nodiscard]] bool is_possible(Version version) const noexcept {
    return version.epoch != 0 && version.buffer < geometry().buffer_count;
  }
  [[nodiscard]] BufferView buffer(std::uint32_t index) const noexcept {
    return {snapshot.data() + geometry().buffer_offset + index * geometry().buffer_stride, geometry().pages_max()};
  }
  void prefault() const noexcept {
    const Version version = current_version(control.publication());
    if (!is_possible(version)) return;
    for (std::uint32_t b = 0; b < geometry().buffer_count; ++b) {
      os::populate(snapshot.data() + geometry().buffer_offset + b * geometry().buffer_stride,
                   static_cast<std::size_t>(buffer(version.buffer).page_count() * layout::kPageBytes));
    }
  }

  // The kernel's locks on the bytes of the buffers. They belong to this open file, so several snapshots of one buffer
  // are counted here and the kernel sees one lock.
  [[nodiscard]] bool pin(std::uint32_t index) noexcept {
    if (pins[index] == 0 && !os::try_lock(snapshot_fd.get(), kPinByte + index, false)) return false;
    ++pins[index];
    return true;
  }
  void unpin(std::uint32_t index) noexcept {
    if (--pins[index] == 0) os::unlock(snapshot_fd.get(), kPinByte + index);
  }
  /// Pins the current buffer. Its tries fail only when the merger publishes between its two loads.
  [[nodiscard]] Status pin_current(Version& version) noexcept {
    for (int i = 0; i < kPinTries; ++i) {
      if (!is_possible(current_version(control.publication()))) return Status::kDamaged;
      if (try_pin(control.publication(), *this, version)) {
        if (is_possible(version)) return Status::kOk;
        unpin(version.buffer);
      }
    }
    return Status::kDamaged;
  }

  /// Runs `read` on the current buffer until the buffer was intact behind it, and returns what it returned.
  template <typename Read>
  Status read_current(Read&& read, Epoch* epoch = nullptr) {
    const layout::Publication& publication = control.publication();
    Version version;
    for (int i = 0; i < kReadTries; ++i) {
      version = current_version(publication);
      if (!is_possible(version)) return Status::kDamaged;
      const Status status = read(buffer(version.buffer));
      if (!is_intact(publication, version)) continue;
      if (epoch != nullptr) *epoch = version.epoch;
      return status;
    }
    if (const Status pinned = pin_current(version); pinned != Status::kOk) return pinned;
    const Status status = read(buffer(version.buffer));
    const bool intact = is_intact(publication, version);  // unless the merger took the buffer back
    unpin(version.buffer);
    if (epoch != nullptr) *epoch = version.epoch;
    return intact ? status : Status::kExpired;
  }

  /// A point read: `take(buffer, slot, head)` copies the value out.
  template <typename Take>
  Status read_key(std::string_view bytes, Take&& take) {
    if (const Status status = check_key(bytes); status != Status::kOk) return status;
    const Key key{.bytes = bytes, .hash = hash_key(bytes, geometry().hash_seed)};
    return read_current([&](const BufferView& view) { return read_in(view, key, take); });
  }
  template <typename Take>
  static Status read_in(const BufferView& view, const Key& key, Take&& take) {
    Location at;
    SlotHead head;
    switch (view.find(key, at, head)) {
      case BufferView::Found::kNo: return Status::kNotFound;
      case BufferView::Found::kDamaged: return Status::kDamaged;
      case BufferView::Found::kYes: break;
    }
    if (head.type == kTombstone) return Status::kNotFound;
    return take(view, view.segment(at.page).slots[at.slot], head);
  }

  Control control;
  std::string path;
  os::Fd snapshot_fd;
  Mapping snapshot;
  std::array<std::uint32_t, layout::kBuffersMax> pins{};
};

// ---- Reader

Reader::Reader(std::string_view instance, ReaderOptions options) : impl_(std::make_shared<Impl>(instance, options)) {}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&&) noexcept = default;
Reader::~Reader() = default;

Status Reader::read(std::string_view key, std::int64_t& value) const noexcept {
  std::uint64_t word = 0;
  const Status status = impl_->read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
    return take_number(Type::kInt64, view, slot, head, word);
  });
  if (status == Status::kOk) value = static_cast<std::int64_t>(word);
  return status;
}

Status Reader::read(std::string_view key, double& value) const noexcept {
  std::uint64_t word = 0;
  const Status status = impl_->read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
    return take_number(Type::kFloat64, view, slot, head, word);
  });
  if (status == Status::kOk) value = std::bit_cast<double>(word);
  return status;
}

Status Reader::read(std::string_view key, std::string& value) const {
  return impl_->read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
    return take_string(view, slot, head, value);
  });
}

Status Reader::read(std::string_view key, Value& value) const {
  return impl_->read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
    return take_value(view, slot, head, value);
  });
}

Status Reader::read(std::string_view key, std::span<char> buffer, std::size_t& value_bytes) const noexcept {
  return impl_->read_key(key, [&](const BufferView& view, const layout::Slot& slot, const SlotHead& head) {
    if (head.type != Type::kBytes) return Status::kWrongType;
    value_bytes = head.value_bytes;
    return head.value_bytes <= buffer.size() ? take_bytes(view, slot, head, buffer.data()) : Status::kBufferTooSmall;
  });
}

Epoch Reader::get_many(std::span<const std::string_view> keys, std::vector<std::optional<Value>>& values) const {
  std::vector<std::uint64_t> hashes;
  hashes.reserve(keys.size());
  for (const std::string_view key : keys) hashes.push_back(hash_key(key, impl_->geometry().hash_seed));
  Epoch epoch = 0;
  const Status status = impl_->read_current(
      [&](const BufferView& view) {
        values.assign(keys.size(), std::nullopt);
        for (std::size_t i = 0; i < keys.size(); ++i) {
          if (check_key(keys[i]) != Status::kOk) continue;
          Value value;
          const Status read = Impl::read_in(view, {.bytes = keys[i], .hash = hashes[i]},
                                            [&](const BufferView& buffer, const layout::Slot& slot,
                                                const SlotHead& head) { return take_value(buffer, slot, head, value); });
          if (read == Status::kDamaged) return read;
          if (read == Status::kOk) values[i] = std::move(value);
        }
        return Status::kOk;
      },
      &epoch);
  if (status != Status::kOk) {
    throw Error(status, "shmstate: " + quoted(impl_->control.path()) + ": " + std::string(describe(status)));
  }
  return epoch;
}

Epoch Reader::epoch() const noexcept { return current_version(impl_->control.publication()).epoch; }

Epoch Reader::wait(Epoch known, std::chrono::nanoseconds timeout) const noexcept {
  const Shared<std::uint64_t>& word = impl_->control.publication().epoch_word;
  const auto* const futex = reinterpret_cast<const std::uint32_t*>(word.address());  // its low half
  const auto began = Clock::now();
  for (;;) {
    const std::uint64_t packed = word.load(std::memory_order_acquire);
    const Epoch now = Version::unpack(packed).epoch;
    const auto waited = Clock::now() - began;
    if (now > known || waited >= timeout) return now;
    os::futex_wait(futex, static_cast<std::uint32_t>(packed),
                   std::min<std::chrono::nanoseconds>(kSleepMax, timeout - waited));
  }
}

std::chrono::nanoseconds Reader::age() const noexcept {
  const std::uint64_t current_as_of = impl_->control.heartbeat().current_as_of_ns.load(std::memory_order_relaxed);
  const std::uint64_t now = os::now_ns();
  return std::chrono::nanoseconds(now > current_as_of ? now - current_as_of : 0);
}

bool Reader::merger_running() const noexcept { return impl_->control.merger_running(); }
const std::string& Reader::path() const noexcept { return impl_->path; }

// ---- Snapshot

struct Snapshot::Impl {
  Impl(std::shared_ptr<Reader::Impl> from, Version at)
      : reader(std::move(from)), version(at), view(reader->buffer(at.buffer)) {}
  ~Impl() { reader->unpin(version.buffer); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  [[nodiscard]] bool is_intact() const noexcept { return shmstate::is_intact(reader->control.publication(), version); }
  [[noreturn]] void fail(Status status) const {
    throw Error(status, "shmstate: " + quoted(reader->control.path()) + ": snapshot of epoch " +
                            std::to_string(version.epoch) + ": " + std::string(describe(status)));
  }
  void check_intact() const {
    if (!is_intact()) fail(Status::kExpired);
  }
  /// Fails as expired when that explains why something was out of bounds.
  [[noreturn]] void fail_damaged() const { fail(is_intact() ? Status::kDamaged : Status::kExpired); }

  [[nodiscard]] EntryView entry(const layout::Slot& slot, const SlotHead& head) const {
    const std::uint64_t* const key = view.key_words(slot, head);
    const std::uint64_t* const value = view.value_words(slot, head);
    if (key == nullptr || value == nullptr) fail_damaged();
    EntryView entry;
    entry.key = {reinterpret_cast<const char*>(key), head.key_bytes};
    entry.changed_epoch = BufferView::changed_epoch(slot);
    switch (head.type) {
      case Type::kInt64: entry.value = static_cast<std::int64_t>(load_word(value, std::memory_order_acquire)); break;
      case Type::kFloat64: entry.value = std::bit_cast<double>(load_word(value, std::memory_order_acquire)); break;
      default: entry.value = std::string_view(reinterpret_cast<const char*>(value), head.value_bytes); break;
    }
    return entry;
  }

  std::shared_ptr<Reader::Impl> reader;
  Version version;
  BufferView view;
};

Snapshot Reader::snapshot() const {
  Version version;
  if (const Status status = impl_->pin_current(version); status != Status::kOk) {
    throw Error(status, "shmstate: " + quoted(impl_->control.path()) + ": cannot pin the current buffer");
  }
  return Snapshot(std::make_unique<Snapshot::Impl>(impl_, version));
}

Snapshot::Snapshot(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Snapshot::Snapshot(Snapshot&&) noexcept = default;
Snapshot& Snapshot::operator=(Snapshot&&) noexcept = default;
Snapshot::~Snapshot() = default;

Epoch Snapshot::epoch() const noexcept { return impl_->version.epoch; }
bool Snapshot::expired() const noexcept { return !impl_->is_intact(); }

std::size_t Snapshot::size() const {
  const std::uint64_t count = impl_->view.entry_count();
  impl_->check_intact();
  return static_cast<std::size_t>(count);
}

std::optional<EntryView> Snapshot::find(std::string_view bytes) const {
  if (check_key(bytes) != Status::kOk) return std::nullopt;
  const Key key{.bytes = bytes, .hash = hash_key(bytes, impl_->reader->geometry().hash_seed)};
  Location at;
  SlotHead head;
  const BufferView::Found found = impl_->view.find(key, at, head);
  if (found == BufferView::Found::kDamaged) impl_->fail_damaged();
  std::optional<EntryView> entry;
  if (found == BufferView::Found::kYes && head.type != kTombstone) {
    entry = impl_->entry(impl_->view.segment(at.page).slots[at.slot], head);
  }
  impl_->check_intact();
  return entry;
}

Snapshot::Iterator Snapshot::begin() const {
  Iterator first;
  first.snapshot_ = this;
  first.slot_ = layout::kSegmentSlots;  // the end of no segment: the next one is that of directory entry 0
  ++first;
  return first;
}

// Segments are visited at the first directory entry that names them, which is the one whose index has no more bits than
// the segment is deep.
Snapshot::Iterator& Snapshot::Iterator::operator++() {
  const Impl& impl = *snapshot_->impl_;
  const BufferView& view = impl.view;
  const std::uint64_t pages = view.page_count();
  const unsigned depth = view.directory_depth();
  if (depth > layout::kDirectoryLog2Max) impl.fail_damaged();
  for (;;) {
    for (; slot_ < layout::kSegmentSlots; ++slot_) {
      const layout::Segment& segment = view.segment(page_);
      const std::uint32_t group = slot_ / layout::kGroupSlots;
      const std::uint32_t occupied = TagWords(segment.groups[group]).occupied() >> slot_ % layout::kGroupSlots;
      if (occupied == 0) {  // nothing left in this group
        slot_ = static_cast<std::uint32_t>((group + 1) * layout::kGroupSlots) - 1;
        continue;
      }
      slot_ += static_cast<std::uint32_t>(std::countr_zero(occupied));
      const layout::Slot& slot = segment.slots[slot_];
      const SlotHead head = BufferView::head_of(slot);
      if (head.type == Type::kNone) impl.fail_damaged();
      if (head.type == kTombstone) continue;
      entry_ = impl.entry(slot, head);
      ++slot_;
      impl.check_intact();
      return *this;
    }
    for (;; ++directory_index_) {
      if (directory_index_ >= 1U << depth) {
        impl.check_intact();
        snapshot_ = nullptr;
        return *this;
      }
      const std::optional<std::uint64_t> page = view.segment_page(directory_index_, pages);
      if (!page) impl.fail_damaged();
      const std::uint64_t segment_depth = load_word(&view.segment(*page).depth, std::memory_order_acquire);
      if (segment_depth > depth) impl.fail_damaged();
      if (directory_index(directory_index_, static_cast<unsigned>(segment_depth)) != directory_index_) continue;
      page_ = *page;
      slot_ = 0;
      ++directory_index_;
      break;
    }
  }
}

}  // namespace shmstate
