// Any bytes in `control` and `snapshot`, and any size of them, before a reader attaches and while it reads: everything
// that a reader can do comes back, with an answer or an error, within bounded time.
#include <sys/mman.h>
#include <unistd.h>

#include <array>

#include "harness/positions.h"
#include "harness/test_instance.h"
#include "input.h"
#include "shmstate/inspect.h"
#include "shmstate/watch.h"

namespace shmstate::fuzz {
using namespace internal;
namespace {

constexpr std::size_t kKeys = 1'500;

std::string key_of(std::size_t i) { return "key/" + std::to_string(i) + std::string(i % 3 * 30, 'k'); }

/// A small instance with some of everything, and the means to damage its files and to undo that.
class Damageable {
 public:
  Damageable()
      : instance_({.memory_limit_bytes = std::uint64_t{4} << 20, .ring_count_max = 4, .feed_record_count = 256}) {
    fill();
    control_ = os::open_file(path() + "/control", O_RDWR);
    snapshot_ = os::open_file(path() + "/snapshot", O_RDWR);
    const Geometry& g = instance_.owner().geometry();
    control_bytes_ = g.control_bytes;
    snapshot_bytes_ = g.snapshot_bytes;
    current_ = g.buffer_offset + current_version(instance_.owner().publication()).buffer * g.buffer_stride;
    pages_ = read_word(snapshot_, current_ + offsetof(layout::BufferHeader, page_count));
    const auto directory =
        DirectoryWord::unpack(read_word(snapshot_, current_ + offsetof(layout::BufferHeader, directory)));
    directory_ = current_ + directory.offset();
    segment_ = current_ + (read_word(snapshot_, directory_) & (layout::kPagesMax - 1)) * layout::kPageBytes;
  }

  [[nodiscard]] std::string path() const { return instance_.path(); }

  /// One change that the input decides: mostly of a word that means something.
  void damage(Input& input) {
    enum Place : std::uint8_t {
      kIdentity,
      kPublication,
      kControl,
      kHeader,
      kCursor,
      kDirectory,
      kMap,
      kLine,
      kPage,
      kFeed,
      kCutControl,
      kCutSnapshot,
      kCount
    };
    const auto place = static_cast<Place>(input.take<std::uint8_t>() % kCount);
    switch (place) {
      case kIdentity: return patch(control_, input.below(sizeof(layout::Identity)), input);
      case kPublication: return patch(control_, sizeof(layout::Identity) + input.below(256), input);
      case kControl: return patch(control_, input.below(control_bytes_), input);
      case kHeader: return patch(snapshot_, current_ + input.below(sizeof(layout::BufferHeader)), input);
      case kCursor: return patch(snapshot_, current_ + sizeof(layout::BufferHeader) + input.below(512), input);
      case kDirectory: return patch(snapshot_, directory_ + input.below(64), input);
      case kMap: return patch(snapshot_, current_ + map_offset_of(input.below(pages_)), input);
      case kLine: return patch(snapshot_, segment_ + input.below(layout::kPageBytes), input);
      case kPage: return patch_page(0, layout::kPageBytes, input);
      case kFeed: return patch(snapshot_, input.below(256 * sizeof(layout::FeedRecord)), input);
      case kCutControl: return cut(control_, input.below(control_bytes_));
      case kCutSnapshot: return cut(snapshot_, input.below(snapshot_bytes_));
      case kCount: return;
    }
  }
  void undo() {
    for (const auto& [fd, copy] : cut_) {
      const std::size_t bytes = fd == control_.get() ? control_bytes_ : snapshot_bytes_;
      must(::ftruncate(fd, static_cast<off_t>(bytes)) == 0, "files can be sized");
      write(fd, bytes - copy.size(), copy.data(), copy.size());
    }
    cut_.clear();
    for (; !patches_.empty(); patches_.pop_back()) {
      write(patches_.back().fd, patches_.back().offset, &patches_.back().before, sizeof(std::uint64_t));
    }
  }

 private:
  struct Patch {
    int fd;
    std::size_t offset;
    std::uint64_t before;
  };

  void fill() {
    Writer writer = instance_.writer();
    for (std::size_t i = 0; i < kKeys; ++i) {
      const std::string key = key_of(i);
      switch (i % 5) {
        case 0: writer.set(key, std::string(i, 'v')); break;
        case 1: writer.set(key, static_cast<double>(i)); break;
        case 2: writer.set(key, i, {.ttl = std::chrono::hours(i), .ephemeral = true, .version = {}}); break;
        case 3: writer.set(key, key, {.version = i}); break;
        default: writer.set(key, i); break;
      }
      if (i % 50 == 0) writer.erase(key_of(i / 2));
      if (i % 7 == 3) writer.erase(key_of(i), i + 1);
      if (i % 100 == 0) instance_.pump();
    }
    instance_.pump();
    writer_.emplace(std::move(writer));
  }

  static std::uint64_t read_word(const os::Fd& fd, std::size_t offset) {
    std::uint64_t word = 0;
    must(::pread(fd.get(), &word, sizeof word, static_cast<off_t>(offset)) == ssize_t{sizeof word},
         "files can be read");
    return word;
  }
  static void write(int fd, std::size_t offset, const void* bytes, std::size_t count) {
    const char* from = static_cast<const char*>(bytes);
    while (count > 0) {
      const ssize_t written = ::pwrite(fd, from, count, static_cast<off_t>(offset));
      must(written > 0, "files can be written");
      from += written;
      offset += static_cast<std::size_t>(written);
      count -= static_cast<std::size_t>(written);
    }
  }
  void patch(const os::Fd& fd, std::size_t offset, Input& input) {
    if (!cut_.empty()) return;  // what is gone cannot be damaged
    offset = offset / kWord * kWord;
    const std::uint64_t before = read_word(fd, offset);
    patches_.push_back({fd.get(), offset, before});
    const std::uint64_t after = changed(before, input);
    write(fd.get(), offset, &after, sizeof after);
  }
  void patch_page(std::size_t offset, std::size_t bytes, Input& input) {
    const std::size_t page = current_ + input.below(pages_) * layout::kPageBytes;
    patch(snapshot_, page + offset + input.below(bytes), input);
  }
  static std::uint64_t changed(std::uint64_t word, Input& input) {
    const auto how = input.take<std::uint8_t>();
    switch (how % 6) {
      case 0: return input.take<std::uint64_t>();
      case 1: return word ^ std::uint64_t{1} << how / 6 % 64;
      case 2: return word + static_cast<std::uint64_t>(input.take<std::int8_t>());
      case 3: return how < 128 ? 0 : ~std::uint64_t{0};
      case 4: return (word & ~std::uint64_t{0xffff}) | input.take<std::uint16_t>();
      default: return (word & 0xffff'ffff) | std::uint64_t{input.take<std::uint32_t>()} << 32;
    }
  }
  // Only the part that is committed memory needs to be restored.
  void cut(const os::Fd& fd, std::size_t bytes) {
    if (!cut_.empty()) return;
    const std::size_t whole = fd.get() == control_.get() ? control_bytes_ : snapshot_bytes_;
    std::string copy(whole - bytes, '\0');
    for (std::size_t done = 0; done < copy.size();) {
      const ssize_t got = ::pread(fd.get(), copy.data() + done, copy.size() - done, static_cast<off_t>(bytes + done));
      must(got > 0, "files can be read");
      done += static_cast<std::size_t>(got);
    }
    must(::ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0, "files can be truncated");
    cut_.emplace_back(fd.get(), std::move(copy));
  }

  test::TestInstance instance_;
  std::optional<Writer> writer_;
  os::Fd control_;
  os::Fd snapshot_;
  std::size_t control_bytes_ = 0;
  std::size_t snapshot_bytes_ = 0;
  std::size_t current_ = 0;  // offset of the current buffer
  std::size_t pages_ = 0;
  std::size_t directory_ = 0;  // where it lies in the file
  std::size_t segment_ = 0;    // where the first one does
  std::vector<Patch> patches_;
  std::vector<std::pair<int, std::string>> cut_;
};

std::size_t touch(std::string_view bytes) {
  std::size_t sum = 0;
  for (const char c : bytes) sum += static_cast<unsigned char>(c);
  return sum;
}
std::size_t touch(const EntryView& entry) {
  return touch(entry.key) + (entry.value.type() == Type::kBytes ? touch(entry.value.bytes()) : 0);
}

/// What a reader does may be refused.
template <typename Action>
void attempt(Action&& action) {
  try {
    action();
  } catch (const Error&) {
  }
}

std::size_t scan(const Snapshot& snapshot) {
  std::size_t sum = 0;
  for (const EntryView& entry : snapshot) sum += touch(entry);
  return sum;
}

void read_points(Reader& reader) {
  std::array<char, 100> buffer{};
  std::size_t bytes = 0;
  std::int64_t int64 = 0;
  double float64 = 0;
  std::string text;
  Value value;
  for (std::size_t i = 0; i < kKeys; i += 61) {
    Key key(key_of(i));
    for (int use = 0; use < 2; ++use) {
      static_cast<void>(reader.read(key, int64));
      static_cast<void>(reader.read(key, value));
    }
    static_cast<void>(reader.read(key.bytes(), int64));
    static_cast<void>(reader.read(key.bytes(), float64));
    static_cast<void>(reader.read(key.bytes(), text));
    static_cast<void>(reader.read(key.bytes(), buffer, bytes));
    static_cast<void>(reader.info(key.bytes()));
  }
}

void read_everything(Reader& reader) {
  read_points(reader);
  attempt([&] {
    std::vector<std::optional<Value>> values;
    reader.get_many(std::array<std::string_view, 2>{"key/1", "missing"}, values);
  });
  attempt([&] { static_cast<void>(scan(reader.snapshot())); });
  attempt([&] {
    const Snapshot snapshot = reader.snapshot();
    static_cast<void>(snapshot.find(key_of(2)));
    static_cast<void>(snapshot.size());
  });
  const Epoch epoch = reader.epoch();
  for (const Epoch since : {Epoch{0}, epoch - 1, epoch - 5, epoch / 2}) {
    attempt([&] { static_cast<void>(reader.changes(test::at_epoch(reader, since))); });
  }
  attempt([&] { static_cast<void>(reader.wait_change("key/1", reader.position(), std::chrono::nanoseconds(1))); });
  static_cast<void>(reader.wait(reader.position(), std::chrono::nanoseconds(1)));
  static_cast<void>(reader.status());
}

void look(const std::string& path) {
  attempt([&] {
    const InstanceInfo info = inspect(path, {.survive_truncation = true});
    for (const RingInfo& ring : info.rings) static_cast<void>(touch(ring.name));
    for (const StatisticInfo& statistic : info.statistics) static_cast<void>(touch(statistic.meaning));
  });
}

void damage_and_read(Damageable& files, Input input) {
  const ReaderOptions options{
      .attach_timeout = {}, .prefault = input.take<std::uint8_t>() % 8 == 0, .survive_truncation = true};
  std::optional<Reader> early(std::in_place, files.path(), options);
  std::optional<Snapshot> held = early->snapshot();
  Snapshot::Iterator at = held->begin();
  for (int i = 0; i < 16 && !input.empty(); ++i) files.damage(input);
  attempt([&] {
    for (; at != held->end(); ++at) static_cast<void>(touch(*at));
  });
  held.reset();
  read_everything(*early);
  attempt([&] {
    Reader late(files.path(), options);
    read_everything(late);
  });
  attempt([&] {
    Watch watch(files.path(), "key/", options);
    static_cast<void>(watch.next({}));
    static_cast<void>(watch.next({}));
  });
  look(files.path());
}

}  // namespace
}  // namespace shmstate::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  static shmstate::fuzz::Damageable files;
  shmstate::fuzz::damage_and_read(files, {data, bytes});
  files.undo();
  return 0;
}
